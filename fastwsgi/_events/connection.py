"""One connection: receive octets, find requests, run the application, send answers, and enforce the timeouts.

Everything here runs in a thread of the event loop, and nothing blocks. A connection is in one of the states that
``states.py`` defines in a table. It answers requests one after the other, each when it is complete. With the compiled
accelerator the base class, Channel, answers simple requests that arrive while the connection is idle.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import socket
import struct
from time import monotonic
from typing import IO, TYPE_CHECKING, Any, Protocol

from fastwsgi._backend import Request, find_head_end, parse_head, parse_request_line
from fastwsgi._http.body import IncomingBody
from fastwsgi._http.environ import split_address
from fastwsgi._http.framing import frame_request
from fastwsgi._http.grammar import BadRequest

from .channel import Channel
from .output import FileError, FileRange, Output
from .phases import LAST_REQUESTS, STOPPED
from .poller import READ, WRITE, wait_for
from .proxy_protocol import ProxyHeader
from .states import ANSWER, BODY, CLOSED, HANDSHAKE, HEAD, IDLE, LINGER, PROXY, SEND, State
from .transport import PLAIN, Transport, is_departure

if TYPE_CHECKING:
    from fastwsgi._http.settings import Settings
    from fastwsgi.types import WSGIApplication, WSGIEnvironment

    from .channel import FastLane
    from .front import Front
    from .response import Client, Response

_RECEIVE = 65536
_MOST_READ_AWAY = 16  # receive() calls in a row, before other connections have their turn
#: A client is likely to send its next request within this many seconds after an answer.
MOMENT = 1.0
_PATIENCE = 0.5  # seconds that a thread waits for a client before it checks whether the server stops
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Server(Protocol):
    """What a connection needs of its server."""

    settings: Settings
    transport: Transport
    lanes: list[FastLane]
    front: Front
    #: How long a connection may be in each state, in seconds, by the state's index.
    times: list[float]

    @property
    def loop(self) -> ConnectionLoop:
        """The event loop that serves its connections."""
        ...

    def get_app(self) -> WSGIApplication:
        """The application."""
        ...

    def make_response(self, client: Client, request: Request, environ: WSGIEnvironment, body: Any) -> Response:
        """Make the object that answers a request."""
        ...

    def flush_log(self, lane: FastLane) -> None:
        """Write the log lines that a lane has collected."""

    def must_end(self, error: BaseException) -> bool:
        """Whether an exception from an application must end the server."""
        ...


class ConnectionLoop(Protocol):
    """What a connection needs of the loop that serves it."""

    requests: int
    #: Whether several threads run the loop, so that an application may block one of them.
    is_shared: bool

    #: How far the loop has got with stopping; see phases.py.
    phase: int

    def watch(self, connection: Connection, events: int) -> None:
        """Call on_event() when the socket is ready for one of these events."""

    def forget(self, connection: Connection) -> None:
        """Stop serving a connection, which is about to close its socket."""


class Answer(Protocol):
    """What a connection needs of a response."""

    #: Whether the response is complete or given up.
    finished: bool
    #: Whether the connection can be used for another request.
    persistent: bool
    #: Whether the client could mistake the part that it received for the whole answer.
    must_reset: bool

    def advance(self) -> None:
        """Continue with the next part."""

    def abandon(self) -> None:
        """Stop: the client has gone, or the connection is being closed."""


class _Sent:
    """A response of the fast lane that is complete, except that the rest still has to be sent."""

    finished = True
    must_reset = False

    def __init__(self, persistent: bool) -> None:
        self.persistent = persistent

    def advance(self) -> None:
        """Do nothing: the response is complete."""

    def abandon(self) -> None:
        """Do nothing: the application has ended."""


class ClientGoneError(ConnectionAbortedError):
    """The connection is broken, so the client can't receive an answer."""


class Connection(Channel):
    """A client's connection; ``on_event()`` is called whenever the socket may have become ready.

    server: see Server; sock: the client's non-blocking socket; address: the client's address.
    """

    __slots__ = (
        "address", "body", "broken", "buffer", "output", "proxy_header", "request", "request_line_size", "response",
        "scanned", "server", "sock", "state", "watched",
    )  # fmt: skip

    def __init__(self, server: Server, sock: socket.socket, address: Any) -> None:
        super().__init__(sock.fileno(), server.lanes[0] if server.lanes else None)
        self.server = server
        self.sock = sock
        self.address = address
        #: Octets that were received and not parsed yet; None between requests.
        self.buffer: bytearray | None = None
        #: How many octets of the buffer were searched for the end of the head.
        self.scanned = 0
        #: The size of the request line with its line end; 0 until the line is complete.
        self.request_line_size = 0
        #: The current request, from the end of its head until it is answered.
        self.request: Request | None = None
        self.body: IncomingBody | None = None
        self.response: Answer | None = None
        self.output: Output | None = None
        self.broken = False
        self.watched = 0
        self.proxy_header: ProxyHeader | None = None
        now = monotonic()
        if server.front.begins_with_proxy:
            self.proxy_header = ProxyHeader()
            self._enter(PROXY)
        else:
            self._enter(IDLE if server.transport is PLAIN else HANDSHAKE, now)
        self.deadline = now + server.settings.head_timeout

    def _enter(self, state: State, now: float | None = None) -> None:
        """Change the state. Only this method sets the deadline, the watched events and the use of the lane.

        now: the time, if the caller has it already.
        """
        events = state.watches
        # A new connection is watched for READ after its first turn.
        if events and self.watched != events and (self.watched or events != READ):
            self.server.loop.watch(self, events)  # first: it may raise
        self.state = state
        self.between_requests = state.for_lane and self.lane is not None
        if state.timeout:
            self.deadline = (monotonic() if now is None else now) + self.server.times[state.index]

    def _progressed(self) -> None:
        """Restart the timeout of the state, because the client made progress."""
        self.deadline = monotonic() + self.server.settings.progress_timeout

    # ---- events --------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Do all the work that is possible now."""
        state = self.state
        try:
            if state.takes_input:
                self._read()
            elif state is SEND or (state is ANSWER and self._is_interrupted()):
                self._go_on_answering()
            elif state is LINGER:
                self._read_away()
            elif state is HANDSHAKE:
                self._shake_hands()
            elif state is PROXY:
                self._take_proxy_header()
        except ClientGoneError:
            self.close()

    def expire(self) -> None:
        """React to a deadline that has passed: refuse the request, or close."""
        if self.state is HEAD or self.state is BODY:
            try:
                self._refuse(BadRequest(408, "The request took too long"))
            except ClientGoneError:
                self.close()
        elif self.state is IDLE:
            if not self.has_input():  # input may have arrived after the events of this turn
                self.close()
        elif self.state is not ANSWER or self._is_interrupted():
            self.close()

    def _is_interrupted(self) -> bool:
        """Whether a Ctrl-C has ended the call that was answering. Otherwise that call is on this thread's stack."""
        return self.response is None or self.response.finished

    def _read(self) -> None:
        transport = self.server.transport
        if self.output:  # 100 (Continue) waits behind an answer that the client hasn't read
            self._flush()
            if not self.output:
                self.server.loop.watch(self, READ)
        while True:
            data = self._receive()
            if data is None:
                break
            if not data:
                self._end_of_input()
                break
            self._take(data)
            if transport is PLAIN or not transport.pending(self.sock) or not self.state.takes_input:
                break

    def _receive(self) -> bytes | None:
        try:
            return self.server.transport.receive(self.sock, _RECEIVE)
        except OSError as error:
            raise ClientGoneError from error

    def _end_of_input(self) -> None:
        """The client has ended its side of the stream: close, or refuse the request that it left incomplete."""
        if self.state is IDLE:
            self.close()
        else:
            self._refuse(BadRequest(400, "Incomplete request"))

    def _take_proxy_header(self) -> None:
        """Read the header, and no octet after it, because the rest of the stream may be TLS."""
        header = self.proxy_header
        assert header is not None
        while not header.done:
            try:
                data = socket.socket.recv(self.sock, header.wanted(), socket.MSG_PEEK)
                if not data:
                    raise ClientGoneError
                socket.socket.recv(self.sock, header.feed(data))
            except (BlockingIOError, InterruptedError):
                return
            except (OSError, BadRequest) as error:
                raise ClientGoneError from error  # a peer that isn't the proxy gets no answer
        self.proxy_header = None
        self.address = header.source or self.address
        self.remote = None
        self._go_on_to(IDLE if self.server.transport is PLAIN else HANDSHAKE)
        self.on_event()

    def _shake_hands(self) -> None:
        try:
            waits_for = self.server.transport.handshake(self.sock)
        except OSError as error:
            raise ClientGoneError from error
        self.server.loop.watch(self, waits_for or READ)
        if not waits_for:
            self._go_on_to(IDLE)
            self._read()

    def _go_on_to(self, state: State) -> None:
        """Change the state before a request, without more time: that counts from the accept, or the first line end."""
        deadline = min(self.deadline, monotonic() + self.server.settings.head_timeout)
        if self.state is not state:
            self._enter(state)
        self.deadline = deadline

    def drop_urgent_data(self) -> None:
        """Drop an octet of urgent data. It is outside the stream, and each receive() would stop at it."""
        with contextlib.suppress(OSError):
            socket.socket.recv(self.sock, 1, socket.MSG_OOB)

    # ---- requests ------------------------------------------------------------------------------------

    def _take(self, data: bytes) -> None:
        """Add octets from the client to the buffer, and answer every request that is complete."""
        if self.buffer is None:
            self.buffer = bytearray(data)
        else:
            self.buffer += data
            if self.state is BODY:
                self._progressed()
        self._proceed()

    def _proceed(self) -> None:
        """Answer every request that is complete."""
        try:
            while self.buffer is not None and self.state.takes_input and self._take_request():
                pass
        except BadRequest as error:
            self._refuse(error)

    def _take_request(self) -> bool:
        """Take a request's octets off the buffer. Return whether it was complete and given to the application."""
        request = self.request
        if request is None:
            request = self._take_head()
            if request is None:
                return False
        content = None
        body = self.body
        if body is not None:
            assert self.buffer is not None
            if not body.take(self.buffer):
                if self.state is not BODY:
                    self._await_body(request)
                return False
            content = body.content
        server = self.server
        stream: IO[bytes] = io.BytesIO() if content is None else content.rewound()
        self._enter(ANSWER)
        environ = server.front.make_environ(request, 0 if content is None else content.size)
        self.response = response = server.make_response(self, request, environ, stream)
        self.body = None  # the response owns it from here on
        response.run(server.get_app())
        self._see_what_is_left()
        return True

    def _take_head(self) -> Request | None:
        """Take a complete head off the buffer and return its request; None if the head isn't complete yet."""
        buffer = self.buffer
        assert buffer is not None
        if not self.scanned and buffer.startswith(b"\r\n"):
            while buffer.startswith(b"\r\n"):
                del buffer[:2]  # RFC 9112 section 2.2
            if not buffer:
                self.buffer = None
                self._go_on_to(IDLE)
                return None
        end = find_head_end(buffer, self.scanned)
        # Fields take no more than the whole head, so most heads need no further check of their size.
        if not 0 < end <= self.server.settings.max_field_section:
            self._look_at_part(buffer, end)
            if end < 0:
                return None
        head = bytes(buffer) if end == len(buffer) else bytes(buffer[:end])
        settings = self.server.settings
        request = parse_head(head, settings.max_request_line, settings.max_fields)
        self.describe(request)
        request.began = monotonic()
        frame_request(request, settings)
        self.request = request
        del buffer[:end]
        self.scanned = self.request_line_size = 0
        if buffer:
            request.expects_continue = False  # the client hasn't waited
        if request.length != 0:
            self.body = IncomingBody(request.length, settings)
        return request

    def _look_at_part(self, buffer: bytearray, end: int) -> None:
        """Check the limits of a head that is incomplete or large. end: where it ends; -1: not received yet."""
        settings = self.server.settings
        line_size = self.request_line_size
        if not line_size:
            line_size = self.request_line_size = buffer.find(b"\n", self.scanned) + 1
            if not line_size and len(buffer) > settings.max_request_line + 2:
                raise BadRequest(414, "URI Too Long")
            if line_size and end < 0:  # the answer to a bad line doesn't wait for the lines after it
                parse_request_line(bytes(buffer[:line_size]), settings.max_request_line)
        if line_size and (end if end > 0 else len(buffer)) - line_size > settings.max_field_section:
            raise BadRequest(431, "Request Header Fields Too Large")
        if end < 0:
            self.scanned = len(buffer) if buffer != b"\r" else 0
            if not self.scanned:
                self._go_on_to(HEAD)
            elif self.state is not HEAD:
                self._enter(HEAD)

    def describe(self, request: Request) -> None:
        """Set what a request needs to know of its client."""
        if self.remote is None:
            self.remote = self.client()
        request.client = self.remote
        request.sock = self.sock
        request.address = self.address
        request.is_tls = self.server.transport is not PLAIN

    def _await_body(self, request: Request) -> None:
        """Wait for the body, or for the rest of it."""
        self._enter(BODY, request.began)
        if request.expects_continue:
            self.send(_CONTINUE)
            if self.output:
                self.server.loop.watch(self, READ | WRITE)

    def _refuse(self, error: BadRequest) -> None:
        """Answer a bad request with an error, and take no other request from this client."""
        request = self.request
        if request is None:
            line = bytes((self.buffer or b"")[: self.server.settings.max_request_line + 2])
            request = self.request = self._unread(line[: line.find(b"\n") + 1 or len(line)])
        self._drop_body()
        self._enter(ANSWER)
        self.send(self.server.front.error_answer(request, error))
        self._see_what_is_left()

    def _unread(self, line: bytes = b"") -> Request:
        """Return a stand-in for a request without a complete head. line: the part of its request line that arrived."""
        request = Request("", "", "HTTP/1.0", [], line)
        self.describe(request)
        request.began = monotonic()
        return request

    def _drop_body(self) -> None:
        if self.body is not None:
            self.body.content.close()
        self.body = self.buffer = None

    # ---- answers -------------------------------------------------------------------------------------

    def send(self, data: bytes | memoryview, is_rest: bool = False) -> None:
        """Send octets, or keep them until the socket takes them.

        is_rest: whether they continue the octets of the last call, and are kept in the same place. Raises
        ClientGoneError if they can't be sent; then the connection is broken and sends nothing more.
        """
        if self.broken or self.state is CLOSED:
            raise ClientGoneError
        try:
            sent = 0 if self.output and not self._makes_room() else self.server.transport.send(self.sock, data)
            if sent != len(data):
                self._waiting().put(memoryview(data)[sent:], is_rest)
        except OSError as error:
            raise self._given_up(error) from error
        except BaseException:
            self._break()  # how much was sent is unknown, so nothing may follow
            raise

    def _makes_room(self) -> bool:
        """Whether nothing waits to be sent; if the output is full, try to send first.

        Without the try, an application that calls write() forever would never learn that its client has gone.
        """
        if self.is_full():
            self._flush()
            if self.deadline <= monotonic():
                raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        return not self.output

    def send_file(self, file_range: FileRange) -> None:
        """Send octets of a file, or keep the file until the socket takes them."""
        self._waiting().put_file(file_range)
        self._flush()

    def _waiting(self) -> Output:
        if self.output is None:
            self.output = Output(self.server.settings.max_output)
        if not self.output:
            self._progressed()
        return self.output

    def _flush(self) -> None:
        assert self.output is not None
        try:
            if self.output.flush(self.sock, self.server.transport):
                self._progressed()
        except OSError as error:
            raise self._given_up(error) from error

    def _given_up(self, error: OSError) -> ClientGoneError:
        """Break the connection, because its answer can't be completed. Log the error unless the client has left."""
        self._break()
        if isinstance(error, FileError) or not is_departure(error):
            self.server.front.log_failure(self.request or self._unread(), "The answer can't be sent", error)
        return ClientGoneError()

    def has_input(self) -> bool:
        """Whether there is something to receive: octets, the end of the stream, or an error."""
        try:
            socket.socket.recv(self.sock, 1, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return False
        except OSError:
            pass
        return True

    def is_gone(self) -> bool:
        return self.broken or self.state is CLOSED

    def unsent(self) -> int:
        return self.output.octets() if self.output is not None else 0

    def is_full(self) -> bool:
        return self.output is not None and self.output.size >= self.server.settings.max_output

    def wait_for_room(self) -> None:
        while self.is_full():
            left = self.deadline - monotonic()
            if left <= 0 or self.server.loop.phase >= STOPPED:
                self._break()
                raise ClientGoneError
            if wait_for(self.sock, WRITE, min(left, _PATIENCE)):
                self._flush()

    def has_sent_all(self) -> bool:
        return not self.output

    def is_ending(self) -> bool:
        return self.server.loop.phase >= LAST_REQUESTS

    def must_end(self, error: BaseException) -> bool:
        return self.server.must_end(error)

    def _go_on_answering(self) -> None:
        if self.output:
            self._flush()
        response = self.response
        if response is not None and not response.finished and not self.is_full():
            self._enter(ANSWER)
            response.advance()
        self._see_what_is_left()
        self._proceed()

    def _see_what_is_left(self) -> None:
        """Wait until the client has read more of the answer, or end the request if all is sent."""
        response = self.response
        if self.broken:
            self.close()
        elif self.output or (response is not None and not response.finished):
            if self.state is not SEND:
                self._enter(SEND)
            elif not self.output:
                self._progressed()
        elif self.state is not CLOSED:
            self._end_request(response)

    def _end_request(self, response: Answer | None) -> None:
        request = self.request
        self.output = self.response = self.request = None
        self.server.loop.requests += 1
        if response is not None and response.persistent:
            self._await_request()
        elif response is not None and response.must_reset:
            self.reset()
        elif response is not None and request is not None and self._is_last(request) and not self.buffer:
            self.close()
        else:
            self._close_kindly()

    def _is_last(self, request: Request) -> bool:
        """Whether the client sends no other request after this one."""
        return not request.is_persistent or self.server.front.http_version == "1.0"

    def _await_request(self) -> None:
        if self.buffer:
            self._enter(HEAD)
            return
        self.buffer = None
        self._enter(IDLE)
        if self.server.loop.phase >= LAST_REQUESTS:
            # The answer began before the server started to stop, and it promised to take another request.
            self.deadline = min(self.deadline, monotonic() + MOMENT)

    # ---- calls from the fast lane --------------------------------------------------------------------

    def client(self) -> tuple[str, str]:
        """The client's address and port, as an environ has them."""
        return split_address(self.address)

    def received(self, data: bytes) -> None:
        """Take octets that the lane received and did not use."""
        self.flush_log()
        try:
            self._take(data)
        except ClientGoneError:
            self.close()

    def begin_response(self, request: Request, environ: WSGIEnvironment, body: Any) -> Response:
        """Make a response for a request whose application has been called, or is running."""
        self.flush_log()
        self.request = request
        self._enter(ANSWER)
        self.response = response = self.server.make_response(self, request, {}, body)
        response.environ = request.environ = environ
        return response

    def flush_log(self) -> None:
        """Write the log lines that the lane has collected, so that later lines follow them."""
        if self.lane is not None:
            self.server.flush_log(self.lane)

    def adopt(
        self, response: Response, rest: bytes, error: BaseException | None = None, unsent: bytes = b""
    ) -> None:
        """Continue a response that the lane began: with its next blocks, or with the exception of its application.

        rest: octets received after the request; error: the exception, which is being handled; unsent: octets of the
        answer that the socket hasn't taken yet.
        """
        self.buffer = bytearray(rest)
        try:
            if unsent:
                try:
                    self.send(unsent)
                except ClientGoneError:
                    response.bytes_sent = max(response.bytes_sent - len(unsent), 0)
                    raise
            if error is not None:
                response.fail(error)
            elif self.server.loop.is_shared or not self.is_full():  # a thread of several may wait for the client
                response.advance()
            self._see_what_is_left()
            self._proceed()
        except ClientGoneError:
            self.close()

    def send_rest(self, data: memoryview, rest: bytes, persistent: bool) -> None:
        """Send the part of an answer that the socket hasn't taken. rest: octets received after the request."""
        self.buffer = bytearray(rest)
        self.response = _Sent(persistent)
        self._waiting().put(data)
        self._enter(SEND)

    def close_failed(self, request: Request, error: BaseException) -> None:
        """Log an exception of an iterable's close() or a log hook after the answer. Raise it again if it's a Ctrl-C."""
        self.flush_log()
        self.server.make_response(self, request, {}, None).too_late(error)

    # ---- the end -------------------------------------------------------------------------------------

    def _close_kindly(self) -> None:
        """Close after the client has closed, or after linger_timeout (RFC 9112 section 9.6).

        Closing a socket that has unread octets resets the connection, and then the client may lose its answer.
        """
        self.buffer = None
        self.flush_log()
        self.server.transport.end_of_output(self.sock)
        self._enter(LINGER)
        self._read_away()

    def _read_away(self) -> None:
        for _ in range(_MOST_READ_AWAY):
            data = self._receive()
            if data is None:
                return
            if not data:
                self.close()
                return

    def reset(self) -> None:
        """Close so that the client sees an error, and can't mistake a part for the whole answer."""
        self._break()
        self.close()

    def _break(self) -> None:
        """Send nothing more, and reset the connection when the socket is closed."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.broken = True

    def close(self) -> None:
        """Close now. If the application is still answering, the iterable's close() is called.

        An exception in one step doesn't prevent the next. Only a Ctrl-C in the application leaves this method.
        """
        state, response, output, request = self.state, self.response, self.output, self.request
        if state is CLOSED:
            return
        is_answering = response is not None and not response.finished
        if not self.broken:
            if output or is_answering or (response is not None and response.must_reset):
                self._break()
            elif state is not PROXY and state is not HANDSHAKE and self.server.transport is not PLAIN:
                self.server.transport.end_of_output(self.sock)  # RFC 9112 section 9.8: a closure alert first
        if state is HEAD or state is BODY or state.is_answering:
            self.server.loop.requests += 1  # it counts, even if it failed
        self._enter(CLOSED)
        self.response = self.request = None
        try:
            self._drop_body()
            if response is not None and is_answering:
                response.abandon()
            elif state is BODY and request is not None:
                self._log_unanswered(request)
            self.flush_log()
        finally:
            if request is not None:
                request.adapter = None  # or the two would hold each other
            if output is not None:
                output.clear()
                self.output = None
            try:
                self.server.loop.forget(self)
            finally:
                try:  # noqa: SIM105 - suppress() takes longer than the call
                    self.sock.close()
                except OSError:  # the descriptor is closed all the same
                    pass

    def _log_unanswered(self, request: Request) -> None:
        """Log a request whose client left before its body was complete."""
        try:
            self.server.front.log_request(request, "-", 0)
        except Exception:
            self.server.front.handle_error(self.sock, self.address)
