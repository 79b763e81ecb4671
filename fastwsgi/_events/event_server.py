"""The event-driven server of one listening socket: accept, welcome, make handlers and responses, log.

Who listens, which classes are asked and which hooks are called, is the business of the ``socketserver`` server in
front, of which this is the inside. When something is done, is the loop's.
"""

from __future__ import annotations

import io
import os
import socket
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from fastwsgi._backend import FastLane, load_pure
from fastwsgi._http.grammar import BadRequest
from fastwsgi._http.settings import Settings
from fastwsgi._http.spool import find_directory
from fastwsgi.handlers import error_stream

from .connection import Connection
from .connection import Loop as ConnectionLoop
from .lane import MEMOS, teach
from .response import Response
from .socket_kinds import is_tls
from .transport import PLAIN, TLS, is_departure

if TYPE_CHECKING:
    from fastwsgi.types import WSGIApplication, WSGIEnvironment

# While it may still be loaded: who serves may change the root of its file system, or become somebody else.
load_pure()

# How many connections may wait to be accepted: socketserver's 5 are soon full, and then clients try again in a second.
_BACKLOG = 1024


def _write_to_stderr(lines: str) -> None:
    if sys.stderr is not None:
        sys.stderr.write(lines)


class Loop(ConnectionLoop, Protocol):
    """What a server needs of the loop that serves its connections."""

    def add(self, server: Any) -> None:
        """Have its ``accept()`` called when a client is at the socket ``listener_fd``."""


class EventServer:
    """Serves the connections of one listening socket.

    front: the ``WSGIServer``, for its socket, hooks and application; handler_class: whose hooks see each request;
    response_class: a subclass of Response; loop: which serves its connections; http_version: "1.1" or "1.0";
    listens_again: whether the socket's backlog is ours to choose; has_app_hook: whether front overrides how the
    application is got; has_environ_hooks, has_log_hooks: whether handler_class overrides what an environ or a log
    line is made of; logs: whether requests are logged at all; write_log: takes lines for the log; revise: changes an
    environ that is otherwise whole, by what is in it; threads: how many run the loop; begins_with_proxy: whether each
    connection begins with a PROXY protocol header; is_interruptible: whether a Ctrl-C is a KeyboardInterrupt here, and
    not a signal that somebody has a handler for.
    """

    def __init__(
        self,
        front: Any,
        handler_class: type[Any],
        response_class: type[Response],
        settings: Settings,
        loop: Loop,
        *,
        http_version: str = "1.1",
        listens_again: bool = False,
        has_app_hook: bool = False,
        has_environ_hooks: bool = False,
        has_log_hooks: bool = False,
        logs: bool = True,
        write_log: Callable[[str], object] = _write_to_stderr,
        revise: Callable[[WSGIEnvironment], None] | None = None,
        threads: int = 1,
        begins_with_proxy: bool = False,
        is_interruptible: bool = True,
    ) -> None:
        self.front = front
        self.handler_class = handler_class
        self.response_class = response_class
        self.settings = settings
        self.loop = loop
        self.http_version = http_version
        self.has_app_hook = has_app_hook
        self.has_log_hooks = has_log_hooks
        self.logs = logs
        self.write_log = write_log
        self.revise = revise
        self.begins_with_proxy = begins_with_proxy
        self.is_interruptible = is_interruptible
        self.get_app: Callable[[], WSGIApplication] = front.get_app
        self._listener: socket.socket = front.socket
        self.transport = TLS if is_tls(self._listener) else PLAIN
        #: The listening socket's own, to which it returns.
        self.listener_timeout = self._listener.gettimeout()
        self.listener_fd = self._listener.fileno()
        #: What the lanes remember of connections, by descriptor: so many have a place at a time.
        self.memos: list[Any] = [None] * MEMOS
        #: One for each thread, or none.
        self.lanes: list[FastLane] = []
        self.taught: tuple[WSGIEnvironment, WSGIEnvironment] | None = None
        if listens_again:
            self._listener.listen(_BACKLOG)
        if self.listener_timeout is None and hasattr(os, "set_blocking") and os.name != "nt":
            # For good: other processes may be listening on the socket, and none must wait in accept(). To Python it
            # stays a socket without a timeout.
            os.set_blocking(self.listener_fd, False)
        else:
            self._listener.setblocking(False)
        find_directory()
        loop.add(self)
        if settings.fast_lane and self.transport is PLAIN and not has_environ_hooks:
            self.lanes = [FastLane(self) for _ in range(threads)]
            for lane in self.lanes:
                teach(lane, self)

    def is_for(self, listener: socket.socket, handler_class: object, settings: Settings) -> bool:
        """Whether this is what it would be if it were made now."""
        return (
            self._listener is listener
            and self.handler_class is handler_class
            and self.settings is settings
            and (self.transport is TLS) == is_tls(listener)
        )

    def give_listener_back(self) -> None:
        """Leave the listening socket as it was."""
        if self._listener.fileno() >= 0 and self._listener.gettimeout() != self.listener_timeout:
            self._listener.settimeout(self.listener_timeout)

    def handle_error(self, sock: socket.socket, address: Any) -> None:
        """An exception is being handled that belongs to a connection, and to no response."""
        self.front.handle_error(sock, address)

    def must_end(self, error: BaseException) -> bool:
        """Whether what an application has raised is a Ctrl-C: only the main thread is interrupted by one."""
        return (
            self.is_interruptible
            and issubclass(type(error), KeyboardInterrupt)
            and threading.current_thread() is threading.main_thread()
        )

    def error_stream(self) -> Any:
        """``wsgi.errors`` for a lane, which finds that there is no standard error."""
        return error_stream()

    # ---- accepting -----------------------------------------------------------------------------------

    def accept(self) -> tuple[socket.socket, Any] | None:
        """A client's socket and address, or None if nobody waits.

        Raises ConnectionError if one has gone already, OSError if there are no descriptors.
        """
        try:
            return socket.socket.accept(self._listener)
        except (BlockingIOError, InterruptedError):
            return None

    def welcome(self, sock: socket.socket, address: Any) -> Connection | None:
        """The connection with a client, unless it's gone or not wanted."""
        try:
            sock = self._prepared(sock)
        except Exception as error:
            try:
                if not (isinstance(error, OSError) and is_departure(error)):
                    self.handle_error(sock, address)
            finally:
                sock.close()
            return None
        try:
            accepted = self.front.verify_request(sock, address)
        except Exception:
            try:
                self.handle_error(sock, address)
            except BaseException:
                sock.close()
                raise
            accepted = False
        if not accepted:
            self.loop.requests += 1
            self.front.shutdown_request(sock)
            return None
        return Connection(self, sock, address)

    def _prepared(self, sock: socket.socket) -> socket.socket:
        """A client's socket, or the TLS socket around it, that doesn't block."""
        sock.setblocking(False)
        if sock.family != getattr(socket, "AF_UNIX", None):
            try:  # noqa: SIM105 - suppress() takes longer than what is tried
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError:  # the client has left; or it's done without
                pass
        if self.transport is not TLS:
            return sock
        listener: Any = self._listener
        return listener.context.wrap_socket(  # type: ignore[no-any-return]
            sock,
            server_side=True,
            do_handshake_on_connect=False,
            suppress_ragged_eofs=listener.suppress_ragged_eofs,
        )

    # ---- requests ------------------------------------------------------------------------------------

    def make_handler(self, connection: Connection, request_line: bytes) -> Any:
        """A request handler without a life of its own: it holds one request, for its hooks to see."""
        handler: Any = object.__new__(self.handler_class)
        handler.server = self.front
        handler.request = handler.connection = connection.sock
        handler.client_address = connection.address
        handler.began = connection.began
        handler.protocol_version = f"HTTP/{self.http_version}"
        handler._begin_request(request_line)
        return handler

    def make_response(self, connection: Connection, handler: Any, environ: WSGIEnvironment, body: Any) -> Response:
        """The response for the request that a handler holds."""
        return self.response_class(
            connection,
            handler,
            environ,
            body,
            modern=handler.request_version != "HTTP/1.0",
            persistent=not handler.close_connection,
            multithread=self.loop.is_shared,
            http_version=self.http_version,
        )

    def error_answer(self, handler: Any, error: BadRequest) -> bytes:
        """What a handler's send_error() sends, whatever its hooks for the log do."""
        handler.wfile = answer = io.BytesIO()
        handler.log_error = self._guarded(handler, handler.log_error)
        handler.log_request = self._guarded(handler, handler.log_request)
        try:
            handler._refuse(error)
        finally:
            del handler.log_error, handler.log_request
        return answer.getvalue()

    def _guarded(self, handler: Any, hook: Callable[..., object]) -> Callable[..., None]:
        """A hook of a handler's that raises nothing: handle_error() hears of it."""

        def guarded(*args: Any, **keywords: Any) -> None:
            try:
                hook(*args, **keywords)
            except BaseException as error:
                self.handle_error(handler.request, handler.client_address)
                if self.must_end(error):
                    raise

        return guarded

    # ---- the fast lanes ------------------------------------------------------------------------------

    def refresh_lane(self, lane: FastLane) -> None:
        """Teach a lane what it can't see by itself, after a handler class was changed."""
        if not self.loop.is_closing:
            teach(lane, self)
        if self.loop.is_closing:  # perhaps since just now, and another thread has closed the lanes before
            lane.enabled = False

    def close_lanes(self) -> None:
        """Have everything done on the general path."""
        for lane in self.lanes:
            lane.enabled = False

    def log_request(self, connection: Connection, head: bytes, code: str, size: int) -> None:
        """Log a request that a lane has answered, by its handler's hook."""
        connection.flush_log()
        connection.parsed_handler(head).log_request(code, size)

    def flush_log(self, lane: FastLane) -> None:
        """Write the lines that a lane has collected."""
        lines = lane.take_log()
        if lines:
            try:  # noqa: SIM105 - suppress() takes longer than what is tried
                self.write_log(lines)
            except Exception:  # no log may end a connection or a thread: its requests are answered
                pass

    def flush_logs(self) -> None:
        for lane in self.lanes:
            self.flush_log(lane)
