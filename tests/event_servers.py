"""Event-driven servers for the tests, and a client that takes nothing for granted of what they send."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fastwsgi import simple_server
from fastwsgi._events.shared_loop import SharedLoop
from serving import Address, serving, wait_until

#: Nothing here takes a tenth of it.
TIMEOUT = 10.0

#: The ways to the same answers, as settings.
KINDS: dict[str, dict[str, Any]] = {
    "fast lane": {"fast_lane": True},
    "general path": {"fast_lane": False},
    "selectors": {"fast_lane": False, "poller": "selectors"},
}
#: The same in several threads.
THREADED_KINDS: dict[str, dict[str, Any]] = {
    "threads": {"fast_lane": True},
    "threads, general path": {"fast_lane": False},
    "threads, selectors": {"fast_lane": True, "poller": "selectors"},
}
ALL_KINDS = {**KINDS, **THREADED_KINDS}
THREADS = 4
#: A key and a certificate, which proves nothing to anybody.
CERTIFICATE = Path(__file__).with_name("localhost.pem")


GET = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"
OLD = b"GET / HTTP/1.0\r\n\r\n"
BLOCK = b"0123456789abcdef" * 4096


def of(*blocks: Any, status: str = "200 OK", headers: Any = ()) -> Callable[..., Any]:
    """An application that answers by a generator."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response(status, list(headers))
        return (block for block in blocks)

    return application


def returning(result: Callable[[], Any], status: str = "200 OK", headers: Any = ()) -> Callable[..., Any]:
    """An application that answers with the result of a call."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response(status, list(headers))
        return result()

    return application


class Running(NamedTuple):
    """An event-driven server that runs."""

    address: Address
    server: Any

    @property
    def connections(self) -> list[Any]:
        inside = self.server._inside  # there once it runs, and until it's shut down
        return [] if inside is None else list(inside.loop.connections.values())

    def wait_until_all_are_gone(self) -> None:
        self.wait_until(lambda: not self.connections)

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Wait for what no octet on a socket tells of."""
        wait_until(condition, TIMEOUT)


class ThreadedServer(simple_server.WSGIServer):
    """What serves is the loop of several threads, as under fastwsgi.serve(); all else is as ever."""

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        try:
            self.serve_in_threads(SharedLoop(self.settings))
        finally:
            self.has_stopped.set()

    def serve_in_threads(self, loop: SharedLoop) -> None:
        self._inside = inside = simple_server._inside_of(self, loop, THREADS)
        threads = [threading.Thread(target=loop.serve_in_thread, args=(i,), daemon=True) for i in range(THREADS)]
        for thread in threads:
            thread.start()
        self.is_asked_to_stop.wait()
        loop.finish(self.settings.graceful_timeout)
        for thread in threads:
            thread.join(TIMEOUT)
            assert not thread.is_alive()
        loop.close()
        self._inside = None
        assert inside.loop.connections == {}

    def shutdown(self) -> None:
        self.is_asked_to_stop.set()
        self.has_stopped.wait(TIMEOUT)

    def __init__(self, *args: Any, **keywords: Any) -> None:
        self.is_asked_to_stop = threading.Event()
        self.has_stopped = threading.Event()
        super().__init__(*args, **keywords)


@contextlib.contextmanager
def event_server(
    application: Any, kind: str, *, attributes: Mapping[str, Any] | None = None, tls: bool = False, **settings: Any
) -> Iterator[Running]:
    """Run a server of a kind, with attributes on a handler class of its own, and settings."""
    stock = simple_server.WSGIRequestHandler
    handler_class = type("Handler", (stock,), dict(attributes)) if attributes else stock
    server_class = ThreadedServer if kind in THREADED_KINDS else simple_server.WSGIServer
    server: Any = simple_server.make_server("127.0.0.1", 0, application, server_class, handler_class)
    with contextlib.ExitStack() as stack:
        stack.enter_context(server)
        server.socket.listen(1024)  # or clients that come by the hundred would wait for the kernel
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(CERTIFICATE)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        settings = {"graceful_timeout": 0.1, **ALL_KINDS[kind], **settings}
        server.settings = dataclasses.replace(server.settings, **settings)
        assert simple_server.explain(server).path == "event-driven"
        address = stack.enter_context(serving(server))
        yield Running(address, server)


class Starter:
    """Starts servers of a kind."""

    def __init__(self, kind: str, stack: contextlib.ExitStack) -> None:
        self.kind = kind
        self.is_threaded = kind in THREADED_KINDS
        self._stack = stack

    def __call__(self, application: Any, **options: Any) -> Running:
        return self._stack.enter_context(event_server(application, self.kind, **options))


def starting(request: Any) -> Iterator[Starter]:
    """What starts servers; make a fixture of it, with some of the kinds for params."""
    with contextlib.ExitStack() as stack:
        yield Starter(request.param, stack)


class Reply(NamedTuple):
    """One answer: its head as it was sent, and its body without the coding."""

    head: bytes
    body: bytes
    #: How the body ended: "length", "chunked", "connection", or "bodiless".
    framing: str

    @property
    def status(self) -> int:
        return int(self.head[9:12])

    @property
    def fields(self) -> dict[str, str]:
        """What isn't in every answer; no field is there twice."""
        pairs = [line.split(": ", 1) for line in self.head.decode("latin-1").split("\r\n")[1:-2]]
        fields = dict(pairs)
        assert len(fields) == len(pairs), pairs
        return {name: value for name, value in fields.items() if name not in ("Date", "Server")}


_HEAD = re.compile(rb"HTTP/1\.[01] \d{3} [ -~]*\r\n([!#$%&'*+.^_`|~0-9A-Za-z-]+: [ -~\x80-\xff]*\r\n)*\r\n")


class CutShortError(Exception):
    """The connection ended before the answer did."""


class Client:
    """A connection to a server. Whatever isn't as RFC 9112 has it, raises.

    room: what the kernel may receive, about; strict: a TLS connection without a proper end raises, too.
    """

    def __init__(self, address: Address, *, tls: bool = False, room: int | None = None, strict: bool = False) -> None:
        self.sock = socket.socket()
        self.sock.settimeout(TIMEOUT)
        if room is not None:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        self.sock.connect(address)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
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
            # Until the server has closed, too: then it has logged what was answered.
            with contextlib.suppress(OSError):
                self.sock.shutdown(socket.SHUT_WR)
                self.rest()
        self.close()

    def close(self) -> None:
        self.file.close()
        self.sock.close()

    def reset(self) -> None:
        """Go, without a word."""
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
        """The next head, with its empty line."""
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self._line()
        assert _HEAD.fullmatch(head), head
        return head

    def reply(self, method: str = "GET") -> Reply:
        """The next answer."""
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
        """All there is until the end, which is an orderly one."""
        return self.file.read()

    def is_open(self) -> bool:
        """Whether a request would be answered; there is nothing else to read."""
        try:
            self.send(b"GET /is-open HTTP/1.0\r\n\r\n")
            return self.reply().status > 0
        except (CutShortError, ConnectionError):
            return False

    def exactly(self, size: int) -> bytes:
        """So many octets of a body."""
        data = self.file.read(size)
        if len(data) != size:
            raise CutShortError(data[-100:])
        return data

    def chunk(self) -> bytes:
        """The next chunk's data; the last has none."""
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
    """RFC 9112 section 6.3."""
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


class FailsToClose:
    """An iterable whose close() raises."""

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"hello"])

    def close(self) -> None:
        raise ValueError("on purpose")


def hello(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    environ["wsgi.input"].read()
    start_response("200 OK", [])
    return [b"hello"]


def assert_serves(running: Running) -> None:
    with Client(running.address) as client:
        assert client.get("/").body == b"hello"


class Log:
    """What a test's servers have written to standard error."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._text = ""

    def text(self) -> str:
        self._text += self._capsys.readouterr().err
        return self._text

    def requests(self) -> list[str]:
        """The end of each request's line: the request line, the status, the size."""
        return re.findall(r'^[\d.]+ - - \[.*\] (".*" \S+ \S+)$', self.text(), re.MULTILINE)

    def wait_for_requests(self, count: int) -> list[str]:
        wait_until(lambda: len(self.requests()) >= count, TIMEOUT)
        return self.requests()
