"""Clients: one request by http.client, raw octets, or a connection that checks answers against RFC 9112."""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import socket
import ssl
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Union

from waiting import TIMEOUT

GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
OLD = b"GET / HTTP/1.0\r\n\r\n"
#: A certificate for 127.0.0.1 and localhost, with its key. No client trusts it by default.
CERTIFICATE = Path(__file__).with_name("localhost.pem")


class Address(NamedTuple):
    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


class Answer(NamedTuple):
    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for field, value in self.headers if field.lower() == name.lower()]

    def one(self, name: str) -> str:
        (value,) = self.all(name)
        return value


#: A TCP address, as socket.getsockname() returns it, or the path of a unix socket.
Place = Union[tuple[Any, ...], str, "os.PathLike[str]"]


def fetch(
    address: Address,
    target: str,
    method: str = "GET",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
    *,
    tls: ssl.SSLContext | None = None,
) -> Answer:
    """Send one request on a new connection, and read the whole answer."""
    if tls is None:
        connection = http.client.HTTPConnection(address.host, address.port, timeout=TIMEOUT)
    else:
        connection = http.client.HTTPSConnection(address.host, address.port, timeout=TIMEOUT, context=tls)
    with contextlib.closing(connection):
        connection.request(method, target, body, dict(headers or {}))
        response = connection.getresponse()
        return Answer(response.status, response.reason, response.getheaders(), response.read())


def trusting() -> ssl.SSLContext:
    """A TLS context for fetch() that trusts only CERTIFICATE."""
    return ssl.create_default_context(cafile=CERTIFICATE)


def connect(place: Place, data: bytes = b"", *, room: int | None = None) -> socket.socket:
    """Connect a socket with a timeout, and send *data*. room: the approximate size of the receive buffer."""
    if isinstance(place, tuple):
        sock, where = socket.socket(socket.AF_INET6 if ":" in place[0] else socket.AF_INET), place[:2]
    else:
        sock, where = socket.socket(socket.AF_UNIX), os.fspath(place)
    try:
        sock.settimeout(TIMEOUT)
        if room is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        sock.connect(where)
        if isinstance(place, tuple):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.sendall(data)
    except BaseException:
        sock.close()
        raise
    return sock


def read_all(connection: socket.socket) -> bytes:
    """Read all octets until the orderly end of a connection."""

    with connection.makefile("rb") as file:
        return file.read()


def exchange(address: Place, request: bytes, arrival: str = "whole", *, may_be_reset: bool = False) -> bytes:
    """Send raw octets, end the output, and read until the server closes; by then it has written its log.

    arrival: "whole", "byte by byte", or "with trailing data", which is another request; may_be_reset: accept a reset
    after the answer, because the server may close before it has read everything.
    """
    when_sending: tuple[type[OSError], ...] = (OSError,) if may_be_reset else ()
    when_reading: tuple[type[OSError], ...] = (ConnectionResetError,) if may_be_reset else ()
    if arrival == "with trailing data":
        request += b"GET /second HTTP/1.1\r\n\r\n"
    pieces = [request] if arrival != "byte by byte" else [request[i : i + 1] for i in range(len(request))]
    answer = b""
    with connect(address) as connection:
        with contextlib.suppress(*when_sending):
            for piece in pieces:
                connection.sendall(piece)
            connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(*when_reading):
            while received := connection.recv(65536):
                answer += received
    return answer


class Reply(NamedTuple):
    """One answer: its head as received, and its decoded body."""

    head: bytes
    body: bytes
    #: How the body ended: "length", "chunked", "connection", or "bodiless".
    framing: str

    @property
    def status(self) -> int:
        return int(self.head[9:12])

    @property
    def fields(self) -> dict[str, str]:
        """The fields that not every answer has; no field may occur twice."""
        pairs = [line.split(": ", 1) for line in self.head.decode("latin-1").split("\r\n")[1:-2]]
        fields = dict(pairs)
        assert len(fields) == len(pairs), pairs
        return {name: value for name, value in fields.items() if name not in ("Date", "Server")}


_HEAD = re.compile(rb"HTTP/1\.[01] \d{3} [ -~]*\r\n([!#$%&'*+.^_`|~0-9A-Za-z-]+: [ -~\x80-\xff]*\r\n)*\r\n")


class CutShortError(Exception):
    """The connection ended before the answer did."""


class Client:
    """A connection to a server. An answer that violates RFC 9112 raises an exception.

    place: an address, or the path of a unix socket; room: the approximate size of the receive buffer; strict: whether
    a TLS connection without a closure alert raises too.
    """

    def __init__(self, place: Place, *, tls: bool = False, room: int | None = None, strict: bool = False) -> None:
        self.sock = connect(place, room=room)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
            self.sock = context.wrap_socket(self.sock, suppress_ragged_eofs=not strict)
        self.file = self.sock.makefile("rb")
        self._is_answered = False

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._is_answered:
            # Wait until the server has closed too: by then it has written its log.
            with contextlib.suppress(OSError):
                self.end()
                self.rest()
        self.close()

    def close(self) -> None:
        self.file.close()
        self.sock.close()

    def end(self) -> None:
        """End the output; the server may still answer."""
        self.sock.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close with a reset."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close()

    def send(self, data: bytes, arrival: str = "whole") -> None:
        self._is_answered = False
        if arrival == "byte by byte":
            for i in range(len(data)):
                self.sock.sendall(data[i : i + 1])
        else:
            self.sock.sendall(data)

    def get(self, target: str = "/") -> Reply:
        self.send(f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        return self.reply()

    def head(self) -> bytes:
        """Read the next head, with its empty line."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self._line()
        assert _HEAD.fullmatch(head), head
        return head

    def reply(self, method: str = "GET") -> Reply:
        """Read the next answer."""
        head = self.head()
        framing, length = _framing(head, method)
        if framing == "length":
            body = self.exactly(length)
        elif framing == "chunked":
            body = b"".join(iter(self.chunk, b""))
        else:
            body = b"" if framing == "bodiless" else self.rest()
        self._is_answered = True
        return Reply(head, body, framing)

    def rest(self) -> bytes:
        """Read all octets until the orderly end of the connection."""
        return self.file.read()

    def is_open(self) -> bool:
        """Whether the server answers a request. No earlier answer may be unread."""
        try:
            self.send(b"GET /is-open HTTP/1.0\r\n\r\n")
            return self.reply().status > 0
        except (CutShortError, ConnectionError):
            return False

    def exactly(self, size: int) -> bytes:
        """Read this many octets of a body."""
        data = self.file.read(size)
        if len(data) != size:
            raise CutShortError(data[-100:])
        return data

    def chunk(self) -> bytes:
        """Read the data of the next chunk; the last chunk has none."""
        size = self._line()
        assert re.fullmatch(rb"0|[1-9a-f][0-9a-f]*", size[:-2]), size
        data = self.exactly(int(size, 16))
        assert self._line() == b"\r\n"
        return data

    def _line(self) -> bytes:
        line = self.file.readline(100_000)
        if not line.endswith(b"\r\n"):
            raise CutShortError(line)
        return line


def _framing(head: bytes, method: str) -> tuple[str, int]:
    """The framing of an answer (RFC 9112 section 6.3)."""
    lengths = re.findall(rb"\r\nContent-Length: (\d+)\r\n", head, re.IGNORECASE)
    chunked = re.findall(rb"\r\nTransfer-Encoding: (.*)\r\n", head, re.IGNORECASE)
    assert len(lengths) + len(chunked) <= 1
    if method == "HEAD" or head[9:12] in (b"204", b"304") or head[9:10] == b"1":
        return "bodiless", 0
    if chunked:
        assert chunked == [b"chunked"]
        assert head.startswith(b"HTTP/1.1")
        return "chunked", 0
    if lengths:
        return "length", int(lengths[0])
    return "connection", 0
