"""Stopping a service: which requests it still answers, what clients see, and how long it takes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from clients import GET, Client, Reply
from programs import handles
from services import Service, service
from waiting import TIMEOUT, wait_until

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc to observe a process")

HELD = b"GET /hold HTTP/1.1\r\nHost: h\r\n\r\n"
STREAMED = b"GET /stream HTTP/1.1\r\nHost: h\r\n\r\n"


class Gate:
    """A gate at which the site's applications wait until the test opens it."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(str(path))
        self.sock.listen()
        self.sock.settimeout(TIMEOUT)
        self.held: list[socket.socket] = []

    def wait(self) -> None:
        """Wait until an application is at the gate."""
        self.held.append(self.sock.accept()[0])

    def open(self) -> None:
        """Let all waiting applications continue."""
        for each in self.held:
            each.close()
        self.held.clear()

    def close(self) -> None:
        self.open()
        self.sock.close()


@pytest.fixture
def gate(place: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    with contextlib.closing(Gate(place / "gate")) as gate:
        monkeypatch.setenv("GATE", str(place / "gate"))
        yield gate


@pytest.fixture(params=[signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def number(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(params=[1, 4], ids=["1 thread", "4 threads"])
def threads(request: pytest.FixtureRequest) -> int:
    return int(request.param)


#: The fast lane and the general path; the pure twin has only the latter.
@pytest.fixture(params=["lane", "no lane"])
def flags(request: pytest.FixtureRequest, threads: int, leg: str) -> list[str]:
    return ["--threads", str(threads), "--fast-lane" if request.param == "lane" else "--no-fast-lane"]


def stop(running: Service, number: int = signal.SIGTERM) -> None:
    """Send a signal, and wait until the process has handled it: then it has restored the default handler."""
    running.signal(number)
    wait_until(lambda: not handles(running.process.pid, number))


def stop_meanwhile(running: Service, gate: Gate, threads: int, number: int = signal.SIGTERM) -> None:
    """Stop the service while a request is in the application, and then let the request continue."""
    gate.wait()
    stop(running, number)
    if threads > 1:  # a single thread can't stop listening meanwhile
        running.wait_until_nobody_listens()
    gate.open()


def ends(client: Client, reply: Reply, body: bytes) -> None:
    """Check that an answer is the last on its connection."""
    assert (reply.status, reply.body) == (200, body)
    assert reply.fields["Connection"] == "close"
    assert client.rest() == b""


def test_nothing_to_do(place: Path, threads: int, number: int) -> None:
    with service(place, "site_app", "--threads", str(threads), "--bind=unix:socket") as running:
        running.signal(number)
        running.process.wait(TIMEOUT)
    assert not (place / "socket").exists()
    assert running.stdout == running.line


def test_idle_connections_are_closed(place: Path, flags: list[str], number: int) -> None:
    # Timeouts so long that neither keep_alive_timeout nor graceful_timeout can end the connections.
    long = ["--keep-alive-timeout=600", "--head-timeout=600", "--graceful-timeout=600"]
    with service(place, "site_app", *flags, *long) as running:
        with contextlib.ExitStack() as stack:
            clients = [stack.enter_context(Client(running.address)) for _ in range(8)]
            for client in clients[:4]:
                assert client.get().body == b"site"
            stop(running, number)
            assert [client.rest() for client in clients] == [b""] * 8
        running.process.wait(TIMEOUT)


def test_a_request_in_the_application_is_answered(
    place: Path, gate: Gate, flags: list[str], threads: int, number: int
) -> None:
    with service(place, "site_app", *flags) as running, Client(running.address) as client:
        client.send(HELD)
        stop_meanwhile(running, gate, threads, number)
        ends(client, client.reply(), b"held")


def test_an_answer_that_streams_ends_whole(
    place: Path, gate: Gate, flags: list[str], threads: int, number: int
) -> None:
    with service(place, "site_app", *flags) as running, Client(running.address) as client:
        client.send(STREAMED)
        head = client.head()
        assert b"\r\nTransfer-Encoding: chunked\r\n" in head
        assert client.chunk() == b"begun"
        stop_meanwhile(running, gate, threads, number)
        assert [client.chunk(), client.chunk(), client.rest()] == [b"ended", b"", b""]


def test_an_upload_goes_on(place: Path, flags: list[str], number: int) -> None:
    with service(place, "site_app", *flags) as running, Client(running.address) as client:
        client.send(b"POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n")
        assert client.head().startswith(b"HTTP/1.1 100 ")
        client.send(b"01234")
        stop(running, number)
        running.wait_until_nobody_listens()
        client.send(b"56789", "byte by byte")
        ends(client, client.reply(), b"10")


@pytest.mark.parametrize("sent", [1, 20, len(GET) - 1])
def test_a_head_goes_on(place: Path, flags: list[str], sent: int) -> None:
    with service(place, "site_app", *flags) as running, Client(running.address) as client:
        client.send(GET[:sent])
        stop(running)
        running.wait_until_nobody_listens()
        client.send(GET[sent:])
        ends(client, client.reply(), b"site")


def is_answered_for_the_last_time(client: Client) -> bool:
    """Whether a client that sends another request gets one more answer before its connection is closed."""
    with contextlib.suppress(ConnectionError):
        client.send(GET)
        if client.sock.recv(1, socket.MSG_PEEK):
            ends(client, client.reply(), b"site")
            return True
    return False


def test_who_has_had_an_answer_just_now_may_ask_again(place: Path, flags: list[str], number: int) -> None:
    for _ in range(5):  # the moment for it may be over on a busy machine
        with service(place, "site_app", *flags) as running, Client(running.address) as client:
            assert client.get().body == b"site"
            stop(running, number)
            running.wait_until_nobody_listens()
            if is_answered_for_the_last_time(client):
                return
    pytest.fail("nobody was answered")


def test_who_was_promised_another_answer_gets_it(place: Path, gate: Gate, flags: list[str], threads: int) -> None:
    """An answer has begun before the signal, so its client doesn't know that it is the last one."""
    for _ in range(5):  # as above
        with service(place, "site_app", *flags) as running, Client(running.address) as client:
            client.send(STREAMED)
            assert b"\r\nConnection: " not in client.head()
            stop_meanwhile(running, gate, threads)
            assert [client.chunk() for _ in range(3)] == [b"begun", b"ended", b""]
            if is_answered_for_the_last_time(client):
                return
    pytest.fail("nobody was answered")


def test_after_the_last_answer_nothing_is_answered(place: Path, gate: Gate, flags: list[str], threads: int) -> None:
    with service(place, "site_app", *flags) as running, Client(running.address) as client:
        client.send(HELD + GET)
        stop_meanwhile(running, gate, threads)
        ends(client, client.reply(), b"held")


def test_who_waits_to_be_accepted_is_answered(
    place: Path, gate: Gate, flags: list[str], threads: int, number: int
) -> None:
    with service(place, "site_app", *flags) as running, contextlib.ExitStack() as stack:
        busy = [stack.enter_context(Client(running.address)) for _ in range(threads)]
        for client in busy:
            client.send(HELD)
            gate.wait()
        waiting = [stack.enter_context(Client(running.address)) for _ in range(8)]
        for client in waiting:
            client.send(GET)
        stop(running, number)
        if threads > 1:
            running.wait_until_nobody_listens()
        gate.open()
        for client in busy:
            ends(client, client.reply(), b"held")
        for client in waiting:
            ends(client, client.reply(), b"site")


@pytest.mark.parametrize("what", [GET[:20], b"POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\n12345"])
def test_nobody_is_waited_for_longer_than_was_said(place: Path, flags: list[str], what: bytes) -> None:
    long = ["--head-timeout=600", "--progress-timeout=600", "--graceful-timeout=0.2"]
    with service(place, "site_app", *flags, *long) as running:
        client = Client(running.address)
        client.send(what)
        stop(running)
        running.process.wait(TIMEOUT)
        client.close()


def test_an_application_is_not_waited_for_longer_than_was_said(place: Path, gate: Gate) -> None:
    """It hangs in many threads: waiting a second for each would exceed the time limit of the test."""
    many = 2 * int(TIMEOUT)
    with service(place, "site_app", f"--threads={many}", "--graceful-timeout=0.2") as running:
        clients = [Client(running.address) for _ in range(many)]
        for client in clients:
            client.send(HELD)
            gate.wait()
        running.signal(signal.SIGTERM)
        running.process.wait(TIMEOUT)
        for client in clients:
            client.close()


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_a_second_signal_ends_at_once(place: Path, gate: Gate, threads: int, number: int, second: int) -> None:
    with service(place, "site_app", "--threads", str(threads), status=-second) as running:
        client = Client(running.address)
        client.send(HELD)
        gate.wait()
        stop(running, number)
        running.signal(second)
        running.process.wait(TIMEOUT)
        client.close()


def test_the_place_of_a_unix_socket_is_free_while_requests_are_answered(
    place: Path, gate: Gate
) -> None:
    path = place / "socket"
    with service(place, "site_app", "--threads=4", "--bind=unix:socket") as running, Client(path) as client:
        client.send(HELD)
        gate.wait()
        stop(running)
        wait_until(lambda: not path.exists())
        with service(place, "site_app", "--bind=unix:socket"), Client(path) as other:  # the next process
            assert other.get().body == b"site"
            gate.open()
            ends(client, client.reply(), b"held")
            running.process.wait(TIMEOUT)
            assert path.exists()


def test_what_a_stop_cuts_off_has_its_line(place: Path, gate: Gate) -> None:
    """Even if a thread doesn't return from the application and ends with the process."""
    flags = ["--threads", "2", "--graceful-timeout", "0.2", "--access-log", "log"]
    with (
        service(place, "site_app", *flags, stderr=None) as running,
        Client(running.address) as held,
        Client(running.address) as half,
    ):
        held.send(b"GET /hold HTTP/1.1\r\nHost: h\r\n\r\n")
        gate.wait()
        half.send(b"POST /upload HTTP/1.1\r\nHost: h\r\nContent-Length: 9\r\n\r\nabc")
        with Client(running.address) as other:  # it is accepted after the others, so they have been accepted
            assert other.get("/").status == 200
        running.signal(signal.SIGTERM)
        assert running.process.wait(10) == 0
    lines = (place / "log").read_text(encoding="utf-8").splitlines()
    assert [line.partition('"')[2] for line in lines if "/upload" in line] == ['POST /upload HTTP/1.1" - 0']
