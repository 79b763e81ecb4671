# Connections: the fast lane, the shortcut for simple requests. Included by _speedups.pyx.
#
# A simple request arrives in one receive(), with its body. Its head is HTTP/1.1 or 1.0 in origin-form, with one plain
# Host, at most one plain Connection and one plain Content-Length, no Transfer-Encoding and no Expect. Any other request
# goes, as it was received, to the general path: the Python code for every kind of request. If the application returns a
# list or tuple of bytes, or an iterator, the answer is sent from here. For any other answer, and for a slow client, the
# general path continues where this code stops.

cdef extern from *:
    """
    #ifdef __linux__
    #include <time.h>
    /* The clocks of time.monotonic() and time.time(), some milliseconds behind, without a system call or an object. */
    static double lane_clock(void)
    { struct timespec now; clock_gettime(CLOCK_MONOTONIC_COARSE, &now); return now.tv_sec + now.tv_nsec * 1e-9; }
    static long long lane_second(void)
    { struct timespec now; clock_gettime(CLOCK_REALTIME_COARSE, &now); return now.tv_sec; }
    #else
    static double lane_clock(void) { return -1; }
    static long long lane_second(void) { return -1; }
    #endif
    #ifdef _WIN32
    /* On Windows a socket isn't a file descriptor, so all requests take the general path. */
    #define LANE_ON_SOCKETS 0
    static Py_ssize_t lane_receive(int fd, void *room, size_t size) { return 0; }
    static Py_ssize_t lane_send(int fd, const void *data, size_t size) { return -1; }
    static Py_ssize_t lane_send_both(int fd, const void *one, size_t size, const void *two, size_t size_two)
    { return -1; }
    static int lane_not_now(void) { return 0; }
    static int lane_is_empty(void) { return 0; }
    #else
    #include <errno.h>
    #include <sys/types.h>
    #include <sys/socket.h>
    #include <sys/uio.h>
    #ifndef MSG_NOSIGNAL
    #define MSG_NOSIGNAL 0
    #endif
    #define LANE_ON_SOCKETS 1
    /* These keep the GIL, because they never block, and after a release threads would compete for it. */
    static Py_ssize_t lane_receive(int fd, void *room, size_t size) { return recv(fd, room, size, MSG_DONTWAIT); }
    static Py_ssize_t lane_send(int fd, const void *data, size_t size)
    { return send(fd, data, size, MSG_DONTWAIT | MSG_NOSIGNAL); }
    static Py_ssize_t lane_send_both(int fd, const void *one, size_t size, const void *two, size_t size_two)
    {
        struct iovec pieces[2] = {{(void *) one, size}, {(void *) two, size_two}};
        struct msghdr message = {0};
        message.msg_iov = pieces;
        message.msg_iovlen = 2;
        return sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    /* A shortage of memory is temporary, as a full buffer is. */
    static int lane_not_now(void)
    { return errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR || errno == ENOBUFS || errno == ENOMEM; }
    static int lane_is_empty(void) { return errno == EAGAIN || errno == EWOULDBLOCK; }
    #endif
    """
    double lane_clock() noexcept
    long long lane_second() noexcept
    bint LANE_ON_SOCKETS
    Py_ssize_t lane_receive(int fd, void* room, size_t size) noexcept
    Py_ssize_t lane_send(int fd, const void* data, size_t size) noexcept
    Py_ssize_t lane_send_both(int fd, const void* one, size_t size, const void* two, size_t size_two) noexcept
    bint lane_not_now() noexcept
    bint lane_is_empty() noexcept


# Sizes of buffers on the stack, because an application may serve other requests while it answers one, and each thread
# needs its own.
cdef enum:
    ROOM = 16384
    LONGEST_MEMO = 4096
    LOG_ROOM = 32768  # somewhat more than ROOM, so that a request line fits
    LONGEST_ADDRESS = 256
    BLOCKS_A_TURN = 256
    MOST_OTHER_LINES = 16  # after this many other request lines in a row, the memo stores the new one
    LARGEST_ANSWER = 1048576  # the most octets that are sent in one call with the GIL

cdef enum Option:
    NO_OPTION
    CLOSE
    KEEP_ALIVE


cdef extern from *:
    """
    #ifdef __linux__
    #include <sys/epoll.h>
    static int ready_now(int epoll, int *events)
    {
        struct epoll_event event;
        if (epoll_wait(epoll, &event, 1, 0) != 1) return -1;
        *events = (int) event.events;
        return event.data.fd;
    }
    static int arm_now(int epoll, int fd, int events)
    {
        struct epoll_event event;
        event.events = (unsigned) events | EPOLLPRI | EPOLLRDHUP | EPOLLET;
        event.data.fd = fd;
        return epoll_ctl(epoll, EPOLL_CTL_MOD, fd, &event);
    }
    #else
    static int ready_now(int epoll, int *events) { return -1; }
    static int arm_now(int epoll, int fd, int events) { return -1; }
    #endif
    """
    int ready_now(int epoll, int* events) noexcept
    int arm_now(int epoll, int fd, int events) noexcept


cdef class SharedEpoll:
    """SharedEpoll()\n--\n\nAn epoll that several threads wait on; each event goes to one of them."""

    reports_changes = True

    cdef object epoll
    cdef int fd

    def __init__(self):
        self.epoll = select.epoll()
        self.fd = self.epoll.fileno()

    def arm(self, int fd, int events, is_new=False):
        # This keeps the GIL, because it never blocks, and after a release threads would compete for it.
        if is_new or arm_now(self.fd, fd, events) < 0:
            mask = events | select.EPOLLPRI | select.EPOLLRDHUP | select.EPOLLET
            (self.epoll.register if is_new else self.epoll.modify)(fd, mask)

    def forget(self, fd):
        pass

    def wait(self, timeout):
        cdef int events
        cdef int fd = ready_now(self.fd, &events)
        return [(fd, events)] if fd >= 0 else self.epoll.poll(timeout, 1)

    def close(self):
        self.fd = -1
        self.epoll.close()


@cython.final
@cython.internal
cdef class Memo:
    """The last field section of a connection with its environ, because most clients send the same fields again.

    It also has a request line, because clients may repeat that too. With another request line, the environ is used too,
    after the keys that depend on the line have been replaced.
    """

    cdef uint64_t owner  # the serial number of the connection; its client's address is in the environ
    cdef Request request  # the request with the section
    cdef Py_ssize_t start  # where the section begins in the request's octets
    cdef object client  # the client that a proxy has named
    cdef dict environ  # None until the section arrives a second time, which many never do
    cdef bytes line
    cdef Request head  # the parsed line
    cdef int other_lines  # how many other lines have arrived in a row
    cdef dict template  # the lane's template when the environ was made
    cdef Option option
    cdef Py_ssize_t length


cdef extern from *:
    """
    /* Each channel has its own number, by which a memo that lanes share knows its owner. */
    static uint64_t next_serial(void)
    {
        static uint64_t last = 0;
    #ifdef Py_GIL_DISABLED
        return _Py_atomic_add_uint64(&last, 1) + 1;
    #else
        return ++last;
    #endif
    }
    """
    uint64_t next_serial() noexcept


cdef class FastLane:
    """FastLane(server)\n--\n\nWhat all requests of a server have in common. server: the EventServer."""

    cdef public object server
    cdef public bint enabled
    cdef public Py_ssize_t requests
    cdef PyTypeObject* response_class
    cdef unsigned int version
    cdef PyTypeObject* handler_class  # with a front's hooks, or the same again
    cdef unsigned int handler_version
    cdef object hooks  # the front's, as they were learned
    cdef dict template
    cdef dict hidden
    cdef dict base
    cdef Py_ssize_t base_size
    cdef object software
    cdef bint has_log_hooks
    cdef object log_time  # makes the date of a log line; None: there are no lines in the common format
    cdef object log_line  # makes lines in another format; None: there are none
    cdef object revise
    cdef object holder  # the object with the application
    cdef object file_wrapper
    cdef object get_app  # None: use holder.application
    cdef Py_ssize_t max_line, max_section, max_fields, max_body
    cdef double keep_alive
    # Values that all answers in a second share: the preamble for the last status, and the date for the log.
    cdef long long second
    cdef str last_status
    cdef bytes preamble
    cdef bytes log_date
    cdef list memos  # by descriptor
    # Log lines in Latin-1, which are written once in each turn of the loop.
    cdef unsigned char* log_lines
    cdef Py_ssize_t log_size

    def __init__(self, server):
        self.server = server
        self.enabled = False
        self.requests = 0
        self.memos = server.memos

    def __dealloc__(self):
        PyMem_Free(self.log_lines)

    def unlearn(self):
        self.enabled = False
        response_class = self.server.front.response_class
        self.software = response_class.server_software or None  # a look-up gives the class a version tag
        self.response_class = <PyTypeObject*>response_class
        self.version = VERSION_TAG(self.response_class)
        handler_class = self.server.front.handler_class
        if handler_class is None:
            handler_class = response_class
        self.handler_class = <PyTypeObject*>handler_class
        self.handler_version = VERSION_TAG(self.handler_class)

    def is_current(self, hooks):
        self.handler_version = VERSION_TAG(self.handler_class)
        return (
            hooks == self.hooks
            and self.version == VERSION_TAG(self.response_class)
            and self.base_size == PyDict_GET_SIZE(self.base)
        )

    def learn(self, template, hidden, hooks):
        self.hooks = hooks
        front = self.server.front
        settings = self.server.settings
        self.holder = front.holder
        self.base = front.base_environ
        self.base_size = len(self.base)
        self.get_app = front.get_app if front.has_app_hook else None
        if self.log_lines == NULL:
            self.log_lines = <unsigned char*>PyMem_Malloc(LOG_ROOM)
            if self.log_lines == NULL:
                raise MemoryError
        self.max_line = settings.max_request_line
        self.max_section = settings.max_field_section
        self.max_fields = settings.max_fields
        self.max_body = min(settings.max_body, settings.max_body_in_memory)
        self.keep_alive = settings.keep_alive_timeout
        self.template = template
        self.file_wrapper = template.get("wsgi.file_wrapper") or ()
        self.hidden = hidden
        self.log_line = front.log_line
        self.has_log_hooks = front.has_log_hooks
        self.log_time = front.log_time if front.logs and not front.has_log_hooks else None
        self.revise = front.revise
        self.second = -1
        self.last_status = None
        self.enabled = LANE_ON_SOCKETS and self.version != 0

    def take_log(self):
        if not self.log_size:
            return ""
        lines = PyUnicode_DecodeLatin1(<const char*>self.log_lines, self.log_size, NULL)
        self.log_size = 0
        return lines


cdef class Channel:
    """Channel(fd, lane)\n--\n\nThe base of a connection: the attributes that the fast lane needs."""

    cdef readonly int fd
    cdef public FastLane lane
    cdef public bint between_requests
    cdef public bint drained
    cdef public double deadline
    cdef uint64_t serial
    cdef public tuple remote  # the client's address and port as an environ has them; None until first needed

    def __init__(self, int fd, FastLane lane):
        self.fd = fd
        self.lane = lane
        self.between_requests = lane is not None
        self.deadline = 0
        self.serial = next_serial()

    cpdef on_event(self):
        cdef unsigned char room[ROOM]
        cdef Py_ssize_t size, used, start = 0
        self.drained = False
        if self.lane is None or not (self.between_requests and self.lane.enabled):
            self.turn()
            return
        size = lane_receive(self.fd, room, ROOM)
        if size <= 0:
            self.drained = size < 0 and lane_is_empty()
            if not self.drained:
                self.turn()  # it gets the same result and handles it
            return
        while start < size:
            used = serve(self, room + start, size - start)
            if not used:
                self.received(PyBytes_FromStringAndSize(<char*>room + start, size - start))
                return
            start += used
            if not self.between_requests:
                return
        self.drained = size < ROOM

    def turn(self):
        raise NotImplementedError

    def forget(self):
        cdef Memo memo
        self.remote = None
        if self.lane is not None:
            memo = <Memo>item_of(self.lane.memos, memo_place(self))
            if memo is not None and memo.owner == self.serial:
                self.lane.memos[memo_place(self)] = None


def hand_out(events, dict connections, fail):
    cdef Channel connection
    others = []
    for fd, _ in events:
        connection = connections.get(fd)
        if connection is None:
            others.append(fd)
            continue
        try:
            connection.on_event()
        except Exception:
            fail(connection)
    return others


@cython.final
@cython.internal
cdef class LaneResponse(QuickResponse):
    """The state of one response of the lane, until it is handed over to a Response of the general path."""

    cdef Channel channel
    # The received octets: the head, and the octets after the request. The pointers are valid until serve() returns.
    cdef Octets head
    cdef Py_ssize_t head_size
    cdef Octets rest
    cdef Py_ssize_t rest_size
    cdef bint rest_taken
    cdef dict environ
    cdef object body
    cdef Request request  # as parsed; if the memo has the fields, only the request line
    cdef Request known  # the memo's request with the same fields, or None
    cdef Request made  # the request object that other code got
    cdef object client  # the client that a proxy has named; None: the connection's
    cdef Option option
    cdef Py_ssize_t length
    cdef double began  # when the head was complete, if a log needs it
    cdef bint finished
    cdef bint taken  # a Response of the general path has taken over, or is being made
    cdef unsigned long taker  # the thread that makes that Response
    cdef unsigned long thread  # the lane's thread
    # For a streamed answer, once its head is sent.
    cdef object blocks
    cdef bint chunked
    cdef object context  # the application's context, which is entered as long as it is here
    cdef Py_ssize_t room  # octets that Content-Length still allows; -1: no limit

    cdef Request own_request(self):
        """The request without the connection's attributes. Nothing here runs other code."""
        cdef Request request = self.request
        if self.known is not None:  # the parsed object belongs to the memo
            request = Request.__new__(Request)
            request.method, request.target, request.version = (
                self.request.method, self.request.target, self.request.version
            )
            request.raw = PyBytes_FromStringAndSize(<const char*>self.head, self.head_size)
            request.same = self.known
        request.length = self.length
        request.is_persistent = is_persistent(request, self.option)
        request.began = self.began
        request.environ = self.environ
        return request

    cdef Request whole_request(self):
        """The request with the connection's attributes."""
        cdef Request request = self.logged_request()
        if request.sock is None:
            self.channel.describe(request)
            if self.client is not None:
                request.client = self.client
        return request

    cdef Request logged_request(self):
        """The request with the attributes that a log line needs."""
        if self.made is None:
            self.made = self.own_request()
        cdef Request request = self.made
        if request.client is NO_CLIENT:
            if self.channel.remote is None:
                self.channel.remote = self.channel.client()
            request.client = self.channel.remote if self.client is None else self.client
        if not request.began:
            request.began = <double>monotonic()
        return request

    cdef bytes take_rest(self):
        """The octets received after the request, for the general path."""
        self.rest_taken = True
        return PyBytes_FromStringAndSize(<const char*>self.rest, self.rest_size)

    def write(self, data):
        self.hand_over().write_for_application(data)

    cdef int leave(self) except -1:
        """Leave the context that the application was called in."""
        context, self.context = self.context, None
        return PyContext_Exit(context) if context is not None else 0

    cdef int give_away(self, object error, bytes unsent) except -1:
        """Let the general path continue, with an exception of the application or with its next blocks."""
        self.handler.context = self.context
        self.leave()
        self.channel.adopt(self.handler, self.take_rest(), error, unsent)
        return 0

    cdef object hand_over(self):
        """Make a Response of the general path with the state so far, and return it."""
        cdef bint is_ours = False
        environ = body = None
        while not is_ours:
            with cython.critical_section(self):
                if self.handler is not None:
                    return self.handler
                if self.finished or self.taken and self.taker == PyThread_get_thread_ident():  # in begin_response()
                    raise AssertionError("the response is complete")
                if not self.taken:
                    self.taken = self.handed_over = is_ours = True
                    self.taker = PyThread_get_thread_ident()
                    if self.made is None:
                        self.made = self.own_request()  # now, while the octets are there
                    environ, body = self.environ, self.body
            if not is_ours:
                sleep(0.0001)  # another thread is making it
        try:
            handler = self.channel.begin_response(self.whole_request(), environ, body)
            handler.belongs_to(self.thread)
            self.tell(handler)
            if self.head_sent:
                handler.head_was_sent(self.chunked, None if self.room < 0 else self.room)
            self.handler = handler
        finally:
            self.taken = self.handed_over = self.handler is not None
        return handler

    cdef bint complete(self) noexcept:
        """Close the response to other threads; False if one of them has taken it over."""
        with cython.critical_section(self):
            if not self.taken:
                self.handed_over = self.finished = True
        return self.finished


cdef inline Py_ssize_t memo_place(Channel channel) noexcept:
    return channel.fd % PyList_GET_SIZE(channel.lane.memos)


cdef inline Py_ssize_t section_size(Memo memo) noexcept:
    return PyBytes_GET_SIZE(memo.request.raw) - memo.start


cdef Py_ssize_t serve(Channel channel, Octets data, Py_ssize_t size) except -1:
    """Answer the request at the start of the data. Return its size in octets, or 0 if it isn't a simple request.

    If the general path has taken over, return the size of all data, because that path has got the rest too.
    """
    cdef FastLane lane = channel.lane
    cdef Octets line_end = <Octets>memchr(data, 10, size)
    cdef Py_ssize_t line_size, length, end
    cdef Option option
    cdef Request head
    cdef dict environ
    cdef LaneResponse response
    cdef Memo memo
    cdef Request known = None
    cdef object client = None
    cdef bint is_known
    if line_end == NULL:
        return 0
    line_size = line_end - data + 1
    if is_outdated(lane):
        lane.server.refresh_lane(lane)  # an attribute of a handler class was set
        if not lane.enabled:
            return 0

    memo = <Memo>item_of(lane.memos, memo_place(channel))
    is_known = (
        memo is not None
        and memo.owner == channel.serial
        and memo.template is lane.template
        and section_size(memo) <= size - line_size
        and memcmp(PyBytes_AS_STRING(memo.request.raw) + memo.start, data + line_size, section_size(memo)) == 0
    )
    # A section in the memo ends where it ended before: at the first empty line after the request line.
    end = line_size + section_size(memo) if is_known else head_end(data, size, 0)
    if end < 4 or end - line_size > lane.max_section:
        return 0
    if is_known and memo.environ is not None:
        known = memo.request
        client = memo.client
        option, length = memo.option, memo.length
        if end + length > size:
            return 0
        environ = memo.environ.copy()
        if PyBytes_GET_SIZE(memo.line) == line_size and memcmp(PyBytes_AS_STRING(memo.line), data, line_size) == 0:
            head = memo.head
            memo.other_lines = 0
        else:
            head = Request.__new__(Request)
            if not usual_line(head, data, line_size, lane.max_line):
                return 0
            set_request(environ, head)
            memo.other_lines += 1
            if memo.other_lines == MOST_OTHER_LINES:
                remember_line(memo, data, line_size, head, environ)
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
        if lane.revise is not None:
            lane.revise(environ)
            client = environ["REMOTE_ADDR"], environ["REMOTE_PORT"]
        if is_known:
            known = memo.request
            remember_line(memo, data, line_size, head, environ)
        elif end - line_size <= LONGEST_MEMO:
            memo = Memo.__new__(Memo)
            memo.owner = channel.serial
            memo.template = lane.template
            memo.request, memo.start = head, line_size
            memo.client = client
            memo.option, memo.length = option, length
            lane.memos[memo_place(channel)] = memo
            known = head

    body = BytesIO(PyBytes_FromStringAndSize(<const char*>data + end, length)) if length else BytesIO()
    environ["wsgi.input"] = body
    environ["wsgi.errors"] = error_stream(lane)
    response = LaneResponse.__new__(LaneResponse)
    response.channel = channel
    response.thread = PyThread_get_thread_ident()
    response.head = data
    response.head_size = end
    response.rest = data + end + length
    response.rest_size = size - end - length
    response.environ = environ
    response.body = body
    response.room = -1
    response.request = head
    response.known = known
    response.client = client
    response.option, response.length = option, length
    lane.requests += 1
    if lane.has_log_hooks or lane.log_line is not None:
        response.began = <double>monotonic()
    application = lane.holder.application if lane.get_app is None else lane.get_app()
    response.context = PyContext_CopyCurrent()
    PyContext_Enter(response.context)
    try:
        response.result = application(environ, response.start_response)
    except BaseException as error:
        response.hand_over()
        response.give_away(error, b"")
    else:
        if not answer(lane, response, head, option):
            stream(lane, response, head, option)
    finally:
        response.leave()
        with cython.critical_section(response):
            response.finished = True
            # An iterable may refer to start_response(): break the cycle, so that it is freed with the response.
            response.environ = response.body = response.result = response.blocks = None
            response.request = response.known = response.made = None
    return size if response.rest_taken else end + length


cdef int remember_line(Memo memo, Octets line, Py_ssize_t size, Request head, dict environ) except -1:
    memo.line = PyBytes_FromStringAndSize(<const char*>line, size)
    memo.head = Request.__new__(Request)
    memo.head.method, memo.head.target, memo.head.version = head.method, head.target, head.version
    memo.environ = environ.copy()
    memo.other_lines = 0
    return 0


cdef inline bint is_outdated(FastLane lane) noexcept:
    """Whether an attribute of a handler class, or a key of base_environ, was set since the lane learned them."""
    return (
        lane.version != VERSION_TAG(lane.response_class)
        or lane.handler_version != VERSION_TAG(lane.handler_class)
        or lane.base_size != PyDict_GET_SIZE(lane.base)
    )


cdef inline bint is_origin_form(Octets line, Py_ssize_t size) noexcept:
    """Whether the target is a path, so that check_target() isn't needed."""
    cdef Octets space = <Octets>memchr(line, 32, size)
    return space != NULL and space[1] == 47 and not (space - line == 7 and memcmp(line, b"CONNECT", 7) == 0)


cdef inline bint usual_line(Request head, Octets data, Py_ssize_t size, Py_ssize_t max_line) except -1:
    """Parse a request line in origin-form."""
    return is_origin_form(data, size) and parse_line(head, data, size, max_line, False) and is_usual_version(head)


cdef inline bint is_usual_version(Request head) noexcept:
    cdef Octets version = octets(head.version)
    return version[7] == 49 or version[7] == 48


cdef Request usual_head(Octets data, Py_ssize_t line_size, Py_ssize_t end, FastLane lane):
    """Parse a head whose target is in origin-form; return None for any other head."""
    cdef Request head
    if not is_origin_form(data, line_size):
        return None
    head = parse(PyBytes_FromStringAndSize(<const char*>data, end), lane.max_line, lane.max_fields, False)
    return head if head is not None and is_usual_version(head) else None


cdef Py_ssize_t usual_framing(Request head, Option* option) noexcept:
    """The length of the body, and the Connection option; -1 if frame_request() must check the head."""
    cdef Octets data = <Octets>PyBytes_AS_STRING(head.raw)
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
    """Whether a Host is a name or an IPv4 address, perhaps with a port: letters, digits, "." and "-", then digits."""
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
    """The value of one to nine digits; -1 for other octets."""
    cdef Py_ssize_t i, number = 0
    if not 1 <= size <= 9:
        return -1
    for i in range(size):
        if not 48 <= digits[i] <= 57:
            return -1
        number = number * 10 + digits[i] - 48
    return number


cdef bint answer(FastLane lane, LaneResponse response, Request head, Option option) except -1:
    """Send a response that is complete and simple. Return False, without a change, for any other."""
    cdef Channel channel = response.channel
    cdef Py_ssize_t i, sent, length, size = 0
    cdef bytes data
    cdef bytes block = None
    cdef object rest
    cdef bint persistent
    cdef int flags
    cdef double now
    cdef unsigned char added[ADDED]
    cdef unsigned char* end = added + ADDED
    cdef unsigned char* start
    if (
        response.taken or response.status is None or is_outdated(lane) or not lane.enabled
        or is_method(head, b"HEAD", 4) or not has_usual_body(response.status)
    ):
        return False
    blocks = response.result
    if type(blocks) is list:
        with cython.critical_section(blocks):
            for i in range(PyList_GET_SIZE(blocks)):
                if not PyBytes_CheckExact(<object>PyList_GET_ITEM(blocks, i)):
                    return False
                size += PyBytes_GET_SIZE(<object>PyList_GET_ITEM(blocks, i))
            if PyList_GET_SIZE(blocks) == 1:
                block = <bytes><object>PyList_GET_ITEM(blocks, 0)
    elif type(blocks) is tuple:
        for part in <tuple>blocks:
            if not PyBytes_CheckExact(part):
                return False
            size += PyBytes_GET_SIZE(part)
    else:
        return False
    if size > LARGEST_ANSWER:
        return False
    if block is None:
        block = b"".join(blocks)
        size = PyBytes_GET_SIZE(block)  # another thread may have changed the list meanwhile

    persistent = is_persistent(head, option)
    flags = field_flags(response.headers, &length)
    if flags < 0 or flags & HAS_LENGTH and length != size:
        return False
    start = put_connection_back(end, head, persistent)
    if not flags & HAS_LENGTH:
        start = put_length_back(start, size)
    data = assemble(preamble_of(lane, response, flags), response.headers, start, end - start, block)
    if data is None:
        return False

    if not response.complete():
        return False
    if size <= LARGE_BLOCK:
        block = b""  # data includes it
        sent = lane_send(channel.fd, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
    else:
        sent = lane_send_both(
            channel.fd, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data), PyBytes_AS_STRING(block), size
        )
    if sent < 0:
        if not lane_not_now():
            log_safely(lane, response, 0)
            channel.close()
            return True
        sent = 0
    log_safely(lane, response, size)
    if sent < PyBytes_GET_SIZE(data) + PyBytes_GET_SIZE(block):
        if sent < PyBytes_GET_SIZE(data):
            rest = memoryview(data + block)[sent:]
        else:
            rest = memoryview(block)[sent - PyBytes_GET_SIZE(data):]
        channel.send_rest(rest, response.take_rest(), persistent)
    elif not persistent:
        channel.close()
    else:
        now = lane_clock()
        channel.deadline = (now if now >= 0 else <double>monotonic()) + lane.keep_alive
    return True


cdef int stream(FastLane lane, LaneResponse response, Request head, Option option) except -1:
    """Send an iterable's blocks one by one while the socket takes them; the general path continues after that."""
    cdef Channel channel = response.channel
    cdef Py_ssize_t sent
    cdef int blocks = 0
    cdef bytes piece
    try:
        if not is_streamable(lane, response, head):
            return go_on(response, None, b"")
        response.blocks = iter(response.result)
        for block in response.blocks:
            piece = next_piece(lane, response, head, option, block)
            if piece is None:
                return go_on(response, block, b"")
            sent = lane_send(channel.fd, PyBytes_AS_STRING(piece), PyBytes_GET_SIZE(piece)) if piece else 0
            blocks += 1
            if sent < PyBytes_GET_SIZE(piece) or blocks == BLOCKS_A_TURN:
                # The client is slow or gone (the general path finds out), or other connections must have their turn.
                return go_on(response, None, piece[max(sent, 0):])
        if not response.head_sent or response.room > 0 or not response.complete():
            return go_on(response, None, b"")
        if response.chunked:
            sent = lane_send(channel.fd, b"0\r\n\r\n", 5)
            if sent < 5:
                response.chunked = response.handed_over = response.finished = False
                return go_on(response, None, b"0\r\n\r\n"[max(sent, 0):])
    except BaseException as error:
        response.hand_over().result = response.result
        return response.give_away(error, b"")
    log_safely(lane, response, response.bytes_sent)
    try:
        if hasattr(response.result, "close"):
            response.result.close()
    except BaseException as error:
        channel.close_failed(response.whole_request(), error)
    if not is_persistent(head, option):
        channel.close()
    else:
        channel.deadline = <double>monotonic() + lane.keep_alive
    return 0


cdef bint is_streamable(FastLane lane, LaneResponse response, Request head) except -1:
    """Whether to send the result block by block: it isn't a file, and it has no length."""
    if response.taken or is_method(head, b"HEAD", 4) or is_outdated(lane) or not lane.enabled:
        return False
    return not (isinstance(response.result, lane.file_wrapper) or hasattr(response.result, "__len__"))


cdef bytes next_piece(FastLane lane, LaneResponse response, Request head, Option option, object block):
    """The octets to send for a block, with the head before the first. b"": empty block; None: not a simple case."""
    cdef Py_ssize_t size, room
    cdef int flags
    cdef unsigned char added[ADDED]
    cdef unsigned char* end = added + ADDED
    cdef unsigned char* start
    cdef bytes data
    if response.taken or response.status is None or type(block) is not bytes:
        return None
    size = PyBytes_GET_SIZE(<bytes>block)
    if not size:
        return b""
    if size > LARGE_BLOCK or response.room >= 0 and size > response.room:
        return None
    if response.head_sent:
        data = b""
    else:
        flags = field_flags(response.headers, &room)
        if flags < 0 or not has_usual_body(response.status) or (
            size > room if flags & HAS_LENGTH else octets(head.version)[7] != 49
        ):
            return None
        start = put_connection_back(end, head, is_persistent(head, option))
        if room < 0:
            start = put_back(start, b"Transfer-Encoding: chunked\r\n", 28)
        data = assemble(preamble_of(lane, response, flags), response.headers, start, end - start, b"")
        if data is None or response.taken:
            return None
        response.chunked = room < 0
        response.room = room
        response.head_sent = True
    response.bytes_sent += size
    if response.room >= 0:
        response.room -= size
    return joined(data, <bytes>block, response.chunked)


cdef bytes joined(bytes head, bytes block, bint chunked):
    """Join a head, which may be empty, and a block, which becomes a chunk if chunked (RFC 9112 section 7.1)."""
    cdef Py_ssize_t size = PyBytes_GET_SIZE(block), digits = 0
    if not chunked:
        return head + block if head else block
    while size >> 4 * digits:
        digits += 1
    cdef bytes piece = PyBytes_FromStringAndSize(NULL, PyBytes_GET_SIZE(head) + digits + size + 4)
    cdef unsigned char* at = <unsigned char*>PyBytes_AS_STRING(piece)
    at = put(at, PyBytes_AS_STRING(head), PyBytes_GET_SIZE(head))
    while digits:
        digits -= 1
        at[0] = b"0123456789abcdef"[size >> 4 * digits & 15]
        at += 1
    at = put(at, b"\r\n", 2)
    at = put(at, PyBytes_AS_STRING(block), size)
    put(at, b"\r\n", 2)
    return piece


cdef int go_on(LaneResponse response, object block, bytes unsent) except -1:
    """Let the general path take the remaining blocks. block: already taken; unsent: octets not sent yet."""
    response.hand_over().go_on_with(response.result, response.blocks, block)
    return response.give_away(None, unsent)


cdef dict SYS = sys.__dict__


cdef inline object error_stream(FastLane lane):
    """The current sys.stderr, read from the module's dictionary, which is faster than an attribute."""
    stream = SYS.get("stderr")
    return stream if stream is not None else lane.server.error_stream()


cdef inline bint has_usual_body(object status) noexcept:
    """Whether the status allows a body (RFC 9110 section 6.4.1)."""
    cdef Octets code = octets(status)
    return code[0] != 49 and memcmp(code, b"204", 3) != 0 and memcmp(code, b"304", 3) != 0


cdef inline bint is_persistent(Request head, Option option) noexcept:
    """Whether the connection stays open after the answer (RFC 9112 section 9.3)."""
    return option != CLOSE if octets(head.version)[7] == 49 else option == KEEP_ALIVE


cdef inline unsigned char* put_connection_back(unsigned char* at, Request head, bint persistent) noexcept:
    """Write backwards: the empty line, and before it Connection unless it would say the version's default."""
    at = put_back(at, b"\r\n", 2)
    if not persistent:
        return put_back(at, b"Connection: close\r\n", 19)
    if octets(head.version)[7] == 48:
        return put_back(at, b"Connection: keep-alive\r\n", 24)
    return at


cdef bytes preamble_of(FastLane lane, LaneResponse response, int flags):
    """The status line, and Date and Server unless the application has set them."""
    cdef long long now = lane_second()
    if now < 0:
        now = <long long><double>time.time()
    if now != lane.second:
        lane.last_status = None
        if lane.log_time is not None:
            lane.log_date = lane.log_time().encode("latin-1", "replace")
        lane.second = now
    if flags & (HAS_DATE | HAS_SERVER):
        return preamble_lines(
            "1.1",
            response.status,
            None if flags & HAS_DATE else date_now(),
            None if flags & HAS_SERVER else lane.software,
        )
    if lane.last_status is not response.status:
        lane.preamble = preamble_lines("1.1", response.status, date_now(), lane.software)
        lane.last_status = response.status
    return lane.preamble


cdef int log_safely(FastLane lane, LaneResponse response, Py_ssize_t size) except -1:
    """Log a request. An exception of a hook is logged too, because the answer has been sent."""
    try:
        log_request(lane, response, size)
    except BaseException as error:
        response.channel.close_failed(response.whole_request(), error)
    return 0


cdef int log_request(FastLane lane, LaneResponse response, Py_ssize_t size) except -1:
    """Log a request as WSGIRequestHandler.log_request() does, or call that."""
    cdef Py_ssize_t line_size, address_size, date_size
    cdef unsigned char* at
    cdef unsigned char* start
    cdef unsigned char number[24]
    if lane.log_line is not None:
        line = lane.log_line(response.logged_request(), response.status[:3], size)
        keep_line(lane, line)
        return 0
    if lane.log_time is None and not lane.has_log_hooks:
        return 0
    line_size = <Octets>memchr(response.head, 10, response.head_size) - response.head - 1
    address = (response.channel.remote if response.client is None else response.client)[0] or "-"
    address_size = PyUnicode_GET_LENGTH(address)
    date_size = PyBytes_GET_SIZE(lane.log_date)
    if (
        lane.has_log_hooks
        or memchr(response.head, 92, line_size) != NULL  # a backslash must be escaped, and in some logs a quote
        or memchr(response.head, 34, line_size) != NULL
        or not is_ascii(address)
        or address_size + date_size > LONGEST_ADDRESS
    ):
        lane.server.log_request(response.channel, response.whole_request(), response.status[:3], size)
        return 0
    if LOG_ROOM - lane.log_size < line_size + LONGEST_ADDRESS + 64:
        lane.server.flush_log(lane)
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


cdef int keep_line(FastLane lane, object line) except -1:
    """Keep a log line, to write it together with other lines."""
    cdef Py_ssize_t size
    if not is_latin1(line):
        lane.server.flush_log(lane)
        lane.server.front.write_log(line)
        return 0
    cdef bytes data = line.encode("latin-1")
    size = PyBytes_GET_SIZE(data)
    if LOG_ROOM - lane.log_size < size:
        lane.server.flush_log(lane)
    if LOG_ROOM - lane.log_size < size:
        lane.server.front.write_log(line)
    else:
        put(lane.log_lines + lane.log_size, PyBytes_AS_STRING(data), size)
        lane.log_size += size
    return 0
