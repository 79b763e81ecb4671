"""Applications that raise any exception, answer late, or lose their client: the server still serves other clients.

Each of their requests has exactly one line in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import queue
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clients import GET, Client, CutShortError, exchange
from fastwsgi import simple_server
from fastwsgi._backend import Request
from fastwsgi._events.response import Response
from fastwsgi.handlers import SimpleHandler
from servers import ALL_KINDS, BLOCK, KINDS, THREADS, FailsToClose, Log, assert_serves, hello, serving, starting
from waiting import wait_until

start = pytest.fixture(params=ALL_KINDS)(starting)


# ---- exceptions of applications ---------------------------------------------------------------------


class OwnError(BaseException):
    """An error that no "except Exception" catches."""


class Failing:
    """An iterable that raises at a chosen point."""

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
    """Tested outside of the main thread, where a KeyboardInterrupt may be a Ctrl-C."""

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
    assert len(re.findall(rf"^(?:[\w.]+\.)?{re.escape(name)}: on purpose$", log.text(), re.MULTILINE)) == times


@pytest.fixture
def ctrl_c() -> Iterator[None]:
    """Make SIGINT raise KeyboardInterrupt, which it doesn't if a shell has started the tests in the background."""
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


# ---- functions that applications keep ---------------------------------------------------------------


class Late:
    """Calls the kept functions of a complete answer. Each call must be refused."""

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


# way: the result of the first application after it has written something, and the status of its answer
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
    """A worker thread may do so after a timeout, when the connection already has another request's answer."""
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
    """A handler that loops over requests, as Django's does, also has one connection for many answers."""
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
    """On the classic path and with a bare SimpleHandler, with the shortcut and without."""

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
    """Otherwise a thread inside write() might continue in the next answer."""
    is_sending, may_go_on = threading.Event(), threading.Event()
    order: list[str] = []

    def send(data: bytes, is_rest: bool) -> None:
        is_sending.set()
        assert may_go_on.wait(10)
        order.append("sent")

    client: Any = SimpleNamespace(send=send, is_ending=lambda: False)
    front: Any = SimpleNamespace(
        error_stream=lambda request: None, http_version="1.1", multiprocess=False, revise=None
    )
    request = Request("GET", "/", "HTTP/1.1", [])
    response = Response(client, front, request, {}, None, True)
    write = response.start_response("200 OK", [])

    def end() -> None:
        response._shut()
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


# ---- each request has its log line ------------------------------------------------------------------


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
        with contextlib.suppress(ConnectionError):  # not always at once: the kernel may accept octets
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


# ---- two threads at the same time -------------------------------------------------------------------


@pytest.fixture
def frequent_switches() -> Iterator[None]:
    """Let threads switch thousands of times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(before)


@pytest.mark.parametrize("way", ["iterable", "write()", "error"])
def test_a_thread_that_writes_while_the_answer_ends(start: Any, way: str, frequent_switches: None, log: Log) -> None:
    """The octets that it still writes belong to its own answer, and the next answer is complete."""
    writes: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def keep_writing() -> None:
        while (write := writes.get()) is not None:
            with contextlib.suppress(AssertionError, ConnectionError):
                for _ in range(50):
                    write(b"late")

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/":
            return hello(environ, start_response)
        if way == "error":
            writes.put(lambda data: start_response("200 LATE", [])(data))  # noqa: PLW0108 - start_response() is late too
            raise LookupError("on purpose")
        write = start_response("200 OK", [])
        writes.put(write)
        if way == "write()":
            write(b"own")
        return (block for block in [b"own", b"", b"own"])

    writer = threading.Thread(target=keep_writing, daemon=True)
    writer.start()
    running = start(application)
    try:
        for _ in range(60):
            with Client(running.address) as client:
                client.send(b"GET /first HTTP/1.1\r\nHost: h\r\n\r\n" + GET)
                try:
                    first = client.reply()
                    second = client.reply()
                except (CutShortError, ConnectionResetError):
                    continue  # an error after the thread has begun the answer
            assert (first.status, second.status) in {(200, 200), (500, 200)}
            assert b"own" in first.body or way == "error"
            assert second.body == b"hello"
    finally:
        writes.put(None)
        writer.join(10)
    log.text()


def test_a_log_hook_is_too_late_to_answer(start: Any) -> None:
    late = Late()

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        late.keep(start_response, start_response("200 OK", []))
        return [b"hello"]

    def log_request(self: Any, code: Any = "-", size: Any = "-") -> None:
        late.call()

    with Client(start(application, attributes={"log_request": log_request}).address) as client:
        for _ in range(3):
            assert client.get().body == b"hello"
    assert late.refused == 4 + 8 + 12


# ---- exceptions that raise when they are formatted ---------------------------------------------------


class Notes(Exception):  # noqa: N818 - named after its fault
    @property
    def __notes__(self) -> Any:
        raise ValueError("can't be read")


class EndingNotes(Exception):  # noqa: N818
    @property
    def __notes__(self) -> Any:
        raise SystemExit("can't be read")


class EndingAttributes(Exception):  # noqa: N818
    def __getattribute__(self, name: str) -> Any:
        raise SystemExit("can't be read")


class EndingClass(Exception):  # noqa: N818
    @property
    def __class__(self) -> Any:  # type: ignore[override]
        raise SystemExit("can't be read")


@pytest.mark.parametrize("error_class", [Notes, EndingNotes, EndingAttributes, EndingClass])
def test_an_error_that_raises_when_it_is_looked_at(start: Any, error_class: type[Exception], log: Log) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        if environ["PATH_INFO"] == "/":
            return hello(environ, start_response)
        raise error_class("on purpose")

    running = start(application)
    for _ in range(THREADS + 2):
        with Client(running.address) as client:
            assert client.get("/fails").status == 500
    assert_serves(running)
    assert len(log.wait_for_requests(THREADS + 3)) == THREADS + 3
    if error_class is Notes:  # some versions of traceback can show these
        wait_until(lambda: log.text().count("Traceback (most recent call last)") == THREADS + 2)
        shown = re.findall(
            r"^.*Notes(?:: on purpose|'>, which can't be shown: <class 'ValueError'>)$", log.text(), re.M
        )
        assert len(shown) == THREADS + 2


def test_an_error_that_cant_be_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **keywords: Any) -> Any:
        raise ValueError("on purpose")

    stdout, stderr = io.BytesIO(), io.StringIO()
    handler = SimpleHandler(io.BytesIO(), stdout, stderr, {"SERVER_PROTOCOL": "HTTP/1.1"})
    with monkeypatch.context() as patch:
        patch.setattr(traceback, "format_exception", fail)
        handler.run(lambda environ, start_response: {}["key"])
    assert b" 500 Internal Server Error\r\n" in stdout.getvalue()
    assert stderr.getvalue().startswith("Traceback (most recent call last):\n  File ")
    assert stderr.getvalue().endswith("<class 'KeyError'>, which can't be shown: <class 'ValueError'>\n")


@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_leaves_no_half_answer_that_looks_whole(ctrl_c: None, kind: str) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"abc"
        signal.raise_signal(signal.SIGINT)

    server = simple_server.make_server("127.0.0.1", 0, application)
    server.settings = type(server.settings)(**ALL_KINDS[kind])
    failures: list[OSError] = []

    def ask() -> None:
        try:
            exchange(server.server_address, b"GET / HTTP/1.0\r\n\r\n")
        except OSError as error:
            failures.append(error)

    with server:
        client = threading.Thread(target=ask, daemon=True)
        client.start()
        with pytest.raises(KeyboardInterrupt):
            server.serve_forever()
        client.join(10)
    assert len(failures) == 1  # a reset, seen by recv() or by shutdown()
