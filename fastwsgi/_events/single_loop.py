"""The event loop for one thread: wait for sockets, pass events to connections, check deadlines."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping
from time import monotonic
from typing import TYPE_CHECKING

from fastwsgi._backend import accelerator

from .channel import Channel
from .connection import Connection
from .loop import EventLoop
from .phases import ASKED_TO_STOP, STOPPED
from .poller import READ, make_poller
from .states import CLOSED

if TYPE_CHECKING:
    from .event_server import EventServer

# How many connections are accepted before the existing ones have their turn.
_ACCEPTED_AT_ONCE = 64
# And for how many seconds, because each may call a slow application. If the existing connections have just taken
# longer, accepting may take as long as they did.
_ACCEPTING = 0.01
# Stands for no time limit, because PyPy's epoll doesn't accept None.
_LONGEST_WAIT = 3600.0
# A connection that has been idle for this many seconds frees its memo (see lane.py).
_MEMO_IDLE = 5.0


def plain_hand_out(
    events: Iterable[tuple[int, int]], connections: Mapping[int, Channel], fail: Callable[[Connection], None]
) -> list[int]:
    """Call ``on_event()`` of each connection that an event is for; return the descriptors of the other events.

    events: as a poller reports them; connections: by descriptor; fail: called with a connection that raised an
    Exception, while the exception is being handled.
    """
    others = []
    for fd, _ in events:
        connection = connections.get(fd)
        if connection is None:
            others.append(fd)
            continue
        try:
            connection.on_event()
        except Exception:
            fail(connection)  # type: ignore[arg-type]
    return others


hand_out = plain_hand_out if accelerator is None else accelerator.hand_out


class SingleLoop(EventLoop):
    """Serves in the thread that calls it."""

    def _open_poller(self) -> None:
        #: Whether serve() or serve_one() is running; an application that it runs may ask.
        self.is_running = False
        self.poller = make_poller(self.settings.poller)
        self.poller.watch(self._wake_up.fd, READ)

    @property
    def is_stopped(self) -> bool:
        """Whether stop() was called, for example by an application."""
        return self.phase >= STOPPED

    def _close_poller(self) -> None:
        self.poller.close()

    def _watch_listener(self, fd: int, is_new: bool = False) -> None:
        self.poller.watch(fd, READ)

    # ---- running -------------------------------------------------------------------------------------

    def serve(
        self, must_stop: Callable[[], bool], poll_interval: float | None, service_actions: Callable[[], None]
    ) -> None:
        """Serve until must_stop() returns True; it is called after every event and every poll_interval seconds."""
        self.is_running = True
        try:
            while not (self.phase >= ASKED_TO_STOP or must_stop()):
                self._turn(poll_interval)
                service_actions()
        finally:
            self.is_running = False

    def serve_one(self, timeout: float | None) -> bool:
        """Serve until one request has ended, in whatever way, or for timeout seconds. Return whether one has."""
        self.close_each()
        end = None if timeout is None else monotonic() + timeout
        before = self.requests
        self.is_running = True
        try:
            self._turn(timeout, one=True)
            while self.requests == before and self.phase < STOPPED:
                left = None if end is None else end - monotonic()
                if left is not None and left <= 0:
                    return False
                self._turn(left, one=True)
        finally:
            self.is_running = False
        return True

    def _turn(self, timeout: float | None, one: bool = False) -> None:
        """Wait for events and handle them. one: stop after the first request that is answered."""
        events = self.poller.wait(self._patience(timeout))
        now = monotonic()
        for fd in self._hand_one_out(events) if one else hand_out(events, self.connections, self._fail):
            if fd in self.servers:
                start = monotonic()
                self._accept(self.servers[fd], 1 if one else _ACCEPTED_AT_ONCE, start + max(start - now, _ACCEPTING))
            else:
                self._wake_up.on_event()
        for server in self.servers.values():
            server.flush_logs()
        if now >= self._next_sweep:
            self._sweep(now)

    def _hand_one_out(self, events: Iterable[tuple[int, int]]) -> list[int]:
        """Like hand_out(), but stop after the event that completed a request."""
        before = self.requests
        others: list[int] = []
        for event in events:
            others += hand_out((event,), self.connections, self._fail)
            if self.requests != before:
                break
        return others

    def _patience(self, timeout: float | None) -> float:
        """How long to wait for events, in seconds, so that deadlines are checked in time."""
        if timeout is None:
            timeout = _LONGEST_WAIT
        return min(timeout, self._tick) if self.connections or not self._accepting else timeout

    def finish(
        self, timeout: float, *, patiently: bool = False, actions: Callable[[], None] = lambda: None
    ) -> None:
        self.retire()
        self._reach(STOPPED)
        self._turn(0)
        end = monotonic() + timeout
        for connection in list(self.connections.values()):
            self._close_idle(connection, patiently)
        while self._is_waited_for(patiently):
            left = end - monotonic()
            if left < 0:
                break
            self._turn(min(left, self._tick))
            actions()

    def accept_all(self, server: EventServer) -> None:
        self._accept(server, self.settings.max_connections)

    def _sweep(self, now: float) -> None:
        """Check the deadlines of all connections.

        now: the time before this turn's events, so that the time an application took isn't charged to clients.
        """
        self._next_sweep = now + self._tick
        quiet = now + self.settings.keep_alive_timeout - _MEMO_IDLE
        for connection in list(self.connections.values()):
            if connection.deadline <= now:
                self._expire(connection)
            elif connection.deadline <= quiet:
                connection.forget()
        if not self._accepting:
            self._resume_accepting()

    # ---- connections ---------------------------------------------------------------------------------

    def watch(self, connection: Connection, events: int) -> None:
        if connection.watched == events:
            return
        if connection.watched:
            self.poller.change(connection.fd, events)
        else:
            self.poller.watch(connection.fd, events)
        connection.watched = events

    def forget(self, connection: Connection) -> None:
        if connection.watched:
            try:  # noqa: SIM105 - suppress() takes longer than the call
                self.poller.forget(connection.fd)
            except (OSError, KeyError, ValueError):  # the application has closed it already
                pass
        self._remove(connection)

    # ---- accepting -----------------------------------------------------------------------------------

    def _accept(self, server: EventServer, most: int, end: float = math.inf) -> None:
        """Accept clients, and answer the requests that they have sent already. most: how many; end: until when."""
        for _ in range(most):
            more, connection = self._accept_next(server)
            if not more:
                return
            if connection is not None:
                self._begin(connection)
                if monotonic() > end:
                    return

    def _begin(self, connection: Connection) -> None:
        try:
            # The request has often arrived already. Then the poller needn't watch the socket.
            connection.on_event()
            if not connection.watched and connection.state is not CLOSED:
                self.watch(connection, READ)
        except Exception:
            self._fail(connection)

    def _pause_accepting(self) -> None:
        if self._accepting:
            self._accepting = False
            for fd in self.servers:
                with contextlib.suppress(OSError, KeyError, ValueError):  # the program has closed the socket
                    self.poller.forget(fd)
