"""The loop: wait for sockets, hand events to connections, watch the clock, stop.

``Loop`` is one thread's. ``SharedLoop`` is run by several at once, which all do the same: who gets a connection's
event, has the connection until it waits for its client again. So what belongs to one connection needs no lock.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable, Iterable
from time import monotonic
from typing import TYPE_CHECKING, Any

from fastwsgi._backend import hand_out

from .connection import ANSWER, CLOSED, HANDSHAKE, HEAD, MOMENT, PROXY, Connection
from .poller import READ, URGENT, WakeUp, make_poller, make_shared_poller

if TYPE_CHECKING:
    from fastwsgi._backend import FastLane
    from fastwsgi._http.settings import Settings

    from .event_server import EventServer

# So many connections are accepted before those that are there have their turn.
_ACCEPTED_AT_ONCE = 64
# And for so many seconds, or for as long as those have just had it: an application may take its time for each.
_ACCEPTING = 0.01
# How often deadlines are looked at: a sweep costs less than a tenth of a microsecond for each connection.
_TICK = 1.0
# For no time limit, which PyPy's epoll has no word for.
_LONGEST_WAIT = 3600.0
# After so many seconds between requests a connection gives its memo back.
_MEMO_IDLE = 5.0


class Loop:
    """Serves the connections of one or more servers, in the thread that calls it."""

    #: Whether several threads run it.
    is_shared = False

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        #: How many requests were answered on the general path, bad ones among them.
        self.requests = 0
        #: Whether each connection is closed after the request that it is at.
        self.is_closing = False
        #: Whether it is to accept nothing more, and to end.
        self.is_stopped = False
        #: Whether serve() or serve_one() runs, perhaps with the caller in one of its applications.
        self.is_running = False
        self.connections: dict[int, Connection] = {}
        #: By the descriptor of the socket that each listens to.
        self.servers: dict[int, EventServer] = {}
        self._accepting = True
        self._is_retired = False
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

    def _open_poller(self) -> None:
        self.poller = make_poller(self.settings.poller)
        self.poller.watch(self._wake_up.fd, READ)

    def _close_poller(self) -> None:
        self.poller.close()

    def add(self, server: EventServer) -> None:
        """Have a server's listening socket watched."""
        self.servers[server.listener_fd] = server
        self._watch_listener(server.listener_fd, is_new=True)

    def _watch_listener(self, fd: int, is_new: bool = False) -> None:
        self.poller.watch(fd, READ)

    # ---- running -------------------------------------------------------------------------------------

    def serve(
        self, must_stop: Callable[[], bool], poll_interval: float | None, service_actions: Callable[[], None]
    ) -> None:
        """Serve until must_stop() says so; it is asked at every event and every poll_interval seconds."""
        self.is_running = True
        try:
            while not (self.is_stopped or must_stop()):
                self._turn(poll_interval)
                service_actions()
        finally:
            self.is_running = False

    def serve_one(self, timeout: float | None) -> bool:
        """Serve until one request was answered, or whatever became of it, or for some seconds; whether one was."""
        self.close_each()
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
        for connection in list(self.connections.values()):
            self._retire(connection, False)  # nobody may come back to clients that only connected
        return True

    def _turn(self, timeout: float | None, one: bool = False) -> None:
        """Wait for events, and have them handled; with one, only until a request was answered."""
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
        """The same as hand_out(), up to the event by which a request was answered."""
        before, others = self.requests, []
        for event in events:
            others += hand_out((event,), self.connections, self._fail)
            if self.requests != before:
                break
        return others

    def _patience(self, timeout: float | None) -> float:
        """How long to wait for events, in seconds, so that no deadline is missed by much."""
        if timeout is None:
            timeout = _LONGEST_WAIT
        return min(timeout, self._tick) if self.connections or not self._accepting else timeout

    def wake(self) -> None:
        """End the wait for events, from any thread."""
        self._wake_up.wake()

    def stop(self) -> None:
        """Have serve() return, from any thread; what runs it closes everything then."""
        self.is_stopped = True
        self.wake()

    def finish(
        self, timeout: float, *, patiently: bool = False, actions: Callable[[], None] = lambda: None
    ) -> None:
        """Accept nothing more, answer what has been received, and give clients a moment to read it.

        timeout: seconds; patiently: whether requests that have come in part are waited for, too, and for a moment
        those of clients that had an answer just now; actions: called again and again.
        """
        self.is_stopped = True
        self.retire()
        self._turn(0)
        end = monotonic() + timeout
        for connection in list(self.connections.values()):
            self._retire(connection, patiently)
        while self._is_waited_for(patiently):
            left = end - monotonic()
            if left < 0:
                break
            self._turn(min(left, self._tick))
            actions()

    def retire(self) -> None:
        """Accept no more, and close each connection after the request that it is at."""
        self._is_retired = True
        self._pause_accepting()
        self.close_each()

    def accept_all(self, server: EventServer) -> None:
        """Accept everybody who waits for it, before the listening socket is closed and they are turned away."""
        self._accept(server, self.settings.max_connections)

    def _retire(self, connection: Connection, patiently: bool) -> None:
        """Close a connection that is between requests, at once or after a moment."""
        if connection.state not in (PROXY, HANDSHAKE, HEAD) or connection.buffer:
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
        while self._awaited and self._awaited[-1].state != ANSWER:
            self._awaited.pop()
        return bool(self._awaited)

    def close(self) -> None:
        """Close every connection, and give the listening sockets back as they were; when no thread runs it any more."""
        self.is_stopped = self._is_retired = True
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

    def close_each(self) -> None:
        """From now on close each connection after the request that it is at, which the lanes don't do."""
        self.is_closing = True
        self._tick = min(self._tick, MOMENT / 10)
        for server in self.servers.values():
            server.close_lanes()

    def _fail(self, connection: Connection) -> None:
        """Something raised that shouldn't: a hook, or the answer to an error."""
        try:
            connection.server.handle_error(connection.sock, connection.address)
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
                self._expire(connection)
            elif connection.deadline <= quiet:
                connection.forget()
        if not self._accepting:
            self._resume_accepting()

    def _expire(self, connection: Connection) -> None:
        try:
            connection.expire()
        except Exception:
            self._fail(connection)

    # ---- connections ---------------------------------------------------------------------------------

    def watch(self, connection: Connection, events: int) -> None:
        """Watch a connection's socket for these events only."""
        if connection.watched == events:
            return
        if connection.watched:
            self.poller.change(connection.fd, events)
        else:
            self.poller.watch(connection.fd, events)
        connection.watched = events

    def forget(self, connection: Connection) -> None:
        """A connection is about to close its socket."""
        if connection.watched:
            try:  # noqa: SIM105 - suppress() takes longer than what is tried
                self.poller.forget(connection.fd)
            except (OSError, KeyError, ValueError):  # somebody has closed it already
                pass
        self._remove(connection)

    def _remove(self, connection: Connection) -> None:
        """Serve a connection no more, and make room for another one."""
        if self.connections.get(connection.fd) is connection:
            del self.connections[connection.fd]
        if not self._accepting:
            self._resume_accepting()

    # ---- accepting -----------------------------------------------------------------------------------

    def _accept(self, server: EventServer, most: int, end: float = math.inf) -> None:
        """Accept clients, and answer what they have sent already; so many of them, and only until then."""
        for _ in range(most):
            more, connection = self._accept_next(server)
            if not more:
                return
            if connection is not None:
                self._begin(connection)
                if monotonic() > end:
                    return

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

    def _begin(self, connection: Connection) -> None:
        try:
            # The request is often there already, and then the poller needn't know.
            connection.on_event()
            if not connection.watched and connection.state != CLOSED:
                self.watch(connection, READ)
        except Exception:
            self._fail(connection)

    def _pause_accepting(self) -> None:
        if self._accepting:
            self._accepting = False
            for fd in self.servers:
                with contextlib.suppress(OSError, KeyError, ValueError):  # which it is if somebody has closed it
                    self.poller.forget(fd)

    def _resume_accepting(self) -> None:
        if not (self.is_stopped or self._is_retired) and len(self.connections) < self.settings.max_connections:
            self._accepting = True
            try:
                for fd in self.servers:
                    self._watch_listener(fd)
            except OSError:  # no memory for it in the kernel: at the next tick, perhaps
                self._pause_accepting()


class SharedLoop(Loop):
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
            if lane is not None and server.logs:
                logging.append((server, lane))
        wait, tick, take = self._shared_poller.wait, self._tick, self._parked.pop
        while not self.is_stopped:
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
        if not self.is_stopped:
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
        elif connection.state != CLOSED:
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
                if connection.state != CLOSED:
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
        if not self.connections and self.is_closing:
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
        self._retire_parked(patiently, 0.0)
        end = monotonic() + timeout
        self._gone.clear()
        while self._is_waited_for(patiently) and (left := end - monotonic()) > 0:
            self._gone.wait(min(left, self._tick))
            self._gone.clear()  # it may have been the last one only until somebody else was accepted
            # Those that a thread had, whose lane has answered as ever.
            self._retire_parked(patiently, monotonic() + MOMENT)
            actions()
        self.stop()

    def _retire_parked(self, patiently: bool, later: float) -> None:
        """Retire the connections between requests that no thread has, and whose deadline is later than this."""
        for connection in list(self.connections.copy().values()):
            if (
                connection.state == HEAD
                and not connection.buffer
                and connection.deadline > later
                and self._claim(connection)
            ):
                connection.lane = None  # it's a thread's, and so are the lines in it
                if not connection.has_input():  # else it's for a thread: here an application might take any time
                    self._retire(connection, patiently)
                if connection.state != CLOSED:
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
