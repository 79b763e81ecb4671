"""One connection: receive, find requests, have them answered, send; and what time each of that may take.

Everything here runs in a thread of the event loop, and nothing waits. A connection is in one of the states that
``states.py`` has in a table. A request is answered when it is whole, one after the other. With the compiled accelerator
the base class, Channel, answers usual requests by itself, as long as no request has begun.
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
_MOST_READ_AWAY = 16  # times that, before other connections have their turn
#: For this many seconds a client that has just had an answer is likely to ask again.
MOMENT = 1.0
_PATIENCE = 0.5  # seconds for which a thread waits for a client without a look at whether the server stops
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
        """What serves its connections."""
        ...

    def get_app(self) -> WSGIApplication:
        """The application."""
        ...

    def make_response(self, client: Client, request: Request, environ: WSGIEnvironment, body: Any) -> Response:
        """What answers a request."""
        ...

    def flush_log(self, lane: FastLane) -> None:
        """Write the lines that a lane has collected."""

    def must_end(self, error: BaseException) -> bool:
        """Whether what an application has raised is to end the server."""
        ...


class ConnectionLoop(Protocol):
    """What a connection needs of the loop that serves it."""

    requests: int
    #: Whether several threads run it, so that an application may keep one of them waiting.
    is_shared: bool

    #: How far it is with stopping; see phases.py.
    phase: int

    def watch(self, connection: Connection, events: int) -> None:
        """Call on_event() when the socket is ready for these events, and for no others."""

    def forget(self, connection: Connection) -> None:
        """Take note that a connection is about to close its socket."""


class Answer(Protocol):
    """What a connection needs of a response."""

    #: Whether there is nothing more to come from it.
    finished: bool
    #: Whether the connection can be used for another request.
    persistent: bool
    #: Whether the client could take what it got for the whole.
    must_reset: bool

    def advance(self) -> None:
        """Go on."""

    def abandon(self) -> None:
        """The client is gone, or has to go."""


class _Sent:
    """A response of the fast lane, of which there is nothing left to do but to send the rest."""

    finished = True
    must_reset = False

    def __init__(self, persistent: bool) -> None:
        self.persistent = persistent

    def advance(self) -> None:
        """Nothing: it's finished."""

    def abandon(self) -> None:
        """Nothing."""


class ClientGoneError(ConnectionAbortedError):
    """The connection broke: nobody is there to be answered."""


class Connection(Channel):
    """A client's connection; ``on_event()`` is called whenever the socket may have become ready.

    server: see Server; sock: the client's socket, which doesn't block; address: the client's.
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
        #: What was received and not yet understood; None between requests.
        self.buffer: bytearray | None = None
        #: How much of the buffer was searched for the head's end.
        self.scanned = 0
        #: With its line end; 0: not there yet.
        self.request_line_size = 0
        #: The request whose head is there, until it's answered.
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
        """Be in another state: the one place where a state's deadline, events and lane are set.

        now: the time, if it's known already.
        """
        if state.watches and (self.watched or state.watches != READ):  # a new one is watched when its turn is over
            self.server.loop.watch(self, state.watches)  # first: it may raise
        self.state = state
        self.between_requests = state.for_lane and self.lane is not None
        if state.timeout:
            self.deadline = (monotonic() if now is None else now) + self.server.times[state.index]

    def _progressed(self) -> None:
        """A step forward was made, so the time of the state begins again."""
        self.deadline = monotonic() + self.server.settings.progress_timeout

    # ---- events --------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Do what can be done now."""
        state = self.state
        try:
            if state.takes_input:
                self._read()
            elif state is SEND:
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
        """The deadline has passed."""
        if self.state is HEAD or self.state is BODY:
            try:
                self._refuse(BadRequest(408, "The request took too long"))
            except ClientGoneError:
                self.close()
        elif self.state is IDLE:
            if not self.has_input():  # which may have come after the events that are handled
                self.close()
        elif self.state is not ANSWER:
            self.close()

    def _read(self) -> None:
        transport = self.server.transport
        if self.output:  # 100 (Continue), behind an answer that the client hasn't taken
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
        """The client sends nothing more; what it began isn't a request."""
        if self.state is IDLE:
            self.close()
        else:
            self._refuse(BadRequest(400, "Incomplete request"))

    def _take_proxy_header(self) -> None:
        """Take the header off the stream and nothing behind it, for that may be TLS."""
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
                raise ClientGoneError from error  # a peer that isn't the proxy is told nothing
        self.proxy_header = None
        self.address = header.source or self.address
        self.remote = None
        self._begin(IDLE if self.server.transport is PLAIN else HANDSHAKE)
        self.on_event()

    def _shake_hands(self) -> None:
        try:
            waits_for = self.server.transport.handshake(self.sock)
        except OSError as error:
            raise ClientGoneError from error
        self.server.loop.watch(self, waits_for or READ)
        if not waits_for:
            self._begin(IDLE)
            self._read()

    def _begin(self, state: State) -> None:
        """Go on to another state before the first request, in the time that is left since the connection's start."""
        deadline = self.deadline
        self._enter(state)
        self.deadline = deadline

    def drop_urgent_data(self) -> None:
        """Take an octet of urgent data off the socket, where it's beside the stream and ends each receive()."""
        with contextlib.suppress(OSError):
            socket.socket.recv(self.sock, 1, socket.MSG_OOB)

    # ---- requests ------------------------------------------------------------------------------------

    def _take(self, data: bytes) -> None:
        """Take octets from the client, and have every request answered that is whole by now."""
        if self.buffer is None:
            self.buffer = bytearray(data)
        else:
            self.buffer += data
            if self.state is BODY:
                self._progressed()
        self._proceed()

    def _proceed(self) -> None:
        """Have every request answered that is whole by now."""
        try:
            while self.buffer is not None and self.state.takes_input and self._take_request():
                pass
        except BadRequest as error:
            self._refuse(error)

    def _take_request(self) -> bool:
        """Take what belongs to a request off the buffer; whether it was whole, and given to the application."""
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
        self.body = None  # the response's, from here on
        response.run(server.get_app())
        self._see_what_is_left()
        return True

    def _take_head(self) -> Request | None:
        """The request whose head is whole in the buffer, of which it's taken out; None if there is none yet."""
        buffer = self.buffer
        assert buffer is not None
        if not self.scanned and buffer.startswith(b"\r\n"):
            while buffer.startswith(b"\r\n"):
                del buffer[:2]  # RFC 9112 section 2.2
            if not buffer:
                self.buffer = None
                if self.state is not IDLE:
                    self._enter(IDLE)
                return None
        end = find_head_end(buffer, self.scanned)
        # Fields take no more than the whole head, so a usual one needn't be looked at.
        if not 0 < end <= self.server.settings.max_field_section:
            self._look_at_part(buffer, end)
            if end < 0:
                return None
        head = bytes(memoryview(buffer)[:end])
        settings = self.server.settings
        request = parse_head(head, settings.max_request_line, settings.max_fields)
        self.describe(request)
        request.began = monotonic()
        frame_request(request, settings)
        self.request = request
        del buffer[:end]
        self.scanned = self.request_line_size = 0
        if request.length != 0:
            self.body = IncomingBody(request.length, settings)
        return request

    def _look_at_part(self, buffer: bytearray, end: int) -> None:
        """Hold a head that isn't whole yet, or a large one, to its limits. end: of the head; -1: it isn't there."""
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
            if self.state is not HEAD:
                self._enter(HEAD)

    def describe(self, request: Request) -> None:
        """Tell a request whose it is."""
        if self.remote is None:
            self.remote = self.client()
        request.client = self.remote
        request.sock = self.sock
        request.address = self.address
        request.is_tls = self.server.transport is not PLAIN

    def _await_body(self, request: Request) -> None:
        """Wait for the rest of a body, or for all of it."""
        self._enter(BODY, request.began)
        if request.expects_continue and not self.buffer:
            self.send(_CONTINUE)
            if self.output:
                self.server.loop.watch(self, READ | WRITE)

    def _refuse(self, error: BadRequest) -> None:
        """Answer what is no request, and take no other from this client."""
        request = self.request
        if request is None:
            line = bytes((self.buffer or b"")[: self.server.settings.max_request_line + 2])
            request = self.request = self._unread(line[: line.find(b"\n") + 1 or len(line)])
        self._drop_body()
        self._enter(ANSWER)
        self.send(self.server.front.error_answer(request, error))
        self._see_what_is_left()

    def _unread(self, line: bytes = b"") -> Request:
        """What stands for a request of which no whole head was read. line: what there is of its request line."""
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
        """Send octets, or keep them until the socket takes them, with those before if they are the rest of these.

        Raises ClientGoneError if that can't be done; then the connection is broken, and takes nothing more.
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
            self._break()  # nobody knows how much was sent, so nothing may follow
            raise

    def _makes_room(self) -> bool:
        """Whether nothing waits any more, after a try to send if the output is full.

        By the try an application that calls write() without end learns that its client has gone.
        """
        if self.is_full():
            self._flush()
            if self.deadline <= monotonic():
                raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
        return not self.output

    def send_file(self, file_range: FileRange) -> None:
        """Send octets of a file, or keep it until the socket takes them."""
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
        """Break the connection, since its answer can't be whole any more. Log the error unless the client has left."""
        self._break()
        if isinstance(error, FileError) or not is_departure(error):
            self.server.front.log_failure(self.request or self._unread(), "The answer can't be sent", error)
        return ClientGoneError()

    def has_input(self) -> bool:
        """Whether there is something to receive, be it the end."""
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
        """Wait until the client has taken more of the answer, or be done with the request."""
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
        """Whether the client sends no other request, and so waits for nothing but the end."""
        return not request.is_persistent or self.server.front.http_version == "1.0"

    def _await_request(self) -> None:
        if self.buffer:
            self._enter(HEAD)
            return
        self.buffer = None
        self._enter(IDLE)
        if self.server.loop.phase >= LAST_REQUESTS:
            # The answer was begun before the server was to close, and has promised to take another request.
            self.deadline = min(self.deadline, monotonic() + MOMENT)

    # ---- what the fast lane hands over ---------------------------------------------------------------

    def client(self) -> tuple[str, str]:
        """The client's address and port, as an environ has them."""
        return split_address(self.address)

    def received(self, data: bytes) -> None:
        """Take octets that were received, and have not been looked at."""
        self.flush_log()
        try:
            self._take(data)
        except ClientGoneError:
            self.close()

    def begin_response(self, request: Request, environ: WSGIEnvironment, body: Any) -> Response:
        """A response whose application was called already, or is being called."""
        self.flush_log()
        self.request = request
        self._enter(ANSWER)
        self.response = response = self.server.make_response(self, request, {}, body)
        response.environ = request.environ = environ
        return response

    def flush_log(self) -> None:
        """Write what the lane has logged, before anything that comes later."""
        if self.lane is not None:
            self.server.flush_log(self.lane)

    def adopt(
        self, response: Response, rest: bytes, error: BaseException | None = None, unsent: bytes = b""
    ) -> None:
        """Go on with a response: with an exception of its application that is being handled, or its next blocks.

        rest: what was received after the request; unsent: what the socket hasn't taken yet.
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
            elif self.server.loop.is_shared or not self.is_full():  # of several threads, this one goes on and waits
                response.advance()
            self._see_what_is_left()
            self._proceed()
        except ClientGoneError:
            self.close()

    def send_rest(self, data: memoryview, rest: bytes, persistent: bool) -> None:
        """Send what the socket hasn't taken of an answer; rest: what was received after the request."""
        self.buffer = bytearray(rest)
        self.response = _Sent(persistent)
        self._waiting().put(data)
        self._enter(SEND)

    def close_failed(self, request: Request, error: BaseException) -> None:
        """Log what an iterable's close() or a log hook has raised after the answer. Raise it again if it's a Ctrl-C."""
        self.flush_log()
        self.server.make_response(self, request, {}, None).too_late(error)

    # ---- the end -------------------------------------------------------------------------------------

    def _close_kindly(self) -> None:
        """Close when the client has, or when its time is over (RFC 9112 section 9.6).

        Closing a socket with octets to read resets the connection, and the client may lose its answer.
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
        """Close so that the client can't take what it got for the whole."""
        self._break()
        self.close()

    def _break(self) -> None:
        """Send nothing more, and have the client's next receive() fail once the socket is closed."""
        with contextlib.suppress(OSError):
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.broken = True

    def close(self) -> None:
        """Close now. An application that is still answering learns it by its iterable's close().

        Every step is taken, whatever another one raises. Only a Ctrl-C in the application is raised from here.
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
            self.server.loop.requests += 1  # whatever became of it
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
                try:  # noqa: SIM105 - suppress() takes longer than what is tried
                    self.sock.close()
                except OSError:  # the descriptor is closed all the same
                    pass

    def _log_unanswered(self, request: Request) -> None:
        """Log a request whose client is gone before it was whole."""
        try:
            self.server.front.log_request(request, "-", 0)
        except Exception:
            self.server.front.handle_error(self.sock, self.address)
