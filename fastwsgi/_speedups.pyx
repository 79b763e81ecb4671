# cython: language_level=3, binding=True, embedsignature=True, embedsignature.format=clinic
# cython: freethreading_compatible=True
# What is checked besides is up to the build: setup.py.
"""The compiled twin: the inner loops of ``_fallback.py``, same names in the same order. And the accelerator.

Each function handles what nearly every call is: exact str, list, tuple and bytes, text within Latin-1,
well-formed input. Whatever else comes, it leaves to the pure twin without having changed anything, so a
rare rule and the exception it ends in are written once, there.

The accelerator is what has no twin, because the general code does the same and is the reference: ``run_stock()`` for
handlers that nobody overrides, and the fast lane of the event-driven server.

Ownership: Cython counts references, but for the items of lists and tuples that are looked at in place,
and the keys in the table of known fields, which live as long as the module. So nothing that can run Python
code may stand between a check or a size and its use: an application still holds the lists it gives us. The
one allocation Cython doesn't know, a Request's field table, is made in ``parse`` and freed in
``Request.__dealloc__``.

Threads: where Python has no GIL, a list is looked at in place in its critical section, which keeps other threads from
changing it. Python's own list operations enter it, too, and so stand outside of ours. A reference that another thread
may replace is read and written in the critical section of the object that has it. Where there is a GIL, a critical
section is nothing. What needs none: tables filled at import, and what one thread has at a time, as a connection, its
memo, or a lane.
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
    /* New references: a borrowed one might be dropped by another thread. The index is one of the list's. */
    static inline PyObject *item_of(PyObject *items, Py_ssize_t index)
    {
    #ifdef Py_GIL_DISABLED
        return PyList_GetItemRef(items, index);
    #else
        return Py_NewRef(PyList_GET_ITEM(items, index));
    #endif
    }
    /* None if there is no value. */
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
    """The last one of something that all threads look at: never changed, but replaced by any of them."""

    cdef object value

    cdef inline object get(self):
        with cython.critical_section(self):
            return self.value

    cdef inline put(self, object value):
        with cython.critical_section(self):
            self.value = value


cdef Last PURE = Last()


cdef object pure():
    """The pure twin, loaded for the first case that is left to it: many programs never have one."""
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
