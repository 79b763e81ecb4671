"""One connection: receive, find requests, have them answered, send; and what time each of that may take.

Everything here runs in the thread of the server's loop, and nothing waits. A connection is in one state:

    PROXY       a proxy is to say who the client is
    HANDSHAKE   TLS is being set up
    HEAD        between requests, or in the middle of a head
    BODY        in the middle of a body
    ANSWER      the application is answering, or its answer is being sent; nothing is received meanwhile
    LINGER      the last answer is sent; the client may still be sending, and then it must be read away
    CLOSED

A request is answered when it is whole, one after the other. The compiled twin's Channel is the base class: as
long as a connection is between requests, it may answer whole requests by itself.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import socket
import struct
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from fastwsgi._backend import Channel, find_head_end, parse_head, parse_request_line
from fastwsgi._http.body import IncomingBody
from fastwsgi._http.framing import check_head
from fastwsgi._http.grammar import BadRequest

from .output import FileError, FileRange, Output
from .poller import READ, WRITE, wait_for
from .proxy_protocol import ProxyHeader
from .transport import PLAIN, Transport, is_departure

if TYPE_CHECKING:
    from fastwsgi._backend import FastLane
    from fastwsgi._http.settings import Settings
    from fastwsgi.types import WSGIApplication, WSGIEnvironment

    from .response import Response

PROXY, HANDSHAKE, HEAD, BODY, ANSWER, LINGER, CLOSED = range(7)

_RECEIVE = 65536
_MOST_READ_AWAY = 16  # times that, before other connections have their turn
#: For so many seconds a client that has just had an answer is likely to ask again.
MOMENT = 1.0
_PATIENCE = 0.5  # seconds for which a thread waits for a client without a look at whether the server stops
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Server(Protocol):
    """What a connection needs of its server."""

    settings: Settings
    transport: Transport
    lanes: list[FastLane]
    begins_with_proxy: bool
    get_app: Callable[[], WSGIApplication]

    @property
    def loop(self) -> Loop:
        """What serves its connections."""
        ...

    def make_handler(self, connection: Connection, request_line: bytes) -> Any:
        """A request handler for a request that begins with this line."""

    def make_response(self, connection: Connection, handler: Any, environ: WSGIEnvironment, body: Any) -> Response:
        """The response for the request that a handler holds."""
        ...

    def error_answer(self, handler: Any, error: BadRequest) -> bytes:
        """The answer to what is no request."""
        ...

    def flush_log(self, lane: FastLane) -> None:
        """Write the lines that a lane has collected."""

    def handle_error(self, sock: socket.socket, address: Any) -> None:
        """Log an exception that is being handled."""

    def must_end(self, error: BaseException) -> bool:
        """Whether what an application has raised is to end the server."""
        ...


class Loop(Protocol):
    """What a connection needs of the loop that serves it."""

    requests: int
    is_closing: bool
    is_stopped: bool
    #: Whether several threads run it, and an application may keep one of them waiting.
    is_shared: bool

    def watch(self, connection: Connection, events: int) -> None:
        """Call on_event() when the socket is ready for these events, and for no others."""

    def forget(self, connection: Connection) -> None:
        """Take note that a connection is about to close its socket."""


class _Sent:
    """A response of the fast lane, of which there is nothing left to do but to send the rest."""

    finished = True
    must_reset = False

    def __init__(self, persistent: bool) -> None:
        self.persistent = persistent


class ClientGoneError(ConnectionAbortedError):
    """The connection broke: nobody is there to be answered."""


class Connection(Channel):
    """A client's connection; ``on_event()`` is called whenever the socket may have become ready.

    server: see Server; sock: the client's socket, which doesn't block; address: the client's.
    """

    __slots__ = (
        "address", "body", "broken", "buffer", "handler", "output", "proxy_header", "request_line_size", "response",
        "scanned", "server", "sock", "state", "watched",
    )  # fmt: skip

    def __init__(self, server: Server, sock: socket.socket, address: Any) -> None:
        super().__init__(sock.fileno(), server.lanes[0] if server.lanes else None)
        self.server = server
        self.sock = sock
        self.address = address
        self.state = HEAD
        #: What was received and not yet understood; None between requests.
        self.buffer: bytearray | None = None
        #: How much of the buffer was searched for the head's end.
        self.scanned = 0
        #: With its line end; 0: not there yet.
        self.request_line_size = 0
        self.handler: Any = None
        self.body: IncomingBody | None = None
        self.response: Response | None = None
        self.output: Output | None = None
        self.broken = False
        self.watched = 0
        self.deadline = monotonic() + server.settings.head_timeout
        self.proxy_header: ProxyHeader | None = None
        if server.begins_with_proxy:
            self.proxy_header = ProxyHeader()
            self.state = PROXY
            self.between_requests = False
        elif server.transport is not PLAIN:
            self.state = HANDSHAKE
            self.between_requests = False

    # ---- events --------------------------------------------------------------------------------------

    def turn(self) -> None:
        """Do what can be done now."""
        try:
            if self.state == ANSWER:
                self._go_on_answering()
            elif self.state == LINGER:
                self._read_away()
            elif self.state == HANDSHAKE:
                self._shake_hands()
            elif self.state == PROXY:
                self._take_proxy_header()
            elif self.state != CLOSED:
                self._read()
        except ClientGoneError:
            self.close()

    def expire(self) -> None:
        """The deadline has passed."""
        if self.state == BODY or (self.state == HEAD and self.buffer):
            try:
                self._refuse(BadRequest(408, "The request took too long"))
            except ClientGoneError:
                self.close()
        elif self.state != HEAD or not self.has_input():  # which may have come after the events that are handled
            self.close()

    def _read(self) -> None:
        transport = self.server.transport
        if self.output:  # 100 (Continue), behind an answer that the client hasn't taken
            self._flush()
            if not self.output:
                self.server.loop.watch(self, READ)
        while self.state in (HEAD, BODY):
            data = self._receive()
            if data is None:
                break
            if not data:
                self._end_of_input()
            else:
                self._take(data)
                if not transport.pending(self.sock):
                    break

    def _receive(self) -> bytes | None:
        try:
            return self.server.transport.receive(self.sock, _RECEIVE)
        except OSError as error:
            raise ClientGoneError from error

    def _end_of_input(self) -> None:
        """The client sends nothing more; what it began, isn't a request."""
        if self.state == BODY or self.buffer:
            self._refuse(BadRequest(400, "Incomplete request"))
        else:
            self.close()

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
                raise ClientGoneError from error  # who isn't the proxy, is told nothing
        self.proxy_header = None
        self.address = header.source or self.address
        self.state = HEAD if self.server.transport is PLAIN else HANDSHAKE
        self.between_requests = self.state == HEAD and self.lane is not None
        self.on_event()

    def _shake_hands(self) -> None:
        try:
            waits_for = self.server.transport.handshake(self.sock)
        except OSError as error:
            raise ClientGoneError from error
        self.server.loop.watch(self, waits_for or READ)
        if not waits_for:
            self.state = HEAD
            self._read()

    def drop_urgent_data(self) -> None:
        """Take an octet of urgent data off the socket, where it's beside the stream and ends each receive()."""
        with contextlib.suppress(OSError):
            socket.socket.recv(self.sock, 1, socket.MSG_OOB)

    # ---- requests ------------------------------------------------------------------------------------

    def _take(self, data: bytes) -> None:
        """Take octets from the client, and have every request answered that is whole by now."""
        if self.state == BODY:
            self.deadline = monotonic() + self.server.settings.progress_timeout
        if self.buffer is None:
            self.deadline = monotonic() + self.server.settings.head_timeout
            self.buffer = bytearray(data)
            self.between_requests = False
        else:
            self.buffer += data
        self._proceed()

    def _proceed(self) -> None:
        try:
            while (self.state == HEAD and self._take_head()) or (self.state == BODY and self._take_body()):
                pass
        except BadRequest as error:
            self._refuse(error)

    def _take_head(self) -> bool:
        """Whether there is a whole head in the buffer; if so, it's taken out, and the body comes next."""
        buffer, settings = self.buffer, self.server.settings
        if buffer and not self.scanned:
            while buffer.startswith(b"\r\n"):
                del buffer[:2]  # RFC 9112 section 2.2
        if not buffer or buffer == b"\r":
            return False
        end = find_head_end(buffer, self.scanned)
        if not self.request_line_size:
            self.request_line_size = buffer.find(b"\n", self.scanned) + 1
            if not self.request_line_size and len(buffer) > settings.max_request_line + 2:
                raise BadRequest(414, "URI Too Long")
            if self.request_line_size and end < 0:  # the answer to a bad line doesn't wait for the lines after it
                parse_request_line(bytes(buffer[: self.request_line_size]), settings.max_request_line)
        fields_size = (end if end > 0 else len(buffer)) - self.request_line_size
        if self.request_line_size and fields_size > settings.max_field_section:
            raise BadRequest(431, "Request Header Fields Too Large")
        if end < 0:
            self.scanned = len(buffer)
            return False
        self.began = now = monotonic()
        self.handler = self.parsed_handler(bytes(buffer[:end]))
        framing = self.handler._framing
        del buffer[:end]
        self.scanned = self.request_line_size = 0
        self.body = IncomingBody(framing.length, settings) if framing.length != 0 else None
        self.state = BODY
        self.deadline = now + settings.progress_timeout
        if framing.expects_continue and not buffer:
            self.send(_CONTINUE)
            if self.output:
                self.server.loop.watch(self, READ | WRITE)
        return True

    def _take_body(self) -> bool:
        """Whether the request is whole; if so, it was given to the application."""
        content = None
        if self.body is not None:
            assert self.buffer is not None
            if not self.body.take(self.buffer):
                return False
            content = self.body.content
        self.state = ANSWER
        environ = self.handler._whole_environ(content.size if content is not None else 0)
        stream = content.rewound() if content is not None else io.BytesIO()
        self.response = self.server.make_response(self, self.handler, environ, stream)
        self.body = None  # the response's, from here on
        self.response.run(self.server.get_app())
        self._see_what_is_left()
        return True

    def _refuse(self, error: BadRequest) -> None:
        """Answer what is no request, and take no other from this client."""
        if self.handler is None:
            self.began = monotonic()
            line = bytes((self.buffer or b"")[: self.server.settings.max_request_line + 2])
            self.handler = self.server.make_handler(self, line[: line.find(b"\n") + 1 or len(line)])
        self._drop_body()
        self.state = ANSWER
        self.deadline = monotonic() + self.server.settings.progress_timeout
        self.send(self.server.error_answer(self.handler, error))
        self._see_what_is_left()

    def _drop_body(self) -> None:
        if self.body is not None:
            self.body.content.close()
        self.body = self.buffer = None

    # ---- answers -------------------------------------------------------------------------------------

    def send(self, data: bytes | memoryview, is_rest: bool = False) -> None:
        """Send octets, or keep them until the socket takes them, with those before if they are the rest of these.

        Raises ClientGoneError if that can't be done; then the connection is broken, and takes nothing more.
        """
        if self.broken or self.state == CLOSED:
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
            self.deadline = monotonic() + self.server.settings.progress_timeout
        return self.output

    def _flush(self) -> None:
        assert self.output is not None
        try:
            if self.output.flush(self.sock, self.server.transport):
                self.deadline = monotonic() + self.server.settings.progress_timeout
        except OSError as error:
            raise self._given_up(error) from error

    def _given_up(self, error: OSError) -> ClientGoneError:
        """Break the connection, since its answer can't be whole any more. Log the error unless the client has left."""
        self._break()
        if isinstance(error, FileError) or not is_departure(error):
            handler = self.handler or self.server.make_handler(self, b"")
            handler._log_failure("The answer can't be sent", error)
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
        return self.broken or self.state == CLOSED

    def unsent(self) -> int:
        return self.output.octets() if self.output is not None else 0

    def is_full(self) -> bool:
        return self.output is not None and self.output.size >= self.server.settings.max_output

    def wait_for_room(self) -> None:
        while self.is_full():
            left = self.deadline - monotonic()
            if left <= 0 or self.server.loop.is_stopped:
                self._break()
                raise ClientGoneError
            if wait_for(self.sock, WRITE, min(left, _PATIENCE)):
                self._flush()

    def has_sent_all(self) -> bool:
        return not self.output

    def is_ending(self) -> bool:
        return self.server.loop.is_closing

    def must_end(self, error: BaseException) -> bool:
        return self.server.must_end(error)

    def _go_on_answering(self) -> None:
        if self.output:
            self._flush()
        if self.response is not None and not self.response.finished and not self.is_full():
            self.response.advance()
        self._see_what_is_left()
        self._proceed()

    def _see_what_is_left(self) -> None:
        """Wait until the client has taken more of the answer, or be done with the request."""
        response = self.response
        if self.broken:
            self.close()
        elif self.output or (response is not None and not response.finished):
            if not self.output:
                self.deadline = monotonic() + self.server.settings.progress_timeout
            self.server.loop.watch(self, WRITE)
        else:
            self._end_request(response)

    def _end_request(self, response: Response | None) -> None:
        client_closes = self.handler is not None and self.handler.close_connection
        self.output = self.response = self.handler = None
        self.server.loop.requests += 1
        if response is not None and response.persistent:
            self._await_request()
        elif response is not None and response.must_reset:
            self.reset()
        elif response is not None and client_closes and not self.buffer:
            self.close()
        else:
            self._close_kindly()

    def _await_request(self) -> None:
        settings = self.server.settings
        self.state = HEAD
        if self.watched:
            self.server.loop.watch(self, READ)
        if self.buffer:
            self.deadline = monotonic() + settings.head_timeout
        else:
            self.buffer = None
            # The answer was begun before the server was to close, and has promised to take another request.
            time = MOMENT if self.server.loop.is_closing else settings.keep_alive_timeout
            self.deadline = monotonic() + min(time, settings.keep_alive_timeout)
            self.between_requests = self.lane is not None

    # ---- what the fast lane hands over ---------------------------------------------------------------

    def client(self) -> tuple[str, str]:
        """The client's address and port, as an environ has them."""
        handler = self.server.make_handler(self, b"")
        return handler._client()  # type: ignore[no-any-return]

    def received(self, data: bytes) -> None:
        """Take octets that were received, and have not been looked at."""
        self.flush_log()
        try:
            self._take(data)
        except ClientGoneError:
            self.close()

    def begin_response(self, head: bytes, environ: WSGIEnvironment, body: Any) -> Response:
        """A response whose application was called already, or is being called."""
        self.flush_log()
        self.handler = self.parsed_handler(head)
        self.state = ANSWER
        self.between_requests = False
        self.response = self.server.make_response(self, self.handler, {}, body)
        self.response.environ = environ
        return self.response

    def flush_log(self) -> None:
        """Write what the lane has logged, before anything that comes later."""
        if self.lane is not None:
            self.server.flush_log(self.lane)

    def parsed_handler(self, head: bytes) -> Any:
        """A request handler for a whole head. Raises BadRequest."""
        settings = self.server.settings
        parsed = parse_head(head, settings.max_request_line, settings.max_fields)
        framing = check_head(parsed, settings)
        handler = self.server.make_handler(self, head[: head.find(b"\n") + 1])
        handler._take_head(parsed, framing)
        return handler

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
        self.state = ANSWER
        self.between_requests = False
        self.buffer = bytearray(rest)
        self.response = _Sent(persistent)  # type: ignore[assignment]
        self._waiting().put(data)
        self._see_what_is_left()

    def close_failed(self, head: bytes, error: BaseException) -> None:
        """Log what an iterable's close() or a log hook has raised after the answer. Raise it again if it's a Ctrl-C."""
        self.flush_log()
        self.server.make_response(self, self.parsed_handler(head), {}, None).too_late(error)

    # ---- the end -------------------------------------------------------------------------------------

    def _close_kindly(self) -> None:
        """Close when the client has, or when its time is over (RFC 9112 section 9.6).

        Closing a socket with octets to read resets the connection, and the client may lose its answer.
        """
        self.buffer = None
        self.between_requests = False
        self.state = LINGER
        self.deadline = monotonic() + self.server.settings.linger_timeout
        self.flush_log()
        self.server.transport.end_of_output(self.sock)
        self.server.loop.watch(self, READ)
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
        state, response, output, handler = self.state, self.response, self.output, self.handler
        if state == CLOSED:
            return
        is_answering = response is not None and not response.finished
        if not self.broken:
            if output or is_answering or (response is not None and response.must_reset):
                self._break()
            elif state not in (PROXY, HANDSHAKE) and self.server.transport is not PLAIN:
                self.server.transport.end_of_output(self.sock)  # RFC 9112 section 9.8: a closure alert first
        if state in (BODY, ANSWER) or self.buffer:
            self.server.loop.requests += 1  # whatever became of it
        self.state = CLOSED
        self.between_requests = False
        self.response = self.handler = None
        try:
            self._drop_body()
            if response is not None and is_answering:
                response.abandon()
            elif state == BODY:
                self._log_unanswered(handler)
            self.flush_log()
        finally:
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

    def _log_unanswered(self, handler: Any) -> None:
        """Log a request whose client is gone before it was whole."""
        try:
            handler.log_request("-", 0)
        except Exception:
            self.server.handle_error(self.sock, self.address)
