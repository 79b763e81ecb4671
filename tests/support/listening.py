"""Listening sockets for tests: open them, connect to them, abandon them."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastwsgi._service.bind import Listener, open_listeners
from waiting import TIMEOUT

needs_unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="unix sockets")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes that share sockets")
# A warning from Python 3.12 on. The other thread belongs to the test runner, or to an earlier test that is ending.
may_fork_beside_threads = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


@contextlib.contextmanager
def opened(*binds: str, **options: Any) -> Iterator[list[Listener]]:
    listeners = open_listeners(binds, **{"environ": {}, **options})
    try:
        yield listeners
    finally:
        for listener in listeners:
            listener.close()


def answers(listener: Listener, address: Any = None) -> bool:
    """Whether a listener accepts a client that connects to an address."""
    with socket.socket(listener.sock.family) as client:
        client.settimeout(TIMEOUT)
        try:
            client.connect(listener.sock.getsockname() if address is None else address)
        except OSError:
            return False
        listener.sock.settimeout(TIMEOUT)
        accepted, _ = listener.sock.accept()
        with accepted:
            accepted.sendall(b"x")
            return client.recv(1) == b"x"


def left_over(path: Path) -> None:
    """Make a unix socket file as a killed process leaves it."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()
