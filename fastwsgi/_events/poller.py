"""Wait for sockets: one interface for each platform's poller, for one thread or several, and a way to wake it up.

A poller reports pairs of a file descriptor and a mask. Callers may ignore the mask: a connection tries its next
operation, and the socket tells whether it is possible.
"""

from __future__ import annotations

import contextlib
import errno
import select
import selectors
import socket
import threading
from collections import deque
from collections.abc import Iterable
from time import monotonic
from typing import Any, Protocol

from fastwsgi._backend import accelerator

# epoll's own numbers, so that epoll needs no translation.
READ, WRITE = 1, 4
#: What a shared poller may report besides them: TCP's urgent data, which HTTP doesn't use.
URGENT = 2


class Poller(Protocol):
    """A level-triggered poller: it reports a descriptor as long as one of the watched events is possible."""

    def watch(self, fd: int, events: int, /) -> None:
        """Begin to watch a descriptor for READ, WRITE or both."""

    def change(self, fd: int, events: int, /) -> None:
        """Watch a descriptor for other events."""

    def forget(self, fd: int) -> None:
        """Stop watching a descriptor. Call it before the descriptor is closed."""

    def wait(self, timeout: float | None) -> Iterable[tuple[int, int]]:
        """Wait until descriptors are ready and return them; return none after the timeout, in seconds."""
        ...

    def close(self) -> None:
        """Release the platform's resources."""


class EpollPoller:
    """The poller for Linux."""

    def __init__(self) -> None:
        epoll = select.epoll()
        self.watch = epoll.register
        self.change = epoll.modify
        self.forget = epoll.unregister
        self.wait = epoll.poll
        self.close = epoll.close


_kqueue: Any = select  # type checkers know these names on their platforms only


class KqueuePoller:
    """The poller for macOS and the BSDs."""

    def __init__(self) -> None:
        self._queue = _kqueue.kqueue()
        self._watched: dict[int, int] = {}
        self.close = self._queue.close

    def watch(self, fd: int, events: int) -> None:
        self.change(fd, events)

    def change(self, fd: int, events: int) -> None:
        before = self._watched.get(fd, 0)
        changes = []
        for event, kind in ((READ, _kqueue.KQ_FILTER_READ), (WRITE, _kqueue.KQ_FILTER_WRITE)):
            if (before ^ events) & event:
                action = _kqueue.KQ_EV_ADD if events & event else _kqueue.KQ_EV_DELETE
                changes.append(_kqueue.kevent(fd, kind, action))
        if changes:
            self._queue.control(changes, 0)
        self._watched[fd] = events

    def forget(self, fd: int) -> None:
        try:
            self.change(fd, 0)
        finally:
            del self._watched[fd]

    def wait(self, timeout: float | None) -> Iterable[tuple[int, int]]:
        return [(event.ident, READ) for event in self._queue.control(None, 256, timeout)]


class SelectorPoller:
    """The poller for every platform, by the selectors module."""

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self.close = self._selector.close

    def watch(self, fd: int, events: int) -> None:
        self._selector.register(fd, _selector_events(events))

    def change(self, fd: int, events: int) -> None:
        self._selector.modify(fd, _selector_events(events))

    def forget(self, fd: int) -> None:
        self._selector.unregister(fd)

    def wait(self, timeout: float | None) -> Iterable[tuple[int, int]]:
        return [(key.fd, READ) for key, _ in self._selector.select(timeout)]


def _selector_events(events: int) -> int:
    return (selectors.EVENT_READ if events & READ else 0) | (selectors.EVENT_WRITE if events & WRITE else 0)


class SharedPoller(Protocol):
    """A poller for several threads: it reports a descriptor to one thread, and not again until it is armed again."""

    #: Whether a descriptor is also reported when it changes, perhaps to another thread.
    reports_changes: bool

    def arm(self, fd: int, events: int, is_new: bool = False) -> None:
        """Report a descriptor once when it is ready for READ, WRITE or both. May be called from any thread."""

    def forget(self, fd: int) -> None:
        """Stop watching a descriptor. Call it before the descriptor is closed."""

    def wait(self, timeout: float) -> Iterable[tuple[int, int]]:
        """Wait for a ready descriptor; return it with its events, or nothing after the timeout, in seconds."""
        ...

    def close(self) -> None:
        """Release the platform's resources."""


class SharedEpoll:
    """The shared poller for Linux: edge-triggered, so it reports a descriptor again when it changes or is armed again.

    The accelerator has a class that does the same without releasing the GIL.
    """

    reports_changes = True

    def __init__(self) -> None:
        self._epoll = select.epoll()

    def arm(self, fd: int, events: int, is_new: bool = False) -> None:
        (self._epoll.register if is_new else self._epoll.modify)(fd, events | select.EPOLLET)

    def forget(self, fd: int) -> None:
        """Do nothing: closing the descriptor is enough."""

    def wait(self, timeout: float) -> list[tuple[int, int]]:
        """Return one event at a time. A thread that took several would delay the others while an application runs."""
        return self._epoll.poll(timeout, 1)

    def close(self) -> None:
        self._epoll.close()


class LeaderPoller:
    """The shared poller for every platform: one thread, the leader, waits in select(), and the others wait for it.

    The leader stops watching the descriptors that are ready, and hands each of them to one thread.
    """

    reports_changes = False

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._leads = threading.Lock()
        self._ready: deque[int] = deque()
        # Any thread adds changes and the leader makes them: some selectors must not change during select().
        self._changes: deque[tuple[int, int, threading.Event | None]] = deque()
        self._wake_up = WakeUp()
        self._selector.register(self._wake_up.fd, selectors.EVENT_READ)

    def arm(self, fd: int, events: int, is_new: bool = False) -> None:
        self._changes.append((fd, events, None))
        self._wake_up.wake()

    def forget(self, fd: int) -> None:
        made = threading.Event()
        self._changes.append((fd, 0, made))
        while not made.is_set():  # a selector must not hold a closed descriptor
            if self._leads.acquire(blocking=False):
                try:
                    self._make_changes()
                finally:
                    self._leads.release()
            else:
                self._wake_up.wake()
                made.wait(0.01)  # then try again: there may be no leader

    def wait(self, timeout: float) -> Iterable[tuple[int, int]]:
        end = monotonic() + timeout
        if not self._leads.acquire(timeout=max(timeout, 0)):
            return []
        try:
            while not self._ready:
                self._make_changes()
                for key, _ in self._selector.select(max(end - monotonic(), 0)):
                    if key.fd == self._wake_up.fd:
                        self._wake_up.on_event()
                    else:
                        self._selector.unregister(key.fd)
                        self._ready.append(key.fd)
                if not self._ready and monotonic() >= end:
                    return []
            return [(self._ready.popleft(), READ)]
        finally:
            self._leads.release()

    def _make_changes(self) -> None:
        registered = self._selector.get_map()
        failed: list[tuple[int, int, threading.Event | None]] = []
        while self._changes:
            fd, events, made = self._changes.popleft()
            if fd in registered:
                self._selector.unregister(fd)
            if events:
                try:
                    self._selector.register(fd, _selector_events(events))
                except OSError as error:
                    if error.errno != errno.EBADF:  # EBADF: the descriptor was closed meanwhile
                        failed.append((fd, events, made))
            if made is not None:
                made.set()
        self._changes += failed  # the kernel was short of memory: try again later

    def close(self) -> None:
        self._selector.close()
        self._wake_up.close()


def make_poller(kind: str = "best") -> Poller:
    """Make the platform's best poller, or with kind "selectors" the one that works on every platform."""
    if kind == "best":
        if hasattr(select, "epoll"):
            return EpollPoller()
        if hasattr(select, "kqueue"):
            return KqueuePoller()
    return SelectorPoller()


def make_shared_poller(kind: str = "best") -> SharedPoller:
    """Make a poller for several threads; kind as for ``make_poller()``."""
    if kind == "best" and hasattr(select, "epoll"):
        return SharedEpoll() if accelerator is None else accelerator.SharedEpoll()
    return LeaderPoller()


def wait_for(sock: Any, events: int, timeout: float) -> bool:
    """Wait in this thread until a socket is ready for READ or WRITE. Return whether it is within timeout seconds."""
    kind = getattr(selectors, "PollSelector", selectors.SelectSelector)
    with kind() as selector:
        selector.register(sock, _selector_events(events))
        return bool(selector.select(timeout))


class WakeUp:
    """Ends a poller's wait from any thread."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._theirs.setblocking(False)
        self.fd = self._ours.fileno()

    def wake(self) -> None:
        # If the socket is full, the poller will wake up anyway; if it is closed, the loop has ended.
        with contextlib.suppress(OSError):
            self._theirs.send(b"\0")

    def on_event(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._ours.recv(4096):
                pass

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()
