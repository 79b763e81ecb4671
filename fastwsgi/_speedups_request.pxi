# Request: head, environ. Included by _speedups.pyx.

def find_head_end(data, Py_ssize_t start=0):
    if type(data) is bytearray:
        return head_end(<Octets>PyByteArray_AS_STRING(data), PyByteArray_GET_SIZE(data), start)
    if type(data) is not bytes:
        return pure().find_head_end(data, start)
    return head_end(<Octets>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), start)


cdef Py_ssize_t head_end(Octets data, Py_ssize_t size, Py_ssize_t start) noexcept:
    """The index just past the first empty line, or -1. start: how many octets were searched before."""
    cdef Octets at = data + (start - 2 if start > 2 else 0)
    cdef Octets end = data + size
    if at == data and size:  # the data begin at the start of a line
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
cdef class Request:
    """Request(method, target, version, fields, raw=b'')\n--\n\nA request: its head, parsed, and its client."""

    cdef public object method
    cdef public object target
    cdef public object version
    cdef readonly bytes raw
    cdef public object length
    cdef public object client
    cdef public object environ
    cdef public object adapter
    cdef public object sock
    cdef public object address
    cdef public double began
    cdef public bint expects_continue
    cdef public bint is_persistent
    cdef public bint is_tls
    cdef list pairs
    # A parsed request has the positions of the fields in its octets, or refers to another request with the same fields.
    # A request made by hand has only pairs.
    cdef bint is_parsed
    cdef Field* table
    cdef Py_ssize_t count
    cdef Request same

    def __cinit__(self):
        self.raw = b""
        self.length = 0
        self.client = NO_CLIENT

    def __init__(self, method, target, version, fields, bytes raw=b""):
        self.method = method
        self.target = target
        self.version = version
        self.pairs = fields
        self.raw = raw

    def __dealloc__(self):
        PyMem_Free(self.table)

    @property
    def fields(self):
        cdef Py_ssize_t i
        cdef Octets data
        cdef Field* field
        cdef list pairs
        if self.same is not None:
            return self.same.fields[:]  # the list is the memo's
        with cython.critical_section(self):
            if self.pairs is None:
                data = <Octets>PyBytes_AS_STRING(self.raw)
                pairs = []
                for i in range(self.count):
                    field = &self.table[i]
                    pairs.append(
                        (latin1(data + field.name, field.name_size), latin1(data + field.value, field.value_size))
                    )
                self.pairs = pairs
            return self.pairs

    @fields.setter
    def fields(self, list fields):
        with cython.critical_section(self):
            self.same, self.is_parsed, self.pairs = None, False, fields

    @property
    def line(self):
        cdef Octets start = <Octets>PyBytes_AS_STRING(self.raw)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(self.raw)
        cdef Octets end = <Octets>memchr(start, 10, size)
        if end == NULL:
            end = start + size
        while end > start and (end - 1)[0] == 13:
            end -= 1
        return latin1(start, end - start)

    def get_all(self, name):
        cdef Py_ssize_t i, size
        cdef Octets data
        cdef Field* field
        cdef Request known = self if self.same is None else self.same
        if not known.is_parsed or not is_ascii(name):
            return pure().Request(self.method, self.target, self.version, self.fields).get_all(name)
        size = PyUnicode_GET_LENGTH(name)
        data = <Octets>PyBytes_AS_STRING(known.raw)
        values = []
        for i in range(known.count):
            field = &known.table[i]
            if field.name_size == size and same_name(data + field.name, octets(name), size):
                values.append(latin1(data + field.value, field.value_size))
        return values

    def joined(self, name):
        cdef Py_ssize_t i, size
        cdef Octets data
        cdef Field* field
        cdef Request known = self if self.same is None else self.same
        cdef object joined = None
        if not known.is_parsed or not is_ascii(name):
            return ", ".join(self.get_all(name))
        size = PyUnicode_GET_LENGTH(name)
        data = <Octets>PyBytes_AS_STRING(known.raw)
        for i in range(known.count):
            field = &known.table[i]
            if field.name_size == size and same_name(data + field.name, octets(name), size):
                if joined is not None:  # appending to a growing text takes quadratic time
                    return ", ".join(self.get_all(name))
                joined = latin1(data + field.value, field.value_size)
        return joined if joined is not None else ""

    def framing_fields(self):
        cdef Py_ssize_t i
        cdef Octets data, name
        cdef Field* field
        cdef Request known = self if self.same is None else self.same
        if not known.is_parsed:
            return pure().Request(self.method, self.target, self.version, self.fields).framing_fields()
        data = <Octets>PyBytes_AS_STRING(known.raw)
        hosts = lengths = codings = expectations = options = ()
        for i in range(known.count):
            field = &known.table[i]
            name = data + field.name
            if field.name_size == 4 and same_name(name, b"host", 4):
                hosts = with_value(hosts, data, field)
            elif field.name_size == 14 and same_name(name, b"content-length", 14):
                lengths = with_value(lengths, data, field)
            elif field.name_size == 17 and same_name(name, b"transfer-encoding", 17):
                codings = with_value(codings, data, field)
            elif field.name_size == 6 and same_name(name, b"expect", 6):
                expectations = with_value(expectations, data, field)
            elif field.name_size == 10 and same_name(name, b"connection", 10):
                options = with_value(options, data, field)
        return hosts, lengths, codings, expectations, options


cdef tuple NO_CLIENT = ("", "")


cdef inline object with_value(object values, Octets data, Field* field):
    """A list of values with another one; () is a list of none."""
    value = latin1(data + field.value, field.value_size)
    if type(values) is not list:
        return [value]
    (<list>values).append(value)
    return values


cdef inline object latin1(Octets text, Py_ssize_t size):
    """The octets as a str. ASCII is copied in words, except short text, because CPython shares such strings."""
    cdef uint64_t word, high = 0
    cdef unsigned char* at
    cdef Py_ssize_t i = 0
    if size < WORD:
        return PyUnicode_DecodeLatin1(<const char*>text, size, NULL)
    made = PyUnicode_New(size, 127)
    at = <unsigned char*>PyUnicode_DATA(made)
    while i < size - WORD:
        memcpy(&word, text + i, WORD)
        high |= word
        memcpy(at + i, &word, WORD)
        i += WORD
    memcpy(&word, text + size - WORD, WORD)
    high |= word
    memcpy(at + size - WORD, &word, WORD)
    if high & HIGH_BITS:
        return PyUnicode_DecodeLatin1(<const char*>text, size, NULL)
    return made


def parse_request_line(data, Py_ssize_t max_line=8190, bint tolerant=False):
    cdef Request head
    if type(data) is bytes:
        head = Request.__new__(Request)
        if parse_line(head, <Octets>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), max_line, tolerant):
            return head.method, head.target, head.version
    return pure().parse_request_line(data, max_line, tolerant)


cdef bint parse_line(Request head, Octets data, Py_ssize_t size, Py_ssize_t max_line, bint tolerant) except -1:
    """Parse a well-formed request line with its line end; return False for any other."""
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
    # The loops stop at the line end at the latest, because it is in neither class.
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
    if target[0] != 47 or is_method(head, b"CONNECT", 7):
        check_target(head.method, head.target)
    return True


cdef inline bint is_method(Request head, const char* name, Py_ssize_t size) noexcept:
    """Whether the method of a parsed head, which is ASCII, equals a name."""
    return PyUnicode_GET_LENGTH(head.method) == size and memcmp(octets(head.method), name, size) == 0


def parse_head(data, Py_ssize_t max_line=8190, Py_ssize_t max_fields=100, bint tolerant=False):
    cdef Request head = None
    if type(data) is bytes and PyBytes_GET_SIZE(data) < 0x7fffffff:
        head = parse(<bytes>data, max_line, max_fields, tolerant)
    if head is None:
        found = pure().parse_head(data, max_line, max_fields, tolerant)
        head = Request(found.method, found.target, found.version, found.fields, found.raw)
    return head


# Most heads have fewer fields than this. For more fields, a larger table is allocated.
cdef enum:
    USUAL_FIELDS = 32


cdef Request parse(bytes raw, Py_ssize_t max_line, Py_ssize_t max_fields, bint tolerant):
    """Parse a well-formed head; return None for any other, for which the pure twin raises the error."""
    cdef Octets data = <Octets>PyBytes_AS_STRING(raw)
    cdef Octets end = data + PyBytes_GET_SIZE(raw)
    cdef Octets at, value
    cdef Octets line_end = <Octets>memchr(data, 10, end - data)
    if line_end == NULL:
        return None
    at = line_end + 1
    cdef Request head = Request.__new__(Request)
    if not parse_line(head, data, at - data, max_line, tolerant):
        return None
    head.raw, head.is_parsed = raw, True
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
        if head.count == max_fields:
            return None
        if head.count == room:
            # A field has at least three octets ("a:" and LF), so the data limit the size of the table.
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


# The environ keys of known fields: an open-addressed hash table, filled at import.
cdef enum:
    SLOTS = 1024
    PREFIX = 5  # "HTTP_"
    LONGEST = 64

cdef enum Kind:
    JOINED
    CONTENT_TYPE
    CONTENT_LENGTH

cdef struct Slot:
    PyObject* key  # borrowed from _known_keys, which lives as long as the module
    Octets name
    int size
    Kind kind

cdef Slot SLOT[SLOTS]
_known_keys = []


cdef inline uint64_t folded_word(uint64_t word, uint64_t* underscores) noexcept:
    """Convert eight octets of a token to upper case and "-" to "_". underscores: marks octets that were "_" before."""
    cdef uint64_t under = word ^ ONES * 0x5F
    cdef uint64_t dash = word ^ ONES * 0x2D
    underscores[0] |= (under - ONES) & ~under & HIGH_BITS
    dash = ~((dash & ~HIGH_BITS) + ~HIGH_BITS | dash | ~HIGH_BITS)
    return upper_word(word) ^ (dash >> 7) * (0x2D ^ 0x5F)


cdef inline bint fold(unsigned char* folded, Octets name, int size) noexcept:
    """Write a name of at most LONGEST octets in the form of an environ key; False if it has an underscore."""
    cdef uint64_t word = 0, underscores = 0
    cdef int i = 0
    if size < WORD:
        memcpy(&word, name, size)
        word = folded_word(word, &underscores)
        memcpy(folded, &word, WORD)
        return not underscores
    while True:
        memcpy(&word, name + i, WORD)
        word = folded_word(word, &underscores)
        memcpy(folded + i, &word, WORD)
        if i == size - WORD:
            return not underscores
        i = min(i + WORD, size - WORD)  # the last two words may overlap


cdef inline unsigned int hashed(Octets folded, int size) noexcept:
    """Hash a folded name by its size and its first and last eight octets; a shorter name is padded with zeros."""
    cdef uint64_t first, last = 0
    memcpy(&first, folded, WORD)
    if size > WORD:
        memcpy(&last, folded + size - WORD, WORD)
    first = (first ^ size) * <uint64_t>0x9E3779B97F4A7C15 ^ last * <uint64_t>0xC2B2AE3D27D4EB4F
    return <unsigned int>((first ^ first >> 32) * <uint64_t>0x9E3779B97F4A7C15 >> 32)


def _fill_slots():
    cdef unsigned int index
    cdef unsigned char padded[LONGEST]
    memset(SLOT, 0, sizeof(SLOT))
    for field in KNOWN_FIELDS:
        key = environ_key(field)
        folded = field.upper().replace("-", "_")
        _known_keys.append((key, folded))
        if len(folded) > LONGEST:
            raise AssertionError("a known field's name is longer than there is room for")
        memset(padded, 0, LONGEST)
        memcpy(padded, octets(folded), len(folded))
        index = hashed(padded, len(folded)) % SLOTS
        while SLOT[index].key != NULL:
            index = (index + 1) % SLOTS
        SLOT[index].key = <PyObject*>key
        SLOT[index].name = octets(folded)
        SLOT[index].size = len(folded)
        SLOT[index].kind = {"CONTENT_TYPE": CONTENT_TYPE, "CONTENT_LENGTH": CONTENT_LENGTH}.get(key, JOINED)


def build_environ(base, head):
    if type(base) is dict and type(head) is Request:
        if (<Request>head).is_parsed and is_latin1((<Request>head).target):
            return environ_of(<dict>base, <Request>head)
    return pure().build_environ(base, head)


cdef dict environ_of(dict base, Request head):
    cdef dict environ = base.copy()
    cdef Octets data = <Octets>PyBytes_AS_STRING(head.raw)
    cdef Field* field
    cdef Py_ssize_t i
    set_request(environ, head)

    cdef unsigned char folded[LONGEST]
    cdef unsigned int index
    cdef bint has_type = False, has_length = False
    cdef dict repeated = None  # joined at the end, because appending to a growing text takes quadratic time
    cdef Py_ssize_t size
    cdef PyObject* found
    cdef Slot* slot
    for i in range(head.count):
        field = &head.table[i]
        if field.name_size > LONGEST:
            key = environ_key(latin1(data + field.name, field.name_size))
            if key is None:
                continue
            value = latin1(data + field.value, field.value_size)
        elif fold(folded, data + field.name, field.name_size):
            index = hashed(folded, field.name_size)
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
            elif slot.kind == CONTENT_TYPE:
                if not has_type:
                    environ["CONTENT_TYPE"] = value
                    has_type = True
                continue
            elif slot.kind == CONTENT_LENGTH:
                if not has_length:
                    environ["CONTENT_LENGTH"] = value
                    has_length = True
                continue
            else:
                key = <object>slot.key
        else:
            continue
        size = PyDict_GET_SIZE(environ)
        found = PyDict_SetDefault(environ, key, value)
        if PyDict_GET_SIZE(environ) == size:  # the size tells that it was there: equal values may be the same object
            if repeated is None:
                repeated = {}
            if key not in repeated:
                repeated[key] = [<object>found]
            repeated[key].append(value)
    if repeated is not None:
        join(environ, repeated)
    if octets(head.target)[0] != 47:
        set_authority(environ, head.target)
    return environ


cdef int join(dict environ, dict repeated) except -1:
    """Set each key to its joined values."""
    for key, values in repeated.items():
        environ[key] = ("; " if key == "HTTP_COOKIE" else ",").join(values)
    return 0


cdef int set_authority(dict environ, object target) except -1:
    authority, _ = pure().split_target(target)
    if authority is not None:
        environ["HTTP_HOST"] = authority
    return 0


cdef inline int set_request(dict environ, Request head) except -1:
    """Set the keys that depend on the request line."""
    environ["REQUEST_METHOD"] = head.method
    environ["SERVER_PROTOCOL"] = head.version
    environ["REQUEST_URI"] = head.target
    return set_path(environ, head.target)


cdef int set_path(dict environ, object target) except -1:
    """Set PATH_INFO and QUERY_STRING from a target in any form."""
    if octets(target)[0] != 47:
        _, target = pure().split_target(target)
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
    """Percent-decode to Latin-1; other characters stay as they are (RFC 3986 section 2.4)."""
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
