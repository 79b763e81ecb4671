"""What fails at this end: disks, memory, the error stream; applications that raise what is no Exception, or come late.

Each time the client gets a whole answer or a visibly broken one, the request has its line in the log, nothing stays
behind, and the next request is served.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
import re
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import fastwsgi._server.loop as loop_module
from event_servers import (
    ALL_KINDS,
    BLOCK,
    GET,
    KINDS,
    THREADED_KINDS,
    THREADS,
    Client,
    CutShortError,
    Running,
    starting,
)
from fastwsgi import simple_server
from fastwsgi._server.poller import READ, LeaderPoller
from fastwsgi._server.response import Response
from fastwsgi.handlers import SimpleHandler
from serving import exchange, serving, wait_until

start = pytest.fixture(params=ALL_KINDS)(starting)
start_threads = pytest.fixture(params=THREADED_KINDS)(starting)
start_alone = pytest.fixture(params=KINDS)(starting)

needs_full_device = pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is full here")


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
        wait_until(lambda: len(self.requests()) >= count)
        return self.requests()


@pytest.fixture
def log(capsys: pytest.CaptureFixture[str]) -> Log:
    return Log(capsys)


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*args: Any, **keywords: Any) -> Any:
        raise error

    return fail


# ---- disks ------------------------------------------------------------------------------------------

#: Why there is no temporary file, the status for it, and what makes one then.
NO_ROOM = {
    "full": (507, lambda: open("/dev/full", "w+b")),  # noqa: SIM115 - the server's to close
    "no descriptors": (503, raising(OSError(errno.EMFILE, os.strerror(errno.EMFILE)))),
    "no directory": (503, raising(FileNotFoundError(errno.ENOENT, "no usable temporary directory"))),
}


# The shorter one is in the file's own buffer until that is rewound.
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
    """Nothing follows the octets that are missing: not the rest, nor the next answer."""
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
    """In several threads a file is sent from a descriptor of our own, if there is one."""
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


# ---- what applications raise ------------------------------------------------------------------------


class OwnError(BaseException):
    """An error that no "except Exception" catches."""


class Failing:
    """An iterable that raises in one place."""

    def __init__(self, where: str, error: BaseException) -> None:
        self.where, self.error = where, error

    def __iter__(self) -> Iterator[bytes]:
        if self.where == "iter()":
            raise self.error
        return self._blocks()

    def _blocks(self) -> Iterator[bytes]:
        yield b"abc"
        if self.where == "iteration":
            raise self.error

    def _close(self) -> None:
        if self.where == "close()":
            raise self.error

    @property
    def close(self) -> Callable[[], None]:
        if self.where == "close":
            raise self.error
        return self._close


@pytest.mark.parametrize("where", ["application", "iter()", "iteration", "close()", "close"])
@pytest.mark.parametrize(
    "error_class", [SystemExit, GeneratorExit, KeyboardInterrupt, asyncio.CancelledError, OwnError, RuntimeError]
)
def test_no_error_of_an_application_ends_a_thread(
    start: Any, error_class: type[BaseException], where: str, log: Log
) -> None:
    """Not in the main thread, where a KeyboardInterrupt may be a Ctrl-C."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/":
            all_are_here.wait(10)
            return hello(environ, start_response)
        error = error_class("on purpose")
        start_response("200 OK", [])
        if where == "application":
            raise error
        return Failing(where, error)

    threads = THREADS if start.is_threaded else 1
    all_are_here = threading.Barrier(threads)
    running = start(application)
    times = THREADS + 2
    for _ in range(times):
        with Client(running.address) as client:
            client.send(b"GET /fails HTTP/1.1\r\nHost: h\r\n\r\n")
            if where == "iteration":
                assert client.head().startswith(b"HTTP/1.1 200 ")
                assert client.chunk() == b"abc"
                assert client.rest() == b""
            else:
                assert client.reply().status == (200 if where.startswith("close") else 500)
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(Client(running.address)) for _ in range(threads)]
        for client in clients:
            client.send(GET)
        for client in clients:
            assert client.reply().body == b"hello"
    requests = log.wait_for_requests(times + threads)
    assert len([line for line in requests if line.startswith('"GET /fails HTTP/1.1" ')]) == times
    name = "asyncio.exceptions.CancelledError" if error_class is asyncio.CancelledError else error_class.__qualname__
    assert len(re.findall(rf"^(?:\w+\.)?{re.escape(name)}: on purpose$", log.text(), re.MULTILINE)) == times


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """That SIGINT raises KeyboardInterrupt, which it doesn't where a shell has started us in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("where", ["application", "iteration", "close()"])
@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_ends_serve_forever(ctrl_c: None, kind: str, where: str) -> None:
    def interrupt() -> None:
        signal.raise_signal(signal.SIGINT)

    class Interrupted(Failing):
        def _blocks(self) -> Iterator[bytes]:
            if where == "iteration":
                interrupt()
            yield b"abc"

        def _close(self) -> None:
            if where == "close()":
                interrupt()

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        if where == "application":
            interrupt()
        return Interrupted("nowhere", OwnError())

    server = simple_server.make_server("127.0.0.1", 0, application)
    server.settings = type(server.settings)(**ALL_KINDS[kind])
    answers: list[bytes] = []
    with server:
        client = threading.Thread(target=lambda: answers.append(exchange(server.server_address, GET)), daemon=True)
        client.start()
        with pytest.raises(KeyboardInterrupt):
            server.serve_forever()
        client.join(10)
    assert answers[0].startswith(b"HTTP/1.1 200 " if where == "close()" else b"HTTP/1.1 500 ")


# ---- what applications keep -------------------------------------------------------------------------


class Late:
    """Calls what was kept of an answer that is complete, each of which has to be refused."""

    def __init__(self) -> None:
        self.kept: list[Callable[[], Any]] = []
        self.refused = 0

    def keep(self, start_response: Any, write: Any) -> None:
        self.kept += [
            lambda: write(b"LATE"),
            lambda: start_response("200 LATE", [("Content-Length", "4")]),
            lambda: start_response("200 LATE", [])(b"LATE"),
            lambda: start_response("200 LATE", [], (ValueError, ValueError("late"), None))(b"LATE"),
        ]

    def call(self) -> None:
        for call in self.kept:
            with pytest.raises(AssertionError):
                call()
            self.refused += 1


class Closing:
    def __init__(self, close: Callable[[], None]) -> None:
        self.close = close

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"fi", b"", b"rst"])


# way: what the first application returns after it has written something, and its answer's status
WAYS: dict[str, Callable[[Any, Callable[[], None]], Any]] = {
    "list": lambda write, close: [b"fi", b"rst"],
    "iterable": lambda write, close: iter([b"fi", b"", b"rst"]),
    "with close()": lambda write, close: Closing(close),
    "write()": lambda write, close: [b"first"[write(b"fi") or 2 :]],
    "write() of all": lambda write, close: [][write(b"first") or 0 :],
    "an error": lambda write, close: 1 / 0,
    "a str": lambda write, close: ["first"],
}


@pytest.mark.parametrize("headers", [[], [("Content-Length", "5")]], ids=["", "length"])
@pytest.mark.parametrize("way", WAYS)
def test_what_is_kept_of_an_answer_sends_nothing(start: Any, way: str, headers: Any, log: Log) -> None:
    """A worker thread behind a timeout does so; the next answer on the connection may be somebody else's."""
    late = Late()

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/":
            late.call()
            start_response("200 OK", [])
            late.call()
            return [b"second"]
        write = start_response("200 OK", list(headers))
        late.keep(start_response, write)
        return WAYS[way](write, late.call)

    running = start(application)
    with Client(running.address) as client:
        client.send(b"GET /first HTTP/1.1\r\nHost: h\r\n\r\n")
        first = client.reply()
        if way in ("an error", "a str"):
            assert first.status == 500
        else:
            assert (first.status, first.body) == (200, b"first")
        log.wait_for_requests(1)
        in_close = late.refused
        late.call()
        second = client.get("/")
        assert (second.status, second.body) == (200, b"second")
        late.call()
    assert in_close == (4 if way == "with close()" else 0)
    assert late.refused == in_close + 16
    assert "LATE" not in log.text()


@pytest.mark.parametrize("goes_wrong", [False, True])
def test_what_is_kept_on_the_classic_path_sends_nothing(log: Log, goes_wrong: bool) -> None:
    """A handler that loops over requests, as Django's does, has one connection for many answers, too."""
    late = Late()

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/":
            late.call()
            return hello(environ, start_response)
        late.keep(start_response, start_response("200 OK", [("Content-Length", "5")]))
        return [1] if goes_wrong else [b"first"]

    class Handler(simple_server.WSGIRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle(self) -> None:
            self.close_connection = False
            while not self.close_connection:
                super().handle()
                late.call()

    with serving(simple_server.make_server("127.0.0.1", 0, application, handler_class=Handler)) as address:
        answers = exchange(address, b"GET /first HTTP/1.1\r\nHost: h\r\n\r\n" + GET)
    assert answers.count(b"HTTP/1.") == 2
    assert answers.endswith(b"\r\n\r\nhello")
    assert b"LATE" not in answers
    assert late.refused >= 8


@pytest.mark.parametrize("length", [[], [("Content-Length", "5")]], ids=["", "length"])
@pytest.mark.parametrize("takes_short_cut", [True, False])
def test_a_whole_answer_has_no_500_behind_it(
    length: Any, takes_short_cut: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the classic path and for whoever uses a SimpleHandler, with the short cut and without."""

    def application(environ: dict[str, Any], start_response: Any) -> FailsToClose:
        start_response("200 OK", length)
        return FailsToClose()

    stdout, stderr = io.BytesIO(), io.StringIO()
    handler = SimpleHandler(io.BytesIO(), stdout, stderr, {"SERVER_PROTOCOL": "HTTP/1.1"})
    if not takes_short_cut:
        monkeypatch.setattr(handler, "_flush", handler._flush)
    handler.run(application)
    assert stdout.getvalue().count(b"HTTP/1.") == 1
    assert stdout.getvalue().endswith(b"\r\n\r\nhello")
    assert stderr.getvalue().endswith("ValueError: on purpose\n")


def test_an_answer_ends_when_what_is_being_sent_of_it_is_sent() -> None:
    """Else a thread that is in write() might go on in the next answer."""
    is_sending, may_go_on = threading.Event(), threading.Event()
    order: list[str] = []

    def send(data: bytes) -> None:
        is_sending.set()
        assert may_go_on.wait(10)
        order.append("sent")

    client: Any = SimpleNamespace(send=send, is_ending=lambda: False)
    handler: Any = SimpleNamespace(get_stderr=lambda: None, command="GET")
    response = Response(client, handler, {}, None, modern=True, persistent=True, http_version="1.1", multithread=True)
    write = response.start_response("200 OK", [])

    def end() -> None:
        response._end()
        order.append("ended")

    writer = threading.Thread(target=write, args=(b"abc",))
    writer.start()
    assert is_sending.wait(10)
    ender = threading.Thread(target=end)
    ender.start()
    may_go_on.set()
    writer.join(10)
    ender.join(10)
    assert order == ["sent", "ended"]
    with pytest.raises(AssertionError, match="complete"):
        write(b"abc")


# ---- the error stream -------------------------------------------------------------------------------


class FailingStream(io.StringIO):
    """Takes nothing."""

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


class FailsToClose:
    def __iter__(self) -> Iterator[bytes]:
        return iter([b"hello"])

    def close(self) -> None:
        raise ValueError("on purpose")


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
    """From 3.15 it's asked whether it has colours."""
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
    """An error stream that nobody reads keeps its writer waiting."""
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


# ---- each request has its line ----------------------------------------------------------------------


class Endless:
    """Blocks without end."""

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield BLOCK


def test_a_client_that_leaves_while_its_request_is_answered(start: Any, log: Log) -> None:
    is_called, may_go_on = threading.Event(), threading.Event()

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/":
            return hello(environ, start_response)
        is_called.set()
        assert may_go_on.wait(10)
        start_response("200 OK", [])
        return [b"abc"] if environ["PATH_INFO"] == "/list" else iter([b"abc"])

    running = start(application)
    for path in ("/list", "/iterable"):
        client = Client(running.address)
        client.send(f"GET {path} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
        assert is_called.wait(10)
        client.reset()
        may_go_on.set()
        running.wait_until_all_are_gone()
        is_called.clear()
        may_go_on.clear()
    assert_serves(running)
    assert log.wait_for_requests(3) == [
        '"GET /list HTTP/1.1" 200 0', '"GET /iterable HTTP/1.1" 200 0', '"GET / HTTP/1.1" 200 5',
    ]  # fmt: skip
    assert "Traceback" not in log.text()


@pytest.mark.parametrize("way", ["stream", "write()", "file", "list"])
def test_an_answer_that_is_given_up(start: Any, way: str, log: Log, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(BLOCK * 200)
    whole = len(BLOCK) * 200

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/":
            return hello(environ, start_response)
        write = start_response("200 OK", [])
        if way == "write()":
            for block in Endless():
                write(block)
        if way == "file":
            return environ["wsgi.file_wrapper"](path.open("rb"))
        return [BLOCK * 200] if way == "list" else Endless()

    running = start(application)
    with Client(running.address, room=4096) as client:
        client.send(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n")
        client.head()
        client.reset()
    running.wait_until_all_are_gone()
    assert_serves(running)
    given_up, served = log.wait_for_requests(2)
    assert served == '"GET / HTTP/1.1" 200 5'
    match = re.fullmatch(r'"GET /large HTTP/1.1" 200 (\d+)', given_up)
    assert match is not None, given_up
    assert way in ("stream", "write()") or int(match[1]) <= whole
    assert "Traceback" not in log.text()


def test_an_answer_that_breaks_in_the_middle_has_one_line(start: Any, log: Log) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        return Failing("iteration", LookupError("on purpose"))

    with Client(start(application).address) as client:
        client.send(b"GET /breaks HTTP/1.1\r\nHost: h\r\n\r\n")
        client.head()
        assert client.rest() == b"3\r\nabc\r\n"
    assert log.wait_for_requests(1) == ['"GET /breaks HTTP/1.1" 200 3']
    assert log.text().count("LookupError: on purpose") == 1


def test_a_body_whose_client_leaves(start: Any, log: Log) -> None:
    running = start(hello)
    client = Client(running.address)
    client.send(b"POST /half HTTP/1.1\r\nHost: h\r\nContent-Length: 99\r\n\r\nabc")
    running.wait_until(lambda: any(each.body is not None for each in running.connections))
    client.reset()
    running.wait_until_all_are_gone()
    assert log.wait_for_requests(1) == ['"POST /half HTTP/1.1" - 0']


def test_an_error_after_the_client_has_left_is_logged(start: Any, log: Log) -> None:
    is_called, may_go_on = threading.Event(), threading.Event()

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        write = start_response("200 OK", [])
        is_called.set()
        assert may_go_on.wait(10)
        with contextlib.suppress(ConnectionError):  # not at once, perhaps: the kernel may take what nobody will read
            for _ in range(1000):
                write(BLOCK)
            pytest.fail("it wasn't refused")
        raise LookupError("on purpose")

    running = start(application)
    client = Client(running.address)
    client.send(GET)
    assert is_called.wait(10)
    client.reset()
    may_go_on.set()
    running.wait_until_all_are_gone()
    assert len(log.wait_for_requests(1)) == 1
    assert log.text().count("LookupError: on purpose") == 1


# ---- pollers and sockets ----------------------------------------------------------------------------


class FailingPoller:
    """A poller, of which some calls fail for want of memory in the kernel."""

    def __init__(self, poller: Any) -> None:
        self._poller = poller
        #: How many of the next calls fail, by name.
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
    """The pollers of the loops that are made in the test."""
    made: list[FailingPoller] = []
    for name in ("make_poller", "make_shared_poller"):
        make = getattr(loop_module, name)

        def failing(kind: str, make: Any = make) -> FailingPoller:
            made.append(FailingPoller(make(kind)))
            return made[-1]

        monkeypatch.setattr(loop_module, name, failing)
    return made


def test_a_connection_that_cant_be_watched_is_closed(
    start: Any, pollers: list[FailingPoller], capsys: pytest.CaptureFixture[str]
) -> None:
    running = start(hello)
    assert_serves(running)
    # Whether the first answer comes, depends on which is there first: the request or the poller.
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
    running = start_threads(hello, keep_alive_timeout=0.2)  # so that it's tried again soon
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
    """Nor its descriptor: whatever close() says, it's closed."""
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
    """HTTP has none. recv() ends before it, so that few octets don't mean that there are no more."""
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
    """It says nothing of the client."""
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
    """But not a descriptor that was closed meanwhile."""
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
