"""Tell what kind a socket is by its class, without importing ssl: a program with TLS sockets has imported it."""

from __future__ import annotations

import socket
import sys


def is_tls(sock: object) -> bool:
    """Whether a socket, listening or connected, uses TLS."""
    ssl = sys.modules.get("ssl")
    return ssl is not None and isinstance(sock, ssl.SSLSocket)


def accepts_plainly(sock: object) -> bool:
    """Whether a listening socket uses the standard accept(): one with its own accept() may do anything."""
    ssl = sys.modules.get("ssl")
    stock_accepts = {socket.socket.accept} | ({ssl.SSLSocket.accept} if ssl is not None else set())
    return isinstance(sock, socket.socket) and type(sock).accept in stock_accepts
