"""Several threads on one poller: calls at the same time, iterables that stay in their thread, no lost event."""

from __future__ import annotations

import array
import contextlib
import random
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from time import monotonic
from typing import Any

import pytest

import servers
from clients import GET, Address, Client, CutShortError
from fastwsgi._events.shared_loop import SharedLoop
from servers import BLOCK, THREADED_KINDS, EventServer, Starter, of, returning, starting
from waiting import TIMEOUT, numbered, together

MANY = 32


@pytest.fixture(params=THREADED_KINDS)
def start(request: Any, leg: str) -> Iterator[Starter]:
    yield from starting(request)


@pytest.fixture
def many_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "THREADS", MANY)


class Overlap:
    """Counts how many calls are inside at the same time."""

    def __init__(self) -> None:
        self.most = self._now = 0
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self._now += 1
            self.most = max(self.most, self._now)

    def __exit__(self, *exc_info: object) -> None:
        with self._lock:
            self._now -= 1


# ---- calls at the same time ----------------------------------------------------------------------------


def test_each_thread_serves_a_client(start: Starter, many_threads: None) -> None:
    barrier = threading.Barrier(MANY)
    overlap = Overlap()

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        with overlap:
            barrier.wait(TIMEOUT)  # each waits until all are here
        start_response("200 OK", [])
        return [threading.current_thread().name.encode()]

    running = start(application)
    names: list[bytes] = []

    def ask(number: int) -> None:
        with Client(running.address) as client:
            for _ in range(3):
                names.append(client.get().body)

    together(*numbered(ask, MANY))
    assert overlap.most == MANY
    assert Counter(Counter(names).values()) == {3: MANY}  # each thread once in each of the three rounds


def test_application_is_told_so(start: Starter) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [repr((environ["wsgi.multithread"], environ["wsgi.multiprocess"])).encode()]

    with Client(start(application).address) as client:
        for _ in range(3):
            assert client.get().body == b"(True, False)"


def test_requests_of_one_connection_go_in_order(start: Starter) -> None:
    """One thread answers them, while the others serve other clients."""
    overlap, entered = Overlap(), threading.Barrier(2)
    order: list[str] = []
    served = threading.Event()

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        path = environ["PATH_INFO"]
        if path == "/other":
            return [b"other"]
        with overlap:
            order.append(path)
            if path == "/0":
                entered.wait(TIMEOUT)
                assert served.wait(TIMEOUT)
            return [path.encode()]

    running = start(application)
    paths = [f"/{number}" for number in range(20)]
    with Client(running.address) as client, Client(running.address) as other:
        client.send(f"GET {paths[0]} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        entered.wait(TIMEOUT)
        for path in paths[1:]:  # these arrive while its thread is busy and others are free
            client.send(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
            assert other.get("/other").body == b"other"
        served.set()
        assert [client.reply().body.decode() for _ in paths] == paths
    assert order == paths
    assert overlap.most == 1


def test_an_error_is_one_requests(start: Starter, capsys: pytest.CaptureFixture[str]) -> None:
    class WrongError(Exception):
        pass

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/wrong":
            raise WrongError
        start_response("200 OK", [])
        if environ["PATH_INFO"] == "/later":
            return broken()
        return [b"right"]

    def broken() -> Iterator[bytes]:
        yield b"begun"
        raise WrongError

    running = start(application)
    rounds = 20

    def ask(number: int) -> None:
        with Client(running.address) as client:
            for _ in range(rounds):
                if number % 2:
                    assert client.get("/right").body == b"right"
                else:
                    assert client.get("/wrong").status == 500
        if not number % 2:
            with Client(running.address) as client:
                client.send(b"GET /later HTTP/1.1\r\nHost: h\r\n\r\n")
                with pytest.raises((CutShortError, ConnectionError)):
                    client.reply()

    together(*numbered(ask, 8))
    assert capsys.readouterr().err.count("WrongError") >= 4 * (rounds + 1)


# ---- iterables stay in their thread --------------------------------------------------------------------


class Traced:
    """An iterable that records the threads that use it."""

    def __init__(self, blocks: int, size: int, uses: list[tuple[str, int]], closed: threading.Event) -> None:
        self._left = blocks
        self._block = b"x" * size
        self._closed = closed
        self.uses = uses
        self._note("made")

    def _note(self, what: str) -> None:
        self.uses.append((what, threading.get_ident()))

    def __iter__(self) -> Traced:
        self._note("iterated")
        return self

    def __next__(self) -> bytes:
        self._note("taken from")
        if not self._left:
            raise StopIteration
        self._left -= 1
        return self._block

    def close(self) -> None:
        self._note("closed")
        self._closed.set()

    @classmethod
    def application(cls, blocks: int, size: int) -> tuple[Any, list[tuple[str, int]], threading.Event]:
        uses: list[tuple[str, int]] = []
        closed = threading.Event()

        def application(environ: dict[str, Any], start_response: Any) -> Any:
            start_response("200 OK", [])
            return cls(blocks, size, uses, closed) if environ["PATH_INFO"] == "/traced" else [b"other"]

        return application, uses, closed


def hold_to_one_thread(uses: list[tuple[str, int]]) -> None:
    assert [what for what, _ in uses[:2]] == ["made", "iterated"]
    assert uses[-1][0] == "closed"
    assert len({thread for _, thread in uses}) == 1


TRACED = b"GET /traced HTTP/1.1\r\nHost: h\r\n\r\n"


@pytest.mark.parametrize("max_output", [1, 1000, 1 << 20])
def test_an_iterable_of_a_slow_reader_stays_in_its_thread(start: Starter, max_output: int) -> None:
    application, uses, closed = Traced.application(400, 20_000)
    running = start(application, max_output=max_output)
    with Client(running.address, room=2048) as client, Client(running.address) as other:
        client.send(TRACED)
        client.head()
        size = 0
        while chunk := client.chunk():
            size += len(chunk)
            if size % 1_000_000 < 20_000:  # at intervals, so that other threads get events
                assert other.get().body == b"other"
        assert size == 400 * 20_000
        assert closed.wait(TIMEOUT)
    hold_to_one_thread(uses)


def test_an_iterable_of_a_client_that_goes_stays_in_its_thread(start: Starter) -> None:
    application, uses, closed = Traced.application(100_000, 20_000)
    running = start(application)
    client = Client(running.address, room=2048)
    client.send(TRACED)
    client.head()
    client.chunk()
    client.reset()
    assert closed.wait(TIMEOUT)
    running.wait_until_all_are_gone()
    hold_to_one_thread(uses)
    assert len(uses) < 50_000


def test_an_iterable_of_a_client_that_sends_more_stays_in_its_thread(start: Starter) -> None:
    application, uses, closed = Traced.application(400, 20_000)
    running = start(application)
    with Client(running.address, room=2048) as client:
        client.send(TRACED)
        client.head()
        client.chunk()
        for _ in range(20):
            client.send(GET)  # each one is an event, which another thread may get
            client.chunk()
        while client.chunk():
            pass
        assert [client.reply().body for _ in range(20)] == [b"other"] * 20
        assert closed.wait(TIMEOUT)
    hold_to_one_thread(uses)


@pytest.mark.parametrize("size", [10, 3_000_000])
def test_a_file_is_closed_in_its_thread(start: Starter, tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"y" * size)
    uses: list[tuple[str, int]] = []
    closed = threading.Event()

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        file = path.open("rb")
        uses.append(("made", threading.get_ident()))
        close = file.close

        class File:
            """What a file wrapper closes."""

            def __getattr__(self, name: str) -> Any:
                return getattr(file, name)

            def close(self) -> None:
                uses.append(("closed", threading.get_ident()))
                close()
                closed.set()

        return environ["wsgi.file_wrapper"](File() if environ["PATH_INFO"] == "/wrapped" else file)

    running = start(application)
    with Client(running.address, room=2048) as client:
        client.send(b"GET /wrapped HTTP/1.1\r\nHost: h\r\n\r\n")
        assert client.reply().body == b"y" * size
        assert client.get("/plain").body == b"y" * size
        assert closed.wait(TIMEOUT)
    assert [what for what, _ in uses] == ["made", "closed", "made"]
    assert uses[0][1] == uses[1][1]


def test_a_slow_reader_keeps_its_thread_only(start: Starter) -> None:
    running = start(of(*[BLOCK] * 200))
    with contextlib.ExitStack() as stack:
        slow = [stack.enter_context(Client(running.address, room=2048)) for _ in range(servers.THREADS - 1)]
        for client in slow:
            client.send(GET)
            client.head()
            client.chunk()  # so the application runs, and soon waits for the client
        with Client(running.address) as quick:
            for _ in range(20):
                assert len(quick.get().body) == 200 * len(BLOCK)
        for client in slow:
            assert sum(map(len, iter(client.chunk, b""))) == 199 * len(BLOCK)


# ---- no event is lost ----------------------------------------------------------------------------------

#: How many octets the lane receives at a time.
ROOM = 16384


def echo(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    body = environ["wsgi.input"].read()
    start_response("200 OK", [])
    return [environ["PATH_INFO"].encode(), b" %d" % len(body)]


def request(path: str, size: int = 0, whole: int = 0) -> bytes:
    """A request with a body of a given size, or with a given total size."""
    head = f"POST {path} HTTP/1.1\r\nHost: h\r\nContent-Length: %s\r\n\r\n"
    if whole:
        size = whole - len(head % f"{whole:05}")
        return (head % f"{size:05}").encode() + b"b" * size
    return (head % size).encode() + b"b" * size


def body_size(data: bytes) -> int:
    return len(data) - data.index(b"\r\n\r\n") - 4


def ask_at_random(address: Address, number: int, requests: int) -> int:
    """Send requests in all possible ways, and compare each answer with its request."""
    chance = random.Random(number)
    sent = 0
    while sent < requests:
        with Client(address) as client:
            for _ in range(chance.choice([1, 1, 5, 50])):
                batch = []
                for _ in range(chance.choice([1, 1, 1, 2, 7])):
                    path = f"/{number}/{sent}"
                    whole = chance.choice([0, 0, 0, ROOM - 1, ROOM, ROOM + 1, 2 * ROOM])
                    batch.append((path, request(path, chance.choice([0, 0, 1, 700]), whole)))
                    sent += 1
                data = b"".join(each for _, each in batch)
                if chance.random() < 0.3:
                    cut = chance.randrange(len(data))
                    client.send(data[:cut])
                    data = data[cut:]
                client.send(data)
                is_last = chance.random() < 0.05
                if is_last:
                    client.sock.shutdown(socket.SHUT_WR)  # the end follows the data immediately
                for path, each in batch:
                    assert client.reply().body == b"%s %d" % (path.encode(), body_size(each))
                if is_last:
                    assert client.rest() == b""
                    break
    return sent


def test_each_request_is_answered(start: Starter) -> None:
    running = start(echo)
    together(*numbered(lambda number: ask_at_random(running.address, number, 150), 8))
    running.wait_until_all_are_gone()


def test_an_event_in_the_moment_of_parking_is_not_lost(start: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread is about to park a connection when another thread gets the event of the next request."""
    sent: list[int] = []

    class Parked(dict[int, Any]):
        def __setitem__(self, fd: int, connection: Any) -> None:
            if connection is asked and len(sent) < 20:
                sent.append(fd)
                client.send(GET)
                running.wait_until(lambda: fd in loop._noted)
            super().__setitem__(fd, connection)

    class MeddlingLoop(SharedLoop):
        def _open_poller(self) -> None:
            super()._open_poller()
            self._parked = Parked()

    monkeypatch.setattr(servers, "SharedLoop", MeddlingLoop)
    asked = None
    running = start(of(b"answer"))
    with Client(running.address) as client:
        assert client.get().body == b"answer"
        loop = running.server._inside.loop
        running.wait_until(lambda: loop._parked)
        (asked,) = running.connections
        client.send(GET)
        assert [client.reply().body for _ in range(21)] == [b"answer"] * 21
    assert len(sent) == 20


def test_each_request_is_answered_though_connections_expire(start: Starter) -> None:
    """Clients send again just when their deadline passes: each gets an answer, or finds the connection closed."""
    keep_alive = 0.05
    running = start(echo, keep_alive_timeout=keep_alive)
    answered = Counter[bool]()

    def ask(number: int) -> None:
        chance = random.Random(number)
        for sent in range(25):
            with Client(running.address) as client:
                assert client.get(f"/{number}/{sent}").body == f"/{number}/{sent} 0".encode()
                client.sock.settimeout(keep_alive * chance.uniform(0.5, 1.5))
                with contextlib.suppress(TimeoutError):
                    assert client.sock.recv(1) == b""
                client.sock.settimeout(TIMEOUT)
                with contextlib.suppress(ConnectionError, CutShortError):
                    client.send(request("/again", 3))
                    assert client.reply().body == b"/again 3"
                    answered[True] += 1

    together(*numbered(ask, 8))
    running.wait_until_all_are_gone()
    assert answered[True]


def test_each_request_is_answered_though_there_is_room_for_few(start: Starter) -> None:
    most = 3
    running = start(echo, max_connections=most)
    seen: list[int] = []

    def ask(number: int) -> None:
        for sent in range(60):
            with Client(running.address) as client:
                assert client.get(f"/{number}/{sent}").body == f"/{number}/{sent} 0".encode()
                seen.append(len(running.connections))

    together(*numbered(ask, 12))
    running.wait_until_all_are_gone()
    assert len(seen) == 12 * 60
    assert max(seen) <= most


def test_a_half_closed_client_is_answered(start: Starter) -> None:
    """While the application runs, the end of the client's stream is an event that another thread gets."""
    entered, go = threading.Semaphore(0), threading.Event()

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        entered.release()
        assert go.wait(TIMEOUT)
        start_response("200 OK", [])
        return [b"late"]

    running = start(application)
    clients = [Client(running.address) for _ in range(servers.THREADS - 1)]
    for client in clients:
        client.send(GET)
        assert entered.acquire(timeout=TIMEOUT)
        client.sock.shutdown(socket.SHUT_WR)
    go.set()
    for client in clients:
        assert client.reply().body == b"late"
        assert client.rest() == b""
        client.close()
    running.wait_until_all_are_gone()


def test_time_that_nobody_had_for_a_client_is_not_its_fault(start: Starter) -> None:
    """Its request arrived in time, but all threads were in the application for longer than the timeout."""
    entered, go = threading.Semaphore(0), threading.Event()

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/hold":
            entered.release()
            assert go.wait(TIMEOUT)
        start_response("200 OK", [])
        return [b"answer"]

    running = start(application, keep_alive_timeout=0.5)
    with contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(Client(running.address)) for _ in range(16)]
        for client in waiting:
            assert client.get().body == b"answer"
        holding = [stack.enter_context(Client(running.address)) for _ in range(servers.THREADS)]
        for client in holding:
            client.send(b"GET /hold HTTP/1.1\r\nHost: h\r\n\r\n")
            assert entered.acquire(timeout=TIMEOUT)
        for client in waiting:
            client.send(GET)
        wait_until_all_have_expired(running, len(waiting))
        go.set()
        for client in waiting + holding:
            assert client.reply().body == b"answer"


def wait_until_all_have_expired(running: EventServer, count: int) -> None:
    running.wait_until(lambda: sum(each.deadline < monotonic() for each in running.connections) >= count)


def test_the_poller_can_be_shared_everywhere(start: Starter) -> None:
    """Each kind uses the poller that its settings name."""
    running = start(returning(lambda: [b"answer"]))
    with Client(running.address) as client:
        assert client.get().body == b"answer"
        name = type(running.server._inside.loop._shared_poller).__name__
    assert name == ("LeaderPoller" if running.server.settings.poller == "selectors" else "SharedEpoll")


@pytest.mark.skipif(not hasattr(socket, "SCM_RIGHTS"), reason="this platform can't send descriptors in messages")
def test_a_receive_that_takes_less_than_there_was_costs_a_moment(start: Starter) -> None:
    """On a unix socket, a message with a descriptor ends a receive() early, as if there were no more octets."""
    all_are_busy, may_go_on = threading.Barrier(servers.THREADS + 1), threading.Event()

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/wait":
            all_are_busy.wait(TIMEOUT)
            assert may_go_on.wait(TIMEOUT)
        start_response("200 OK", [])
        return [b"hello"]

    # The shortest timeout sets how often deadlines are checked; it isn't one that would end this connection.
    running = start(application, linger_timeout=0.4)
    running.wait_until(lambda: running.server._inside is not None)
    inside = running.server._inside
    ours, theirs = socket.socketpair()
    with theirs, contextlib.ExitStack() as stack:
        theirs.settimeout(10.0)
        connection = inside.server.welcome(ours, ("", 0))
        inside.loop.connections[connection.fd] = connection
        inside.loop._park(connection, is_new=True)
        clients = [stack.enter_context(Client(running.address)) for _ in range(servers.THREADS)]
        for client in clients:
            client.send(b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n")
        all_are_busy.wait(TIMEOUT)
        descriptor = array.array("i", [theirs.fileno()])
        theirs.sendmsg([GET], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptor)])
        theirs.send(GET)  # so that one event tells of both
        may_go_on.set()
        answers = b""
        while answers.count(b"hello") < 2:
            data = theirs.recv(65536)
            assert data, answers
            answers += data
        for client in clients:
            assert client.reply().body == b"hello"
