"""What kind of socket one is, by its class. The ssl module is imported by who makes TLS sockets, never by us."""

from __future__ import annotations

import socket
import sys


def is_tls(sock: object) -> bool:
    """Whether a socket, listening or connected, speaks TLS."""
    ssl = sys.modules.get("ssl")
    return ssl is not None and isinstance(sock, ssl.SSLSocket)


def accepts_plainly(sock: object) -> bool:
    """Whether a listening socket accepts as sockets do: one of its own making may do anything."""
    ssl = sys.modules.get("ssl")
    stock_accepts = {socket.socket.accept} | ({ssl.SSLSocket.accept} if ssl is not None else set())
    return isinstance(sock, socket.socket) and type(sock).accept in stock_accepts
