# Connections: the short cut for whole requests. Included by _speedups.pyx.

cdef class FastLane:
    """FastLane(server)\n--\n\nWhat is known to a server before a request comes."""

    cdef public object server
    cdef public bint enabled
    cdef public list log_lines

    def __init__(self, server):
        self.server = server
        self.enabled = True
        self.log_lines = []


cdef class Channel:
    """Channel(fd, lane)\n--\n\nThe base of a connection: what the short cut shares with it."""

    cdef readonly int fd
    cdef readonly FastLane lane
    cdef public bint between_requests
    cdef public double deadline

    def __init__(self, int fd, FastLane lane):
        self.fd = fd
        self.lane = lane
        self.between_requests = lane is not None
        self.deadline = 0

    def on_event(self):
        self.turn()

    def turn(self):
        raise NotImplementedError

    def forget(self):
        pass
