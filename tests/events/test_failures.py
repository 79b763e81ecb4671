"""Failures of the server: disks, memory, the error stream, pollers, sockets.

In each case the client gets a complete answer or a visibly broken one, the request is logged, no resource is left
behind, and the next request is served.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import re
import socket
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from clients import GET, Client, CutShortError, exchange
from fastwsgi import simple_server
from fastwsgi._events import shared_loop, single_loop
from fastwsgi._events.poller import READ, LeaderPoller
from servers import ALL_KINDS, BLOCK, KINDS, THREADED_KINDS, FailsToClose, Log, assert_serves, hello, serving, starting

start = pytest.fixture(params=ALL_KINDS)(starting)
start_threads = pytest.fixture(params=THREADED_KINDS)(starting)
start_alone = pytest.fixture(params=KINDS)(starting)

needs_full_device = pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*args: Any, **keywords: Any) -> Any:
        raise error

    return fail


# ---- disks ------------------------------------------------------------------------------------------

#: The reason for a missing temporary file, the status of the answer, and the function that fails.
NO_ROOM = {
    "full": (507, lambda: open("/dev/full", "w+b")),  # noqa: SIM115 - the server closes it
    "no descriptors": (503, raising(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))),
    "no directory": (503, raising(FileNotFoundError(errno.ENOENT, "no usable temporary directory"))),
}


# The shorter body stays in the file's buffer until the file is rewound.
@pytest.mark.parametrize("size", [1001, 300_000])
@pytest.mark.parametrize("coding", ["length", "chunked"])
@pytest.mark.parametrize("reason", NO_ROOM)
@needs_full_device
def test_a_body_that_cant_be_stored_is_refused(
    start: Any, reason: str, coding: str, size: int, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RFC 4918 section 11.5, RFC 9110 section 15.6.4."""
    status, make = NO_ROOM[reason]
    calls = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        calls.append(environ["PATH_INFO"])
        return hello(environ, start_response)

    running = start(application, max_body_in_memory=1000)
    monkeypatch.setattr(tempfile, "TemporaryFile", make)
    body = b"x" * size
    if coding == "chunked":
        fields, body = b"Transfer-Encoding: chunked", b"%x\r\n%b\r\n0\r\n\r\n" % (size, body)
    else:
        fields = b"Content-Length: %d" % size
    with Client(running.address) as client:
        client.send(b"POST /upload HTTP/1.1\r\nHost: h\r\n%b\r\n\r\n%b" % (fields, body))
        reply = client.reply()
        assert (reply.status, reply.fields["Connection"]) == (status, "close")
        assert b"/dev/full" not in reply.body
        assert client.rest() == b""
    running.wait_until_all_are_gone()
    assert_serves(running)
    assert calls == ["/"]
    assert log.requests() == [f'"POST /upload HTTP/1.1" {status} -', '"GET / HTTP/1.1" 200 5']
    assert log.text().count("The request's body can't be stored: ") == 1
    assert "Traceback" not in log.text()


@pytest.mark.parametrize("goes_on", [False, True], ids=["write() raises", "the application ignores it"])
@pytest.mark.parametrize("framing", ["chunked", "length", "connection"])
@needs_full_device
def test_an_answer_that_cant_be_stored_is_visibly_broken(
    start: Any, framing: str, goes_on: bool, log: Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing follows the missing octets: neither the rest nor the next answer."""
    failures: list[OSError] = []
    has_failed = threading.Event()
    blocks = 200  # more than the kernel takes for a client that doesn't read

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/":
            return hello(environ, start_response)
        length = len(BLOCK) * blocks
        write = start_response("200 OK", [("Content-Length", str(length))] if framing == "length" else [])
        try:
            for _ in range(blocks):
                write(BLOCK)
        except OSError as error:
            failures.append(error)
            has_failed.set()
            if not goes_on:
                raise
        return [BLOCK]

    running = start(application, max_output=1000)
    monkeypatch.setattr(tempfile, "TemporaryFile", NO_ROOM["full"][1])
    version = b"1.0" if framing == "connection" else b"1.1"
    with Client(running.address, room=4096) as client:
        client.send(b"GET /large HTTP/%b\r\nHost: h\r\n\r\n" % version + GET)
        assert has_failed.wait(10)
        with pytest.raises((CutShortError, ConnectionResetError)):
            client.reply()
    running.wait_until_all_are_gone()
    assert_serves(running)
    assert isinstance(failures[0], ConnectionError)
    (line, _) = log.requests()
    match = re.fullmatch(r'"GET /large HTTP/1\.[01]" 200 (\d+)', line)
    assert match is not None, line
    assert int(match[1]) < len(BLOCK) * blocks
    assert log.text().count("The answer can't be sent: [Errno 28]") == 1


def test_a_file_that_gets_shorter_is_an_error_that_is_logged(start: Any, log: Log, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(BLOCK * 100)

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/":
            return hello(environ, start_response)
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](path.open("rb"))

    running = start(application)
    with Client(running.address, room=4096) as client:
        client.send(b"GET /file HTTP/1.1\r\nHost: h\r\n\r\n")
        assert client.head().startswith(b"HTTP/1.1 200 ")
        os.truncate(path, len(BLOCK))
        with pytest.raises((CutShortError, ConnectionResetError)):
            client.exactly(len(BLOCK) * 100)
    running.wait_until_all_are_gone()
    assert_serves(running)
    assert log.text().count("The answer can't be sent: the file is shorter than it was") == 1
    assert [line[:21] for line in log.requests()] == ['"GET /file HTTP/1.1" ', '"GET / HTTP/1.1" 200 ']


def test_without_descriptors_a_file_is_read(
    start_threads: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With several threads, a file is sent from a duplicate of its descriptor, if one is available."""
    path = tmp_path / "file"
    path.write_bytes(BLOCK)

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](path.open("rb"))

    with Client(start_threads(application).address) as client:
        monkeypatch.setattr(os, "dup", raising(OSError(errno.EMFILE, os.strerror(errno.EMFILE))))
        reply = client.get()
        monkeypatch.undo()
    assert reply.body == BLOCK


# ---- the error stream -------------------------------------------------------------------------------


class FailingStream(io.StringIO):
    """A stream whose writes fail."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def write(self, text: str) -> int:
        raise self.error

    flush = write  # type: ignore[assignment]


def closed_stream() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


STREAMS: dict[str, Callable[[], Any]] = {
    "full": lambda: FailingStream(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))),
    "broken pipe": lambda: FailingStream(BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))),
    "closed": closed_stream,
    "None": lambda: None,
}


def erring(environ: dict[str, Any], start_response: Any) -> Any:
    path = environ["PATH_INFO"]
    if path == "/raises":
        raise ValueError("on purpose")
    if path == "/errors":
        environ["wsgi.errors"].write("a line\n")
    start_response("200 OK", [("Content-Length", "9")] if path == "/short" else [])
    return FailsToClose() if path == "/close" else [b"hello"]


# target: the status of its answer
ERRING = {"/": 200, "/raises": 500, "/close": 200, "/errors": 200, "/short": 200, "/bad request": 400}


@pytest.mark.parametrize("stream", STREAMS)
def test_an_error_stream_that_fails_costs_no_answer(start: Any, stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    running = start(erring)
    monkeypatch.setattr(sys, "stderr", STREAMS[stream]())
    for target, status in ERRING.items():
        expected = 500 if target == "/errors" and stream not in ("None",) else status
        answer = exchange(running.address, f"GET {target} HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n".encode())
        assert answer.startswith(f"HTTP/1.1 {expected} ".encode()), target
        if status == 200 and expected == 200:
            assert re.search(rb"\r\n\r\n(5\r\n)?hello(\r\n0\r\n\r\n)?$", answer), target
    running.wait_until_all_are_gone()


@pytest.mark.parametrize("stream", STREAMS)
def test_a_server_starts_without_an_error_stream(stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From Python 3.15 the standard library asks the stream whether it supports colours."""
    monkeypatch.setattr(sys, "stderr", STREAMS[stream]())
    with serving(simple_server.make_server("127.0.0.1", 0, erring)) as address:
        assert exchange(address, GET).endswith(b"\r\n\r\nhello")


@pytest.mark.parametrize("stream", STREAMS)
def test_nor_on_the_classic_path(stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Handler(simple_server.WSGIRequestHandler):
        def handle(self) -> None:
            super().handle()

    with serving(simple_server.make_server("127.0.0.1", 0, erring, handler_class=Handler)) as address:
        monkeypatch.setattr(sys, "stderr", STREAMS[stream]())
        for target, status in ERRING.items():
            if target != "/errors":
                answer = exchange(address, f"GET {target} HTTP/1.0\r\n\r\n".encode())
                assert answer.startswith(f"HTTP/1.0 {status} ".encode()), (target, answer)
    monkeypatch.undo()


def test_a_client_has_its_answer_before_the_error_is_logged(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error stream that nobody reads blocks its writer."""
    may_go_on = threading.Event()

    class Slow(io.StringIO):
        def write(self, text: str) -> int:
            may_go_on.wait(10)
            return len(text)

    running = start(erring)
    monkeypatch.setattr(sys, "stderr", Slow())
    with Client(running.address) as client:
        assert client.get("/raises").status == 500
        assert not may_go_on.is_set()
        may_go_on.set()


# ---- pollers and sockets ----------------------------------------------------------------------------


class FailingPoller:
    """A poller with calls that fail as if the kernel had no memory."""

    def __init__(self, poller: Any) -> None:
        self._poller = poller
        #: How many of the next calls must fail, by the call's name.
        self.failing = {"watch": 0, "new": 0, "again": 0}

    def _count(self, name: str) -> None:
        if self.failing[name]:
            self.failing[name] -= 1
            raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    def watch(self, fd: int, events: int) -> None:
        self._count("watch")
        self._poller.watch(fd, events)

    def arm(self, fd: int, events: int, is_new: bool = False) -> None:
        self._count("new" if is_new else "again")
        self._poller.arm(fd, events, is_new)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._poller, name)


@pytest.fixture
def pollers(monkeypatch: pytest.MonkeyPatch) -> list[FailingPoller]:
    """The pollers of the loops that the test makes."""
    made: list[FailingPoller] = []
    for module, name in ((single_loop, "make_poller"), (shared_loop, "make_shared_poller")):
        make = getattr(module, name)

        def failing(kind: str, make: Any = make) -> FailingPoller:
            made.append(FailingPoller(make(kind)))
            return made[-1]

        monkeypatch.setattr(module, name, failing)
    return made


def test_a_connection_that_cant_be_watched_is_closed(
    start: Any, pollers: list[FailingPoller], capsys: pytest.CaptureFixture[str]
) -> None:
    running = start(hello)
    assert_serves(running)
    # The first answer arrives only if the request is there before the poller is needed.
    pollers[0].failing["new" if start.is_threaded else "watch"] = 1
    with pytest.raises((CutShortError, ConnectionError)), Client(running.address) as client:  # noqa: PT012 - see above
        client.get("/")
        client.get("/")
    running.wait_until_all_are_gone()
    assert_serves(running)
    assert "Cannot allocate memory" in capsys.readouterr().err


def test_a_connection_that_cant_be_armed_again_is_closed(
    start_threads: Any, pollers: list[FailingPoller], capsys: pytest.CaptureFixture[str]
) -> None:
    has_answered = threading.Event()

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        pollers[0].failing["again"] = 1 if environ["PATH_INFO"] == "/fails" else 0
        has_answered.set()
        return hello(environ, start_response)

    running = start_threads(application)
    with Client(running.address) as client:
        client.get("/")
        client.send(b"POST /fails HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
        assert client.reply().body == b"hello"
        assert client.rest() == b""
    running.wait_until_all_are_gone()
    assert_serves(running)
    assert "Cannot allocate memory" in capsys.readouterr().err


def test_a_listening_socket_that_cant_be_armed_again_is_tried_again(
    start_threads: Any, pollers: list[FailingPoller]
) -> None:
    running = start_threads(hello, keep_alive_timeout=0.2)  # so that it is soon tried again
    assert_serves(running)
    pollers[0].failing["again"] = 1
    for _ in range(3):
        assert_serves(running)


def test_a_listening_socket_that_cant_be_watched_again_is_tried_again(
    start_alone: Any, pollers: list[FailingPoller]
) -> None:
    running = start_alone(hello, keep_alive_timeout=0.2, max_connections=1)
    with Client(running.address) as client, Client(running.address) as other:
        client.get("/")
        other.send(GET)
        running.wait_until(lambda: not running.server._inside.loop._accepting)
        pollers[0].failing["watch"] = 1
        client.close()
        assert other.reply().body == b"hello"
    assert pollers[0].failing["watch"] == 0


def test_one_connection_that_cant_be_closed_doesnt_keep_the_others(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its descriptor is closed too, even if close() raises."""
    running = start(hello)
    clients = [Client(running.address) for _ in range(3)]
    for client in clients:
        client.get("/")
    sockets = [connection.sock for connection in running.connections]
    close = socket.socket.close

    def close_and_fail(sock: socket.socket) -> None:
        was_open = sock.fileno() >= 0
        close(sock)
        if was_open and sock in sockets:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(socket.socket, "close", close_and_fail)
    running.server.shutdown()
    monkeypatch.undo()
    assert len(sockets) == 3
    assert [sock.fileno() for sock in sockets] == [-1] * 3
    for client in clients:
        assert client.rest() == b""
        client.close()


def test_urgent_data_stops_nothing(start: Any) -> None:
    """HTTP doesn't use it. recv() stops before it, so a short result doesn't mean that there is no more input."""
    is_called, may_go_on = threading.Event(), threading.Event()

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/wait":
            is_called.set()
            assert may_go_on.wait(10)
        return hello(environ, start_response)

    with Client(start(application).address) as client:
        client.get("/")
        client.send(b"GET /wait HTTP/1.1\r\nHost: h\r\n\r\n")
        assert is_called.wait(10)
        for _ in range(2):
            client.send(GET)
            client.sock.send(b"!", socket.MSG_OOB)
            client.send(GET)
        may_go_on.set()
        for _ in range(5):
            assert client.reply().body == b"hello"


@pytest.mark.parametrize("number", [errno.ENOBUFS, errno.ENOMEM], ids=["ENOBUFS", "ENOMEM"])
@pytest.mark.parametrize("call", ["send", "recv"])
def test_a_shortage_of_memory_passes(start: Any, number: int, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It isn't the client's fault."""
    running = start(hello, fast_lane=False)
    real = getattr(socket.socket, call)
    failures = iter([OSError(number, os.strerror(number))] * 3)
    local = running.server.server_address

    def failing(sock: socket.socket, *args: Any) -> Any:
        if sock.getsockname() == local:
            for error in failures:
                raise error
        return real(sock, *args)

    with Client(running.address) as client:
        client.get("/")
        monkeypatch.setattr(socket.socket, call, failing)
        client.sock.sendall(GET)
        assert client.reply().body == b"hello"
        monkeypatch.undo()
    assert list(failures) == []


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EBADF], ids=["ENOMEM", "EBADF"])
def test_the_leader_tries_again_what_it_cant_watch(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It doesn't try again with a descriptor that was closed meanwhile."""
    poller = LeaderPoller()
    register = poller._selector.register
    failures = iter([OSError(number, os.strerror(number))])

    def failing(fd: int, events: int) -> Any:
        for error in failures:
            raise error
        return register(fd, events)

    monkeypatch.setattr(poller._selector, "register", failing)
    ours, theirs = socket.socketpair()
    with ours, theirs, contextlib.closing(poller):
        theirs.send(b"x")
        poller.arm(ours.fileno(), READ, is_new=True)
        ours_fd = ours.fileno()
        found = [*poller.wait(0.05), *poller.wait(0.05)]
    assert found == ([(ours_fd, READ)] if number == errno.ENOMEM else [])
