"""What event loops share: their servers and connections, accepting, deadlines, and how they stop.

``SingleLoop`` runs in one thread, ``SharedLoop`` in several.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING

from .connection import MOMENT, Connection
from .phases import ASKED_TO_STOP, LAST_REQUESTS, RETIRED, SERVING, STOPPED
from .poller import WakeUp

if TYPE_CHECKING:
    from fastwsgi._http.settings import Settings

    from .event_server import EventServer

# How often deadlines are looked at: a sweep costs less than a tenth of a microsecond for each connection.
_TICK = 1.0


class EventLoop:
    """Serves the connections of one or more servers.

    settings: limits and timeouts. Raises OSError if the system has no descriptors for it.
    """

    #: Whether several threads run it.
    is_shared = False

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        #: How many requests were answered on the general path, bad ones among them.
        self.requests = 0
        #: How far it is with stopping: SERVING, or what comes after that.
        self.phase = SERVING
        self.connections: dict[int, Connection] = {}
        #: By the descriptor of the socket that each listens to.
        self.servers: dict[int, EventServer] = {}
        #: False while there is no room for another connection, or no descriptor.
        self._accepting = True
        shortest = min(
            settings.head_timeout, settings.keep_alive_timeout, settings.progress_timeout, settings.linger_timeout
        )
        self._tick = min(_TICK, shortest / 4)
        self._next_sweep = 0.0
        #: While it stops: connections that may have to be waited for.
        self._awaited: list[Connection] = []
        self._wake_up = WakeUp()
        try:
            self._open_poller()
        except BaseException:
            self._wake_up.close()
            raise

    # ---- what each kind of loop does in its own way --------------------------------------------------

    def _open_poller(self) -> None:
        raise NotImplementedError

    def _close_poller(self) -> None:
        raise NotImplementedError

    def _watch_listener(self, fd: int, is_new: bool = False) -> None:
        """Report when a client is at a listening socket."""
        raise NotImplementedError

    def _pause_accepting(self) -> None:
        """Accept nobody for the time being."""
        raise NotImplementedError

    def watch(self, connection: Connection, events: int) -> None:
        """Watch a connection's socket for these events only."""
        raise NotImplementedError

    def forget(self, connection: Connection) -> None:
        """Take note that a connection is about to close its socket."""
        raise NotImplementedError

    def accept_all(self, server: EventServer) -> None:
        """Accept every client that waits, before the listening socket is closed and they are turned away."""
        raise NotImplementedError

    def finish(
        self, timeout: float, *, patiently: bool = False, actions: Callable[[], None] = lambda: None
    ) -> None:
        """Accept nothing more, answer what has been received, and give clients a moment to read it.

        timeout: seconds; patiently: whether to wait also for requests that have come in part and, for a moment, for
        those of clients that had an answer just now; actions: called again and again.
        """
        raise NotImplementedError

    # ---- connections ---------------------------------------------------------------------------------

    def add(self, server: EventServer) -> None:
        """Have a server's listening socket watched."""
        self.servers[server.listener_fd] = server
        self._watch_listener(server.listener_fd, is_new=True)

    def _remove(self, connection: Connection) -> None:
        """Serve a connection no more, and make room for another one."""
        if self.connections.get(connection.fd) is connection:
            del self.connections[connection.fd]
        if not self._accepting:
            self._resume_accepting()

    def _accept_next(self, server: EventServer) -> tuple[bool, Connection | None]:
        """Accept a client: whether others may wait, and the connection with this one unless it's gone or not wanted."""
        if len(self.connections) >= self.settings.max_connections:
            self._pause_accepting()
            return False, None
        try:
            accepted = server.accept()
        except ConnectionError:
            return True, None
        except OSError:
            # No descriptors, or what the network did to a connection that nobody has seen. Until a connection is
            # closed, or the next tick: level-triggered, it would be reported again.
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
            except OSError:  # no memory for it in the kernel: at the next tick, perhaps
                self._pause_accepting()

    def _fail(self, connection: Connection) -> None:
        """Something raised that shouldn't: a hook, or the answer to an error."""
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
        """Be in a later phase of stopping, or in the one that was reached."""
        self.phase = max(self.phase, phase)

    def wake(self) -> None:
        """End the wait for events, from any thread."""
        self._wake_up.wake()

    def close_each(self) -> None:
        """From now on close each connection after the request that it is at, which the lanes don't do."""
        self._reach(LAST_REQUESTS)
        self._tick = min(self._tick, MOMENT / 10)
        for server in self.servers.values():
            server.close_lanes()

    def ask_to_stop(self) -> None:
        """Have what runs the loop return, after the request that it is at; from any thread, or a signal handler."""
        self._reach(ASKED_TO_STOP)
        self.close_each()
        self.wake()

    def stop(self) -> None:
        """Wait for nobody any more, from any thread; what runs the loop closes everything then."""
        self._reach(STOPPED)
        self.wake()

    def retire(self) -> None:
        """Accept no more, and close each connection after the request that it is at."""
        self._reach(RETIRED)
        self._pause_accepting()
        self.close_each()

    def _close_idle(self, connection: Connection, patiently: bool) -> None:
        """Close a connection that is between requests, at once or after a moment."""
        if not connection.state.is_idle:
            return
        left = connection.deadline - monotonic()
        if patiently and left <= MOMENT:
            return  # its time is as good as over, or this is the moment that it has
        times = self.settings.keep_alive_timeout, self.settings.head_timeout
        if patiently and (any(time - MOMENT < left <= time for time in times) or connection.has_input()):
            connection.deadline = monotonic() + MOMENT  # its client is busy: it's about to ask again, or has
        else:
            connection.close()

    def _is_waited_for(self, patiently: bool) -> bool:
        """Whether there is a connection that stopping should wait for.

        Each is looked at until it's answered, and then no more, or ten thousand would be looked at in each turn; when
        there are none left, all once again, for others may have begun to be answered meanwhile.
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
        """Close every connection, and give the listening sockets back as they were; when no thread runs it any more."""
        self._reach(STOPPED)
        with contextlib.ExitStack() as steps:  # each is taken, whatever another one raises
            steps.callback(self._give_back)
            for connection in list(self.connections.values()):
                steps.callback(connection.close)

    def _give_back(self) -> None:
        self._pause_accepting()
        self._close_poller()
        self._wake_up.close()
        for server in self.servers.values():
            server.give_listener_back()
