"""The event-driven server: listen, accept, hand events to connections, watch the clock, stop.

One thread does all of it. Who listens, which classes are asked and which hooks are called, is the business of the
``socketserver`` server in front, of which this is the inside.
"""

from __future__ import annotations

import contextlib
import io
import os
import socket
import sys
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from fastwsgi._backend import FastLane
from fastwsgi._grammar import BadRequest

from .connection import ANSWER, HEAD, Connection
from .lane import teach
from .loop import READ, WakeUp, make_poller
from .response import Response
from .settings import Settings
from .transport import PLAIN, TLS, is_tls

if TYPE_CHECKING:
    from fastwsgi.types import WSGIApplication, WSGIEnvironment

# How many connections may wait to be accepted: socketserver's 5 are soon full, and then clients try again in a second.
_BACKLOG = 1024
# So many connections are accepted before those that are there have their turn.
_ACCEPTED_AT_ONCE = 64
# How often deadlines are looked at: a sweep costs less than a tenth of a microsecond for each connection.
_TICK = 1.0
# For no time limit, which PyPy's epoll has no word for.
_LONGEST_WAIT = 3600.0
# After so many seconds between requests a connection gives its memo back.
_MEMO_IDLE = 5.0


class EventServer:
    """Serves the connections of one listening socket.

    front: the ``WSGIServer``, for its socket, hooks and application; handler_class: whose hooks see each request;
    response_class: a subclass of Response; http_version: "1.1" or "1.0"; listens_again: whether the
    socket's backlog is ours to choose; has_app_hook: whether front overrides
    how the application is got; has_environ_hooks, has_log_hooks: whether handler_class overrides what an environ or a
    log line is made of.
    """

    def __init__(
        self,
        front: Any,
        handler_class: type[Any],
        response_class: type[Response],
        settings: Settings,
        *,
        http_version: str = "1.1",
        listens_again: bool = False,
        has_app_hook: bool = False,
        has_environ_hooks: bool = False,
        has_log_hooks: bool = False,
    ) -> None:
        self.front = front
        self.handler_class = handler_class
        self.response_class = response_class
        self.settings = settings
        self.http_version = http_version
        self.has_app_hook = has_app_hook
        self.has_log_hooks = has_log_hooks
        self.lane: FastLane | None = None
        #: How many requests were answered, bad ones among them.
        self.requests = 0
        #: Whether each connection is closed after the request that it is at.
        self.is_closing = False
        self.connections: dict[int, Connection] = {}
        self.get_app: Callable[[], WSGIApplication] = front.get_app
        self._listener: socket.socket = front.socket
        self.transport = TLS if is_tls(self._listener) else PLAIN
        #: The listening socket's own, to which it returns.
        self.listener_timeout = self._listener.gettimeout()
        self._listener_fd = self._listener.fileno()
        self._accepting = False
        #: Whether it is to accept nothing more, and to end.
        self.is_stopped = False
        #: Whether serve() or serve_one() runs, perhaps with the caller in one of its applications.
        self.is_running = False
        shortest = min(
            settings.head_timeout, settings.keep_alive_timeout, settings.progress_timeout, settings.linger_timeout
        )
        self._tick = min(_TICK, shortest / 4)
        self._next_sweep = 0.0
        self._wake_up = WakeUp()
        try:
            self.poller = make_poller(settings.poller)
        except BaseException:
            self._wake_up.close()
            raise
        self.poller.watch(self._wake_up.fd, READ)
        if listens_again:
            self._listener.listen(_BACKLOG)
        if self.listener_timeout is None and hasattr(os, "set_blocking") and os.name != "nt":
            # For good: other processes may be listening on the socket, and none must wait in accept(). To Python it
            # stays a socket without a timeout.
            os.set_blocking(self._listener_fd, False)
        else:
            self._listener.setblocking(False)
        self._resume_accepting()
        if settings.fast_lane and self.transport is PLAIN and not has_environ_hooks:
            self.lane = FastLane(self)
            self.refresh_lane()

    def is_for(self, listener: socket.socket, handler_class: object, settings: Settings) -> bool:
        """Whether this is what it would be if it were made now."""
        return (
            self._listener is listener
            and self.handler_class is handler_class
            and self.settings is settings
            and (self.transport is TLS) == is_tls(listener)
        )

    # ---- running -------------------------------------------------------------------------------------

    def serve(self, must_stop: Callable[[], bool], poll_interval: float | None) -> None:
        """Serve until must_stop() says so; it is asked at every event and every poll_interval seconds."""
        service_actions = self.front.service_actions
        self.is_running = True
        try:
            while not (self.is_stopped or must_stop()):
                self._turn(poll_interval)
                service_actions()
        finally:
            self.is_running = False

    def serve_one(self, timeout: float | None) -> bool:
        """Serve until one request was answered, or whatever became of it, or for some seconds; whether one was."""
        self.is_closing = True
        if self.lane is not None:
            self.lane.enabled = False
        end = None if timeout is None else monotonic() + timeout
        before = self.requests
        self.is_running = True
        try:
            self._turn(timeout, one=True)
            while self.requests == before and not self.is_stopped:
                left = None if end is None else end - monotonic()
                if left is not None and left <= 0:
                    return False
                self._turn(left, one=True)
        finally:
            self.is_running = False
        # Clients that only connected are let go: nobody may come back to them.
        for connection in list(self.connections.values()):
            if connection.state == HEAD and not connection.buffer:
                connection.close()
        return True

    def _turn(self, timeout: float | None, one: bool = False) -> None:
        """Wait for events, and have them handled; with one, only until a request was answered."""
        if timeout is None:
            timeout = _LONGEST_WAIT
        if timeout > self._tick and (self.connections or not self._accepting):
            timeout = self._tick
        before = self.requests
        get = self.connections.get
        events = self.poller.wait(timeout)
        now = monotonic()
        for fd, _ in events:
            connection = get(fd)
            if connection is not None:
                try:
                    connection.on_event()
                except Exception:
                    self._fail(connection)
                if one and self.requests != before:
                    break
            elif fd == self._listener_fd:
                self._accept(one)
            else:
                self._wake_up.on_event()
        if self.lane is not None:
            self.flush_log()
        if now >= self._next_sweep:
            self._sweep(now)

    def wake(self) -> None:
        """End the wait for events, from any thread."""
        self._wake_up.wake()

    def stop(self) -> None:
        """Have serve() return, from any thread; what runs it closes everything then."""
        self.is_stopped = True
        self._wake_up.wake()

    def finish(self) -> None:
        """Accept nothing more, answer what has been received, and give clients a moment to read it."""
        self.is_stopped = True
        self._pause_accepting()
        self.is_closing = True
        if self.lane is not None:
            self.lane.enabled = False
        self._turn(0)
        for connection in list(self.connections.values()):
            if connection.state == HEAD and not connection.buffer:
                connection.close()
        end = monotonic() + self.settings.graceful_timeout
        while any(connection.state == ANSWER for connection in self.connections.values()):
            left = end - monotonic()
            if left < 0:
                break
            self._turn(left)

    def close(self) -> None:
        """Close every connection, and give the listening socket back as it was."""
        self.is_stopped = True
        for connection in list(self.connections.values()):
            connection.close()
        self._pause_accepting()
        self.poller.close()
        self._wake_up.close()
        if self._listener.fileno() >= 0 and self._listener.gettimeout() != self.listener_timeout:
            self._listener.settimeout(self.listener_timeout)

    def _fail(self, connection: Connection) -> None:
        """Something raised that shouldn't: a hook, or the answer to an error."""
        try:
            self.front.handle_error(connection.sock, connection.address)
        finally:
            self.requests += 1
            connection.close()

    def _sweep(self, now: float) -> None:
        """Look at the deadlines of all connections.

        now: before this turn's events. What an application took since then, is not its clients' fault.
        """
        self._next_sweep = now + self._tick
        quiet = now + self.settings.keep_alive_timeout - _MEMO_IDLE
        for connection in list(self.connections.values()):
            if connection.deadline <= now:
                try:
                    connection.expire()
                except Exception:
                    self._fail(connection)
            elif connection.deadline <= quiet:
                connection.forget()
        if not self._accepting:
            self._resume_accepting()

    # ---- accepting -----------------------------------------------------------------------------------

    def _accept(self, one: bool) -> None:
        for _ in range(1 if one else _ACCEPTED_AT_ONCE):
            if len(self.connections) >= self.settings.max_connections:
                self._pause_accepting()
                return
            try:
                sock, address = socket.socket.accept(self._listener)
            except (BlockingIOError, InterruptedError):
                return
            except ConnectionError:
                continue
            except OSError:
                # No descriptors, or what the network did to a connection that nobody has seen. Until a connection is
                # closed, or the next tick: level-triggered, it would be reported again.
                self._pause_accepting()
                return
            self._welcome(sock, address)

    def _welcome(self, sock: socket.socket, address: Any) -> None:
        try:
            sock = self._prepared(sock)
        except OSError:
            sock.close()  # gone already
            return
        try:
            accepted = self.front.verify_request(sock, address)
        except Exception:
            try:
                self.front.handle_error(sock, address)
            except BaseException:
                sock.close()
                raise
            accepted = False
        if not accepted:
            self.requests += 1
            self.front.shutdown_request(sock)
            return
        connection = Connection(self, sock, address)
        self.connections[connection.fd] = connection
        try:
            # The request is often there already, and then the poller needn't know.
            connection.on_event()
            if not connection.watched and connection.fd in self.connections:
                connection.watch(READ)
        except Exception:
            self._fail(connection)

    def _prepared(self, sock: socket.socket) -> socket.socket:
        """A client's socket, or the TLS socket around it, that doesn't block."""
        sock.setblocking(False)
        if sock.family != getattr(socket, "AF_UNIX", None):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if self.transport is not TLS:
            return sock
        listener: Any = self._listener
        return listener.context.wrap_socket(  # type: ignore[no-any-return]
            sock,
            server_side=True,
            do_handshake_on_connect=False,
            suppress_ragged_eofs=listener.suppress_ragged_eofs,
        )

    def forget(self, connection: Connection) -> None:
        """A connection is about to close its socket."""
        if connection.watched:
            self.poller.forget(connection.fd)
        del self.connections[connection.fd]
        self.flush_log()
        if not self._accepting:
            self._resume_accepting()

    def _pause_accepting(self) -> None:
        if self._accepting:
            self._accepting = False
            with contextlib.suppress(OSError, KeyError, ValueError):  # which it is if somebody has closed it
                self.poller.forget(self._listener_fd)

    def _resume_accepting(self) -> None:
        if not self.is_stopped and len(self.connections) < self.settings.max_connections:
            self._accepting = True
            self.poller.watch(self._listener_fd, READ)

    # ---- requests ------------------------------------------------------------------------------------

    def make_handler(self, connection: Connection, request_line: bytes) -> Any:
        """A request handler without a life of its own: it holds one request, for its hooks to see."""
        handler: Any = object.__new__(self.handler_class)
        handler.server = self.front
        handler.request = handler.connection = connection.sock
        handler.client_address = connection.address
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
            persistent=not (handler.close_connection or self.is_closing),
            http_version=self.http_version,
        )

    def error_answer(self, handler: Any, error: BadRequest) -> bytes:
        """What a handler's send_error() sends."""
        handler.wfile = answer = io.BytesIO()
        handler.send_error(error.status, explain=error.reason)
        return answer.getvalue()

    def refresh_lane(self) -> None:
        """Teach the fast lane what it can't see by itself: at the start, and when a handler class is changed."""
        if self.lane is not None:
            teach(self.lane, self)

    def log_request(self, connection: Connection, head: bytes, code: str, size: int) -> None:
        """Log a request that the fast lane has answered, by its handler's hook."""
        self.flush_log()
        connection.parsed_handler(head).log_request(code, size)

    # ---- the log -------------------------------------------------------------------------------------

    def flush_log(self) -> None:
        """Write the lines that the fast lane has collected."""
        if self.lane is not None:
            lines = self.lane.take_log()
            if lines and sys.stderr is not None:
                sys.stderr.write(lines)
