"""The costs that grow with a request's head, also while it is received: for bench/scaling.py."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any

from bench.scaling_parts import COSTS, LINE, MANY, NO_LIMIT, SECTION, START, Cost, Twin, Work, check, cost

# ---- request heads -----------------------------------------------------------------------------------


def different(n: int) -> bytes:
    return b"".join(b"X-Field-%d: the value of field %d\r\n" % (i, i) for i in range(n))


def one_octet_fields(n: int) -> bytes:
    """Octets of the shortest possible fields, with all names that differ apart from case."""
    names = b"!#$%&'*+-.^`|~0123456789abcdefghijklmnopqrstuvwxyz"
    return b"".join(b"%c:\r\n" % names[i % len(names)] for i in range(n // 4))


SHAPES: dict[str, tuple[tuple[int, ...], Callable[[int], bytes]]] = {
    "n fields": (MANY, different),
    "a field of n octets": (SECTION, lambda n: b"X-A: " + b"a" * n + b"\r\n"),
    "a field of n spaces": (SECTION, lambda n: b"X-A: a" + b" \t" * (n // 2) + b"a\r\n"),
    "n octets of one-octet fields": (SECTION, one_octet_fields),
    "n fields of one name": (MANY, lambda n: b"X-A: b\r\n" * n),
    "n fields of one long name": (MANY, lambda n: (b"X-" + b"a" * 80 + b": b\r\n") * n),
    "n Cookie lines": (MANY, lambda n: b"Cookie: a=b\r\n" * n),
    "n Content-Type lines": (MANY, lambda n: b"Content-Type: a/b\r\n" * n),
    "n names with underscores": (MANY, lambda n: b"X_A: b\r\n" * n),
    "a name of n octets": (SECTION, lambda n: b"a" * n + b": b\r\n"),
}


def section_costs(shape: str, sizes: tuple[int, ...], make: Callable[[int], bytes]) -> None:
    def parsing(twin: Twin, n: int) -> Work:
        parse_head, data = twin["_backend"].parse_head, LINE + make(n) + b"\r\n"
        check(len(parse_head(data, 8190, NO_LIMIT).fields) == data.count(b"\n") - 2)
        return lambda: parse_head(data, 8190, NO_LIMIT)

    def building(twin: Twin, n: int) -> Work:
        head = twin["_backend"].parse_head(LINE + make(n) + b"\r\n", 8190, NO_LIMIT)
        build_environ = twin["_backend"].build_environ
        return lambda: build_environ({}, head)

    COSTS[f"parse_head: {shape}"] = Cost(sizes, parsing)
    COSTS[f"build_environ: {shape}"] = Cost(sizes, building)


for _shape, (_sizes, _make) in SHAPES.items():
    section_costs(_shape, _sizes, _make)


def target_costs(shape: str, make: Callable[[int], bytes]) -> None:
    @cost(f"request line and environ: {shape}", SECTION)
    def prepare(twin: Twin, n: int) -> Work:
        backend, data = twin["_backend"], b"GET " + make(n) + b" HTTP/1.1\r\n\r\n"
        return lambda: backend.build_environ({}, backend.parse_head(data, NO_LIMIT))


for _shape, _make in {
    "a path of n octets": lambda n: b"/" + b"a" * n,
    "n octets of percent-encoding": lambda n: b"/" + b"%41" * (n // 3),
    "n percent signs": lambda n: b"/" + b"%" * n,
    "n slashes": lambda n: b"/" * n,
    "a query of n octets": lambda n: b"/?" + b"a=b&" * (n // 4),
    "absolute-form of n octets": lambda n: b"http://h/" + b"a" * n,
    "an authority of n octets": lambda n: b"http://" + b"a" * n,
}.items():
    target_costs(_shape, _make)


def refused(twin: Twin, work: Work) -> Work:
    """The same work on input that is refused."""
    bad_request = twin["_http.grammar"].BadRequest

    def refuse() -> None:
        try:
            work()
        except bad_request:
            return
        raise SystemExit("a bad head was taken")

    return refuse


def refusal_costs(shape: str, make: Callable[[int], bytes]) -> None:
    """The costs of a head that violates the grammar or contradicts itself."""

    @cost(f"refusal: {shape}", SECTION)
    def prepare(twin: Twin, n: int) -> Work:
        parse_head, frame_request = twin["_backend"].parse_head, twin["_http.framing"].frame_request
        settings = twin["_service.options"].Options(max_fields=10_000)
        data = make(n) + b"\r\n"

        def work() -> None:
            frame_request(parse_head(data, NO_LIMIT, NO_LIMIT), settings)

        return refused(twin, work)


for _shape, _make in {
    "n octets and a control character": lambda n: START + b"A: " + b"a" * n + b"\0\r\n",
    "n spaces and a control character": lambda n: START + b"A: " + b" " * n + b"\0\r\n",
    "a name of n octets, no colon": lambda n: START + b"a" * n + b"\r\n",
    "n octets of fields, then a bad one": lambda n: START + b"a:\r\n" * (n // 4) + b"a\r\n",
    "a target of n octets with a bad one": lambda n: b"GET /" + b"a" * n + b'\x7f HTTP/1.1\r\n',
    "an authority of n octets with a bad one": lambda n: b"GET http://" + b"a" * n + b'<x HTTP/1.1\r\n',
    "a version of n octets": lambda n: b"GET / HTTP/" + b"1" * n + b"\r\n",
    "n octets of Host": lambda n: LINE + b"Host: " + b"a" * n + b"<\r\n",
    "n octets of Hosts": lambda n: LINE + b"Host:\r\n" * (n // 7),
    "n octets of Content-Length": lambda n: START + b"Content-Length: " + b"1" * n + b"\r\n",
    "n octets of Content-Lengths": lambda n: START + b"Content-Length:1\r\n" * (n // 18),
    "n octets of Expect": lambda n: START + b"Expect: " + b"a" * n + b"\r\n",
    "n octets of Transfer-Encoding": lambda n: START + b"Transfer-Encoding: " + b"a" * n + b"\r\n",
    "n octets of transfer codings": lambda n: START + b"Transfer-Encoding: a" + b" ,a" * (n // 3) + b"\r\n",
    "n spaces in a transfer coding": lambda n: START + b"Transfer-Encoding: a;" + b" " * n + b",\r\n",
    "n spaces before a transfer coding": lambda n: START + b"Transfer-Encoding: a," + b" " * n + b"@\r\n",
    "n parameters of a transfer coding": lambda n: START + b"Transfer-Encoding: a" + b" ;" * (n // 2) + b",\r\n",
}.items():
    refusal_costs(_shape, _make)


@cost("frame_request: n fields", MANY)
def _frame_request(twin: Twin, n: int) -> Work:
    parse_head, frame_request = twin["_backend"].parse_head, twin["_http.framing"].frame_request
    data, settings = START + different(n) + b"\r\n", twin["_service.options"].Options(max_fields=10_000)

    def work() -> None:
        frame_request(parse_head(data, 8190, NO_LIMIT), settings)

    return work


@cost("frame_request: Connection with n options", MANY)
def _options(twin: Twin, n: int) -> Work:
    request = twin["_backend"].parse_head(START + b"Connection: " + b"a, " * n + b"close\r\n\r\n")
    frame_request, settings = twin["_http.framing"].frame_request, twin["_service.options"].Options()

    def work() -> None:
        frame_request(request, settings)
        check(not request.is_persistent)

    return work


@cost("the handler's headers and its environ from them: n fields", MANY)
def _message(twin: Twin, n: int) -> Work:
    simple_server = twin["simple_server"]
    head = twin["_backend"].parse_head(START + different(n) + b"\r\n", 8190, NO_LIMIT)
    handler_class = simple_server.WSGIRequestHandler

    def work() -> None:
        handler = handler_class.__new__(handler_class)
        handler.client_address, handler.server = ("127.0.0.1", 1), SimpleNamespace(base_environ={})
        handler._begin_request(LINE)
        handler._take_request(head)
        check(len(handler.headers) == n + 1)
        handler.get_environ()

    return work


# ---- heads while they are received -------------------------------------------------------------------


@cost("find_head_end: n octets, one at a time", SECTION)
def _find_head_end(twin: Twin, n: int) -> Work:
    find_head_end, data = twin["_backend"].find_head_end, START + b"A: " + b"a" * n

    def work() -> None:
        buffer = bytearray()
        for i in range(len(data)):
            buffer += data[i : i + 1]
            find_head_end(buffer, i)

    return work


class Dripping(io.RawIOBase):
    """Gives an octet at a time."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        buffer[:1] = octet = self._data[self._at : self._at + 1]
        self._at += 1
        return len(octet)


def arrival_costs(shape: str, sizes: tuple[int, ...], make: Callable[[int], bytes]) -> None:
    @cost(f"head reader: n octets of {shape}, one at a time", sizes)
    def prepare(twin: Twin, n: int) -> Work:
        read, data = twin["_http.head_reader"].read_field_section, make(n) + b"\r\n"
        return lambda: check(read(io.BufferedReader(Dripping(data)), n + 10) == data)

    @cost(f"connection: a head with n octets of {shape}, one at a time", sizes)
    def prepare_connection(twin: Twin, n: int) -> Work:
        data = START + make(n) + b"\r\n"
        server = Served(twin)

        def work() -> None:
            with server.connected() as connection:
                for i in range(len(data)):
                    connection.take(data[i : i + 1])
                check(connection.answers() == 1)

        return work


arrival_costs("one field", SECTION, lambda n: b"A: " + b"a" * (n - 5) + b"\r\n")
arrival_costs("one-octet fields", tuple(n // 2 for n in SECTION), one_octet_fields)  # there is a limit of 10 000 fields


def nothing(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [])
    return ()


class Served:
    """A service whose connections the benchmark makes and drives, without its loop and its lane."""

    def __init__(self, twin: Twin) -> None:
        limits = {"max_fields": 10_000, "max_request_line": 1 << 20, "max_field_section": 1 << 20}
        options = twin["_service.options"].Options(**limits)
        self._connection_class = twin["_events.connection"].Connection
        self._listener = socket.create_server(("127.0.0.1", 0))
        listener = SimpleNamespace(sock=self._listener, is_inherited=False, close=self._listener.close)
        self._service = twin["_service.service"].Service(nothing, options, [listener])

    def connected(self) -> Fed:
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        theirs.setblocking(False)
        connection = self._connection_class(self._service._servers[0], ours, ("127.0.0.1", 1))
        connection.lane = None
        self._service.loop.connections[connection.fd] = connection
        return Fed(connection, theirs)

    def __del__(self) -> None:
        self._service.close()


class Fed:
    """A connection that gets octets from the benchmark, which reads and drops its answers."""

    def __init__(self, connection: Any, client: socket.socket) -> None:
        self.connection = connection
        self.take = connection.received
        self._client = client

    def __enter__(self) -> Fed:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.connection.close()
        self._client.close()

    def answers(self) -> int:
        """Read the answers and return their number; the connection continues when its output has room."""
        received = bytearray()
        while True:
            try:
                data = self._client.recv(1 << 20)
                if not data:
                    raise SystemExit("a connection was closed")
                received += data
            except BlockingIOError:
                if not self.connection.output:
                    return received.count(b"HTTP/1.1 200 ")
                self.connection.turn()


@cost("connection: n pipelined requests in one buffer", (32, 128, 512, 2048))
def _pipelined(twin: Twin, n: int) -> Work:
    server, data = Served(twin), (b"GET / HTTP/1.1\r\nHost:h\r\n\r\n" * n)

    def work() -> None:
        with server.connected() as connection:
            connection.take(data)
            check(connection.answers() == n)

    return work
