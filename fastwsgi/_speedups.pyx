# cython: language_level=3, binding=True, boundscheck=False, wraparound=False, initializedcheck=False
# cython: embedsignature=True, embedsignature.format=clinic, freethreading_compatible=True
"""The compiled twin: the inner loops of ``_fallback.py``, same names in the same order.

Each function handles what nearly every call is: exact str, list, tuple and bytes, text within Latin-1,
well-formed input. Whatever else comes, it leaves to the pure twin without having changed anything, so a
rare rule and the exception it ends in are written once, there.

Ownership: Cython counts every reference here. The one allocation it doesn't know, a RequestHead's
field table, is made in ``_parse`` and freed in ``RequestHead.__dealloc__``.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_CheckExact, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from cpython.unicode cimport PyUnicode_CheckExact, PyUnicode_DecodeLatin1
from libc.stdint cimport uint64_t
from libc.string cimport memchr, memcmp, memcpy, memset

from . import _fallback
from ._grammar import FIELD_VALUE, HOP_BY_HOP, KNOWN_FIELDS, TARGET, TCHAR, TOLERANT_TARGET, check_target, environ_key

import copyreg
import re
import time

cdef extern from "Python.h":
    ctypedef struct PyTypeObject:
        unsigned int tp_version_tag

    object PyUnicode_New(Py_ssize_t size, Py_UCS4 maxchar)
    void* PyUnicode_DATA(object text)
    unsigned int PyUnicode_KIND(object text)
    PyTypeObject* Py_TYPE(object instance) noexcept
    Py_ssize_t PyUnicode_GET_LENGTH(object text)
    bint PyUnicode_IS_ASCII(object text)
    unsigned int PyUnicode_1BYTE_KIND
    Py_ssize_t PyDict_GET_SIZE(dict mapping) noexcept
    PyObject* PyDict_GetItemWithError(dict mapping, object key) except? NULL
    PyObject* PyDict_SetDefault(dict mapping, object key, object default) except NULL

ctypedef const unsigned char* Octets


# ---- character classes, read from the grammar at import and never written again ----------------------

cdef unsigned char LOWER[256]
cdef unsigned char IS_TCHAR[256]
cdef unsigned char IS_TARGET[256]
cdef unsigned char IS_TOLERANT_TARGET[256]
cdef unsigned char IS_FIELD_VALUE[256]


cdef void fill(unsigned char* table, str characters):
    cdef int octet
    for octet in range(256):
        table[octet] = re.fullmatch(f"[{characters}]", chr(octet)) is not None


def _fill_tables():
    cdef int octet
    for octet in range(256):
        LOWER[octet] = octet + 32 if 65 <= octet <= 90 else octet
    fill(IS_TCHAR, TCHAR)
    fill(IS_TARGET, TARGET)
    fill(IS_TOLERANT_TARGET, TOLERANT_TARGET)
    fill(IS_FIELD_VALUE, FIELD_VALUE)


cdef enum:
    WORD = 8

cdef uint64_t ONES = 0x0101010101010101
cdef uint64_t HIGH_BITS = 0x8080808080808080


cdef inline bint has_control(uint64_t word) noexcept:
    """Whether an octet of the word is under 32 or is 127 (which of them, the borrows don't tell)."""
    cdef uint64_t deleted = word ^ ONES * 127
    return ((word - ONES * 32) & ~word | (deleted - ONES) & ~deleted) & HIGH_BITS != 0


cdef inline bint no_control(Octets text, Py_ssize_t size) noexcept:
    """Whether no octet is a control character, eight at a time."""
    cdef uint64_t word
    cdef Octets last = text + size - WORD
    if size < WORD:
        while size:
            size -= 1
            if text[size] < 32 or text[size] == 127:
                return False
        return True
    while text < last:
        memcpy(&word, text, WORD)
        if has_control(word):
            return False
        text += WORD
    memcpy(&word, last, WORD)
    return not has_control(word)


cdef inline bint clean_name(Octets text, Py_ssize_t size) noexcept:
    """Whether all octets may stand in a field name or a status."""
    return no_control(text, size)


cdef inline bint clean(Octets text, Py_ssize_t size) noexcept:
    """Whether all octets may stand in a field value."""
    cdef Py_ssize_t i
    if no_control(text, size):
        return True
    for i in range(size):
        if not IS_FIELD_VALUE[text[i]]:
            return False
    return True


# ---- str as octets -----------------------------------------------------------------------------------

cdef inline bint is_ascii(object text) noexcept:
    return PyUnicode_CheckExact(text) and PyUnicode_IS_ASCII(text)


cdef inline bint is_latin1(object text) noexcept:
    return PyUnicode_CheckExact(text) and PyUnicode_KIND(text) == PyUnicode_1BYTE_KIND


cdef inline Octets octets(object text) noexcept:
    return <Octets>PyUnicode_DATA(text)


cdef inline bint same_name(Octets a, Octets b, Py_ssize_t size) noexcept:
    cdef Py_ssize_t i
    for i in range(size):
        if a[i] != b[i] and LOWER[a[i]] != LOWER[b[i]]:
            return False
    return True


# ---- response: dates, names, status, fields ----------------------------------------------------------

cdef const char* DAYS = "ThuFriSatSunMonTueWed"  # 1970-01-01 was a Thursday
cdef const char* MONTHS = "JanFebMarAprMayJunJulAugSepOctNovDec"


cdef double END_OF_9999 = 253402300800.0


@cython.cdivision(True)
cdef inline void two_digits(unsigned char* at, unsigned int number) noexcept:
    at[0] = 48 + number // 10
    at[1] = 48 + number % 10


def format_date_time(timestamp):
    cdef double number
    if type(timestamp) is float:
        number = timestamp
        if 0 <= number < END_OF_9999:
            return date_of(<unsigned long long>number)
    elif type(timestamp) is int and 0 <= timestamp < <long long>END_OF_9999:
        return date_of(timestamp)
    return _fallback.format_date_time(timestamp)


@cython.cdivision(True)
cdef object date_of(unsigned long long seconds):
    """Format seconds since 1970, up to the year 9999."""
    # Days to a civil date, in years that begin in March and eras of 400 of them: a leap day comes last.
    cdef unsigned int days = <unsigned int>(seconds // 86400)
    cdef unsigned int second_of_day = <unsigned int>(seconds - <unsigned long long>days * 86400)
    cdef unsigned int era = (days + 719468) // 146097
    cdef unsigned int day_of_era = (days + 719468) - era * 146097
    cdef unsigned int leap_days = day_of_era // 1460 - day_of_era // 36524 + day_of_era // 146096
    cdef unsigned int year_of_era = (day_of_era - leap_days) // 365
    cdef unsigned int day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    cdef unsigned int from_march = (5 * day_of_year + 2) // 153
    cdef unsigned int day = day_of_year - (153 * from_march + 2) // 5 + 1
    cdef unsigned int month = from_march + 2 if from_march < 10 else from_march - 10
    cdef unsigned int year = year_of_era + era * 400 + (month < 2)

    text = PyUnicode_New(29, 127)
    cdef unsigned char* at = <unsigned char*>PyUnicode_DATA(text)
    memcpy(at, b"Thu, 01 Jan 1970 00:00:00 GMT", 29)
    memcpy(at, DAYS + 3 * (days % 7), 3)
    two_digits(at + 5, day)
    memcpy(at + 8, MONTHS + 3 * month, 3)
    two_digits(at + 12, year // 100)
    two_digits(at + 14, year % 100)
    two_digits(at + 17, second_of_day // 3600)
    two_digits(at + 20, second_of_day // 60 % 60)
    two_digits(at + 23, second_of_day % 60)
    return text


cdef long long date_second = -1
cdef str date_text = ""


def current_date():
    return date_now()


cdef str date_now():
    global date_second, date_text
    cdef long long now = <long long><double>time.time()
    if now != date_second:
        date_text = format_date_time(now)
        date_second = now
    return date_text


cdef enum:
    MOST_HOPS = 16

cdef Octets hop_name[MOST_HOPS]
cdef Py_ssize_t hop_size[MOST_HOPS]
cdef Py_ssize_t hops = 0


def _fill_hops():
    global hops
    if len(HOP_BY_HOP) > MOST_HOPS:
        raise AssertionError("more hop-by-hop fields than there is room for")
    for name in HOP_BY_HOP:  # which keeps the names alive
        hop_name[hops] = octets(name)
        hop_size[hops] = PyUnicode_GET_LENGTH(name)
        hops += 1


cdef inline bint hop_by_hop(Octets name, Py_ssize_t size) noexcept:
    cdef Py_ssize_t i
    for i in range(hops):
        if hop_size[i] == size and same_name(name, hop_name[i], size):
            return True
    return False


def is_hop_by_hop(header_name):
    if is_ascii(header_name):
        return hop_by_hop(octets(header_name), PyUnicode_GET_LENGTH(header_name))
    return _fallback.is_hop_by_hop(header_name)


cdef inline bint good_status(object status) noexcept:
    cdef Octets text
    if not (is_ascii(status) and PyUnicode_GET_LENGTH(status) >= 4):
        return False
    text = octets(status)
    return (
        text[3] == 32
        and 48 <= text[0] <= 57
        and 48 <= text[1] <= 57
        and 48 <= text[2] <= 57
        and clean_name(text, PyUnicode_GET_LENGTH(status))
    )


def check_status(status):
    if not good_status(status):
        _fallback.check_status(status)


def check_fields(headers):
    cdef Py_ssize_t i
    if type(headers) is list:
        for i in range(PyList_GET_SIZE(headers)):
            if not good_pair(<object>PyList_GET_ITEM(headers, i)):
                break
        else:
            return
    _fallback.check_fields(headers)


cdef inline bint good_pair(object pair) noexcept:
    return (
        PyTuple_CheckExact(pair)
        and PyTuple_GET_SIZE(pair) == 2
        and is_ascii(<object>PyTuple_GET_ITEM(pair, 0))
        and PyUnicode_CheckExact(<object>PyTuple_GET_ITEM(pair, 1))
        and not hop_by_hop(
            octets(<object>PyTuple_GET_ITEM(pair, 0)),
            PyUnicode_GET_LENGTH(<object>PyTuple_GET_ITEM(pair, 0)),
        )
    )


cdef inline unsigned char* put(unsigned char* at, const void* text, Py_ssize_t size) noexcept:
    """Append octets, those of a short text in two moves that may overlap."""
    cdef Octets source = <Octets>text
    if WORD <= size <= 2 * WORD:
        memcpy(at, source, WORD)
        memcpy(at + size - WORD, source + size - WORD, WORD)
    elif 2 * WORD < size <= 4 * WORD:
        memcpy(at, source, 2 * WORD)
        memcpy(at + size - 2 * WORD, source + size - 2 * WORD, 2 * WORD)
    else:
        memcpy(at, source, size)
    return at + size


cdef inline unsigned char* put_back(unsigned char* at, const void* text, Py_ssize_t size) noexcept:
    memcpy(at - size, text, size)
    return at - size


cdef inline bint clean_line(object text) noexcept:
    return text is None or (is_latin1(text) and clean_name(octets(text), PyUnicode_GET_LENGTH(text)))


def format_preamble(http_version, status, date, server):
    return preamble_lines(http_version, status, date, server)


cdef bytes preamble_lines(object http_version, object status, object date, object server):
    if (
        http_version is None or status is None
        or not (clean_line(http_version) and clean_line(status) and clean_line(date) and clean_line(server))
    ):
        return _fallback.format_preamble(http_version, status, date, server)
    cdef Py_ssize_t size = 8 + PyUnicode_GET_LENGTH(http_version) + PyUnicode_GET_LENGTH(status)
    if date is not None:
        size += 8 + PyUnicode_GET_LENGTH(date)
    if server is not None:
        size += 10 + PyUnicode_GET_LENGTH(server)
    lines = PyBytes_FromStringAndSize(NULL, size)
    cdef unsigned char* at = <unsigned char*>PyBytes_AS_STRING(lines)
    at = put(at, b"HTTP/", 5)
    at = put(at, octets(http_version), PyUnicode_GET_LENGTH(http_version))
    at = put(at, b" ", 1)
    at = put(at, octets(status), PyUnicode_GET_LENGTH(status))
    at = put(at, b"\r\n", 2)
    if date is not None:
        at = put(at, b"Date: ", 6)
        at = put(at, octets(date), PyUnicode_GET_LENGTH(date))
        at = put(at, b"\r\n", 2)
    if server is not None:
        at = put(at, b"Server: ", 8)
        at = put(at, octets(server), PyUnicode_GET_LENGTH(server))
        at = put(at, b"\r\n", 2)
    return lines


def format_fields(headers):
    lines = field_lines(headers) if type(headers) is list else None
    return _fallback.format_fields(headers) if lines is None else lines


cdef bytes field_lines(list headers):
    """The field lines of well-formed pairs and the empty line, or None for any others."""
    cdef Py_ssize_t i, size = 2
    for i in range(PyList_GET_SIZE(headers)):
        if not clean_pair(<object>PyList_GET_ITEM(headers, i), &size):
            return None
    cdef bytes lines = PyBytes_FromStringAndSize(NULL, size)
    cdef unsigned char* at = <unsigned char*>PyBytes_AS_STRING(lines)
    for i in range(PyList_GET_SIZE(headers)):
        at = put_pair(at, <object>PyList_GET_ITEM(headers, i))
    put(at, b"\r\n", 2)
    return lines


cdef inline bint clean_pair(object pair, Py_ssize_t* size) noexcept:
    """Whether pair is a (name, value) tuple fit to be sent; adds the size of its field line."""
    if not (PyTuple_CheckExact(pair) and PyTuple_GET_SIZE(pair) == 2):
        return False
    name = <object>PyTuple_GET_ITEM(pair, 0)
    value = <object>PyTuple_GET_ITEM(pair, 1)
    if not (is_latin1(name) and is_latin1(value)):
        return False
    size[0] += PyUnicode_GET_LENGTH(name) + PyUnicode_GET_LENGTH(value) + 4
    return clean_name(octets(name), PyUnicode_GET_LENGTH(name)) and clean(
        octets(value), PyUnicode_GET_LENGTH(value)
    )


cdef inline unsigned char* put_pair(unsigned char* at, object pair) noexcept:
    name = <object>PyTuple_GET_ITEM(pair, 0)
    value = <object>PyTuple_GET_ITEM(pair, 1)
    at = put(at, octets(name), PyUnicode_GET_LENGTH(name))
    at = put(at, b": ", 2)
    at = put(at, octets(value), PyUnicode_GET_LENGTH(value))
    return put(at, b"\r\n", 2)


cdef Py_ssize_t find(list headers, object name, Py_ssize_t start) noexcept:
    """The index of the first pair from start whose name is equal, or the length; -1 if unsure."""
    cdef Py_ssize_t i, size = PyUnicode_GET_LENGTH(name)
    cdef Octets wanted = octets(name)
    for i in range(start, PyList_GET_SIZE(headers)):
        pair = <object>PyList_GET_ITEM(headers, i)
        if not (PyTuple_CheckExact(pair) and PyTuple_GET_SIZE(pair) == 2):
            return -1
        found = <object>PyTuple_GET_ITEM(pair, 0)
        if not is_ascii(found):
            return -1
        if PyUnicode_GET_LENGTH(found) == size and same_name(octets(found), wanted, size):
            return i
    return PyList_GET_SIZE(headers)


cdef inline bint searchable(object headers, object name) noexcept:
    """Whether a look-up can be made on octets: in a plain list, for a plain name."""
    return type(headers) is list and is_ascii(name)


cdef inline bint missing(object headers, object name, Py_ssize_t index) noexcept:
    """Whether a look-up ended without a find, and without a fault in the name to raise for."""
    return index == PyList_GET_SIZE(headers) and clean_name(octets(name), PyUnicode_GET_LENGTH(name))


PureHeaders = _fallback.Headers


# The first lines of the class docstrings are what inspect.signature() reads.

cdef class Headers:
    """Headers(headers=None)\n--\n\nA mapping of case-insensitive field names over a list of WSGI header tuples.

    The pure twin documents each method.
    """

    cdef public object _headers
    cdef dict __dict__
    cdef object __weakref__

    def __init__(self, headers=None):
        cdef Py_ssize_t i, size = 0
        if headers is None:
            self._headers = []
            return
        if type(headers) is list:
            for i in range(PyList_GET_SIZE(headers)):
                if not clean_pair(<object>PyList_GET_ITEM(headers, i), &size):
                    break
            else:
                self._headers = headers
                return
        PureHeaders.__init__(self, headers)

    def _convert_string_type(self, value, *, name):
        return PureHeaders._convert_string_type(self, value, name=name)

    def __len__(self):
        return len(self._headers)

    def __setitem__(self, name, val):
        cdef Py_ssize_t index, size = 0
        if type(self) is Headers and searchable(self._headers, name):
            pair = (name, val)
            if clean_pair(pair, &size):
                index = find(<list>self._headers, name, 0)
                if index >= 0 and remove(<list>self._headers, name, index):
                    (<list>self._headers).append(pair)
                    return
        PureHeaders.__setitem__(self, name, val)

    def __delitem__(self, name):
        cdef Py_ssize_t index
        if searchable(self._headers, name):
            index = find(<list>self._headers, name, 0)
            if missing(self._headers, name, index):
                return
            if 0 <= index < PyList_GET_SIZE(self._headers) and remove(<list>self._headers, name, index):
                return
        PureHeaders.__delitem__(self, name)

    def __getitem__(self, name):
        if type(self) is Headers:
            return look_up(self, name, None)
        return self.get(name)

    def __contains__(self, name):
        if type(self) is Headers:
            return look_up(self, name, None) is not None
        return self.get(name) is not None

    def get_all(self, name):
        cdef Py_ssize_t i
        cdef list values
        if searchable(self._headers, name):
            values = []
            i = find(<list>self._headers, name, 0)
            while 0 <= i < PyList_GET_SIZE(self._headers):
                values.append(<object>PyTuple_GET_ITEM(<object>PyList_GET_ITEM(self._headers, i), 1))
                i = find(<list>self._headers, name, i + 1)
            if values and i >= 0 or missing(self._headers, name, i):
                return values
        return PureHeaders.get_all(self, name)

    def get(self, name, default=None):
        return look_up(self, name, default)

    def keys(self):
        return PureHeaders.keys(self)

    def values(self):
        return PureHeaders.values(self)

    def items(self):
        return self._headers[:]

    def __repr__(self):
        return PureHeaders.__repr__(self)

    def __str__(self):
        return PureHeaders.__str__(self)

    def __bytes__(self):
        lines = None
        if type(self) is Headers and type(self._headers) is list:
            lines = field_lines(self._headers)
        return PureHeaders.__bytes__(self) if lines is None else lines

    def setdefault(self, name, value):
        cdef Py_ssize_t index, size = 0
        if type(self) is Headers and searchable(self._headers, name):
            index = find(<list>self._headers, name, 0)
            if index == PyList_GET_SIZE(self._headers):
                pair = (name, value)
                if clean_pair(pair, &size):
                    (<list>self._headers).append(pair)
                    return value
        return PureHeaders.setdefault(self, name, value)

    def add_header(self, _name, _value, **_params):
        PureHeaders.add_header(self, _name, _value, **_params)

    # Pickles and copies look like the pure twin's: its attributes, _headers among them.
    def __reduce__(self):
        return copyreg.__newobj__, (type(self),), {"_headers": self._headers, **(<object>self).__dict__}

    def __setstate__(self, state):
        for name, value in state.items():
            setattr(self, name, value)


cdef object look_up(Headers self, object name, object default):
    cdef Py_ssize_t index
    if searchable(self._headers, name):
        index = find(<list>self._headers, name, 0)
        if 0 <= index < PyList_GET_SIZE(self._headers):
            return <object>PyTuple_GET_ITEM(<object>PyList_GET_ITEM(self._headers, index), 1)
        if missing(self._headers, name, index):
            return default
    return PureHeaders.get(self, name, default)


cdef bint remove(list headers, object name, Py_ssize_t first) except -1:
    """Delete the pairs of a name, the first of them at index first; False, and nothing done, if unsure."""
    cdef Py_ssize_t i = first, kept = first
    while 0 <= i < PyList_GET_SIZE(headers):
        i = find(headers, name, i + 1)
    if i < 0:
        return False
    for i in range(first, PyList_GET_SIZE(headers)):
        if not find_here(headers, name, i):
            headers[kept] = headers[i]
            kept += 1
    if kept < PyList_GET_SIZE(headers):
        del headers[kept:]
    return True


cdef inline bint find_here(list headers, object name, Py_ssize_t index) noexcept:
    found = <object>PyTuple_GET_ITEM(<object>PyList_GET_ITEM(headers, index), 0)
    cdef Py_ssize_t size = PyUnicode_GET_LENGTH(name)
    return PyUnicode_GET_LENGTH(found) == size and same_name(octets(found), octets(name), size)


cdef class FileWrapper:
    """FileWrapper(filelike, blksize=8192)\n--\n\nAn iterator over the blocks of a file-like object."""

    cdef public object filelike
    cdef public object blksize
    cdef dict __dict__
    cdef object __weakref__

    def __init__(self, filelike, blksize=8192):
        self.filelike = filelike
        self.blksize = blksize
        if hasattr(filelike, "close"):
            self.close = filelike.close

    def __getitem__(self, key):
        return _fallback.FileWrapper.__getitem__(self, key)

    def __iter__(self):
        return self

    def __next__(self):
        data = self.filelike.read(self.blksize)
        if data:
            return data
        raise StopIteration


# ---- handlers: the short cut through methods that nobody overrides -----------------------------------

@cython.final
cdef class Stock:
    """What a class of handlers with stock hooks says by class attributes, as of its version tag then.

    A tag changes with any attribute of the class or of its bases, so these are read once for many requests.
    """

    cdef PyTypeObject* cls
    cdef unsigned int version
    cdef dict os_environ
    cdef object wsgi_version, wsgi_run_once, file_wrapper, origin_server, http_version, software
    cdef bint closes, writes


cdef Stock last_stock = None


cdef Stock stock_of(object handler, dict stock):
    """The Stock of the handler's class, or None if a hook or a value is overridden where it may not be."""
    global last_stock
    cdef Stock known = last_stock
    cdef PyTypeObject* cls = Py_TYPE(handler)
    for name in <dict>handler.__dict__:
        if name in stock:
            return None
    if known is None or known.cls != cls or known.version != cls.tp_version_tag:
        known = read_stock(<object>cls, stock)
        if known is not None and known.version:
            last_stock = known
    return known


cdef Stock read_stock(object cls, dict stock):
    cdef Stock found = Stock.__new__(Stock)
    for name, function in stock.items():
        value = getattr(cls, name)
        if function is None:
            if hasattr(type(value), "__get__"):  # an instance would see another value
                return None
        elif value is not function and name not in ("close", "_write", "_flush"):
            return None
    if type(cls.os_environ) is not dict or cls.headers_class is not Headers:
        return None
    found.cls = <PyTypeObject*>cls
    found.version = found.cls.tp_version_tag
    found.os_environ = cls.os_environ
    found.wsgi_version = cls.wsgi_version
    found.wsgi_run_once = cls.wsgi_run_once
    found.file_wrapper = cls.wsgi_file_wrapper
    found.origin_server = bool(cls.origin_server)
    found.http_version = cls.http_version
    found.software = cls.server_software or None
    found.closes = cls.close is stock["close"]
    found.writes = cls._write is stock["_write"] and cls._flush is stock["_flush"]
    return found


@cython.final
@cython.freelist(16)
cdef class Response:
    """The state of one short-cut run, until it is handed over to the handler."""

    cdef object handler
    cdef object status
    cdef list headers
    cdef bint handed_over

    def start_response(self, status, headers, exc_info=None):
        if exc_info is None and self.status is None and not self.handed_over and good_start(status, headers):
            self.status = status
            self.headers = headers
            return self.write
        self.hand_over()
        return self.handler.start_response(status, headers, exc_info)

    def write(self, data):
        self.hand_over()
        self.handler.write(data)

    cdef int hand_over(self) except -1:
        if not self.handed_over:
            self.handed_over = True
            if self.status is not None:
                self.handler.status = self.status
                self.handler.headers = Headers(self.headers)
        return 0


cdef inline bint good_start(object status, object headers):
    """Whether these are what start_response may be given; if not, the handler's own says why."""
    cdef Py_ssize_t i, size = 0
    if not (type(headers) is list and good_status(status)):
        return False
    for i in range(PyList_GET_SIZE(headers)):
        pair = <object>PyList_GET_ITEM(headers, i)
        if not (good_pair(pair) and clean_pair(pair, &size)):
            return False
    return True


def run_stock(handler, application, dict stock):
    cdef Stock known = stock_of(handler, stock)
    if known is None:
        return False
    cdef dict environ = stock_environ(handler, known)
    cdef Response response = Response.__new__(Response)
    cdef bytes answer = None
    response.handler = handler
    try:
        result = application(environ, response.start_response)
        if response.status is not None and not response.handed_over:
            answer = format_answer(known, response, environ, result)
    except BaseException:
        response.hand_over()
        raise
    if answer is None:
        response.hand_over()
        handler.result = result
        handler.finish_response()
        return True
    try:
        if known.writes:
            stdout = handler.stdout
            written = stdout.write(answer)
            if written is not None and written != PyBytes_GET_SIZE(answer):
                handler._write_rest(answer, written)
            stdout.flush()
        else:
            handler._write(answer)
            handler._flush()
    except BaseException:
        sent(response, result)
        raise
    if known.closes:
        handler.environ = None  # nothing else was set
    else:
        sent(response, result)
        handler.close()
    return True


cdef int sent(Response response, object result) except -1:
    """Hand over the state of an answer that went out whole, or tried to."""
    response.hand_over()
    handler = response.handler
    handler.result = result
    handler.headers_sent = True
    handler.bytes_sent = len(result[0])
    return 0


cdef dict stock_environ(object handler, Stock known):
    """What SimpleHandler's hooks put into the environ."""
    cdef dict environ = known.os_environ.copy()
    cdef PyObject* https
    handler.environ = environ
    environ.update(handler.base_env)
    environ["wsgi.input"] = handler.stdin
    environ["wsgi.errors"] = handler.stderr
    environ["wsgi.version"] = known.wsgi_version
    environ["wsgi.run_once"] = known.wsgi_run_once
    https = PyDict_GetItemWithError(environ, "HTTPS")
    environ["wsgi.url_scheme"] = "https" if https != NULL and <object>https in ("yes", "on", "1") else "http"
    environ["wsgi.multithread"] = handler.wsgi_multithread
    environ["wsgi.multiprocess"] = handler.wsgi_multiprocess
    if known.file_wrapper is not None:
        environ["wsgi.file_wrapper"] = known.file_wrapper
    if known.origin_server and known.software is not None:
        environ.setdefault("SERVER_SOFTWARE", known.software)
    return environ


cdef bytes format_answer(Stock known, Response response, dict environ, object result):
    """Head and body of an answer whose body is one block, as one piece; None for any other answer."""
    cdef Py_ssize_t i, name_size, size = 0
    cdef bint has_length = False, has_date = False, has_server = False
    cdef bytes block, preamble
    if type(result) is list:
        if PyList_GET_SIZE(result) != 1 or type((<list>result)[0]) is not bytes:
            return None
        block = (<list>result)[0]
    elif type(result) is tuple:
        if PyTuple_GET_SIZE(result) != 1 or type((<tuple>result)[0]) is not bytes:
            return None
        block = (<tuple>result)[0]
    else:
        return None
    if not known.origin_server or environ.get("SERVER_PROTOCOL") not in ("HTTP/1.1", "HTTP/1.0"):
        return None
    for i in range(PyList_GET_SIZE(response.headers)):
        pair = <object>PyList_GET_ITEM(response.headers, i)
        if not clean_pair(pair, &size):
            return None
        name = <object>PyTuple_GET_ITEM(pair, 0)
        name_size = PyUnicode_GET_LENGTH(name)
        if name_size == 14:
            has_length = has_length or same_name(octets(name), b"content-length", 14)
        elif name_size == 4:
            has_date = has_date or same_name(octets(name), b"date", 4)
        elif name_size == 6:
            has_server = has_server or same_name(octets(name), b"server", 6)
    preamble = preamble_lines(
        known.http_version,
        response.status,
        None if has_date else date_now(),
        None if has_server else known.software,
    )
    cdef unsigned char length[40]
    cdef unsigned char* end = length + sizeof(length)
    cdef unsigned char* start = end
    cdef Py_ssize_t rest = PyBytes_GET_SIZE(block)
    if not has_length:
        start = put_back(start, b"\r\n", 2)
        while rest or start == end - 2:
            start -= 1
            start[0] = 48 + rest % 10
            rest //= 10
        start = put_back(start, b"Content-Length: ", 16)

    size += PyBytes_GET_SIZE(preamble) + (end - start) + 2 + PyBytes_GET_SIZE(block)
    cdef bytes answer = PyBytes_FromStringAndSize(NULL, size)
    cdef unsigned char* at = <unsigned char*>PyBytes_AS_STRING(answer)
    at = put(at, PyBytes_AS_STRING(preamble), PyBytes_GET_SIZE(preamble))
    for i in range(PyList_GET_SIZE(response.headers)):
        at = put_pair(at, <object>PyList_GET_ITEM(response.headers, i))
    at = put(at, start, end - start)
    at = put(at, b"\r\n", 2)
    put(at, PyBytes_AS_STRING(block), PyBytes_GET_SIZE(block))
    return answer


# ---- request: head, environ --------------------------------------------------------------------------

def find_head_end(data, Py_ssize_t start=0):
    if type(data) is not bytes:
        return _fallback.find_head_end(data, start)
    return head_end(<Octets>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), start)


cdef Py_ssize_t head_end(Octets data, Py_ssize_t size, Py_ssize_t start) noexcept:
    """The index just past the first empty line, or -1; the first start octets were searched before."""
    cdef Octets at = data + (start - 2 if start > 2 else 0)
    cdef Octets end = data + size
    if at == data and size:  # the data begin with a line
        if at[0] == 10:
            return 1
        if at[0] == 13 and size > 1 and at[1] == 10:
            return 2
    while at < end:
        at = <Octets>memchr(at, 10, end - at)
        if at == NULL:
            return -1
        at += 1
        if at < end and at[0] == 10:
            return at + 1 - data
        if at + 1 < end and at[0] == 13 and at[1] == 10:
            return at + 2 - data
    return -1


cdef struct Field:
    int name
    int name_size
    int value
    int value_size


@cython.freelist(16)
cdef class RequestHead:
    """RequestHead(method, target, version, fields)\n--\n\nA parsed request head."""

    cdef readonly object method
    cdef readonly object target
    cdef readonly object version
    cdef list pairs
    # A parsed head keeps its octets and where the fields lie in them; one made by hand only pairs.
    cdef bytes data
    cdef Field* table
    cdef Py_ssize_t count

    def __init__(self, method, target, version, fields):
        self.method = method
        self.target = target
        self.version = version
        self.pairs = fields
        self.data = None

    def __dealloc__(self):
        PyMem_Free(self.table)

    @property
    def fields(self):
        cdef Py_ssize_t i
        cdef Octets data
        cdef Field* field
        cdef list pairs
        if self.pairs is None:
            data = <Octets>PyBytes_AS_STRING(self.data)
            pairs = []
            for i in range(self.count):
                field = &self.table[i]
                pairs.append((latin1(data + field.name, field.name_size), latin1(data + field.value, field.value_size)))
            self.pairs = pairs
        return self.pairs

    def get_all(self, name):
        cdef Py_ssize_t i, size
        cdef Octets data
        cdef Field* field
        if self.data is None or not is_ascii(name):
            return _fallback.RequestHead.get_all(self, name)
        size = PyUnicode_GET_LENGTH(name)
        data = <Octets>PyBytes_AS_STRING(self.data)
        values = []
        for i in range(self.count):
            field = &self.table[i]
            if field.name_size == size and same_name(data + field.name, octets(name), size):
                values.append(latin1(data + field.value, field.value_size))
        return values


cdef inline object latin1(Octets text, Py_ssize_t size):
    return PyUnicode_DecodeLatin1(<const char*>text, size, NULL)


def parse_request_line(data, Py_ssize_t max_line=8190, bint tolerant=False):
    cdef RequestHead head
    if type(data) is bytes:
        head = RequestHead.__new__(RequestHead)
        if parse_line(head, <Octets>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), max_line, tolerant):
            return head.method, head.target, head.version
    return _fallback.parse_request_line(data, max_line, tolerant)


cdef bint parse_line(RequestHead head, Octets data, Py_ssize_t size, Py_ssize_t max_line, bint tolerant) except -1:
    """Parse a well-formed request line with its end; False for any other."""
    cdef Octets at = data, target
    cdef Octets line_end = data + size - 1
    cdef Octets is_target = &IS_TOLERANT_TARGET[0] if tolerant else &IS_TARGET[0]
    if size < 2 or line_end[0] != 10:
        return False
    if (line_end - 1)[0] == 13:
        line_end -= 1
    elif not tolerant:
        return False
    if line_end - data > max_line:
        return False
    # The loops end at the latest on the line's end, which is in neither class.
    while IS_TCHAR[at[0]]:
        at += 1
    if at == data or at[0] != 32:
        return False
    head.method = method_name(data, at - data)
    at += 1
    target = at
    while is_target[at[0]]:
        at += 1
    if at == target or line_end - at != 9 or memcmp(at, b" HTTP/1.", 8) or not 48 <= at[8] <= 57:
        return False
    head.target = latin1(target, at - target)
    head.version = "HTTP/1.1" if at[8] == 49 else "HTTP/1.0" if at[8] == 48 else latin1(at + 1, 8)
    if target[0] != 47 or head.method == "CONNECT":
        check_target(head.method, head.target)
    return True


def parse_head(data, Py_ssize_t max_line=8190, Py_ssize_t max_fields=100, bint tolerant=False):
    cdef RequestHead head = None
    if type(data) is bytes and PyBytes_GET_SIZE(data) < 0x7fffffff:
        head = parse(<bytes>data, max_line, max_fields, tolerant)
    if head is None:
        pure = _fallback.parse_head(data, max_line, max_fields, tolerant)
        head = RequestHead(pure.method, pure.target, pure.version, pure.fields)
    return head


# Most heads have fewer fields than this; the table of one that has more is allocated twice.
cdef enum:
    USUAL_FIELDS = 32


cdef RequestHead parse(bytes raw, Py_ssize_t max_line, Py_ssize_t max_fields, bint tolerant):
    """Parse a well-formed head; None for any other, whose fault the pure twin finds and names."""
    cdef Octets data = <Octets>PyBytes_AS_STRING(raw)
    cdef Octets end = data + PyBytes_GET_SIZE(raw)
    cdef Octets at, value
    cdef Octets line_end = <Octets>memchr(data, 10, end - data)
    if line_end == NULL:
        return None
    at = line_end + 1
    cdef RequestHead head = RequestHead.__new__(RequestHead)
    if not parse_line(head, data, at - data, max_line, tolerant):
        return None
    head.data = raw
    head.pairs = None
    cdef Field usual[USUAL_FIELDS]
    cdef Field* field = usual
    cdef Py_ssize_t room = USUAL_FIELDS
    while at < end:
        if at[0] == 13 and at + 2 == end and at[1] == 10 or tolerant and at[0] == 10 and at + 1 == end:
            if head.table == NULL and head.count:
                head.table = <Field*>PyMem_Malloc(head.count * sizeof(Field))
                if head.table == NULL:
                    raise MemoryError
                memcpy(head.table, usual, head.count * sizeof(Field))
            return head
        if head.count == room:
            if room > USUAL_FIELDS or max_fields <= room:
                return None
            # At most one field in four octets ("a:" and its line end), so this is bounded by the data.
            room = min(max_fields, (end - data) // 3 + 1)
            head.table = <Field*>PyMem_Malloc(room * sizeof(Field))
            if head.table == NULL:
                raise MemoryError
            memcpy(head.table, usual, sizeof(usual))
            field = head.table + head.count
        field.name = <int>(at - data)
        while IS_TCHAR[at[0]]:
            at += 1
        field.name_size = <int>(at - data) - field.name
        if not field.name_size or at[0] != 58:
            return None
        value = at + 1
        line_end = <Octets>memchr(value, 10, end - value)
        if line_end == NULL:
            return None
        at = line_end + 1
        if line_end > value and (line_end - 1)[0] == 13:
            line_end -= 1
        elif not tolerant:
            return None
        if not clean(value, line_end - value):
            return None
        while value < line_end and (value[0] == 32 or value[0] == 9):
            value += 1
        while value < line_end and ((line_end - 1)[0] == 32 or (line_end - 1)[0] == 9):
            line_end -= 1
        field.value = <int>(value - data)
        field.value_size = <int>(line_end - value)
        head.count += 1
        field += 1
    return None


cdef inline object method_name(Octets text, Py_ssize_t size):
    if size == 3 and memcmp(text, b"GET", 3) == 0:
        return "GET"
    if size == 4 and memcmp(text, b"POST", 4) == 0:
        return "POST"
    return latin1(text, size)


# The environ keys of known fields, by the hash of the key: an open-addressed table filled at import.
cdef enum:
    SLOTS = 1024
    PREFIX = 5  # "HTTP_"
    LONGEST = 64

cdef enum Kind:
    JOINED
    COOKIE
    CONTENT_TYPE
    CONTENT_LENGTH

cdef struct Slot:
    PyObject* key  # borrowed from _known_keys, which lives as long as the module
    Octets name
    int size
    Kind kind

cdef Slot SLOT[SLOTS]
cdef unsigned char ENVIRON_CHARACTER[256]
_known_keys = []


cdef inline unsigned int hashed(unsigned int state, unsigned char octet) noexcept:
    return (state ^ octet) * 16777619


def _fill_slots():
    cdef unsigned int index
    cdef int octet
    cdef Octets name
    memset(SLOT, 0, sizeof(SLOT))
    for octet in range(256):
        ENVIRON_CHARACTER[octet] = ord(chr(octet).upper().replace("-", "_")) if octet < 128 else octet
    for field in KNOWN_FIELDS:
        key = environ_key(field)
        folded = field.upper().replace("-", "_")
        _known_keys.append((key, folded))
        name = octets(folded)
        index = 2166136261
        for octet in range(len(folded)):
            index = hashed(index, name[octet])
        index %= SLOTS
        while SLOT[index].key != NULL:
            index = (index + 1) % SLOTS
        SLOT[index].key = <PyObject*>key
        SLOT[index].name = name
        SLOT[index].size = len(folded)
        SLOT[index].kind = {
            "HTTP_COOKIE": COOKIE, "CONTENT_TYPE": CONTENT_TYPE, "CONTENT_LENGTH": CONTENT_LENGTH
        }.get(key, JOINED)


def build_environ(base, RequestHead head):
    if type(base) is not dict or head.data is None or not is_latin1(head.target):
        return _fallback.build_environ(base, head)
    cdef dict environ = (<dict>base).copy()
    cdef Octets data = <Octets>PyBytes_AS_STRING(head.data)
    cdef Field* field
    cdef Py_ssize_t i
    environ["REQUEST_METHOD"] = head.method
    environ["SERVER_PROTOCOL"] = head.version
    environ["REQUEST_URI"] = head.target
    set_path(environ, head.target)

    cdef unsigned char folded[LONGEST]
    cdef unsigned char octet
    cdef unsigned int index
    cdef bint has_type = False, has_length = False
    cdef Slot* slot
    cdef int j
    for i in range(head.count):
        field = &head.table[i]
        if field.name_size > LONGEST:
            key = environ_key(latin1(data + field.name, field.name_size))
            if key is not None:
                join(environ, key, latin1(data + field.value, field.value_size), JOINED)
            continue
        index = 2166136261
        for j in range(field.name_size):
            octet = data[field.name + j]
            if octet == 95:  # "_"
                break
            octet = ENVIRON_CHARACTER[octet]
            folded[j] = octet
            index = hashed(index, octet)
        else:
            value = latin1(data + field.value, field.value_size)
            slot = &SLOT[index % SLOTS]
            while slot.key != NULL and not (
                slot.size == field.name_size and memcmp(slot.name, folded, slot.size) == 0
            ):
                index += 1
                slot = &SLOT[index % SLOTS]
            if slot.key == NULL:
                key = PyUnicode_New(PREFIX + field.name_size, 127)
                memcpy(PyUnicode_DATA(key), b"HTTP_", PREFIX)
                memcpy(<char*>PyUnicode_DATA(key) + PREFIX, folded, field.name_size)
                join(environ, key, value, JOINED)
            elif slot.kind == CONTENT_TYPE:
                if not has_type:
                    environ["CONTENT_TYPE"] = value
                    has_type = True
            elif slot.kind == CONTENT_LENGTH:
                if not has_length:
                    environ["CONTENT_LENGTH"] = value
                    has_length = True
            else:
                join(environ, <object>slot.key, value, slot.kind)
    if octets(head.target)[0] != 47:
        set_authority(environ, head.target)
    return environ


cdef inline int join(dict environ, object key, object value, Kind kind) except -1:
    """Set a key, or append to the value it has (its presence is told by the size: equal values may be one object)."""
    cdef Py_ssize_t size = PyDict_GET_SIZE(environ)
    cdef PyObject* found = PyDict_SetDefault(environ, key, value)
    if PyDict_GET_SIZE(environ) == size:
        environ[key] = <object>found + ("; " if kind == COOKIE else ",") + value
    return 0


cdef int set_authority(dict environ, object target) except -1:
    authority, _ = _fallback.split_target(target)
    if authority is not None:
        environ["HTTP_HOST"] = authority
    return 0


cdef int set_path(dict environ, object target) except -1:
    """Set PATH_INFO and QUERY_STRING from a target in origin-form, or from what another form names."""
    if octets(target)[0] != 47:
        _, target = _fallback.split_target(target)
    cdef Octets path = octets(target)
    cdef Py_ssize_t size = PyUnicode_GET_LENGTH(target)
    cdef Octets mark = <Octets>memchr(path, 63, size)
    if mark == NULL:
        environ["QUERY_STRING"] = ""
    else:
        environ["QUERY_STRING"] = latin1(mark + 1, path + size - mark - 1)
        size = mark - path
    while size > 1 and path[1] == 47:
        path += 1
        size -= 1
    if memchr(path, 37, size) != NULL:
        environ["PATH_INFO"] = percent_decoded(path, size)
    elif size == PyUnicode_GET_LENGTH(target):
        environ["PATH_INFO"] = target
    else:
        environ["PATH_INFO"] = latin1(path, size)
    return 0


cdef inline int hex_value(unsigned char octet) noexcept:
    if 48 <= octet <= 57:
        return octet - 48
    octet |= 32
    return octet - 87 if 97 <= octet <= 102 else -1


cdef object percent_decoded(Octets text, Py_ssize_t size):
    """Percent-decode to Latin-1; what is no encoded octet stays as it is (RFC 3986 section 2.4)."""
    decoded = PyBytes_FromStringAndSize(NULL, size)
    cdef unsigned char* start = <unsigned char*>PyBytes_AS_STRING(decoded)
    cdef unsigned char* at = start
    cdef Py_ssize_t i = 0
    while i < size:
        at[0] = text[i]
        if text[i] == 37 and i + 2 < size and hex_value(text[i + 1]) >= 0 and hex_value(text[i + 2]) >= 0:
            at[0] = hex_value(text[i + 1]) << 4 | hex_value(text[i + 2])
            i += 2
        at += 1
        i += 1
    return latin1(start, at - start)


_fill_tables()
_fill_hops()
_fill_slots()
