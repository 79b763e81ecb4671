"""The event-driven server of one listening socket: accept clients, make connections and responses, write the log.

The front decides which hooks are called and what is logged: it connects this server to ``simple_server`` or to
``serve()``. The loop decides when something is done.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from fastwsgi._backend import load_pure
from fastwsgi._http.spool import find_directory
from fastwsgi.handlers import error_stream

from .connection import Connection, ConnectionLoop
from .front import is_ctrl_c
from .lane import MEMOS, make_lanes, teach
from .phases import LAST_REQUESTS
from .response import Client, Response
from .socket_kinds import is_tls
from .states import STATES
from .transport import PLAIN, TLS, is_departure

if TYPE_CHECKING:
    from fastwsgi._backend import Request
    from fastwsgi._http.settings import Settings
    from fastwsgi.types import ErrorStream, WSGIApplication, WSGIEnvironment

    from .channel import FastLane
    from .front import Front

# Load it now: before it serves, a program may change its user or its root directory, and lose access to our files.
load_pure()

# How many connections may wait to be accepted. socketserver allows 5; when they are full, a client waits a second
# before it tries again.
_BACKLOG = 1024


class ServerLoop(ConnectionLoop, Protocol):
    """What a server needs of the loop that serves its connections."""

    def add(self, server: EventServer) -> None:
        """Call the server's ``accept()`` when a client connects to the socket ``listener_fd``."""


class EventServer:
    """Serves the connections of one listening socket.

    front: see ``Front``; settings: limits and timeouts; loop: the event loop that serves the connections; threads: how
    many threads run the loop.
    """

    def __init__(self, front: Front, settings: Settings, loop: ServerLoop, threads: int = 1) -> None:
        self.front = front
        self.settings = settings
        self.loop = loop
        self.times = [getattr(settings, state.timeout) if state.timeout else 0.0 for state in STATES]
        self.get_app: Callable[[], WSGIApplication] = front.get_app
        self._listener: socket.socket = front.listener
        self.transport = TLS if is_tls(self._listener) else PLAIN
        #: The timeout that the listening socket had, and gets back in the end.
        self.listener_timeout = self._listener.gettimeout()
        self.listener_fd = self._listener.fileno()
        #: What the lanes remember of connections (their memos), by descriptor modulo the list's length.
        self.memos: list[Any] = [None] * MEMOS
        #: One lane for each thread, or none.
        self.lanes: list[FastLane] = []
        self.taught: tuple[WSGIEnvironment, WSGIEnvironment] | None = None
        if front.listens_again:
            self._listener.listen(_BACKLOG)
        if self.listener_timeout is None and hasattr(os, "set_blocking") and os.name != "nt":
            # Other processes may accept from the same socket, and then accept() must not block. So the descriptor stays
            # non-blocking, while the Python object keeps its timeout of None.
            os.set_blocking(self.listener_fd, False)
        else:
            self._listener.setblocking(False)
        find_directory()
        loop.add(self)
        if settings.fast_lane and self.transport is PLAIN and not front.has_environ_hooks:
            self.lanes = make_lanes(self, threads)

    @property
    def has_log_hooks(self) -> bool:
        """Whether a hook makes the log lines, for those who look at a server from outside."""
        return self.front.has_log_hooks

    def give_listener_back(self) -> None:
        """Restore the timeout of the listening socket."""
        if self._listener.fileno() >= 0 and self._listener.gettimeout() != self.listener_timeout:
            self._listener.settimeout(self.listener_timeout)

    def must_end(self, error: BaseException) -> bool:
        """Whether an exception from an application must end the server: only a Ctrl-C does."""
        return self.front.is_interruptible and is_ctrl_c(error)

    def error_stream(self) -> ErrorStream:
        """``wsgi.errors`` for a lane, if ``sys.stderr`` is None."""
        return error_stream()

    def make_response(self, client: Client, request: Request, environ: WSGIEnvironment, body: Any) -> Response:
        """Make the object that answers a request on a connection."""
        return self.front.response_class(client, self.front, request, environ, body, self.loop.is_shared)

    # ---- accepting -----------------------------------------------------------------------------------

    def accept(self) -> tuple[socket.socket, Any] | None:
        """Accept a client and return its socket and address, or None if no client waits.

        Raises ConnectionError if the client has gone already, OSError if there are no descriptors.
        """
        try:
            return socket.socket.accept(self._listener)
        except (BlockingIOError, InterruptedError):
            return None

    def welcome(self, sock: socket.socket, address: Any) -> Connection | None:
        """Make the connection for a client; None if the client has gone or the front refuses it."""
        try:
            sock = self._prepared(sock)
        except Exception as error:
            try:
                if not (isinstance(error, OSError) and is_departure(error)):
                    self.front.handle_error(sock, address)
            finally:
                sock.close()
            return None
        try:
            accepted = self.front.accepts(sock, address)
        except Exception:
            try:
                self.front.handle_error(sock, address)
            except BaseException:
                sock.close()
                raise
            accepted = False
        if not accepted:
            self.loop.requests += 1
            self.front.turn_away(sock)
            return None
        return Connection(self, sock, address)

    def _prepared(self, sock: socket.socket) -> socket.socket:
        """Make a client's socket non-blocking, and wrap it in a TLS socket if the listener is one."""
        sock.setblocking(False)
        if sock.family != getattr(socket, "AF_UNIX", None):
            try:  # noqa: SIM105 - suppress() takes longer than the call
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError:  # the client has left, or the socket has no such option
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

    # ---- the fast lanes ------------------------------------------------------------------------------

    def refresh_lane(self, lane: FastLane) -> None:
        """Update what a lane knows of all requests, after a handler class was changed."""
        self.front.notice()
        if self.loop.phase < LAST_REQUESTS and not lane.is_current(self.front.hooks):
            teach(lane, self)
        if self.loop.phase >= LAST_REQUESTS:  # another thread may have changed it and closed the lanes meanwhile
            lane.enabled = False

    def close_lanes(self) -> None:
        """Serve all further requests on the general path."""
        for lane in self.lanes:
            lane.enabled = False

    def log_request(self, connection: Connection, request: Request, code: str, size: int) -> None:
        """Log a request that a lane has answered, if the front has a log hook."""
        connection.flush_log()
        self.front.log_request(request, code, size)

    def flush_log(self, lane: FastLane) -> None:
        """Write the log lines that a lane has collected."""
        lines = lane.take_log()
        if lines:
            try:  # noqa: SIM105 - suppress() takes longer than the call
                self.front.write_log(lines)
            except Exception:  # a log that fails must not end a connection or a thread
                pass

    def flush_logs(self) -> None:
        for lane in self.lanes:
            self.flush_log(lane)
