# cython: language_level=3, binding=True, embedsignature=True, embedsignature.format=clinic
# cython: freethreading_compatible=True
# setup.py sets the directives for run-time checks.
"""The compiled twin: the inner loops of ``_fallback.py``, with the same names in the same order; and the accelerator.

Each function handles the input of nearly every call: exact str, list, tuple and bytes, text within Latin-1, and
well-formed values. It passes any other input to the pure twin before it has changed anything. So a rare rule, and the
exception that it raises, is written once, there.

The accelerator is the part without a twin, because the general code does the same and is the reference:
``run_stock()`` for handlers without overridden hooks, and the fast lane of the event-driven server.

Ownership: Cython counts references, with two exceptions: items of lists and tuples that are read in place, and the keys
in the table of known fields, which live as long as the module. So no code that can run Python code may come between a
check or a size and its use, because the application still has the lists that it passed. One allocation is unknown to
Cython: a Request's field table is allocated in ``parse`` and freed in ``Request.__dealloc__``.

Threads: in Python without the GIL, a list is read in place in its critical section, which prevents changes by other
threads. Python's own list operations enter that section too, so they must stay outside of ours. A reference that
another thread may replace is read and written in the critical section of the object that has it. With the GIL, a
critical section does nothing. Two kinds of data need no section: tables that are filled at import, and objects that
one thread owns at a time, such as a connection, its memo, or a lane.
"""

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_CheckExact, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.contextvars cimport PyContext_CopyCurrent, PyContext_Enter, PyContext_Exit
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from cpython.unicode cimport PyUnicode_CheckExact, PyUnicode_DecodeLatin1
from libc.stdint cimport uint64_t
from libc.string cimport memchr, memcmp, memcpy, memset

from ._http.grammar import (
    FIELD_VALUE, HOP_BY_HOP, KNOWN_FIELDS, TARGET, TCHAR, TOLERANT_TARGET, check_target, environ_key,
)

import copyreg
import re
import select
import sys
import time
from io import BytesIO
from time import monotonic, sleep

cdef extern from "Python.h":
    ctypedef struct PyTypeObject:
        pass

    object PyUnicode_New(Py_ssize_t size, Py_UCS4 maxchar)
    void* PyUnicode_DATA(object text)
    unsigned int PyUnicode_KIND(object text)
    PyTypeObject* Py_TYPE(object instance) noexcept
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    bint PyUnicode_IS_ASCII(object text)
    unsigned int PyUnicode_1BYTE_KIND
    Py_ssize_t PyDict_GET_SIZE(dict mapping) noexcept
    PyObject* PyDict_SetDefault(dict mapping, object key, object default) except NULL

cdef extern from *:
    """
    #ifdef Py_GIL_DISABLED
    #define VERSION_TAG(cls) _Py_atomic_load_uint(&(cls)->tp_version_tag)
    #else
    #define VERSION_TAG(cls) ((cls)->tp_version_tag)
    #endif
    /* Returns a new reference, because another thread might drop a borrowed one. The index must be valid. */
    static inline PyObject *item_of(PyObject *items, Py_ssize_t index)
    {
    #ifdef Py_GIL_DISABLED
        return PyList_GetItemRef(items, index);
    #else
        return Py_NewRef(PyList_GET_ITEM(items, index));
    #endif
    }
    /* Returns None if the key has no value. */
    static PyObject *value_of(PyObject *mapping, PyObject *key)
    {
        PyObject *value;
    #if PY_VERSION_HEX >= 0x030D0000
        if (PyDict_GetItemRef(mapping, key, &value) < 0) return NULL;
    #else
        value = PyDict_GetItemWithError(mapping, key);
        if (value == NULL && PyErr_Occurred()) return NULL;
        Py_XINCREF(value);
    #endif
        return value != NULL ? value : Py_NewRef(Py_None);
    }
    """
    unsigned int VERSION_TAG(PyTypeObject* cls) noexcept
    object item_of(list items, Py_ssize_t index)
    object value_of(dict mapping, object key)

ctypedef const unsigned char* Octets


@cython.final
@cython.internal
cdef class Last:
    """A shared variable for an object that is never changed, but that any thread may replace."""

    cdef object value

    cdef inline object get(self):
        with cython.critical_section(self):
            return self.value

    cdef inline put(self, object value):
        with cython.critical_section(self):
            self.value = value


cdef Last PURE = Last()


cdef object pure():
    """Return the pure twin. It is loaded when the first case needs it; in many programs none does."""
    module = PURE.get()
    if module is None:
        from . import _fallback as module
        PURE.put(module)
    return module

include "_speedups_octets.pxi"
include "_speedups_response.pxi"
include "_speedups_handler.pxi"
include "_speedups_request.pxi"
include "_speedups_lane.pxi"

_fill_tables()
_fill_hops()
_fill_slots()
