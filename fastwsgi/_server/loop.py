"""Wait for sockets: one poller, whatever the platform calls it, and a way to wake it up.

A poller reports pairs of a file descriptor and a mask. Nobody needs the mask: who is woken tries what it
wanted to do, and learns from the socket how that went.
"""

from __future__ import annotations

import contextlib
import select
import selectors
import socket
from collections.abc import Iterable
from typing import Any, Protocol

# epoll's own numbers, so that nothing is translated where it matters.
READ, WRITE = 1, 4


class Poller(Protocol):
    """Level-triggered: a descriptor is reported as long as it is ready for what it is watched for."""

    def watch(self, fd: int, events: int) -> None:
        """Begin to watch a descriptor for READ, WRITE or both."""

    def change(self, fd: int, events: int) -> None:
        """Watch it for something else."""

    def forget(self, fd: int) -> None:
        """Stop; before the descriptor is closed."""

    def wait(self, timeout: float | None) -> Iterable[tuple[int, int]]:
        """The ready descriptors, as soon as there are any or after some seconds."""

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


class KqueuePoller:
    """macOS and the BSDs."""

    def __init__(self) -> None:
        self._queue: Any = select.kqueue()  # type: ignore[attr-defined, unused-ignore]
        self._watched: dict[int, int] = {}
        self.close = self._queue.close

    def watch(self, fd: int, events: int) -> None:
        self.change(fd, events)

    def change(self, fd: int, events: int) -> None:
        before = self._watched.get(fd, 0)
        changes = []
        for event, kind in ((READ, select.KQ_FILTER_READ), (WRITE, select.KQ_FILTER_WRITE)):  # type: ignore[attr-defined, unused-ignore]
            if (before ^ events) & event:
                action = select.KQ_EV_ADD if events & event else select.KQ_EV_DELETE  # type: ignore[attr-defined, unused-ignore]
                changes.append(select.kevent(fd, kind, action))  # type: ignore[attr-defined, unused-ignore]
        if changes:
            self._queue.control(changes, 0)
        self._watched[fd] = events

    def forget(self, fd: int) -> None:
        self.change(fd, 0)
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


def make_poller(kind: str = "best") -> Poller:
    """The platform's best poller, or by kind "selectors" the one that every platform has."""
    if kind == "best":
        if hasattr(select, "epoll"):
            return EpollPoller()
        if hasattr(select, "kqueue"):
            return KqueuePoller()
    return SelectorPoller()


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
