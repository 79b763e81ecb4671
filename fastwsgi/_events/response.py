"""One WSGI call on a connection: start_response, write, iterate, close, and the framing of the answer.

A response is a SimpleHandler that can pause. ``run()`` calls the application. ``advance()`` takes blocks of its
iterable until it ends, or until the output queue is full because the client reads slowly. The connection calls
``advance()`` again when the queue has been sent.
"""

from __future__ import annotations

import io
import itertools
import os
import stat
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextvars import Context, copy_context
from threading import get_ident
from time import sleep
from typing import TYPE_CHECKING, Any, Protocol

from fastwsgi._backend import FileWrapper
from fastwsgi._http.answer import frame_answer
from fastwsgi._http.gather import gathered
from fastwsgi._http.spool import discard
from fastwsgi.handlers import BaseHandler, SimpleHandler

from .output import FileRange

if TYPE_CHECKING:
    from fastwsgi._backend import Request
    from fastwsgi.handlers import ExcInfo
    from fastwsgi.types import ErrorStream, WSGIApplication, WSGIEnvironment

# An application's exception class may define properties with these names. These getters don't run its code.
_cause_of: Callable[[BaseException], BaseException | None] = vars(BaseException)["__cause__"].__get__
_context_of: Callable[[BaseException], BaseException | None] = vars(BaseException)["__context__"].__get__
# How many exceptions of a chain are checked: a program can make the chain a circle.
_LONGEST_CHAIN = 50
_setting_gates = threading.RLock()
_MOMENT = 0.0001  # seconds
_OPTIONS = {"close": b"Connection: close\r\n", "keep-alive": b"Connection: keep-alive\r\n"}
# How many blocks are taken from an iterable before other connections have their turn.
_BLOCKS_A_TURN = 256


class Client(Protocol):
    """What a response needs of its connection."""

    def send(self, data: bytes, is_rest: bool = False, /) -> None:
        """Send octets, or keep them until the socket takes them. Raises ConnectionError if the client is gone.

        is_rest: whether they continue the octets of the last call, and are kept in the same place.
        """

    def is_gone(self) -> bool:
        """Whether the connection is broken."""
        ...

    def send_file(self, file_range: FileRange) -> None:
        """Send octets of a file, which must stay open until they are sent."""

    def unsent(self) -> int:
        """How many octets wait to be sent."""
        ...

    def is_full(self) -> bool:
        """Whether the output queue is full, so that the application should wait."""
        ...

    def wait_for_room(self) -> None:
        """Wait until the queue has room. Raises ConnectionError if the client has gone or is too slow."""

    def has_sent_all(self) -> bool:
        """Whether nothing waits to be sent."""
        ...

    def is_ending(self) -> bool:
        """Whether the answer must be the last one, because the server stops."""
        ...

    def must_end(self, error: BaseException) -> bool:
        """Whether an exception from the application must end the server: only a Ctrl-C does."""
        ...


class ResponseFront(Protocol):
    """What a response needs of the server's front."""

    #: The HTTP version of our answers: "1.1" or "1.0".
    http_version: str
    #: Whether other processes serve the application too.
    multiprocess: bool
    #: Called with a complete environ, to change it; None if nothing has to be changed.
    revise: Callable[[WSGIEnvironment], None] | None

    def error_stream(self, request: Request) -> ErrorStream:
        """The stream for ``wsgi.errors``."""
        ...

    def log_request(self, request: Request, status: str, size: int) -> None:
        """Log a request. status: three digits, or "-" without an answer; size: octets of the body sent."""

    def log_error(self, request: Request, message: str, *args: object) -> None:
        """Log an error in the answer to a request."""


class Response(SimpleHandler):
    """Runs an application for one request, and sends its answer.

    client: the connection; front: the server's front; request: the request to answer; environ: the request's part of
    its environ; body: the stream for ``wsgi.input``; multithread: whether it runs in one of several threads. Then it
    never pauses, because an iterable must stay in its thread.
    """

    # Of an instance's own dictionary CPython shares the keys only as long as there are few.
    __slots__ = (
        "_blocks", "_bodiless", "_chunked", "_file", "_gate", "_in_body", "_is_empty", "_is_inside", "_is_shut",
        "_pieces", "_room", "_surplus", "_thread", "client", "context", "ends_with_connection", "finished", "front",
        "must_reset", "persistent", "request",
    )  # fmt: skip

    stdin: Any

    def __init__(
        self,
        client: Client,
        front: ResponseFront,
        request: Request,
        environ: WSGIEnvironment,
        body: Any,
        multithread: bool,
    ) -> None:
        # No stream for the answer, because _write() is overridden. No super() either: it takes as long as the
        # method that it finds.
        no_stream: Any = None
        SimpleHandler.__init__(
            self, body, no_stream, front.error_stream(request), environ, multithread, front.multiprocess
        )
        self.client = client
        self.front = front
        self.request = request
        self.http_version = front.http_version
        #: Whether the connection can be used for another request after this one.
        self.persistent = request.is_persistent
        #: Whether the answer has ended: the iterable is closed, and the request is logged.
        self.finished = False
        #: Whether the body ends only when the connection is closed.
        self.ends_with_connection = False
        #: Whether the client has part of a body that would look complete if the connection were closed normally.
        self.must_reset = False
        #: The application's context variables, kept apart because others run in this thread while it pauses. None while
        #: the context is entered.
        self.context: Context | None = None
        self._blocks: Iterator[bytes] | None = None
        self._file: Any = None
        self._in_body = self._is_empty = self._bodiless = self._chunked = self._surplus = False
        self._room: int | None = None  # octets that the Content-Length still allows
        self._pieces: list[bytes] = []
        # The application may keep start_response() and write(), and call them at any time, in any thread. Such a call
        # takes a lock, the gate, which the first call creates. If the gate exists, the answer's own thread takes it
        # too. If not, that thread sets _is_inside while it writes, and other threads wait until it is cleared.
        self._thread = get_ident()
        self._is_inside = False
        self._gate: threading.RLock | None = None
        #: Whether calls of the application are refused from now on.
        self._is_shut = False

    # ---- run, pause, end -----------------------------------------------------------------------------

    def run(self, application: WSGIApplication) -> None:
        """Call the application and begin to answer. Exceptions that leave this method aren't the application's."""
        context = copy_context()
        try:
            context.run(self._run, application)
        finally:
            if not self.finished:
                self.context = context

    def _in_context(self, step: Callable[..., None], *arguments: Any) -> None:
        """Run a step that may call the application's code in its context, unless that is entered already."""
        context, self.context = self.context, None
        if context is None:
            step(*arguments)
            return
        try:
            context.run(step, *arguments)
        finally:
            self.context = None if self.finished else context

    def _run(self, application: WSGIApplication) -> None:
        try:
            self.setup_environ()
            self.result = application(self.environ, self.start_response)
        except BaseException as error:
            self.fail(error)
        else:
            self._advance()

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], None]:
        gate = self._taken_gate() if get_ident() != self._thread else None
        try:
            if self._is_shut:
                raise AssertionError("the response is complete")
            SimpleHandler.start_response(self, status, headers, exc_info)
        finally:
            if gate is not None:
                gate.release()
        return self.write_for_application

    def write_for_application(self, data: bytes) -> None:
        """The write() that start_response() returns to the application."""
        gate = self._taken_gate()
        try:
            if self._is_shut:
                raise AssertionError("the response is complete")
            self.write(data)
        finally:
            gate.release()

    def _taken_gate(self) -> threading.RLock:
        """Acquire the gate and return it. The caller must release it."""
        with _setting_gates:
            gate = self._gate = self._gate or threading.RLock()
        gate.acquire()
        while self._is_inside and get_ident() != self._thread:
            sleep(_MOMENT)
        return gate

    def _shut(self) -> None:
        """Refuse further calls of the application. When this returns, calls in other threads have ended."""
        self._is_shut = True
        if self._gate is not None:
            with self._gate:
                pass

    def advance(self) -> None:
        """Continue with the iterable."""
        self._in_context(self._advance)

    def _advance(self) -> None:
        try:
            if self._blocks is None:
                if self._file is not None or (self.result_is_file() and self.sendfile()):
                    # The file belongs to the application and is closed with the iterable, so send it all before that.
                    if self.wsgi_multithread or self.client.has_sent_all():
                        self._finish()
                    return
                self._blocks = iter(self.result)
            if self._take_blocks(self._blocks):
                self._shut()
                self.finish_content()
                self._finish()
        except BaseException as error:
            self.fail(error)

    def head_was_sent(self, chunked: bool, room: int | None) -> None:
        """The fast lane has sent the head, and bytes_sent octets of the body. room: what Content-Length leaves."""
        self._in_body, self._chunked, self._room = True, chunked, room

    def belongs_to(self, thread: int) -> None:
        """Set the thread that answers, which may not be the one that made this object."""
        self._thread = thread

    def go_on_with(self, result: Any, blocks: Iterator[bytes] | None, block: bytes | None) -> None:
        """Take over the application's result from the fast lane. block: the last one taken, which wasn't sent."""
        self.result = result
        self._blocks = blocks if block is None or blocks is None else itertools.chain((block,), blocks)

    def _take_blocks(self, blocks: Iterator[bytes]) -> bool:
        """Take blocks and write them. Return whether the iterable has ended."""
        for taken, data in enumerate(blocks, 1):
            if data != b"" or not self.status:  # an empty block doesn't send the headers
                self._is_inside = True
                if self._gate is None:
                    self.write(data)
                else:
                    self._is_inside = False
                    with self._gate:
                        self.write(data)
                self._is_inside = False
            if not self.wsgi_multithread:
                if taken == _BLOCKS_A_TURN or self.client.is_full():
                    return False
            else:
                self.client.wait_for_room()
        return True

    def finish_content(self) -> None:
        if not self.headers_sent:
            self._is_empty = True
            self.send_headers()
        if self._chunked:
            self._pieces.append(b"0\r\n\r\n")
        if self._pieces:
            self._flush()

    def _finish(self) -> None:
        """End a complete answer: log a wrong Content-Length, and close."""
        self.finished = True
        if self._room or self._surplus:
            if self._room:
                self.persistent = False
            try:
                difference = "more" if self._surplus else "fewer"
                self.front.log_error(
                    self.request, "The application's body has %s bytes than its Content-Length", difference
                )
            except BaseException as error:
                self.too_late(error)
        self._close()

    def _close(self) -> None:
        """Log the request, and close the iterable and the body. Every answer ends with exactly one call of this."""
        try:
            self.close()
        except BaseException as error:
            self.too_late(error)
        finally:
            if type(self.stdin) is not io.BytesIO:
                discard(self.stdin)

    def close(self) -> None:
        """Log the request; then close as ``BaseHandler`` does."""
        try:
            self.front.log_request(self.request, self.status[:3] if self.status else "-", self.bytes_sent)
        finally:
            BaseHandler.close(self)

    def setup_environ(self) -> None:
        SimpleHandler.setup_environ(self)
        environ = self.request.environ = self.environ
        revise = self.front.revise
        if revise is not None:
            revise(environ)
            self.request.client = environ["REMOTE_ADDR"], environ["REMOTE_PORT"]

    def too_late(self, error: BaseException) -> None:
        """Log an exception of the application or a hook after the answer. Raise it again if it's a Ctrl-C."""
        self._log_error(error)
        if self.client.must_end(error):
            raise error

    def fail(self, error: BaseException) -> None:
        """Close the iterable, log the exception being handled, and answer 500 if nothing was sent."""
        self._in_context(self._fail, error)

    def _fail(self, error: BaseException) -> None:
        if self.finished:
            raise error  # a Ctrl-C while the iterable was closed
        self._is_inside = False
        self._shut()
        if not self.client.is_gone():
            self._answer_error(error)
        else:
            if not _tells_of_a_departure(error):
                self._log_error(error)
            self._give_up()
        if self.client.must_end(error):
            raise error

    def _answer_error(self, error: BaseException) -> None:
        """Answer 500, or break off an answer that has begun; then log the error and the request."""
        result, self.result = self.result, None
        try:
            if hasattr(result, "close"):
                result.close()
        except BaseException as another:
            self.too_late(another)
        self._pieces.clear()
        self._file, self._is_empty = None, False
        self.headers_sent = self._in_body  # a head that raised an error was not sent
        try:
            is_answered = not self.headers_sent and self._send_error()
            if not is_answered:
                self._break_off()
        finally:
            self._log_error(error)  # after the answer, because the error stream may block
        if is_answered:
            self._finish()
        else:
            self._close()

    def _send_error(self) -> bool:
        """Send the answer to an error. Return False if the client has gone."""
        self.result = self.error_output(self.environ, super().start_response)
        try:
            for data in self.result:
                self.write(data)
            self.finish_content()
        except ConnectionError:
            return False
        return True

    def _log_error(self, error: BaseException) -> None:
        try:
            self.log_exception((type(error), error, error.__traceback__))  # type: ignore[arg-type]
        except BaseException as another:  # an exception object can raise in its own methods
            if self.client.must_end(another):
                raise

    def abandon(self) -> None:
        """End the answer early: the client has gone, or the connection is being closed."""
        self._shut()
        self._in_context(self._give_up)

    def _give_up(self) -> None:
        self.bytes_sent = max(self.bytes_sent - self.client.unsent(), 0)
        self._break_off()
        self._close()

    def _break_off(self) -> None:
        """Mark an incomplete answer as ended; the client must not mistake it for a complete one."""
        self.finished = True
        self.persistent = False
        self.must_reset = self.ends_with_connection

    # ---- framing -------------------------------------------------------------------------------------

    def _frame(self) -> bytes:
        """Decide the framing of the answer. Return the header lines to add for it."""
        headers = self.headers
        assert headers is not None
        lengths = headers.get_all("Content-Length")
        framing = frame_answer(
            self.status,  # type: ignore[arg-type]
            lengths,
            self._size,
            is_head=self.request.method == "HEAD",
            modern=self.request.version != "HTTP/1.0",
            persistent=self.persistent and not self.client.is_ending(),
            version=self.http_version,
        )
        self._bodiless, self._room, length, self._chunked, self.ends_with_connection, self.persistent, option = framing
        # Don't change the application's list, because it may use the list again.
        added = b""
        if length:
            added = b"Content-Length: %s\r\n" % length.encode()
        elif length is not None and lengths:
            self._drop("Content-Length")
        if self._chunked:
            self._drop("Transfer-Encoding")
            added += b"Transfer-Encoding: chunked\r\n"
        if option is not None:
            self._drop("Connection")
            added += _OPTIONS[option]
        return added

    def _drop(self, name: str) -> None:
        """Leave a field out. An application can add it to its list after start_response() has checked that."""
        headers = self.headers
        assert headers is not None
        if name in headers:
            self.headers = self.headers_class(headers.items())
            del self.headers[name]

    def _size(self) -> int | None:
        """The size of the body in octets, or None if it is unknown before the body is sent."""
        if self._file is not None:
            return self._file.count  # type: ignore[no-any-return]
        if self._is_empty:
            # An application may answer HEAD without the body that it has for GET.
            return None if self.request.method == "HEAD" else 0
        if type(self.result) in (list, tuple):
            return sum(map(len, self.result))
        try:
            return self.bytes_sent if len(self.result) == 1 else None
        except (TypeError, AttributeError, NotImplementedError):
            return None

    def client_is_modern(self) -> bool:
        return True  # HTTP/0.9 is refused earlier. Don't read the environ: the application may have cleared it.

    def sendfile(self) -> bool:
        """Send a regular file without reading it; PEP 3333, "Optional Platform-Specific File Handling"."""
        if self.headers_sent:
            return False
        file = _rest_of_file(self.result)
        if file is not None and self.wsgi_multithread:
            try:
                file = file.duplicate()
            except OSError:
                file = None  # no descriptors are left, so read the file instead
        self._file = file
        if file is None:
            return False
        self._shut()
        is_sent = False
        try:
            self.send_headers()
            if self._room is not None:
                file.count = min(file.count, self._room)
                self._room -= file.count
            self._flush()
            if not self._bodiless:
                self.bytes_sent = file.count
                is_sent = True
                self.client.send_file(file)
        finally:
            if file.ours and not is_sent:
                discard(file.file)
        return True

    def send_headers(self) -> None:
        added = self._frame()
        fields = bytes(self.headers)  # type: ignore[arg-type]  # any error must come before something is sent
        self.headers_sent = True
        self.send_preamble()
        self._pieces.append(fields[:-2] + added + b"\r\n" if added else fields)
        self._in_body = True

    def _write(self, data: bytes) -> None:
        if not self._in_body:
            self._pieces.append(data)
            return
        size = len(data)
        if self._bodiless:
            self.bytes_sent -= size
        elif self._chunked:
            if size:  # an empty chunk would end the body
                self._pieces += (b"%x\r\n" % size, data, b"\r\n")
        elif self._room is None or size <= self._room:
            self._pieces.append(data)
            if self._room is not None:
                self._room -= size
        else:
            self._surplus = True
            self._pieces.append(data[: self._room])
            self.bytes_sent -= size - self._room
            self._room = 0

    def _flush(self) -> None:
        pieces, self._pieces = self._pieces, []
        try:
            is_rest = False
            for data in gathered(pieces):
                self.client.send(data, is_rest)
                is_rest = True
        except ConnectionError:
            # An estimate, because the pieces include the head and the framing of chunks.
            self.bytes_sent = max(self.bytes_sent - sum(map(len, pieces)), 0)
            raise


def _tells_of_a_departure(error: BaseException) -> bool:
    """Whether an error says that the client has gone, or was caused by such an error."""
    cause: BaseException | None = error
    for _ in range(_LONGEST_CHAIN):
        if cause is None or issubclass(type(cause), ConnectionError):
            break
        cause = _cause_of(cause) or _context_of(cause)
    return cause is not None


def _rest_of_file(result: Any) -> FileRange | None:
    """The range of a regular file that a FileWrapper would read, or None if its content may differ from the file's."""
    if type(result) is not FileWrapper:
        return None
    file = result.filelike
    if isinstance(file, tempfile._TemporaryFileWrapper):
        file = file.file
    # Other classes may read something else than their fileno() has, as a GzipFile does.
    is_buffered = type(file) in (io.BufferedReader, io.BufferedRandom)
    raw = file.raw if is_buffered else file  # pyright: ignore[reportAttributeAccessIssue]
    if type(raw) is not io.FileIO or raw.closed or not raw.readable():
        return None
    if raw.writable():
        file.flush()
    status = os.fstat(raw.fileno())
    if not stat.S_ISREG(status.st_mode):
        return None
    offset = file.tell()
    if status.st_size <= offset:
        return None  # the file has no more octets, or no known size, as in /proc
    return FileRange(raw, offset, status.st_size - offset)
