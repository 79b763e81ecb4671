# Connections: the short cut for whole requests. Included by _speedups.pyx.
#
# Who may be answered here: a whole head of HTTP/1.1 or 1.0 in one receive(), in origin-form, with one plain Host, at
# most one plain Connection and one plain Content-Length, no Transfer-Encoding and no Expect, and its body behind it.
# Whatever else comes is given to the general path as it was received. Of what an application answers, a list or
# tuple of bytes is sent from here; with anything else the general path goes on from where we are.

cdef extern from *:
    """
    #ifdef __linux__
    #include <time.h>
    /* To some milliseconds the clocks of time.monotonic() and time.time(), without a system call or an object. */
    static double lane_clock(void)
    { struct timespec now; clock_gettime(CLOCK_MONOTONIC_COARSE, &now); return now.tv_sec + now.tv_nsec * 1e-9; }
    static long long lane_second(void)
    { struct timespec now; clock_gettime(CLOCK_REALTIME_COARSE, &now); return now.tv_sec; }
    #else
    static double lane_clock(void) { return -1; }
    static long long lane_second(void) { return -1; }
    #endif
    #ifdef _WIN32
    /* A socket is no file descriptor there: everything goes the general way. */
    #define LANE_ON_SOCKETS 0
    static Py_ssize_t lane_receive(int fd, void *room, size_t size) { return 0; }
    static Py_ssize_t lane_send(int fd, const void *data, size_t size) { return -1; }
    static int lane_not_now(void) { return 0; }
    #else
    #include <errno.h>
    #include <sys/types.h>
    #include <sys/socket.h>
    #ifndef MSG_NOSIGNAL
    #define MSG_NOSIGNAL 0
    #endif
    #define LANE_ON_SOCKETS 1
    /* Without releasing the GIL: these never wait, and giving it away would have threads fight over it. */
    static Py_ssize_t lane_receive(int fd, void *room, size_t size) { return recv(fd, room, size, MSG_DONTWAIT); }
    static Py_ssize_t lane_send(int fd, const void *data, size_t size)
    { return send(fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL); }
    static int lane_not_now(void) { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR; }
    #endif
    """
    double lane_clock() noexcept
    long long lane_second() noexcept
    bint LANE_ON_SOCKETS
    Py_ssize_t lane_receive(int fd, void* room, size_t size) noexcept
    Py_ssize_t lane_send(int fd, const void* data, size_t size) noexcept
    bint lane_not_now() noexcept


# On the stack: an application may serve other requests while it answers one, and threads have their own.
cdef enum:
    ROOM = 16384
    LONGEST_MEMO = 4096
    LOG_ROOM = 16384

cdef enum Option:
    NO_OPTION
    CLOSE
    KEEP_ALIVE


cdef class FastLane:
    """FastLane(server)\n--\n\nWhat is known to a server before a request comes."""

    cdef public object server
    cdef public bint enabled
    cdef PyTypeObject* response_class
    cdef unsigned int version
    cdef dict template
    cdef dict hidden
    cdef object software
    cdef bint log
    cdef object log_time
    cdef object front
    cdef object get_app  # None: front.application
    cdef Py_ssize_t max_line, max_section, max_fields, max_body
    cdef double keep_alive
    # What is the same for all answers of a second: the preamble for the last status, the date for the log.
    cdef long long second
    cdef str last_status
    cdef bytes preamble
    cdef bytes log_date
    # Log lines in Latin-1, written once a turn.
    cdef unsigned char* log_lines
    cdef Py_ssize_t log_size

    def __init__(self, server):
        self.server = server
        self.enabled = False

    def __dealloc__(self):
        PyMem_Free(self.log_lines)

    def learn(self, template, hidden, log, log_time):
        server = self.server
        settings = server.settings
        self.front = server.front
        self.get_app = server.get_app if server.has_app_hook else None
        if self.log_lines == NULL:
            self.log_lines = <unsigned char*>PyMem_Malloc(LOG_ROOM)
            if self.log_lines == NULL:
                raise MemoryError
        self.max_line = settings.request_line
        self.max_section = settings.field_section
        self.max_fields = settings.fields
        self.max_body = min(settings.body, settings.body_in_memory)
        self.keep_alive = settings.keep_alive
        self.template = template
        self.hidden = hidden
        self.log = bool(log)
        self.log_time = log_time
        self.second = -1
        self.last_status = None
        self.software = server.response_class.server_software or None
        self.response_class = <PyTypeObject*>server.response_class
        self.version = self.response_class.tp_version_tag
        self.enabled = LANE_ON_SOCKETS and self.version != 0

    def take_log(self):
        if not self.log_size:
            return ""
        lines = PyUnicode_DecodeLatin1(<const char*>self.log_lines, self.log_size, NULL)
        self.log_size = 0
        return lines


cdef class Channel:
    """Channel(fd, lane)\n--\n\nThe base of a connection: what the short cut shares with it."""

    cdef readonly int fd
    cdef readonly FastLane lane
    cdef public bint between_requests
    cdef public double deadline
    # The last field section, what it says, and an environ made of it: a client sends the same again and again.
    cdef bytes memo
    cdef dict memo_environ
    cdef Option memo_option
    cdef Py_ssize_t memo_length
    cdef tuple remote  # the client's address and port, as an environ has them

    def __init__(self, int fd, FastLane lane):
        self.fd = fd
        self.lane = lane
        self.between_requests = lane is not None
        self.deadline = 0

    def on_event(self):
        cdef unsigned char room[ROOM]
        cdef Py_ssize_t size, used, start = 0
        if not (self.between_requests and self.lane.enabled):
            self.turn()
            return
        size = lane_receive(self.fd, room, ROOM)
        if size <= 0:
            if size == 0 or not lane_not_now():
                self.turn()  # which finds the same
            return
        while start < size:
            used = serve(self, room + start, size - start)
            if not used:
                self.received(PyBytes_FromStringAndSize(<char*>room + start, size - start))
                return
            start += used
            if not self.between_requests:
                return

    def turn(self):
        raise NotImplementedError

    def forget(self):
        self.memo = None
        self.memo_environ = None


@cython.final
@cython.internal
cdef class LaneResponse(Response):
    """The state of one response of the lane, until it is handed over to a general one."""

    cdef Channel channel
    cdef Octets head  # valid until serve() returns; finished says that it has
    cdef Py_ssize_t head_size
    cdef dict environ
    cdef object body
    cdef bint finished

    cdef object take_handler(self):
        if self.finished:
            raise AssertionError("the response is complete")
        if self.handler is None:
            head = PyBytes_FromStringAndSize(<const char*>self.head, self.head_size)
            self.handler = self.channel.begin_response(head, self.environ, self.body)
        return self.handler


cdef Py_ssize_t serve(Channel channel, Octets data, Py_ssize_t size) except -1:
    """Answer the request that the data begin with; return how much of them it was, 0 if it isn't for us.

    If the general path has taken over, it has the rest of the data, too, and the channel isn't between requests.
    """
    cdef FastLane lane = channel.lane
    cdef Py_ssize_t end = head_end(data, size, 0)
    cdef Py_ssize_t line_size, length
    cdef Option option
    cdef RequestHead head
    cdef dict environ
    cdef LaneResponse response
    if end < 4:
        return 0
    line_size = <Octets>memchr(data, 10, end) - data + 1
    if end - line_size > lane.max_section:
        return 0
    if lane.version != lane.response_class.tp_version_tag:
        lane.server.refresh_lane()  # somebody has set an attribute of a handler class
        if not lane.enabled:
            return 0
        channel.forget()

    if (
        channel.memo is not None
        and PyBytes_GET_SIZE(channel.memo) == end - line_size
        and memcmp(PyBytes_AS_STRING(channel.memo), data + line_size, end - line_size) == 0
    ):
        head = RequestHead.__new__(RequestHead)
        if not usual_line(head, data, line_size, lane.max_line):
            return 0
        option, length = channel.memo_option, channel.memo_length
        if end + length > size:
            return 0
        environ = channel.memo_environ.copy()
        set_request(environ, head)
    else:
        head = usual_head(data, line_size, end, lane)
        if head is None:
            return 0
        length = usual_framing(head, &option)
        if length < 0 or length > lane.max_body or end + length > size:
            return 0
        environ = environ_of(lane.template, head)
        for key, value in lane.hidden.items():
            environ.setdefault(key, value)
        if channel.remote is None:
            channel.remote = channel.client()
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = channel.remote
        if end - line_size <= LONGEST_MEMO:
            channel.memo = PyBytes_FromStringAndSize(<const char*>data + line_size, end - line_size)
            channel.memo_environ = environ.copy()
            channel.memo_option, channel.memo_length = option, length

    body = BytesIO(PyBytes_FromStringAndSize(<const char*>data + end, length)) if length else BytesIO()
    environ["wsgi.input"] = body
    environ["wsgi.errors"] = sys.stderr
    response = LaneResponse.__new__(LaneResponse)
    response.channel = channel
    response.head = data
    response.head_size = end
    response.environ = environ
    response.body = body
    application = lane.front.application if lane.get_app is None else lane.get_app()
    try:
        response.result = application(environ, response.start_response)
    except BaseException as error:
        handler = response.hand_over()
        channel.adopt(handler, PyBytes_FromStringAndSize(<const char*>data + end + length, size - end - length), error)
    else:
        if not answer(lane, response, head, option):
            handler = response.hand_over()
            handler.result = response.result
            channel.adopt(handler, PyBytes_FromStringAndSize(<const char*>data + end + length, size - end - length))
    finally:
        response.finished = True
        response.environ = None
    return end + length


cdef inline bint usual_line(RequestHead head, Octets data, Py_ssize_t size, Py_ssize_t max_line) except -1:
    """Parse a request line in origin-form."""
    cdef Octets space = <Octets>memchr(data, 32, size)
    if space == NULL or space[1] != 47 or data[0] == 67 and memcmp(data, b"CONNECT", 7) == 0:
        return False
    return parse_line(head, data, size, max_line, False) and is_usual_version(head)


cdef inline bint is_usual_version(RequestHead head) noexcept:
    cdef Octets version = octets(head.version)
    return version[7] == 49 or version[7] == 48


cdef RequestHead usual_head(Octets data, Py_ssize_t line_size, Py_ssize_t end, FastLane lane):
    """Parse a head whose request line is in origin-form; None for what isn't such."""
    cdef Octets space = <Octets>memchr(data, 32, line_size)
    cdef RequestHead head
    if space == NULL or space[1] != 47 or data[0] == 67 and memcmp(data, b"CONNECT", 7) == 0:
        return None
    head = parse(PyBytes_FromStringAndSize(<const char*>data, end), lane.max_line, lane.max_fields, False)
    return head if head is not None and is_usual_version(head) else None


cdef Py_ssize_t usual_framing(RequestHead head, Option* option) noexcept:
    """The length of the body, and the Connection option; -1 if check_head() must see the head."""
    cdef Octets data = <Octets>PyBytes_AS_STRING(head.data)
    cdef Py_ssize_t i, length = -1, hosts = 0
    cdef Octets name, value
    cdef Field* field
    option[0] = NO_OPTION
    for i in range(head.count):
        field = &head.table[i]
        name = data + field.name
        value = data + field.value
        if field.name_size == 4:
            if same_name(name, b"host", 4):
                hosts += 1
                if not is_plain_host(value, field.value_size):
                    return -1
        elif field.name_size == 6:
            if same_name(name, b"expect", 6):
                return -1
        elif field.name_size == 10:
            if same_name(name, b"connection", 10):
                if option[0] != NO_OPTION:
                    return -1
                if field.value_size == 10 and same_name(value, b"keep-alive", 10):
                    option[0] = KEEP_ALIVE
                elif field.value_size == 5 and same_name(value, b"close", 5):
                    option[0] = CLOSE
                else:
                    return -1
        elif field.name_size == 14:
            if same_name(name, b"content-length", 14):
                if length >= 0:
                    return -1
                length = plain_number(value, field.value_size)
                if length < 0:
                    return -1
        elif field.name_size == 17:
            if same_name(name, b"transfer-encoding", 17):
                return -1
    if hosts != 1:
        return -1
    return length if length >= 0 else 0


cdef inline bint is_plain_host(Octets value, Py_ssize_t size) noexcept:
    """Whether it's a name or an IPv4 address, and a port at most: letters, digits, "." and "-", then digits."""
    cdef Py_ssize_t i = 0
    while i < size and (IS_ALPHA_DIGIT[value[i]] or value[i] == 46 or value[i] == 45):
        i += 1
    if i == 0:
        return False
    if i < size and value[i] == 58:
        i += 1
        while i < size and 48 <= value[i] <= 57:
            i += 1
    return i == size


cdef inline Py_ssize_t plain_number(Octets digits, Py_ssize_t size) noexcept:
    """The value of one to nine digits, else -1."""
    cdef Py_ssize_t i, number = 0
    if not 1 <= size <= 9:
        return -1
    for i in range(size):
        if not 48 <= digits[i] <= 57:
            return -1
        number = number * 10 + digits[i] - 48
    return number


cdef bint answer(FastLane lane, LaneResponse response, RequestHead head, Option option) except -1:
    """Send a response that is whole and usual; False, and nothing done, for any other."""
    cdef Channel channel = response.channel
    cdef Py_ssize_t i, sent, size = 0
    cdef bytes data, block, preamble
    cdef double now
    cdef Octets status
    cdef bint persistent
    cdef int flags
    if response.handed_over or response.status is None or head.method == "HEAD":
        return False
    status = octets(response.status)
    if status[0] == 49 or memcmp(status, b"204", 3) == 0 or memcmp(status, b"304", 3) == 0:
        return False
    blocks = response.result
    if type(blocks) is list:
        for i in range(PyList_GET_SIZE(blocks)):
            if not PyBytes_CheckExact(<object>PyList_GET_ITEM(blocks, i)):
                return False
            size += PyBytes_GET_SIZE(<object>PyList_GET_ITEM(blocks, i))
        block = <bytes><object>PyList_GET_ITEM(blocks, 0) if PyList_GET_SIZE(blocks) == 1 else b"".join(blocks)
    elif type(blocks) is tuple:
        for part in <tuple>blocks:
            if not PyBytes_CheckExact(part):
                return False
            size += PyBytes_GET_SIZE(part)
        block = b"".join(blocks)
    else:
        return False
    if size > LARGE_BLOCK:
        return False

    persistent = option != CLOSE if octets(head.version)[7] == 49 else option == KEEP_ALIVE
    flags = field_flags(response.headers)
    if flags < 0 or flags & HAS_LENGTH and not says_length(response.headers, size):
        return False
    if persistent:
        connection = None if octets(head.version)[7] == 49 else "keep-alive"
    else:
        connection = "close"
    look_at_clock(lane)
    if flags & (HAS_DATE | HAS_SERVER):
        preamble = preamble_lines(
            "1.1",
            response.status,
            None if flags & HAS_DATE else date_now(),
            None if flags & HAS_SERVER else lane.software,
        )
    else:
        if lane.last_status is not response.status:
            lane.preamble = preamble_lines("1.1", response.status, date_now(), lane.software)
            lane.last_status = response.status
        preamble = lane.preamble
    data = assemble(
        preamble, response.headers,
        -1 if flags & HAS_LENGTH else size, connection, block,
    )
    if data is None:
        return False

    response.handed_over = True  # what comes too late, take_handler() refuses
    sent = lane_send(channel.fd, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    if sent < 0:
        if not lane_not_now():
            channel.close()
            channel.between_requests = False
            return True
        sent = 0
    log_request(lane, response, head, size)
    if sent < PyBytes_GET_SIZE(data):
        channel.send_rest(memoryview(data)[sent:], persistent)
    elif not persistent:
        channel.close_after_answer()
    else:
        now = lane_clock()
        channel.deadline = (now if now >= 0 else <double>monotonic()) + lane.keep_alive
    return True


cdef bint says_length(list headers, Py_ssize_t size) except -1:
    """Whether the one Content-Length among clean headers is this size."""
    cdef Py_ssize_t i, number = -1
    for name, value in headers:
        if PyUnicode_GET_LENGTH(name) == 14 and same_name(octets(name), b"content-length", 14):
            if number >= 0 or plain_number(octets(value), PyUnicode_GET_LENGTH(value)) != size:
                return False
            number = size
    return True


cdef int look_at_clock(FastLane lane) except -1:
    """Forget what was made in another second."""
    cdef long long now = lane_second()
    if now < 0:
        now = <long long><double>time.time()
    if now != lane.second:
        lane.last_status = None
        lane.log_date = lane.log_time().encode("latin-1")
        lane.second = now
    return 0


cdef int log_request(FastLane lane, LaneResponse response, RequestHead head, Py_ssize_t size) except -1:
    """Log as WSGIRequestHandler.log_request() does, or have it do so."""
    cdef Py_ssize_t line_size = <Octets>memchr(response.head, 10, response.head_size) - response.head - 1
    cdef Py_ssize_t address_size, date_size = PyBytes_GET_SIZE(lane.log_date)
    cdef unsigned char* at
    cdef unsigned char* start
    cdef unsigned char number[24]
    if lane.log or memchr(response.head, 92, line_size) != NULL:  # a backslash is escaped
        head_data = PyBytes_FromStringAndSize(<const char*>response.head, response.head_size)
        lane.server.log_request(response.channel, head_data, response.status[:3], size)
        return 0
    address = response.channel.remote[0] or "-"
    address_size = PyUnicode_GET_LENGTH(address)
    if line_size + address_size + date_size + 64 > LOG_ROOM - lane.log_size:
        lane.server.flush_log()
    at = lane.log_lines + lane.log_size
    at = put(at, octets(address), address_size)
    at = put(at, b" - - [", 6)
    at = put(at, PyBytes_AS_STRING(lane.log_date), date_size)
    at = put(at, b"] \"", 3)
    at = put(at, response.head, line_size)
    at = put(at, b"\" ", 2)
    at = put(at, octets(response.status), 3)
    at = put(at, b" ", 1)
    start = put_number_back(number + sizeof(number), size)
    at = put(at, start, number + sizeof(number) - start)
    at = put(at, b"\n", 1)
    lane.log_size = at - lane.log_lines
    return 0
