"""The event loop of several threads, which all do the same.

The thread that gets a connection's event has the connection until it waits for its client again. So what belongs to one
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

    A connection that waits for its client is armed and *parked*; the thread that its event comes to, takes it out
    again, in one atomic step: so nobody else has it then. Who finds that another has it, leaves a note, in case that
    was about to park it; who has parked it, looks for a note, and if there is one, arms it anew.
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
        """Serve until stop() is called. number: the thread's, from 0; each has a fast lane of its own."""
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
                    connection = None  # it may be the last for a while, and is closed meanwhile
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
        self._shared_poller.arm(self._wake_up.fd, READ)  # for the other threads

    def _handle(self, connection: Connection, mask: int, is_new: bool = False) -> None:
        """Have a connection do what can be done; it is this thread's meanwhile.

        mask: what was reported of it, 0 for nothing; is_new: whether the poller doesn't know it yet.
        """
        try:
            if mask & URGENT:
                connection.drop_urgent_data()
            connection.on_event()
        except BaseException:  # a Ctrl-C comes to the main thread
            self._fail(connection)
        fd = connection.fd
        if connection.drained and mask == READ and self._reports_changes and fd not in self._noted:
            # There is nothing to read, and what comes is reported: usual, and it saves a system call.
            self._parked[fd] = connection
            if fd in self._noted and self._claim(connection):
                self._park(connection)
        elif connection.state is not CLOSED:
            self._park(connection, is_new)

    def _leave_note(self, fd: int) -> None:
        """Something was reported of a connection that another thread has."""
        self._noted.add(fd)
        connection = self._parked.pop(fd, None)
        if connection is not None:  # parked in this moment, perhaps without a look at the notes
            self._park(connection)

    def _park(self, connection: Connection, is_new: bool = False) -> None:
        fd = connection.fd
        while True:
            self._noted.discard(fd)
            try:
                # Before it is parked: from then on another thread may close it.
                self._shared_poller.arm(fd, connection.watched or READ, is_new)
            except OSError:  # no memory in the kernel: no event of this connection would be reported again
                self._fail(connection)
                return
            self._parked[fd] = connection
            if fd not in self._noted or not self._claim(connection):
                return
            is_new = False

    def _claim(self, connection: Connection) -> bool:
        """Take a connection from the poller, unless another thread has it."""
        claimed = self._parked.pop(connection.fd, None)
        if claimed is not None and claimed is not connection:  # which was closed, and the descriptor used again
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
                # Parked without being armed. A receive() may have taken less than there was, so arm it once.
                connection.drained = False
                self._park(connection)
        if not self._accepting:
            self._resume_accepting()

    def watch(self, connection: Connection, events: int) -> None:
        connection.watched = events  # armed when this thread is done with it

    def forget(self, connection: Connection) -> None:
        try:  # noqa: SIM105 - suppress() takes longer than what is tried
            self._shared_poller.forget(connection.fd)
        except (OSError, KeyError, ValueError):  # somebody has closed it already
            pass
        self._noted.discard(connection.fd)
        self._remove(connection)
        if not self.connections and self.phase >= LAST_REQUESTS:
            self._gone.set()

    def _accept_in_thread(self, server: EventServer, lanes: dict[Any, FastLane | None]) -> None:
        with self._accepts:  # or each thread would take the last place there is
            connection = self._accept_next(server)[1] if self._accepting else None
            if self._accepting:
                # Now, so that the next client is accepted while this one's application runs.
                try:
                    self._watch_listener(server.listener_fd)
                except OSError:
                    self._accepting = False  # until the next tick
        if connection is not None:
            connection.lane = lanes[server]
            self._handle(connection, 0, is_new=True)

    def _resume_accepting(self) -> None:
        with self._accepts:  # or a listening socket might be closed meanwhile
            super()._resume_accepting()

    def _pause_accepting(self) -> None:
        self._accepting = False  # the thread that gets the next client, arms the socket no more

    def finish(
        self, timeout: float, *, patiently: bool = False, actions: Callable[[], None] = lambda: None
    ) -> None:
        """The same, while the threads go on, and from another thread than theirs."""
        self.retire()
        self._close_parked_idle(patiently, 0.0)
        end = monotonic() + timeout
        self._gone.clear()
        while self._is_waited_for(patiently) and (left := end - monotonic()) > 0:
            self._gone.wait(min(left, self._tick))
            self._gone.clear()  # it may have been the last one only until somebody else was accepted
            # Those that a thread had, whose lane has answered as ever.
            self._close_parked_idle(patiently, monotonic() + MOMENT)
            actions()
        self.stop()

    def _close_parked_idle(self, patiently: bool, later: float) -> None:
        """Close the idle connections that no thread has, and whose deadline is later than this."""
        for connection in list(self.connections.copy().values()):
            if (
                connection.state is IDLE
                and connection.deadline > later
                and self._claim(connection)
            ):
                connection.lane = None  # it's a thread's, and so are the lines in it
                if not connection.has_input():  # else it's for a thread: here an application might take any time
                    self._close_idle(connection, patiently)
                if connection.state is not CLOSED:
                    self._park(connection)

    def close_parked(self) -> None:
        """Close the connections that no thread has, when a thread doesn't return from an application."""
        with contextlib.ExitStack() as steps:
            for connection in list(self.connections.copy().values()):
                if self._claim(connection):
                    connection.lane = None  # it's a thread's, and so are the lines in it
                    steps.callback(connection.close)

    def accept_all(self, server: EventServer) -> None:
        more = True
        while more:
            with self._accepts:
                more, connection = self._accept_next(server)
            if connection is not None:
                self._park(connection, is_new=True)
        self._shared_poller.forget(server.listener_fd)
