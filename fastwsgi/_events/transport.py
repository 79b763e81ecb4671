"""The operations of plain and TLS sockets that never block: receive, send, send a file, handshake, end of output.

``PLAIN`` and ``TLS`` are the two kinds. A result of None, or of 0 octets sent, means "not now"; other failures raise.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from .poller import READ, WRITE


class Transport(NamedTuple):
    """The operations on sockets of one kind."""

    #: (socket, size) -> the octets, b"" at the end of the stream, None if there are none yet
    receive: Callable[[Any, int], bytes | None]
    #: (socket, data) -> how many octets were taken
    send: Callable[[Any, bytes | memoryview], int]
    #: (socket, file descriptor, offset, count) -> how many octets were taken (see below); None: read files instead
    send_file: Callable[[Any, int, int, int], int | None] | None
    #: (socket) -> what to wait for before the next try, 0 when done
    handshake: Callable[[Any], int]
    #: (socket): tell the client that no more octets follow; it may still send
    end_of_output: Callable[[Any], None]
    #: (socket) -> how many received octets wait in the TLS layer, where no poller sees them
    pending: Callable[[Any], int]


_NOT_NOW = (BlockingIOError, InterruptedError)
# The system is short of memory for a while: try again until the connection's deadline.
_SHORT_OF_MEMORY = (errno.ENOBUFS, errno.ENOMEM)
# The client has gone, or the network has failed. Other errors of this kind are ConnectionErrors.
_OUT_OF_REACH = {
    getattr(errno, name)
    for name in (
        "ENOTCONN", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETRESET", "ENETUNREACH", "EPROTO",
    )
    if hasattr(errno, name)
}  # fmt: skip


def is_departure(error: OSError) -> bool:
    """Whether a socket's error says that the client has gone or is unreachable. Other errors are the server's fault."""
    ssl: Any = sys.modules.get("ssl")
    return (
        isinstance(error, ConnectionError)
        or error.errno in _OUT_OF_REACH
        or (ssl is not None and isinstance(error, ssl.SSLError))
    )


def _receive(sock: socket.socket, size: int) -> bytes | None:
    try:
        return sock.recv(size)
    except _NOT_NOW:
        return None
    except OSError as error:
        if error.errno in _SHORT_OF_MEMORY:
            return None
        raise


def _send(sock: socket.socket, data: bytes | memoryview) -> int:
    try:
        return sock.send(data)
    except _NOT_NOW:
        return 0
    except OSError as error:
        if error.errno in _SHORT_OF_MEMORY:
            return 0
        raise


def _send_file(sock: socket.socket, fd: int, offset: int, count: int) -> int | None:
    """Send from a file. Return None: not now; 0: the file has ended; -1: sendfile() doesn't work on this file."""
    try:
        return os.sendfile(sock.fileno(), fd, offset, count)
    except _NOT_NOW:
        return None
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            return -1
        if error.errno in _SHORT_OF_MEMORY:
            return None
        raise


def _end_of_output(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        sock.shutdown(socket.SHUT_WR)


PLAIN = Transport(
    receive=_receive,
    send=_send,
    # macOS has other rules for what was sent before "not now". Only Linux's version is tested.
    send_file=_send_file if hasattr(os, "sendfile") and sys.platform.startswith("linux") else None,
    handshake=lambda sock: 0,
    end_of_output=_end_of_output,
    pending=lambda sock: 0,
)


def _not_now_tls() -> tuple[type[OSError], ...]:
    ssl = sys.modules["ssl"]
    return ssl.SSLWantReadError, ssl.SSLWantWriteError, *_NOT_NOW


def _receive_tls(sock: Any, size: int) -> bytes | None:
    try:
        return sock.recv(size)  # type: ignore[no-any-return]
    except _not_now_tls():
        return None


def _send_tls(sock: Any, data: bytes | memoryview) -> int:
    # After "not now" OpenSSL wants the same octets again. The output queue offers them again.
    try:
        return sock.send(data)  # type: ignore[no-any-return]
    except _not_now_tls():
        return 0


def _handshake(sock: Any) -> int:
    ssl = sys.modules["ssl"]
    try:
        sock.do_handshake()
    except ssl.SSLWantReadError:
        return READ
    except ssl.SSLWantWriteError:
        return WRITE
    return 0


def _end_of_output_tls(sock: Any) -> None:
    # unwrap() sends close_notify and then expects the client's. Nothing waits for that one.
    with contextlib.suppress(OSError, ValueError):
        sock.unwrap()
    _end_of_output(sock)


TLS = Transport(
    receive=_receive_tls,
    send=_send_tls,
    send_file=None,
    handshake=_handshake,
    end_of_output=_end_of_output_tls,
    pending=lambda sock: sock.pending(),
)
