"""Many clients and slow ones on the event-driven path: their cost for others, memory, descriptors, limits."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clients import GET, Address, Client
from fastwsgi import _backend
from fastwsgi._events import connection, output, response
from fastwsgi._http import body
from fastwsgi._http.body import IncomingBody
from fastwsgi._http.settings import Settings
from fastwsgi.simple_server import WSGIRequestHandler
from programs import Program, running
from servers import ALL_KINDS, KINDS, EventServer, event_server, starting
from waiting import TIMEOUT, wait_until

start = pytest.fixture(params=ALL_KINDS)(starting)

HALF_A_HEAD = b"GET / HTTP/1.1\r\nHost: h\r\nX-A: "
HALF_A_BODY = b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 600000\r\n\r\n" + bytes(590_000)
LARGE = 1 << 24

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")


def hello(environ: dict[str, Any], start_response: Any) -> Any:
    start_response("200 OK", [])
    if environ["PATH_INFO"] == "/large":
        return (bytes(65536) for _ in range(LARGE // 65536))
    return [b"hello"]


def allow_descriptors(count: int) -> int:
    """Raise the limit of descriptors for this process and its children by a number, or as far as allowed."""
    resource: Any = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 200
    if soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return int(min(count, soft - 200))


class Counter:
    """Counts a running server's turns, and what its poller reports to them."""

    def __init__(self, server: EventServer) -> None:
        server.wait_until(lambda: server.server._inside)
        self.turns = self.events = 0
        poller = server.server._inside.loop.poller
        wait = poller.wait

        def counting(timeout: float | None) -> list[tuple[int, int]]:
            events = list(wait(timeout))
            self.turns += bool(events)
            self.events += len(events)
            return events

        poller.wait = counting

    def cost_of(self, do: Callable[[], object]) -> int:
        """How many events some work takes."""
        before = self.events
        do()
        return self.events - before


@contextlib.contextmanager
def clients(address: Address, count: int, data: bytes = b"", **options: Any) -> Iterator[list[Client]]:
    """Open connections, and send something on each."""
    with contextlib.ExitStack() as stack:
        made = [stack.enter_context(contextlib.closing(Client(address, **options))) for _ in range(count)]
        for client in made:
            client.send(data)
        yield made


@pytest.mark.parametrize("kind", KINDS)
def test_new_clients_do_not_keep_those_waiting_that_are_there(kind: str) -> None:
    """If many clients connect while the application is slow, only some of them are accepted at a time."""
    order: list[str] = []
    begun, goes_on = threading.Event(), threading.Event()

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        order.append(environ["PATH_INFO"])
        if environ["PATH_INFO"] == "/first":
            begun.set()
            assert goes_on.wait(TIMEOUT)
        elif environ["PATH_INFO"] == "/":
            time.sleep(0.005)
        return [b""]

    with event_server(application, kind) as server, Client(server.address) as known, Client(server.address) as first:
        known.get("/known")
        first.send(b"GET /first HTTP/1.1\r\nHost: h\r\n\r\n")
        assert begun.wait(TIMEOUT)
        with clients(server.address, 50, GET) as new:
            first.send(b"GET /known HTTP/1.1\r\nHost: h\r\n\r\n")
            goes_on.set()
            for client in (first, first, *new):
                assert client.reply().status == 200
    # The second turn finds out that it is there.
    assert order.index("/known", 1) < len(order) - 20


@pytest.mark.parametrize("kind", KINDS)
def test_a_request_that_comes_at_the_last_moment_is_answered(kind: str) -> None:
    """It arrives while earlier events are handled, and by then the client's deadline has passed."""
    servers: list[EventServer] = []

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        if environ["PATH_INFO"] == "/late":
            late.send(GET)
            (idle,) = [each for each in servers[0].connections if each.sock.getpeername() == late.sock.getsockname()]
            servers[0].wait_until(idle.has_input)
            idle.deadline = 0.0
            idle.expire()
        return [b"hello"]

    with event_server(application, kind) as server, Client(server.address) as late, Client(server.address) as client:
        servers.append(server)
        assert late.get().body == b"hello"
        client.get("/late")
        assert late.reply().body == b"hello"


@pytest.mark.parametrize("kind", KINDS)
def test_a_crowd_slows_nobody_down(kind: str) -> None:
    """Counted, not timed: among a thousand connections, a request takes as many events as alone."""
    with event_server(hello, kind) as server:
        look_at_a_crowd(server)


def look_at_a_crowd(server: EventServer) -> None:
    count = allow_descriptors(2 * 1200) // 2 - 200
    counter = Counter(server)

    def ask() -> None:
        for _ in range(20):
            with Client(server.address) as client:
                assert client.get().body == b"hello"

    alone = counter.cost_of(ask)
    assert 20 <= alone <= 20 * 4
    with (
        clients(server.address, 150, HALF_A_HEAD) as half,
        clients(server.address, count, GET) as idle,
        Client(server.address, room=4096) as reader,
    ):
        for client in idle:
            client.reply()
        reader.send(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n")
        reader.head()
        server.wait_until(lambda: any(each.is_full() for each in server.connections))
        assert len(server.connections) == 150 + count + 1

        def ask_meanwhile() -> None:
            for _ in range(20):
                with Client(server.address) as client:
                    assert client.get().body == b"hello"
                reader.sock.recv(1)

        assert counter.cost_of(ask_meanwhile) <= 20 * 4 + 20
        # All are still served, so the server hasn't just forgotten them.
        half[-1].send(b"b\r\n\r\n")
        assert half[-1].reply().body == b"hello"
        assert idle[0].get().body == b"hello"
        reader.reset()


def census() -> dict[str, int]:
    """The number of objects of each class that belongs to connections."""
    gc.collect()
    kinds = (
        connection.Connection, response.Response, output.Output, output.FileRange, body.IncomingBody, body.BodyFile,
        WSGIRequestHandler, socket.socket,
    )  # fmt: skip
    everything = gc.get_objects()
    return {kind.__name__: sum(isinstance(each, kind) for each in everything) for kind in kinds}


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


SLOW = {
    "silent": b"",
    "half a head": HALF_A_HEAD,
    "half a body": HALF_A_BODY,
    "half a chunk": b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n90000\r\n" + bytes(589_000),
    "idle": GET,
    "reads nothing": b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n",
    "reads nothing of much": GET.replace(b"/", b"/written", 1),
}


@linux
@pytest.mark.parametrize("end", ["deadline", "reset", "shutdown"])
def test_nothing_stays(start: Any, end: str) -> None:
    """After slow clients have ended in any way, no connection, descriptor or object is left."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/written":
            write = start_response("200 OK", [])
            for _ in range(LARGE // 65536):
                write(bytes(65536))
            return []
        return hello(environ, start_response)

    time_for = 0.3 if end == "deadline" else 30.0
    # With several threads, the application waits for such a client in its thread.
    takes_a_thread = "reads nothing" if start.is_threaded and end != "deadline" else None
    server: EventServer = start(
        application,
        head_timeout=time_for,
        progress_timeout=time_for,
        keep_alive_timeout=time_for,
        linger_timeout=0.1,
        max_output=100_000,
    )
    with Client(server.address) as client:
        client.get()
    del client
    server.wait_until_all_are_gone()
    objects, files = census(), descriptors()
    with contextlib.ExitStack() as stack:
        slow = [
            client
            for kind, data in SLOW.items()
            for count in [1 if kind == takes_a_thread else 10]
            for client in stack.enter_context(clients(server.address, count, data, room=4096))
        ]
        if end == "deadline":
            for client in slow[:50]:
                with contextlib.suppress(ConnectionError):  # the server hasn't read what the client sent
                    client.rest()
        else:
            server.wait_until(lambda: len(server.connections) == len(slow))
            readers = 20 if takes_a_thread is None else 11
            server.wait_until(lambda: sum(each.output is not None for each in server.connections) == readers)
        if end == "reset":
            for client in slow:
                client.reset()
        elif end == "shutdown":
            server.server.shutdown()
        if end != "shutdown":
            server.wait_until_all_are_gone()
    slow.clear()
    client = None  # type: ignore[assignment]

    def nothing_is_left() -> bool:
        # PyPy's dicts may keep removed objects until they need the place.
        counted = census() if sys.implementation.name == "cpython" else {}
        # There may be fewer, if the server's own are gone, or the garbage collector has freed some of an earlier test.
        return descriptors() <= files and all(left <= objects[kind] for kind, left in counted.items())

    # The thread that closed the last one may keep it for a moment.
    wait_until(nothing_is_left)


# ---- limits -----------------------------------------------------------------------------------------


def has_answer(client: Client) -> bool:
    client.sock.setblocking(False)
    try:
        client.sock.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    finally:
        client.sock.settimeout(10)
    return True


def test_accepting_pauses_at_the_limit(start: Any) -> None:
    """Other clients wait in the kernel's queue, at no cost, until there is room."""
    server: EventServer = start(hello, max_connections=5)
    counter = None if start.is_threaded else Counter(server)
    with clients(server.address, 5, GET) as inside, clients(server.address, 3, GET) as outside:
        for client in inside:
            assert client.reply().body == b"hello"

        def ask() -> None:
            for _ in range(20):
                inside[0].get()

        assert counter is None or counter.cost_of(ask) <= 25
        assert len(server.connections) == 5
        assert not any(has_answer(client) for client in outside)
        for leaving, coming in zip(inside[1:], outside, strict=False):
            leaving.close()
            assert coming.reply().body == b"hello"
            assert inside[0].get().body == b"hello"
        assert len(server.connections) <= 5


PROGRAM = """
import dataclasses, json, os, sys
from fastwsgi import simple_server
options = json.loads(sys.argv[1])
turns = 0

def application(environ, start_response):
    start_response("200 OK", [])
    path = environ["PATH_INFO"]
    if path == "/upload":
        return [b"%d" % sum(map(len, iter(lambda: environ["wsgi.input"].read(65536), b"")))]
    if path == "/file":
        return environ["wsgi.file_wrapper"](open(options["file"], "rb"))
    if path == "/written":
        write = start_response("200 OK", [], (None, None, None))
        for _ in range(3200):
            write(bytes(65536))
    return [b"%d" % turns]

class Server(simple_server.WSGIServer):
    request_queue_size = 1024

    def service_actions(self):
        global turns
        turns += 1

with simple_server.make_server("127.0.0.1", 0, application, Server) as server:
    server.settings = dataclasses.replace(server.settings, **options["settings"])
    if "descriptors" in options:
        import resource
        # Descriptors are assigned from the lowest number on: count those in use, and those that serving needs.
        used = len(os.listdir("/proc/self/fd")) + 2
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + options["descriptors"], hard))
    print("port", server.server_port)
    server.serve_forever()
"""


@contextlib.contextmanager
def program(kind: str, **options: Any) -> Iterator[Program]:
    """A server in a separate process."""
    arguments = json.dumps({"settings": KINDS[kind], **options})
    with running(["-c", PROGRAM, arguments], r"^port (?P<port>\d+)$") as found:
        yield found


@linux
@pytest.mark.parametrize("kind", KINDS)
def test_accepting_pauses_when_there_are_no_descriptors(kind: str) -> None:
    """While a connection waits, accept() fails with EMFILE again and again; the loop must not spin on it."""
    with program(kind, descriptors=8) as server, contextlib.ExitStack() as stack:
        made = [stack.enter_context(contextlib.closing(Client(server.address))) for _ in range(12)]
        for client in made:
            client.send(GET)
        served = [made[0]]
        assert made[0].reply().status == 200
        before = int(made[0].get().body)
        time.sleep(0.5)  # nothing should happen in this time
        assert int(made[0].get().body) - before < 20
        served += [client for client in made[1:] if has_answer(client)]
        waiting = [client for client in made if client not in served]
        assert len(waiting) >= 3
        for client in served:
            client.close()
        for client in waiting:
            assert client.reply().status == 200  # in the end
    assert "Traceback" not in server.stderr


# ---- cost -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", ["many fields", "a long field", "a long line"])
def test_a_head_that_drips_in_costs_linear_work(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted in searched octets: each search continues where the last one stopped."""
    looked_at = {"octets": 0, "lines": 0}
    find_head_end, parse_request_line = _backend.find_head_end, _backend.parse_request_line

    def finding(data: Any, begin: int = 0) -> int:
        looked_at["octets"] += len(data) - begin
        return find_head_end(data, begin)

    def parsing(line: bytes, *args: Any) -> Any:
        looked_at["lines"] += 1
        return parse_request_line(line, *args)

    monkeypatch.setattr(connection, "find_head_end", finding)
    monkeypatch.setattr(connection, "parse_request_line", parsing)
    monkeypatch.setattr(connection, "_RECEIVE", 1)
    data = {
        "many fields": b"GET / HTTP/1.1\r\nHost: h\r\n" + b"".join(b"X-%d: %0300d\r\n" % (i, i) for i in range(99)),
        "a long field": b"GET / HTTP/1.1\r\nHost: h\r\nX-A: " + b"a" * 30_000 + b"\r\n",
        "a long line": b"GET /" + b"a" * 8000 + b" HTTP/1.1\r\nHost: h\r\n",
    }[shape] + b"\r\n"
    with event_server(hello, "general path") as server, Client(server.address) as client:
        client.send(data)
        assert client.reply().body == b"hello"
    assert looked_at["octets"] <= 4 * len(data)
    assert looked_at["lines"] == 1


class Searched(bytearray):
    """Counts the octets that are searched or copied."""

    touched = 0

    def find(self, what: Any, begin: int = 0, *args: Any) -> int:  # type: ignore[override]
        self.touched += len(self) - begin
        return super().find(what, begin, *args)

    def __getitem__(self, key: Any) -> Any:
        found = super().__getitem__(key)
        self.touched += len(found) if isinstance(key, slice) else 1
        return found


@pytest.mark.parametrize("line", [b"5;" + b"a" * 900 + b"\r\nhello\r\n", b"384\r\n" + b"a" * 900 + b"\r\n"])
def test_a_body_that_drips_in_costs_linear_work(line: bytes) -> None:
    data = line * 20 + b"0\r\n" + b"A: " + b"b" * 30_000 + b"\r\n\r\n"
    incoming, buffer = IncomingBody(None, Settings()), Searched()
    complete = False
    for i in range(len(data)):
        assert not complete
        buffer += data[i : i + 1]
        complete = incoming.take(buffer)
    assert complete
    assert not buffer
    assert buffer.touched <= 4 * len(data)


# ---- memory -----------------------------------------------------------------------------------------


def memory(server: Program, what: str = "VmRSS") -> int:
    """The memory of a program in octets: now, or with "VmHWM" the peak since forget_peak()."""
    text = Path(f"/proc/{server.process.pid}/status").read_text(encoding="ascii")
    match = re.search(rf"^{what}:\s+(\d+) kB$", text, re.MULTILINE)
    assert match is not None
    return int(match[1]) * 1024


def forget_peak(server: Program) -> int:
    Path(f"/proc/{server.process.pid}/clear_refs").write_text("5", encoding="ascii")
    return memory(server)


def upload(client: Client) -> None:
    client.send(b"POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 200000000\r\n\r\n")
    for _ in range(200):
        client.sock.sendall(bytes(1_000_000))
    assert client.reply().body == b"200000000"


def upload_chunks(client: Client) -> None:
    client.send(b"POST /upload HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(200):
        client.sock.sendall(b"f4240\r\n" + bytes(1_000_000) + b"\r\n")
    client.send(b"0\r\n\r\n")
    assert client.reply().body == b"200000000"


def download(client: Client) -> None:
    client.send(b"GET /file HTTP/1.1\r\nHost: h\r\n\r\n")
    assert b"\r\nContent-Length: 1073741824\r\n" in client.head()
    room, left = bytearray(1 << 20), 1 << 30
    while left:
        left -= client.file.readinto(room) or pytest.fail("cut short")


def download_what_was_written(client: Client) -> None:
    client.send(b"GET /written HTTP/1.1\r\nHost: h\r\n\r\n")
    client.head()
    for _ in range(3200):
        client.chunk()
    client.chunk()
    assert client.chunk() == b""


@linux
@pytest.mark.parametrize("kind", ["fast lane", "general path"])
@pytest.mark.parametrize("exchange", [upload, upload_chunks, download, download_what_was_written])
def test_what_is_large_goes_through_in_32_mib(kind: str, exchange: Callable[[Client], None], tmp_path: Path) -> None:
    """200 MB of an upload or of write(), 1 GiB of a file."""
    file = tmp_path / "file"
    file.touch()
    os.truncate(file, 1 << 30)  # sparse, so it needs no gigabyte on the disk
    with program(kind, file=str(file)) as server, Client(server.address) as client:
        client.get()
        before = forget_peak(server)
        exchange(client)
        assert memory(server, "VmHWM") - before <= 32 << 20


# PyPy's garbage collector keeps some garbage and uses a larger heap.
ROOM = 2048 if sys.implementation.name == "cpython" else 4096


@linux
@pytest.mark.parametrize(
    ("kind", "patience"),
    [
        ("general path", 0.0),
        # It remembers the fields of at most a thousand clients, and of none that has been idle for 5 s.
        ("fast lane", 10.0),
    ],
)
def test_what_an_idle_connection_takes(kind: str, patience: float) -> None:
    """Measured in the server's own memory, with 10 000 connections or as many as this process may open."""
    count = allow_descriptors(9900)
    fields = b"".join(b"X-Field-%d: some value of the kind that browsers send\r\n" % i for i in range(10))
    request = b"GET /path?query HTTP/1.1\r\nHost: example.com\r\n" + fields + b"\r\n"
    with program(kind) as server:
        with clients(server.address, 100, request) as made:
            for client in made:
                client.reply()
        before = memory(server)
        with clients(server.address, count, request) as made:
            for client in made:
                client.reply()
            end = time.monotonic() + patience
            while memory(server) - before > count * ROOM and time.monotonic() < end:
                time.sleep(0.1)
            assert memory(server) - before <= count * ROOM


def test_the_census_counts() -> None:
    before = census()
    with socket.socket():
        assert census()["socket"] == before["socket"] + 1
