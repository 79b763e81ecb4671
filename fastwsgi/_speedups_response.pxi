# Response: dates, names, status, fields, files. Included by _speedups.pyx.

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
    return pure().format_date_time(timestamp)


@cython.cdivision(True)
cdef object date_of(unsigned long long seconds):
    """Format seconds since 1970, up to the year 9999."""
    # Convert days to a date. Years begin in March here, so that a leap day is the last; an era has 400 years.
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


@cython.final
@cython.internal
cdef class Second:
    """A second, and its text for a Date field."""

    cdef long long number
    cdef str date


cdef Last last_second = Last.__new__(Last)


def current_date():
    return date_now()


cdef str date_now():
    cdef long long number = <long long><double>time.time()
    cdef Second now = <Second>last_second.get()
    if now is None or now.number != number:
        now = Second.__new__(Second)
        now.number = number
        now.date = format_date_time(number)
        last_second.put(now)
    return now.date


cdef enum:
    MOST_HOPS = 16

cdef Octets hop_name[MOST_HOPS]
cdef Py_ssize_t hop_size[MOST_HOPS]
cdef Py_ssize_t hops = 0


def _fill_hops():
    global hops
    if len(HOP_BY_HOP) > MOST_HOPS:
        raise AssertionError("more hop-by-hop fields than there is room for")
    for name in HOP_BY_HOP:  # HOP_BY_HOP keeps the names alive
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
    return pure().is_hop_by_hop(header_name)


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
        and no_control(text, PyUnicode_GET_LENGTH(status))
    )


def check_status(status):
    if not good_status(status):
        pure().check_status(status)


def check_fields(headers):
    cdef Py_ssize_t i
    if type(headers) is list:
        with cython.critical_section(headers):
            for i in range(PyList_GET_SIZE(headers)):
                if not good_pair(<object>PyList_GET_ITEM(headers, i)):
                    break
            else:
                return
    pure().check_fields(headers)


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
    """Append octets; a short text is copied in two moves that may overlap."""
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
    return text is None or (is_latin1(text) and no_control(octets(text), PyUnicode_GET_LENGTH(text)))


def format_preamble(http_version, status, date, server):
    return preamble_lines(http_version, status, date, server)


cdef bytes preamble_lines(object http_version, object status, object date, object server):
    if (
        http_version is None or status is None
        or not (clean_line(http_version) and clean_line(status) and clean_line(date) and clean_line(server))
    ):
        return pure().format_preamble(http_version, status, date, server)
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
    return pure().format_fields(headers) if lines is None else lines


cdef bytes field_lines(list headers):
    """The field lines of well-formed pairs and the empty line; None for other pairs."""
    cdef Py_ssize_t i, size = 2
    cdef uint64_t controls = 0
    cdef bytes lines
    cdef unsigned char* at
    with cython.critical_section(headers):
        for i in range(PyList_GET_SIZE(headers)):
            if not latin1_pair(<object>PyList_GET_ITEM(headers, i), &size):
                return None
        lines = PyBytes_FromStringAndSize(NULL, size)
        at = <unsigned char*>PyBytes_AS_STRING(lines)
        for i in range(PyList_GET_SIZE(headers)):
            at = put_pair(at, <object>PyList_GET_ITEM(headers, i), &controls)
    put(at, b"\r\n", 2)
    # A control character is a tab in a value, or must be refused. The pure twin decides.
    return None if controls else lines


cdef inline bint latin1_pair(object pair, Py_ssize_t* size) noexcept:
    """Whether pair is a (name, value) tuple of Latin-1 text; adds the size of its field line."""
    if not (PyTuple_CheckExact(pair) and PyTuple_GET_SIZE(pair) == 2):
        return False
    cdef PyObject* name = PyTuple_GET_ITEM(pair, 0)
    cdef PyObject* value = PyTuple_GET_ITEM(pair, 1)
    if not (is_latin1(<object>name) and is_latin1(<object>value)):
        return False
    size[0] += PyUnicode_GET_LENGTH(<object>name) + PyUnicode_GET_LENGTH(<object>value) + 4
    return True


cdef inline bint clean_pair(object pair, Py_ssize_t* size) noexcept:
    """Whether pair is a (name, value) tuple that can be sent; adds the size of its field line."""
    if not latin1_pair(pair, size):
        return False
    cdef PyObject* name = PyTuple_GET_ITEM(pair, 0)
    cdef PyObject* value = PyTuple_GET_ITEM(pair, 1)
    return no_control(octets(<object>name), PyUnicode_GET_LENGTH(<object>name)) and clean(
        octets(<object>value), PyUnicode_GET_LENGTH(<object>value)
    )


cdef inline unsigned char* put_pair(unsigned char* at, object pair, uint64_t* controls) noexcept:
    cdef PyObject* name = PyTuple_GET_ITEM(pair, 0)
    cdef PyObject* value = PyTuple_GET_ITEM(pair, 1)
    at = put_looking(at, octets(<object>name), PyUnicode_GET_LENGTH(<object>name), controls)
    at[0] = 58  # ": "
    at[1] = 32
    at = put_looking(at + 2, octets(<object>value), PyUnicode_GET_LENGTH(<object>value), controls)
    at[0] = 13
    at[1] = 10
    return at + 2


cdef inline unsigned char* put_looking(
    unsigned char* at, Octets text, Py_ssize_t size, uint64_t* controls
) noexcept:
    """Append octets, and set bits in controls if one of them is a control character."""
    cdef unsigned char* end = at + size
    cdef uint64_t word
    if size < WORD:
        while at < end:
            controls[0] |= (text[0] < 32) | (text[0] == 127)
            at[0] = text[0]
            at += 1
            text += 1
        return end
    text += size
    while at < end - WORD:
        memcpy(&word, text - (end - at), WORD)
        controls[0] |= control_bits(word)
        memcpy(at, &word, WORD)
        at += WORD
    memcpy(&word, text - WORD, WORD)
    controls[0] |= control_bits(word)
    memcpy(end - WORD, &word, WORD)
    return end


cdef Py_ssize_t find(list headers, object name, Py_ssize_t start) noexcept:
    """The index of the first pair from start with this name, or the list's length; -1 if the general code must decide.

    Call it in the list's critical section, and keep the section as long as the index is used.
    """
    cdef Py_ssize_t i, size = PyUnicode_GET_LENGTH(name)
    cdef Octets wanted = octets(name)
    cdef PyObject* pair
    cdef PyObject* found
    for i in range(start, PyList_GET_SIZE(headers)):
        pair = PyList_GET_ITEM(headers, i)
        if not (PyTuple_CheckExact(<object>pair) and PyTuple_GET_SIZE(<object>pair) == 2):
            return -1
        found = PyTuple_GET_ITEM(<object>pair, 0)
        if not is_ascii(<object>found):
            return -1
        if PyUnicode_GET_LENGTH(<object>found) == size and same_name(octets(<object>found), wanted, size):
            return i
    return PyList_GET_SIZE(headers)


cdef inline bint searchable(object headers, object name) noexcept:
    """Whether a look-up can compare octets, because the list is plain and the name is ASCII."""
    return type(headers) is list and is_ascii(name)


cdef inline bint is_clean_name(object name) noexcept:
    """Whether an ASCII name that wasn't found is a valid name; if not, the pure twin raises the error."""
    return no_control(octets(name), PyUnicode_GET_LENGTH(name))


cdef inline bint is_plain_parameter(object name, object value) noexcept:
    """Whether a MIME parameter's value needs no escapes. Other checks are the caller's."""
    return (
        is_latin1(name) and no_control(octets(name), PyUnicode_GET_LENGTH(name))
        and is_latin1(value) and PyUnicode_GET_LENGTH(value) > 0
        and memchr(octets(value), 34, PyUnicode_GET_LENGTH(value)) == NULL
        and memchr(octets(value), 92, PyUnicode_GET_LENGTH(value)) == NULL
    )


# inspect.signature() reads the first lines of the class docstrings.

cdef class Headers:
    """Headers(headers=None)\n--\n\nA mapping of case-insensitive field names over a list of WSGI header tuples.

    The pure twin documents each method.
    """

    cdef public object _headers
    cdef dict __dict__
    cdef object __weakref__

    def __init__(self, headers=None):
        if headers is None:
            set_list(self, [])
        elif type(headers) is list and are_clean(<list>headers):
            set_list(self, headers)
        else:
            pure().Headers.__init__(self, headers)

    def _convert_string_type(self, value, *, name):
        return pure().Headers._convert_string_type(self, value, name=name)

    def __len__(self):
        return len(list_of(self))

    def __setitem__(self, name, val):
        cdef Py_ssize_t size = 0
        headers = list_of(self)
        if type(self) is Headers and searchable(headers, name):
            pair = (name, val)
            if clean_pair(pair, &size) and remove(<list>headers, name):
                (<list>headers).append(pair)
                return
        pure().Headers.__setitem__(self, name, val)

    def __delitem__(self, name):
        headers = list_of(self)
        if not (searchable(headers, name) and is_clean_name(name) and remove(<list>headers, name)):
            pure().Headers.__delitem__(self, name)

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
        headers = list_of(self)
        if searchable(headers, name):
            values = []
            with cython.critical_section(headers):
                i = find(<list>headers, name, 0)
                while 0 <= i < PyList_GET_SIZE(headers):
                    values.append(<object>PyTuple_GET_ITEM(<object>PyList_GET_ITEM(headers, i), 1))
                    i = find(<list>headers, name, i + 1)
            if i >= 0 and (values or is_clean_name(name)):
                return values
        return pure().Headers.get_all(self, name)

    def get(self, name, default=None):
        return look_up(self, name, default)

    def keys(self):
        return pure().Headers.keys(self)

    def values(self):
        return pure().Headers.values(self)

    def items(self):
        return list_of(self)[:]

    def __repr__(self):
        return pure().Headers.__repr__(self)

    def __str__(self):
        return pure().Headers.__str__(self)

    def __bytes__(self):
        if type(self) is not Headers:
            return pure().Headers.__bytes__(self)
        return format_fields(list_of(self))

    def setdefault(self, name, value):
        cdef Py_ssize_t size = 0
        headers = list_of(self)
        if type(self) is Headers and searchable(headers, name) and not has(<list>headers, name):
            pair = (name, value)
            if clean_pair(pair, &size):
                (<list>headers).append(pair)
                return value
        return pure().Headers.setdefault(self, name, value)

    def add_header(self, _name, _value, **_params):
        cdef Py_ssize_t size = 0
        headers = list_of(self)
        if type(self) is Headers and type(headers) is list and is_latin1(_value):
            value = _value
            for keyword, parameter in _params.items():
                if not is_plain_parameter(keyword, parameter):
                    break
                value = f'{value}; {keyword.replace("_", "-")}="{parameter}"'
            else:
                pair = (_name, value)
                if clean_pair(pair, &size):
                    (<list>headers).append(pair)
                    return
        pure().Headers.add_header(self, _name, _value, **_params)

    # Pickles and copies have the format of the pure twin: its attributes, including _headers.
    def __reduce__(self):
        return copyreg.__newobj__, (type(self),), {"_headers": list_of(self), **(<object>self).__dict__}

    def __setstate__(self, state):
        for name, value in state.items():
            setattr(self, name, value)


cdef inline object list_of(Headers self):
    with cython.critical_section(self):
        return self._headers


cdef inline set_list(Headers self, object headers):
    with cython.critical_section(self):
        self._headers = headers


cdef bint are_clean(list headers) except -1:
    """Whether all pairs can be sent."""
    cdef Py_ssize_t i, size = 0
    with cython.critical_section(headers):
        for i in range(PyList_GET_SIZE(headers)):
            if not clean_pair(<object>PyList_GET_ITEM(headers, i), &size):
                return False
    return True


cdef object look_up(Headers self, object name, object default):
    cdef Py_ssize_t index
    headers = list_of(self)
    if searchable(headers, name):
        with cython.critical_section(headers):
            index = find(<list>headers, name, 0)
            if 0 <= index < PyList_GET_SIZE(headers):
                return <object>PyTuple_GET_ITEM(<object>PyList_GET_ITEM(headers, index), 1)
        if index >= 0 and is_clean_name(name):
            return default
    return pure().Headers.get(self, name, default)


cdef bint has(list headers, object name) except -1:
    """Whether there is, or may be, a pair with this name."""
    with cython.critical_section(headers):
        return find(headers, name, 0) != PyList_GET_SIZE(headers)


cdef bint remove(list headers, object name) except -1:
    """Delete the pairs with a name. Return False, without a change, if the general code must decide."""
    cdef Py_ssize_t first, i
    cdef list others
    with cython.critical_section(headers):
        first = i = find(headers, name, 0)
        if i == PyList_GET_SIZE(headers):
            return True
        while 0 <= i < PyList_GET_SIZE(headers):
            i = find(headers, name, i + 1)
        if i < 0:
            return False
        # Dropping a pair may run Python code. So collect the remaining pairs first, and store them in one step.
        others = []
        for i in range(first, PyList_GET_SIZE(headers)):
            if not find_here(headers, name, i):
                others.append(<object>PyList_GET_ITEM(headers, i))
    headers[first:] = others
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
        with cython.critical_section(self):
            self.filelike = filelike
            self.blksize = blksize
        if hasattr(filelike, "close"):
            self.close = filelike.close

    def __getitem__(self, key):
        return pure().FileWrapper.__getitem__(self, key)

    def __iter__(self):
        return self

    def __next__(self):
        with cython.critical_section(self):
            filelike, size = self.filelike, self.blksize
        data = filelike.read(size)
        if data:
            return data
        raise StopIteration


def is_plain(text):
    cdef Octets at, end
    if not is_ascii(text):
        return pure().is_plain(text)
    at = octets(text)
    end = at + PyUnicode_GET_LENGTH(text)
    while at < end and IS_PLAIN[at[0]]:
        at += 1
    return at == end
