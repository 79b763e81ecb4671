"""The base class of the event loops: servers and connections, accepting, deadlines, and stopping.

``SingleLoop`` runs in one thread, ``SharedLoop`` in several.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from itertools import compress, count
from time import monotonic
from typing import TYPE_CHECKING

from .connection import MOMENT, Connection
from .phases import ASKED_TO_STOP, LAST_REQUESTS, RETIRED, SERVING, STOPPED
from .poller import WakeUp

if TYPE_CHECKING:
    from fastwsgi._http.settings import Settings

    from .event_server import EventServer

# How often, in seconds, deadlines are checked. A check takes less than a tenth of a microsecond for each connection.
_TICK = 1.0


class EventLoop:
    """Serves the connections of one or more servers.

    settings: limits and timeouts. Raises OSError if no file descriptors are left.
    """

    #: Whether several threads run the loop.
    is_shared = False

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        #: How many requests were answered on the general path, including bad ones.
        self.requests = 0
        #: How far the loop has got with stopping; see phases.py.
        self.phase = SERVING
        self._reached = [True] + STOPPED * [False]
        self.connections: dict[int, Connection] = {}
        #: The servers by the descriptors of their listening sockets.
        self.servers: dict[int, EventServer] = {}
        #: False while there is no room for another connection or no file descriptor.
        self._accepting = True
        shortest = min(
            settings.head_timeout, settings.keep_alive_timeout, settings.progress_timeout, settings.linger_timeout
        )
        self._tick = min(_TICK, shortest / 4)
        self._next_sweep = 0.0
        #: While the loop stops: connections that may still be answering.
        self._awaited: list[Connection] = []
        self._wake_up = WakeUp()
        try:
            self._open_poller()
        except BaseException:
            self._wake_up.close()
            raise

    # ---- methods that subclasses implement -----------------------------------------------------------

    def _open_poller(self) -> None:
        raise NotImplementedError

    def _close_poller(self) -> None:
        raise NotImplementedError

    def _watch_listener(self, fd: int, is_new: bool = False) -> None:
        """Watch a listening socket for clients."""
        raise NotImplementedError

    def _pause_accepting(self) -> None:
        """Stop accepting for the time being."""
        raise NotImplementedError

    def watch(self, connection: Connection, events: int) -> None:
        """Watch a connection's socket for these events and no others."""
        raise NotImplementedError

    def forget(self, connection: Connection) -> None:
        """Stop serving a connection, which is about to close its socket."""
        raise NotImplementedError

    def accept_all(self, server: EventServer) -> None:
        """Accept every waiting client, because closing the listening socket would reset their connections."""
        raise NotImplementedError

    def finish(
        self, timeout: float, *, patiently: bool = False, actions: Callable[[], None] = lambda: None
    ) -> None:
        """Accept no more clients, answer the requests that have been received, and let clients read the answers.

        timeout: seconds; patiently: whether to wait also for incomplete requests and, for a moment, for the next
        request of a client that has just had an answer; actions: called repeatedly while waiting.
        """
        raise NotImplementedError

    # ---- connections ---------------------------------------------------------------------------------

    def add(self, server: EventServer) -> None:
        """Watch a server's listening socket."""
        self.servers[server.listener_fd] = server
        self._watch_listener(server.listener_fd, is_new=True)

    def _remove(self, connection: Connection) -> None:
        """Forget a connection, and resume accepting if that was paused."""
        if self.connections.get(connection.fd) is connection:
            del self.connections[connection.fd]
        if not self._accepting:
            self._resume_accepting()

    def _accept_next(self, server: EventServer) -> tuple[bool, Connection | None]:
        """Accept a client. Return whether others may wait, and its connection: None if it has gone or was refused."""
        if len(self.connections) >= self.settings.max_connections:
            self._pause_accepting()
            return False, None
        try:
            accepted = server.accept()
        except ConnectionError:
            return True, None
        except OSError:
            # No descriptors are left, or the network broke a connection before it was accepted. Pause until a
            # connection is closed or the next tick: the poller would report the same client again at once.
            self._pause_accepting()
            return False, None
        if accepted is None:
            return False, None
        connection = server.welcome(*accepted)
        if connection is not None:
            self.connections[connection.fd] = connection
        return True, connection

    def _resume_accepting(self) -> None:
        if self.phase < RETIRED and len(self.connections) < self.settings.max_connections:
            self._accepting = True
            try:
                for fd in self.servers:
                    self._watch_listener(fd)
            except OSError:  # the kernel is short of memory: try again at the next tick
                self._pause_accepting()

    def _fail(self, connection: Connection) -> None:
        """Log an exception that nothing else handles, of a hook or of an error answer, and close the connection."""
        try:
            connection.server.front.handle_error(connection.sock, connection.address)
        finally:
            self.requests += 1
            connection.close()

    def _expire(self, connection: Connection) -> None:
        try:
            connection.expire()
        except Exception:
            self._fail(connection)

    # ---- stopping ------------------------------------------------------------------------------------

    def _reach(self, phase: int) -> None:
        """Enter a phase of stopping, unless a later one has been reached."""
        self._reached[phase] = True
        # Without a lock, because a signal handler may interrupt the thread that has it. The last writer sees all.
        while self.phase < (latest := max(compress(count(), self._reached))):
            self.phase = latest

    def wake(self) -> None:
        """End the wait for events. May be called from any thread."""
        self._wake_up.wake()

    def close_each(self) -> None:
        """From now on close each connection after its current request. The lanes can't do that, so close them."""
        self._reach(LAST_REQUESTS)
        self._tick = min(self._tick, MOMENT / 10)
        for server in self.servers.values():
            server.close_lanes()

    def ask_to_stop(self) -> None:
        """Make the call that runs the loop return after the current request.

        May be called from any thread or a signal handler.
        """
        self._reach(ASKED_TO_STOP)
        self.close_each()
        self.wake()

    def stop(self) -> None:
        """Stop without waiting for clients; the caller that runs the loop then closes everything. From any thread."""
        self._reach(STOPPED)
        self.wake()

    def retire(self) -> None:
        """Accept no more clients, and close each connection after its current request."""
        self._reach(RETIRED)
        self._pause_accepting()
        self.close_each()

    def _close_idle(self, connection: Connection, patiently: bool) -> None:
        """Close a connection that is between requests: at once, or patiently after a moment."""
        if not connection.state.is_idle:
            return
        left = connection.deadline - monotonic()
        if patiently and left <= MOMENT:
            return  # it expires soon, or has been given its moment already
        times = self.settings.keep_alive_timeout, self.settings.head_timeout
        if patiently and (any(time - MOMENT < left <= time for time in times) or connection.has_input()):
            connection.deadline = monotonic() + MOMENT  # the client is active: it has sent a request, or soon will
        else:
            connection.close()

    def _is_waited_for(self, patiently: bool) -> bool:
        """Whether there is a connection that stopping should wait for.

        A list of candidates avoids a look at ten thousand connections in each turn: one that has its answer leaves the
        list. When the list is empty, it is filled once more, because other requests may have arrived meanwhile.
        """
        if patiently:
            return bool(self.connections)
        if not self._is_answering():
            self._awaited = list(self.connections.copy().values())
        return self._is_answering()

    def _is_answering(self) -> bool:
        while self._awaited and not self._awaited[-1].state.is_answering:
            self._awaited.pop()
        return bool(self._awaited)

    def close(self) -> None:
        """Close every connection and restore the listening sockets. No thread may be running the loop."""
        self._reach(STOPPED)
        with contextlib.ExitStack() as steps:  # every step runs, even if another one raises
            steps.callback(self._give_back)
            for connection in list(self.connections.values()):
                steps.callback(connection.close)

    def _give_back(self) -> None:
        self._pause_accepting()
        self._close_poller()
        self._wake_up.close()
        for server in self.servers.values():
            server.give_listener_back()
