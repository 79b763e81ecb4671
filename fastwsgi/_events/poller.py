"""Wait for sockets: one poller, whatever the platform calls it, for one thread or several, and a way to wake it up.

A poller reports pairs of a file descriptor and a mask. Nobody needs the mask: who is woken tries what it
wanted to do, and learns from the socket how that went.
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

# epoll's own numbers, so that nothing is translated where it matters.
READ, WRITE = 1, 4
#: What a shared poller may report beside them: TCP's urgent data, of which HTTP has none.
URGENT = 2


class Poller(Protocol):
    """Level-triggered: a descriptor is reported as long as it is ready for what it is watched for."""

    def watch(self, fd: int, events: int, /) -> None:
        """Begin to watch a descriptor for READ, WRITE or both."""

    def change(self, fd: int, events: int, /) -> None:
        """Watch it for something else."""

    def forget(self, fd: int) -> None:
        """Stop; before the descriptor is closed."""

    def wait(self, timeout: float | None) -> Iterable[tuple[int, int]]:
        """The ready descriptors, as soon as there are any or after some seconds."""
        ...

    def close(self) -> None:
        """Give back what the platform lent."""


class EpollPoller:
    """Linux."""

    def __init__(self) -> None:
        epoll = select.epoll()
        self.watch = epoll.register
        self.change = epoll.modify
        self.forget = epoll.unregister
        self.wait = epoll.poll
        self.close = epoll.close


_kqueue: Any = select  # with names that type checkers look for on these platforms only


class KqueuePoller:
    """macOS and the BSDs."""

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
    """Everywhere."""

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
    """For several threads: a descriptor is reported to one of them, and not again until it is armed again."""

    #: Whether it is reported again also when it changes, even to another thread meanwhile.
    reports_changes: bool

    def arm(self, fd: int, events: int, is_new: bool = False) -> None:
        """Have a descriptor reported when it is ready for READ, WRITE or both; from any thread."""

    def forget(self, fd: int) -> None:
        """Stop; before the descriptor is closed."""

    def wait(self, timeout: float) -> Iterable[tuple[int, int]]:
        """One ready descriptor and for what, as soon as there is any, or none after some seconds."""
        ...

    def close(self) -> None:
        """Give back what the platform lent."""


class SharedEpoll:
    """Linux. What was reported isn't reported again until it changes, or is armed again.

    The accelerator has one that does the same without releasing the GIL.
    """

    reports_changes = True

    def __init__(self) -> None:
        self._epoll = select.epoll()

    def arm(self, fd: int, events: int, is_new: bool = False) -> None:
        (self._epoll.register if is_new else self._epoll.modify)(fd, events | select.EPOLLET)

    def forget(self, fd: int) -> None:
        """Nothing: closing is enough."""

    def wait(self, timeout: float) -> list[tuple[int, int]]:
        """One at a time: a thread that took several would keep the others waiting while it is in an application."""
        return self._epoll.poll(timeout, 1)

    def close(self) -> None:
        self._epoll.close()


class LeaderPoller:
    """Everywhere: one thread at a time waits, and the others wait for it.

    What the leader finds ready is no longer watched, and goes to one thread each.
    """

    reports_changes = False

    def __init__(self) -> None:
        self._selector = selectors.DefaultSelector()
        self._leads = threading.Lock()
        self._ready: deque[int] = deque()
        # Made by any thread, carried out by the leader: not every selector may be changed while it is waited for.
        self._changes: deque[tuple[int, int, threading.Event | None]] = deque()
        self._wake_up = WakeUp()
        self._selector.register(self._wake_up.fd, selectors.EVENT_READ)

    def arm(self, fd: int, events: int, is_new: bool = False) -> None:
        self._changes.append((fd, events, None))
        self._wake_up.wake()

    def forget(self, fd: int) -> None:
        made = threading.Event()
        self._changes.append((fd, 0, made))
        while not made.is_set():  # a selector mustn't have a closed descriptor, or be given one
            if self._leads.acquire(blocking=False):
                try:
                    self._make_changes()
                finally:
                    self._leads.release()
            else:
                self._wake_up.wake()
                made.wait(0.01)  # or until there is no leader

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
                    if error.errno != errno.EBADF:  # which is a descriptor that was closed meanwhile
                        failed.append((fd, events, made))
            if made is not None:
                made.set()
        self._changes += failed  # for want of memory in the kernel, which passes

    def close(self) -> None:
        self._selector.close()
        self._wake_up.close()


def make_poller(kind: str = "best") -> Poller:
    """The platform's best poller, or by kind "selectors" the one that every platform has."""
    if kind == "best":
        if hasattr(select, "epoll"):
            return EpollPoller()
        if hasattr(select, "kqueue"):
            return KqueuePoller()
    return SelectorPoller()


def make_shared_poller(kind: str = "best") -> SharedPoller:
    """The same for several threads."""
    if kind == "best" and hasattr(select, "epoll"):
        return SharedEpoll() if accelerator is None else accelerator.SharedEpoll()
    return LeaderPoller()


def wait_for(sock: Any, events: int, timeout: float) -> bool:
    """Wait in this thread until one socket is ready for READ or WRITE, or some seconds are over; whether it is."""
    kind = getattr(selectors, "PollSelector", selectors.SelectSelector)
    with kind() as selector:
        selector.register(sock, _selector_events(events))
        return bool(selector.select(timeout))


class WakeUp:
    """Ends a poller's waiting, from any thread."""

    def __init__(self) -> None:
        self._ours, self._theirs = socket.socketpair()
        self._ours.setblocking(False)
        self._theirs.setblocking(False)
        self.fd = self._ours.fileno()

    def wake(self) -> None:
        # Full means that it will wake up anyway, closed that there is nobody to wake up.
        with contextlib.suppress(OSError):
            self._theirs.send(b"\0")

    def on_event(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while self._ours.recv(4096):
                pass

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()
