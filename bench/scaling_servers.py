"""The costs of a server that grow with the input: for bench/scaling.py. The server reports its own CPU time.

Run as a program, this module is that server: ``fastwsgi.serve()`` without its command line, and with an application
that has a path for each kind of answer.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

from bench.scaling_heads import different, one_octet_fields
from bench.scaling_parts import BODY, MANY, READINGS, SECTION, chunked, fill_memory, lines, pairs
from bench.slopes import LIMIT

CONNECTIONS = (125, 500, 2000, 8000)
LARGE = (1 << 13, 1 << 15, 1 << 17, 1 << 19)
_TIMEOUT = 30.0
# Descriptors that a process needs besides its connections.
_SPARE_DESCRIPTORS = 100

# The highest allowed limits, and timeouts that even a busy machine doesn't reach.
OPTIONS: dict[str, Any] = {
    "max_fields": 10_000, "max_field_section": 1 << 24, "max_request_line": 1 << 20, "max_body_in_memory": 1 << 30,
    "head_timeout": 600.0, "keep_alive_timeout": 600.0, "progress_timeout": 600.0,
}  # fmt: skip


# ---- the server --------------------------------------------------------------------------------------


def serve(options: dict[str, Any]) -> None:
    """Serve until SIGTERM; then print the CPU seconds that stopping took."""
    from fastwsgi._events import connection
    from fastwsgi._service.options import Options
    from fastwsgi._service.run import listen
    from fastwsgi._service.service import Service
    from fastwsgi.headers import Headers

    fill_memory(Headers)
    if options.pop("octet by octet", False):
        connection._RECEIVE = 1  # octet by octet, even if more have arrived
    settings = Options(bind=("127.0.0.1:0",), **options)
    block = cache(bytes)  # the application's memory isn't the server's cost
    listeners = listen(settings)

    def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
        if path == "/fields":
            start_response("200 OK", pairs(int(query)))
            return [b"ok"]
        write = start_response("200 OK", [])
        if path == "/cpu":
            return [b"%d %d" % (time.process_time_ns(), len(service.loop.connections))]
        if path == "/read":
            return [b"x" * READINGS[query](environ["wsgi.input"])]
        if path == "/stream":
            return (b"a block" for _ in range(int(query)))
        if path == "/written":
            for _ in range(int(query)):
                write(b"a block")
            return ()
        if path == "/block":
            return [block(int(query))]
        if path == "/file":
            file = tempfile.TemporaryFile()  # noqa: SIM115 - closed with the wrapper
            file.truncate(int(query))
            return environ["wsgi.file_wrapper"](file)  # type: ignore[no-any-return]
        return [b"ok"]

    service = Service(application, settings, listeners)
    signal.signal(signal.SIGTERM, lambda number, frame: service.stop())
    print(listeners[0].sock.getsockname()[1], flush=True)
    service.serve()
    before = time.process_time()
    service.finish()
    print(time.process_time() - before, flush=True)


# ---- its clients -------------------------------------------------------------------------------------


class Client:
    """A connection to a server."""

    def __init__(self, port: int) -> None:
        self.sock = socket.create_connection(("127.0.0.1", port), _TIMEOUT)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self.sock.makefile("rb")

    def close(self) -> None:
        self._file.close()
        self.sock.close()

    def ask(self, data: bytes, answers: int = 1) -> int:
        """Send requests and read their answers; return the size of the last body. Raises SystemExit."""
        # Send in another thread: a client that doesn't read while it sends may deadlock with a server that waits too.
        sending = threading.Thread(target=self.sock.sendall, args=(data,), daemon=True)
        sending.start()
        for _ in range(answers):
            size = self._answer()
        sending.join(_TIMEOUT)
        return size

    def get(self, target: str) -> int:
        return self.ask(f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode())

    def text(self, target: str) -> bytes:
        self.sock.sendall(f"GET {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        return self._file.read(self._head())

    def _head(self) -> int:
        """Read a head; return the length of its body, or -1 for a chunked one."""
        status = self._file.readline()
        if not status.startswith(b"HTTP/1.1 200 "):
            raise SystemExit(f"a wrong answer: {status!r}")
        length = -1
        while (line := self._file.readline()) != b"\r\n":
            if line.startswith(b"Content-Length:"):
                length = int(line[15:])
        return length

    def _answer(self) -> int:
        size = left = self._head()
        if size >= 0:
            while left:
                left -= len(self._file.read(min(left, 1 << 16))) or self._cut_short()
            return size
        size = 0
        while chunk := int(self._file.readline() or self._cut_short(), 16):
            size += chunk
            self._file.read(chunk + 2)
        self._file.readline()
        return size

    def _cut_short(self) -> Any:
        raise SystemExit("an answer was cut short")


class Server:
    """A server in a separate process."""

    def __init__(self, twin: str, options: dict[str, Any]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.scaling_servers", json.dumps({**OPTIONS, **options})],
            cwd=Path(__file__).parents[1],
            env={**os.environ, "FASTWSGI_PURE": "1" if twin == "pure" else ""},
            stdout=subprocess.PIPE,
            text=True,
        )
        self.port = int(self._output() or 0)
        self._control = self.connect()
        self._state()  # now, so that its first request isn't measured

    def _output(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline()

    def connect(self) -> Client:
        return Client(self.port)

    def cost_of(self, do: Callable[[], object]) -> float:
        """The CPU seconds that the server uses for some work, including the request for its CPU time."""
        before, _ = self._state()
        do()
        return self._state()[0] - before

    def _state(self) -> tuple[float, int]:
        nanoseconds, connections = self._control.text("/cpu").split()
        return int(nanoseconds) / 1e9, int(connections) - 1

    def wait_for_connections(self, count: int) -> None:
        """Wait until the server has this many connections besides the one for questions."""
        end = time.monotonic() + _TIMEOUT
        while self._state()[1] != count:
            if time.monotonic() > end:
                raise SystemExit(f"there are {self._state()[1]} connections, and not {count}")
            time.sleep(0.01)

    @contextlib.contextmanager
    def crowd(self, count: int) -> Iterator[list[socket.socket]]:
        """Open connections that send nothing."""
        socks: list[socket.socket] = []
        try:
            for _ in range(count):
                socks.append(socket.create_connection(("127.0.0.1", self.port), _TIMEOUT))
            yield socks
        finally:
            for sock in socks:
                sock.close()

    def stop(self) -> float:
        """Stop the server, and return the CPU seconds that it took."""
        self._control.close()
        self._process.terminate()
        taken = float(self._output() or "nan")
        self.kill()
        return taken

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(_TIMEOUT)
        if self._process.stdout is not None:
            self._process.stdout.close()


# ---- the measurements --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cost:
    """Work with a server, in several sizes."""

    sizes: tuple[int, ...]
    #: Does the work, and returns the server's CPU seconds.
    measure: Callable[[Server, int], float]
    options: dict[str, Any] = field(default_factory=dict)
    limit: float = LIMIT
    #: Whether each measurement needs a new server.
    ends_server: bool = False


COSTS: dict[str, Cost] = {}


@contextlib.contextmanager
def measuring(cost: Cost, twins: Sequence[str]) -> Iterator[list[Callable[[], list[float]]]]:
    """The functions that measure a round, one for each twin."""
    with contextlib.ExitStack() as stack:

        def server_for(twin: str, stack: contextlib.ExitStack) -> Server:
            server = Server(twin, cost.options)
            stack.callback(server.kill)
            return server

        def measurer(twin: str) -> Callable[[], list[float]]:
            if not cost.ends_server:
                server = server_for(twin, stack)
                return lambda: [cost.measure(server, size) for size in cost.sizes]

            def measure_anew() -> list[float]:
                costs = []
                for size in cost.sizes:
                    with contextlib.ExitStack() as inner:
                        costs.append(cost.measure(server_for(twin, inner), size))
                return costs

            return measure_anew

        yield [measurer(twin) for twin in twins]


def connections_within_limits() -> tuple[int, ...]:
    """Four sizes: as many connections as this process may have, a fourth of that, and so on."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return CONNECTIONS
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = CONNECTIONS[-1] + _SPARE_DESCRIPTORS
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    most = min(soft - _SPARE_DESCRIPTORS, CONNECTIONS[-1])
    return tuple(most * size // CONNECTIONS[-1] for size in CONNECTIONS)


def asking(
    name: str, sizes: tuple[int, ...], make: Callable[[int], bytes], body: int | None = 2, **options: Any
) -> None:
    """A row with one request. octets: the size of the answer's body; None: the size of the input."""

    def measure(server: Server, n: int) -> float:
        data = make(n)
        # Several requests, one after the other, if they are answered quickly.
        count = max(1, min(20, (1 << 16) // len(data)))
        client = server.connect()

        def ask() -> None:
            for _ in range(count):
                if client.ask(data) != (n if body is None else body):
                    raise SystemExit(f"{name}: a wrong answer")

        try:
            return server.cost_of(ask) / count
        finally:
            client.close()

    COSTS[f"server: {name}"] = Cost(sizes, measure, options)


def get(target: str, fields: bytes = b"") -> bytes:
    return b"GET " + target.encode() + b" HTTP/1.1\r\nHost: h\r\n" + fields + b"\r\n"


def post(how: str, body: bytes, is_chunked: bool = False) -> bytes:
    """A row with an upload, which the application reads in a given way."""
    length = b"Transfer-Encoding: chunked" if is_chunked else b"Content-Length: %d" % len(body)
    return b"POST /read?" + how.encode() + b" HTTP/1.1\r\nHost: h\r\n" + length + b"\r\n\r\n" + body


def upload(how: str, n: int) -> bytes:
    return post(how, lines(n // 32)[:n])


FILE = tuple(16 * n for n in BODY)
ONE_BY_ONE = {"octet by octet": True, "fast_lane": False}
asking("a head of n fields", MANY, lambda n: get("/", different(n - 1)))
asking("n Cookie lines", MANY, lambda n: get("/", b"Cookie: a=b\r\n" * (n - 1)))
asking("a field of n octets", LARGE, lambda n: get("/", b"X-A: " + b"a" * n + b"\r\n"))
asking("n octets of one-octet fields", (1 << 9, 1 << 11, 1 << 13, 1 << 15), lambda n: get("/", one_octet_fields(n)))
asking("a head of n octets, one at a time", SECTION, lambda n: get("/", b"A: " + b"a" * n + b"\r\n"), **ONE_BY_ONE)
asking("a target of n octets", LARGE, lambda n: get("/" + "%41" * (n // 3)))
for _how in READINGS:
    asking(f"a body of n octets, by {_how}", BODY, partial(upload, _how), None)
asking("a body of n octets in large chunks", BODY, lambda n: post("read(-1)", chunked(bytes(n), 1 << 16), True), None)
asking("a body of n chunks of an octet", MANY, lambda n: post("read(-1)", chunked(bytes(n), 1), True), None)
asking("a trailer section of n fields", MANY, lambda n: post("read(-1)", b"0\r\n" + b"A: b\r\n" * n + b"\r\n", True), 0)
asking("an answer of n fields", MANY, lambda n: get(f"/fields?{n}"))
asking("an answer of n octets", FILE, lambda n: get(f"/block?{n}"), None)
asking("an answer of n octets from a file", FILE, lambda n: get(f"/file?{n}"), None)


def measure_stream(target: str) -> Callable[[Server, int], float]:
    def measure(server: Server, n: int) -> float:
        client = server.connect()

        def ask() -> None:
            if client.get(f"{target}?{n}") != 7 * n:
                raise SystemExit("a wrong stream")

        try:
            return server.cost_of(ask)
        finally:
            client.close()

    return measure


COSTS["server: an answer streamed in n blocks"] = Cost(MANY, measure_stream("/stream"))
COSTS["server: an answer written in n blocks"] = Cost(MANY, measure_stream("/written"))


def measure_pipelined(server: Server, n: int) -> float:
    client, data = server.connect(), get("/") * n
    try:
        return server.cost_of(lambda: client.ask(data, n))
    finally:
        client.close()


def measure_accepting(server: Server, n: int) -> float:
    with contextlib.ExitStack() as stack:

        def connect() -> None:
            stack.enter_context(server.crowd(n))
            server.wait_for_connections(n)

        return server.cost_of(connect)


def measure_leaving(server: Server, n: int) -> float:
    """The cost of clients that close their connections."""
    with server.crowd(n) as socks:
        server.wait_for_connections(n)

        def close() -> None:
            for sock in socks:
                sock.close()
            server.wait_for_connections(0)

        return server.cost_of(close)


def measure_among_idle(server: Server, n: int) -> float:
    client = server.connect()
    with server.crowd(n):
        server.wait_for_connections(n + 1)
        cost = server.cost_of(lambda: [client.get("/") for _ in range(500)])
    client.close()
    server.wait_for_connections(0)
    return cost


def measure_expiring(server: Server, n: int) -> float:
    """The cost of silent clients, from the first connect to the last timeout."""
    with contextlib.ExitStack() as stack:

        def expire() -> None:
            stack.enter_context(server.crowd(n))
            time.sleep(0.5)
            server.wait_for_connections(0)

        return server.cost_of(expire)


def measure_stopping(server: Server, n: int) -> float:
    with server.crowd(n):
        server.wait_for_connections(n)
        return server.stop()


_CONNECTIONS = connections_within_limits()
# Without the fast lane, because its share depends on where each receive() happens to end.
COSTS["server: n pipelined requests"] = Cost((500, 1500, 4500), measure_pipelined, {"fast_lane": False})
COSTS["server: n connections, accepted"] = Cost(_CONNECTIONS, measure_accepting)
COSTS["server: n connections, closed by their clients"] = Cost(_CONNECTIONS, measure_leaving)
COSTS["server: n silent connections, until their time is over"] = Cost(
    _CONNECTIONS[1:], measure_expiring, {"head_timeout": 0.5}
)
COSTS["server: 500 requests among n idle connections"] = Cost(_CONNECTIONS, measure_among_idle, limit=0.2)
COSTS["server: stopping, with n idle connections"] = Cost(
    _CONNECTIONS[1:], measure_stopping, {"graceful_timeout": 0.3}, ends_server=True
)

if __name__ == "__main__":
    serve(json.loads(sys.argv[1]))
