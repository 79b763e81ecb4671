"""The event loop for several threads that share all connections.

The thread that gets a connection's event owns the connection until it waits for its client again. So the state of a
connection needs no lock.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Any

from .connection import MOMENT, Connection
from .loop import EventLoop
from .phases import LAST_REQUESTS, STOPPED
from .poller import READ, URGENT, make_shared_poller
from .states import CLOSED, IDLE

if TYPE_CHECKING:
    from .channel import FastLane
    from .event_server import EventServer


class SharedLoop(EventLoop):
    """Serves in several threads, each of which runs ``serve_in_thread()``.

    A connection that waits for its client is armed in the poller and *parked* in a dict. The thread that gets its event
    takes it out of the dict in one atomic step, and so owns it alone. A thread that gets an event but doesn't find the
    connection parked leaves a note, because the owner may be about to park it. After parking, the owner looks for a
    note, and if there is one, it arms the connection again.
    """

    is_shared = True

    def _open_poller(self) -> None:
        self._parked: dict[int, Connection] = {}
        self._noted: set[int] = set()
        self._accepts = threading.Lock()
        self._sweeps = threading.Lock()
        self._gone = threading.Event()
        self._shared_poller = make_shared_poller(self.settings.poller)
        self._reports_changes = self._shared_poller.reports_changes
        self._shared_poller.arm(self._wake_up.fd, READ, is_new=True)

    def _close_poller(self) -> None:
        self._shared_poller.close()

    def _watch_listener(self, fd: int, is_new: bool = False) -> None:
        self._shared_poller.arm(fd, READ, is_new)

    def serve_in_thread(self, number: int) -> None:
        """Serve until stop() is called. number: this thread's number, from 0, which selects its fast lane."""
        lanes: dict[Any, FastLane | None] = {}
        logging: list[tuple[EventServer, FastLane]] = []
        for server in self.servers.values():
            lanes[server] = lane = server.lanes[number] if server.lanes else None
            if lane is not None and server.front.logs:
                logging.append((server, lane))
        wait, tick, take = self._shared_poller.wait, self._tick, self._parked.pop
        while self.phase < STOPPED:
            events = wait(tick)
            now = monotonic()
            for fd, mask in events:
                connection = take(fd, None)
                if connection is not None:
                    connection.lane = lanes[connection.server]
                    self._handle(connection, mask)
                    connection = None  # keep no reference: another thread may close it
                elif fd in self.servers:
                    self._accept_in_thread(self.servers[fd], lanes)
                elif fd == self._wake_up.fd:
                    self._pass_wake_up_on()
                else:
                    self._leave_note(fd)
            for server, lane in logging:
                server.flush_log(lane)
            if now >= self._next_sweep and self._sweeps.acquire(blocking=False):
                try:
                    self._sweep(now)
                finally:
                    self._sweeps.release()

    def _pass_wake_up_on(self) -> None:
        if self.phase < STOPPED:
            self._wake_up.on_event()
        self._shared_poller.arm(self._wake_up.fd, READ)  # to wake up the other threads

    def _handle(self, connection: Connection, mask: int, is_new: bool = False) -> None:
        """Let a connection that this thread owns do its work.

        mask: the events that were reported, 0 for none; is_new: whether the poller doesn't know it yet.
        """
        try:
            if mask & URGENT:
                connection.drop_urgent_data()
            connection.on_event()
        except BaseException:  # not a Ctrl-C: only the main thread gets one
            self._fail(connection)
        fd = connection.fd
        if connection.drained and mask == READ and self._reports_changes and fd not in self._noted:
            # All input is read, and the poller reports new input without arming. That saves a system call, usually.
            self._parked[fd] = connection
            if fd in self._noted and self._claim(connection):
                self._park(connection)
        elif connection.state is not CLOSED:
            self._park(connection, is_new)

    def _leave_note(self, fd: int) -> None:
        """An event was reported for a connection that another thread owns."""
        self._noted.add(fd)
        connection = self._parked.pop(fd, None)
        if connection is not None:  # parked just now, perhaps after its owner looked for notes
            self._park(connection)

    def _park(self, connection: Connection, is_new: bool = False) -> None:
        fd = connection.fd
        while True:
            self._noted.discard(fd)
            try:
                # Arm it before it is parked: after that another thread may close it.
                self._shared_poller.arm(fd, connection.watched or READ, is_new)
            except OSError:  # the kernel has no memory: the connection would never be reported again
                self._fail(connection)
                return
            self._parked[fd] = connection
            if fd not in self._noted or not self._claim(connection):
                return
            is_new = False

    def _claim(self, connection: Connection) -> bool:
        """Take ownership of a connection. Return False if another thread owns it."""
        claimed = self._parked.pop(connection.fd, None)
        if claimed is not None and claimed is not connection:  # it was closed, and its descriptor reused
            self._park(claimed)
        return claimed is connection

    def _sweep(self, now: float) -> None:
        self._next_sweep = now + self._tick
        for connection in list(self.connections.copy().values()):
            if connection.deadline <= now and self._claim(connection):
                if connection.deadline <= now:
                    connection.lane = None
                    self._expire(connection)
                if connection.state is not CLOSED:
                    self._park(connection)
            elif connection.drained and self._claim(connection):
                # It was parked without being armed. A receive() may have read less than there was, so arm it once.
                connection.drained = False
                self._park(connection)
        if not self._accepting:
            self._resume_accepting()

    def watch(self, connection: Connection, events: int) -> None:
        connection.watched = events  # armed when the connection is parked

    def forget(self, connection: Connection) -> None:
        try:  # noqa: SIM105 - suppress() takes longer than the call
            self._shared_poller.forget(connection.fd)
        except (OSError, KeyError, ValueError):  # the application has closed it already
            pass
        self._noted.discard(connection.fd)
        self._remove(connection)
        if not self.connections and self.phase >= LAST_REQUESTS:
            self._gone.set()

    def _accept_in_thread(self, server: EventServer, lanes: dict[Any, FastLane | None]) -> None:
        with self._accepts:  # without the lock, several threads would take the last place
            connection = self._accept_next(server)[1] if self._accepting else None
            if self._accepting:
                # Arm it now, so that the next client is accepted while this one's application runs.
                try:
                    self._watch_listener(server.listener_fd)
                except OSError:
                    self._accepting = False  # until the next tick
        if connection is not None:
            connection.lane = lanes[server]
            self._handle(connection, 0, is_new=True)

    def _resume_accepting(self) -> None:
        with self._accepts:  # without the lock, a listening socket might be closed meanwhile
            super()._resume_accepting()

    def _pause_accepting(self) -> None:
        self._accepting = False  # the thread that gets the next client won't arm the socket again

    def finish(
        self, timeout: float, *, patiently: bool = False, actions: Callable[[], None] = lambda: None
    ) -> None:
        """See ``EventLoop.finish()``. The threads keep serving; call it from a thread that doesn't serve."""
        self.retire()
        self._close_parked_idle(patiently, 0.0)
        end = monotonic() + timeout
        self._gone.clear()
        while self._is_waited_for(patiently) and (left := end - monotonic()) > 0:
            self._gone.wait(min(left, self._tick))
            self._gone.clear()  # a new connection may have been accepted meanwhile
            # These were owned by a thread before, and its lane kept them open.
            self._close_parked_idle(patiently, monotonic() + MOMENT)
            actions()
        self.stop()

    def _close_parked_idle(self, patiently: bool, later: float) -> None:
        """Close the idle connections that no thread owns and whose deadline is later than this."""
        for connection in list(self.connections.copy().values()):
            if (
                connection.state is IDLE
                and connection.deadline > later
                and self._claim(connection)
            ):
                connection.lane = None  # the lane and its log lines belong to another thread
                if not connection.has_input():  # leave requests to the serving threads: they may take any time
                    self._close_idle(connection, patiently)
                if connection.state is not CLOSED:
                    self._park(connection)

    def close_parked(self) -> None:
        """Close the connections that no thread owns, when a thread doesn't return from an application."""
        with contextlib.ExitStack() as steps:
            for connection in list(self.connections.copy().values()):
                if self._claim(connection):
                    connection.lane = None  # the lane and its log lines belong to another thread
                    steps.callback(connection.close)

    def accept_all(self, server: EventServer) -> None:
        more = True
        while more:
            with self._accepts:
                more, connection = self._accept_next(server)
            if connection is not None:
                self._park(connection, is_new=True)
        self._shared_poller.forget(server.listener_fd)
