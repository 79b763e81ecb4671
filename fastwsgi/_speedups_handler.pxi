# Handlers: the shortcut for handlers whose methods aren't overridden. Included by _speedups.pyx.

@cython.final
@cython.internal
cdef class Stock:
    """The class attributes of a handler class without overridden hooks, valid for one version tag of the class.

    A version tag changes with any attribute of the class or its bases. So many requests can use attributes read once.
    """

    cdef PyTypeObject* cls
    cdef unsigned int version
    cdef dict os_environ
    cdef object wsgi_version, wsgi_run_once, file_wrapper, origin_server, http_version, software
    cdef bint closes


cdef Last last_stock = Last.__new__(Last)


cdef Stock stock_of(object handler, dict stock):
    """The Stock of the handler's class, or None if the class or instance overrides what the shortcut relies on."""
    cdef Stock known = <Stock>last_stock.get()
    cdef PyTypeObject* cls = Py_TYPE(handler)
    attributes = handler.__dict__
    if type(attributes) is not dict:
        return None
    for name in <dict>attributes:
        if name in stock:
            return None
    if known is None or known.cls != cls or known.version != VERSION_TAG(cls):
        known = read_stock(<object>cls, stock)
        if known is not None and known.version:
            last_stock.put(known)
    return known


cdef Stock read_stock(object cls, dict stock):
    cdef Stock found = Stock.__new__(Stock)
    found.cls = <PyTypeObject*>cls
    # Read the tag first: if a hook or another thread changes the class meanwhile, this object is out of date.
    found.version = VERSION_TAG(found.cls)
    if cls.__getattribute__ is not object.__getattribute__ or cls.__setattr__ is not object.__setattr__:
        return None
    for name, function in stock.items():
        if hasattr(type(cls), name):  # a metaclass may give the class another value than its instances
            return None
        value = getattr(cls, name)
        if function is None:
            if hasattr(type(value), "__get__"):  # a descriptor gives instances another value
                return None
        elif value is not function and name != "close":
            return None
    if type(cls.os_environ) is not dict or cls.headers_class is not Headers:
        return None
    found.os_environ = cls.os_environ
    found.wsgi_version = cls.wsgi_version
    found.wsgi_run_once = cls.wsgi_run_once
    found.file_wrapper = cls.wsgi_file_wrapper
    found.origin_server = bool(cls.origin_server)
    found.http_version = cls.http_version
    found.software = cls.server_software or None
    found.closes = cls.close is stock["close"]
    return found


@cython.internal
@cython.freelist(16)
cdef class QuickResponse:
    """The state of one response of a shortcut, until it is handed over to the attributes of a handler.

    An application may call the methods in other threads. An attribute that they set changes once, from None to a value.
    """

    cdef object handler
    cdef object status
    cdef list headers
    cdef object result
    cdef Py_ssize_t bytes_sent
    cdef bint head_sent
    cdef object content_length  # the value that we added, or None
    cdef bint handed_over

    def start_response(self, status, headers, exc_info=None):
        cdef bint is_first = False
        if exc_info is None and good_start(status, headers):
            with cython.critical_section(self):
                is_first = self.status is None and not self.handed_over
                if is_first:
                    self.status = status
                    self.headers = headers
        if is_first:
            return self.write
        return self.hand_over().start_response(status, headers, exc_info)

    def write(self, data):
        if self.handed_over and self.handler is None:
            raise AssertionError("write() before start_response()")  # the error of a handler after its close()
        self.hand_over().write(data)

    cdef object hand_over(self):
        """Make the handler continue from here, and return it."""
        handler = self.handler
        if handler is None:
            raise AssertionError("the response is complete")
        with cython.critical_section(self):
            if self.handed_over:
                return handler
            self.handed_over = True
        self.tell(handler)
        return handler

    cdef int tell(self, handler) except -1:
        """Copy the state so far to the handler."""
        cdef Headers headers
        handler.result = self.result
        if self.status is not None:
            handler.status = self.status
            headers = Headers.__new__(Headers)  # without a second check, because the list may have changed
            headers._headers = self.headers
            handler.headers = headers
            handler.headers_sent = self.head_sent
            handler.bytes_sent = self.bytes_sent
            if self.content_length is not None:  # it was sent, so the list must have it
                self.headers.append(("Content-Length", str(self.content_length)))
        return 0


cdef inline bint good_start(object status, object headers):
    """Whether start_response accepts these arguments; if not, the handler's start_response() raises the error."""
    cdef Py_ssize_t i, size = 0
    cdef PyObject* pair
    if not (type(headers) is list and good_status(status)):
        return False
    with cython.critical_section(headers):
        for i in range(PyList_GET_SIZE(headers)):
            pair = PyList_GET_ITEM(headers, i)
            if not (good_pair(<object>pair) and clean_pair(<object>pair, &size)):
                return False
    return True


def run_stock(handler, application, dict stock):
    cdef Stock known = stock_of(handler, stock)
    if known is None:
        return False
    cdef dict environ = stock_environ(handler, known)
    cdef QuickResponse response = QuickResponse.__new__(QuickResponse)
    response.handler = handler
    try:
        response.result = application(environ, response.start_response)
    except BaseException:
        response.hand_over()
        raise
    if (
        response.status is None
        or response.handed_over
        or not known.origin_server
        or value_of(environ, "SERVER_PROTOCOL") not in ("HTTP/1.1", "HTTP/1.0")
    ):
        response.hand_over()
        handler.result = response.result
        handler.finish_response()
        return True
    try:
        send_blocks(known, response)
    except BaseException:
        response.hand_over()
        if hasattr(response.result, "close"):
            response.result.close()
        raise
    if known.closes and not response.handed_over:
        response.handed_over = True
        try:
            if hasattr(response.result, "close"):
                response.result.close()
        except BaseException:
            handler._is_over = True  # so that handle_error() sends nothing after the answer
            raise
        finally:
            handler.environ = None  # no other attribute was set
            response.handler = None
    else:
        response.hand_over()
        handler.close()
    return True


cdef int send_blocks(Stock known, QuickResponse response) except -1:
    """Send the blocks of the result, the head with the first; the handler's write() takes over unusual blocks."""
    cdef bytes answer
    handler = response.handler
    for block in response.result:
        if type(block) is bytes and not response.handed_over:
            if response.head_sent:
                response.bytes_sent += PyBytes_GET_SIZE(block)
                put_out(handler, block)
                handler.stdout.flush()
                continue
            answer = format_answer(known, response, <bytes>block)
            if answer is not None:
                response.bytes_sent = PyBytes_GET_SIZE(block)
                response.head_sent = True
                put_out(handler, answer)
                if PyBytes_GET_SIZE(block) > LARGE_BLOCK:
                    put_out(handler, <bytes>block)
                handler.stdout.flush()
                continue
        response.hand_over()
        handler.write(block)
    if not response.head_sent:
        response.hand_over()
        handler.finish_content()
    return 0


cdef int put_out(object handler, bytes data) except -1:
    """Do what SimpleHandler._write() does."""
    written = handler.stdout.write(data)
    if written is not None and written != PyBytes_GET_SIZE(data):
        handler._write_rest(data, written)
    return 0


cdef dict stock_environ(object handler, Stock known):
    """Make the environ as SimpleHandler's hooks do."""
    cdef dict environ = known.os_environ.copy()
    handler.environ = environ
    environ.update(handler.base_env)
    environ["wsgi.input"] = handler.stdin
    environ["wsgi.errors"] = handler.stderr
    environ["wsgi.version"] = known.wsgi_version
    environ["wsgi.run_once"] = known.wsgi_run_once
    environ["wsgi.url_scheme"] = "https" if value_of(environ, "HTTPS") in ("yes", "on", "1") else "http"
    environ["wsgi.multithread"] = handler.wsgi_multithread
    environ["wsgi.multiprocess"] = handler.wsgi_multiprocess
    if known.file_wrapper is not None:
        environ["wsgi.file_wrapper"] = known.file_wrapper
    if known.origin_server and known.software is not None:
        environ.setdefault("SERVER_SOFTWARE", known.software)
    return environ


# A block of more octets is written separately: a second system call costs less than the copy. _http/gather.py has the
# same number.
cdef enum:
    LARGE_BLOCK = 65536


cdef bint is_only_block(object result) except -1:
    """Whether the iterable has a length of one block."""
    if type(result) is list:
        return PyList_GET_SIZE(result) == 1
    try:
        return len(result) == 1
    except (TypeError, AttributeError, NotImplementedError):
        return False


cdef bytes format_answer(Stock known, QuickResponse response, bytes block):
    """Join the head and the first block unless that is large. None if the head can't be sent as it is."""
    cdef Py_ssize_t length
    cdef int flags = field_flags(response.headers, &length)
    if flags < 0:
        return None
    cdef bint adds_length = not flags & HAS_LENGTH and is_only_block(response.result)
    cdef bytes preamble = preamble_lines(
        known.http_version,
        response.status,
        None if flags & HAS_DATE else date_now(),
        None if flags & HAS_SERVER else known.software,
    )
    cdef unsigned char added[ADDED]
    cdef unsigned char* end = added + ADDED
    cdef unsigned char* start = put_back(end, b"\r\n", 2)
    if adds_length:
        start = put_length_back(start, PyBytes_GET_SIZE(block))
    cdef bytes answer = assemble(preamble, response.headers, start, end - start, block)
    if adds_length and answer is not None:
        response.content_length = PyBytes_GET_SIZE(block)
    return answer


cdef enum:
    HAS_LENGTH = 1
    HAS_DATE = 2
    HAS_SERVER = 4


cdef int field_flags(list headers, Py_ssize_t* length) noexcept:
    """Flags for the fields in the list that a server would add; -1 if the pairs need the general code.

    length: set to the value of Content-Length if there is one field with a plain number; else to -1.
    """
    cdef Py_ssize_t i, size = 0
    cdef PyObject* pair
    cdef PyObject* value
    cdef Octets name
    cdef int flags = 0
    length[0] = -1
    with cython.critical_section(headers):
        for i in range(PyList_GET_SIZE(headers)):
            pair = PyList_GET_ITEM(headers, i)
            if not latin1_pair(<object>pair, &size):
                return -1
            name = octets(<object>PyTuple_GET_ITEM(<object>pair, 0))
            size = PyUnicode_GET_LENGTH(<object>PyTuple_GET_ITEM(<object>pair, 0))
            if size == 14 and same_name(name, b"content-length", 14):
                value = PyTuple_GET_ITEM(<object>pair, 1)
                if flags & HAS_LENGTH:
                    length[0] = -1
                else:
                    length[0] = plain_number(octets(<object>value), PyUnicode_GET_LENGTH(<object>value))
                flags |= HAS_LENGTH
            elif size == 4 and same_name(name, b"date", 4):
                flags |= HAS_DATE
            elif size == 6 and same_name(name, b"server", 6):
                flags |= HAS_SERVER
            elif size == 10 and same_name(name, b"connection", 10) or size == 17 and same_name(
                name, b"transfer-encoding", 17
            ):
                return -1  # added to the list after start_response() has checked it
    return flags


# Octets for the fields that a server adds, and the empty line.
cdef enum:
    ADDED = 128


cdef bytes assemble(bytes preamble, list headers, Octets added, Py_ssize_t added_size, bytes block):
    """The head of an answer, and its block unless that is large; None if the fields can't be sent as they are.

    added: further field lines and the empty line. Nothing here may run Python code: the application has the list.
    """
    cdef Py_ssize_t i, size = PyBytes_GET_SIZE(preamble) + added_size
    cdef uint64_t controls = 0  # not zero for a tab too; then clean_pair() decides
    cdef bytes answer
    cdef unsigned char* at
    if PyBytes_GET_SIZE(block) <= LARGE_BLOCK:
        size += PyBytes_GET_SIZE(block)
    with cython.critical_section(headers):
        for i in range(PyList_GET_SIZE(headers)):
            if not clean_pair(<object>PyList_GET_ITEM(headers, i), &size):
                return None
        answer = PyBytes_FromStringAndSize(NULL, size)
        at = <unsigned char*>PyBytes_AS_STRING(answer)
        at = put(at, PyBytes_AS_STRING(preamble), PyBytes_GET_SIZE(preamble))
        for i in range(PyList_GET_SIZE(headers)):
            at = put_pair(at, <object>PyList_GET_ITEM(headers, i), &controls)
    at = put(at, added, added_size)
    if PyBytes_GET_SIZE(block) <= LARGE_BLOCK:
        put(at, PyBytes_AS_STRING(block), PyBytes_GET_SIZE(block))
    return answer


cdef inline unsigned char* put_length_back(unsigned char* at, Py_ssize_t size) noexcept:
    """Write a Content-Length line that ends here."""
    return put_back(put_number_back(put_back(at, b"\r\n", 2), size), b"Content-Length: ", 16)


@cython.cdivision(True)
cdef inline unsigned char* put_number_back(unsigned char* at, size_t number) noexcept:
    while True:
        at -= 1
        at[0] = <unsigned char>(48 + number % 10)
        number //= 10
        if not number:
            return at
