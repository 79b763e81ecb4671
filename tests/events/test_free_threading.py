"""Objects that several threads share: correct results and no crash, with the GIL and without.

Without the GIL the threads run at the same time. With it, they switch as often as possible.
"""

from __future__ import annotations

import io
import sys
import sysconfig
import threading
import time
from collections import Counter
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import fastwsgi._events.event_server
from clients import Client
from fastwsgi._backend import FileWrapper, Headers
from fastwsgi.handlers import SimpleHandler
from programs import run_python
from servers import THREADED_KINDS, event_server
from waiting import TIMEOUT, numbered, together

THREADS = 4
ROUNDS = 300

IS_FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


@pytest.fixture(autouse=True)
def quick_turns() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


# ---- importing -----------------------------------------------------------------------------------------


@pytest.mark.skipif(not IS_FREE_THREADED, reason="this interpreter always has the GIL")
def test_importing_everything_leaves_the_gil_off() -> None:
    program = """
import importlib, pkgutil, sys
import fastwsgi
for module in pkgutil.walk_packages(fastwsgi.__path__, "fastwsgi."):
    if module.name not in ("fastwsgi.__main__", "fastwsgi.swap", "fastwsgi.gunicorn"):
        importlib.import_module(module.name)
print(fastwsgi.implementation, sys._is_gil_enabled())
"""
    done = run_python("-W", "error", "-c", program)
    assert (done.stdout, done.stderr) == (f"{fastwsgi.implementation} False\n", "")


# ---- shared caches -------------------------------------------------------------------------------------


def test_dates_are_each_threads_own(twin: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each thread has a different clock, so that the shared cache never has the date that the next thread needs."""
    clocks: dict[int, float] = {}
    monkeypatch.setattr(time, "time", lambda: clocks[threading.get_ident()])

    def ask(number: int) -> None:
        for second in range(number, number + ROUNDS):
            clocks[threading.get_ident()] = second + 0.5
            date = twin.current_date()
            assert date == f"Thu, 01 Jan 1970 00:{second // 60:02}:{second % 60:02} GMT"
            assert date == twin.format_date_time(second)

    together(*numbered(ask, THREADS))


def test_heads_are_read_at_once(twin: ModuleType) -> None:
    """One thread parses a head; then all threads read it, and build at the first access what is built lazily."""
    base = {"SERVER_NAME": "here", "wsgi.version": (1, 0)}
    heads = [
        twin.parse_head(f"GET /{i}?{i} HTTP/1.1\r\nHost: h{i}\r\nX-One: {i}a\r\nx-one: {i}b\r\n\r\n".encode())
        for i in range(ROUNDS)
    ]

    def read(number: int) -> None:
        for i, head in enumerate(heads):
            assert head.fields == [("Host", f"h{i}"), ("X-One", f"{i}a"), ("x-one", f"{i}b")]
            assert head.get_all("X-ONE") == [f"{i}a", f"{i}b"]
            environ = twin.build_environ(base, head)
            assert environ["HTTP_X_ONE"] == f"{i}a,{i}b"
            assert (environ["PATH_INFO"], environ["QUERY_STRING"]) == (f"/{i}", str(i))

    together(*numbered(read, THREADS))
    assert base == {"SERVER_NAME": "here", "wsgi.version": (1, 0)}


def test_lists_of_fields_may_change_while_they_are_formatted(twin: ModuleType) -> None:
    fields = [("A", "1"), ("B", "2")]
    more = [("C", "3" * 50)] * 20
    is_over = threading.Event()

    def change() -> None:
        try:
            for _ in range(ROUNDS):
                fields.extend(more)
                del fields[2:]
        finally:
            is_over.set()

    def look() -> None:
        while not is_over.is_set():
            twin.check_fields(fields)
            lines = twin.format_fields(fields).split(b"\r\n")
            assert lines[-2:] == [b"", b""]
            assert Counter(lines[:-2]).keys() <= {b"A: 1", b"B: 2", b"C: " + b"3" * 50}

    together(change, *[look] * (THREADS - 1))


# ---- objects that an application shares ----------------------------------------------------------------


def test_one_headers_object_is_read_at_once() -> None:
    headers = Headers([("Content-Type", "text/plain"), ("Set-Cookie", "a"), ("set-cookie", "b")])

    def read(number: int) -> None:
        for _ in range(ROUNDS):
            assert headers["content-type"] == "text/plain"
            assert headers.get_all("Set-Cookie") == ["a", "b"]
            assert "X" not in headers
            assert bytes(headers) == b"Content-Type: text/plain\r\nSet-Cookie: a\r\nset-cookie: b\r\n\r\n"

    together(*numbered(read, THREADS))


def test_one_headers_object_is_changed_at_once() -> None:
    """As with a list: a change may be undone by another thread, but the object is never broken."""
    headers = Headers([("X-0", "0")])
    right = {(f"X-{number}", f"{number}") for number in range(THREADS)} | {("Y", "y")}

    def change(number: int) -> None:
        name, value = f"X-{number}", str(number)
        for turn in range(ROUNDS):
            headers[name] = value
            assert headers.get(name.lower(), value) == value
            assert set(headers.get_all(name)) <= {value}
            assert headers.setdefault("Y", "y") == "y"
            assert set(headers.items()) <= right
            lines = bytes(headers).decode().split("\r\n")
            assert {tuple(line.split(": ")) for line in lines[:-2]} <= right
            if turn % 3 == 0:
                del headers[name]
            elif turn % 50 == 1:
                headers._headers = [("Y", "y")]

    together(*numbered(change, THREADS))
    assert set(headers.items()) <= right


class Blocks:
    """A file of numbered blocks, each of which is read once."""

    def __init__(self, count: int) -> None:
        self._left = list(range(count))

    def read(self, size: int) -> bytes:
        try:
            return b"%d" % self._left.pop()
        except IndexError:
            return b""


def test_one_file_wrapper_is_read_at_once() -> None:
    count = THREADS * ROUNDS
    wrapper = FileWrapper(Blocks(count))
    taken: list[bytes] = []

    def meddle() -> None:
        file = wrapper.filelike
        for size in range(ROUNDS):
            wrapper.blksize = size * 1000
            wrapper.filelike = Blocks(0)
            wrapper.filelike = file

    def read() -> None:
        for _ in range(count):
            taken.extend(wrapper)

    together(meddle, *[read] * (THREADS - 1))
    assert sorted(map(int, taken)) == list(range(count))


# ---- the shortcut for handlers -------------------------------------------------------------------------


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("X", "x")])
    return [b"body"]


def server_field(handler_class: type[SimpleHandler]) -> str:
    """Run an application; return the Server field of its answer."""
    stdout = io.BytesIO()
    handler = handler_class(io.BytesIO(), stdout, io.StringIO(), {"SERVER_PROTOCOL": "HTTP/1.1"})
    handler.run(application)
    head, _, body = stdout.getvalue().partition(b"\r\n\r\n")
    assert body == b"body"
    lines = head.decode().split("\r\n")
    assert lines[0] == "HTTP/1.0 200 OK"
    return dict(line.split(": ", 1) for line in lines[1:])["Server"]


def test_classes_are_patched_while_handlers_run() -> None:
    classes = [type(name, (SimpleHandler,), {"server_software": "0"}) for name in ("One", "Other")]
    said = [[0], [0]]  # the values set, by class; the newest is the last

    def patch() -> None:
        for value in range(1, 100):
            for cls, values in zip(classes, said, strict=True):
                values.append(value)
                cls.server_software = str(value)

    def run() -> None:
        for i in range(ROUNDS):
            cls, values = classes[i % 2], said[i % 2]
            oldest = values[-1] - 1  # the last value may not be set yet, but the one before it is
            assert oldest <= int(server_field(cls)) <= values[-1]

    together(patch, *[run] * (THREADS - 1))
    assert [server_field(cls) for cls in classes] == ["99", "99"]


def test_what_was_patched_is_seen_by_all() -> None:
    handler_class = type("Handler", (SimpleHandler,), {"server_software": "0"})
    barrier = threading.Barrier(THREADS)

    def run(number: int) -> None:
        for turn in range(100):
            if turn % THREADS == number:
                handler_class.server_software = f"{turn}"
            barrier.wait(TIMEOUT)
            assert server_field(handler_class) == f"{turn}"
            barrier.wait(TIMEOUT)

    together(*numbered(run, THREADS))


# ---- servers with several threads ----------------------------------------------------------------------

RESULT = [b"one ", b"result for all"]
FIELDS = [("Content-Type", "text/plain"), ("Content-Length", str(sum(map(len, RESULT))))]


@pytest.mark.parametrize("kind", THREADED_KINDS)
def test_no_request_is_told_of_another(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The clients repeat their requests, and only one of them can be remembered at a time."""
    monkeypatch.setattr(fastwsgi._events.event_server, "MEMOS", 1)

    def tell(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/shared":
            start_response("200 OK", FIELDS)
            return RESULT
        start_response("200 OK", [("Content-Type", "text/plain")])
        port, name, body = environ["REMOTE_PORT"], environ["HTTP_X_NAME"], environ["wsgi.input"].read()
        return [f"{port} {name} {environ['PATH_INFO']} ".encode(), body]

    with event_server(tell, kind) as running:

        def ask(number: int) -> None:
            for turn in range(3):
                with Client(running.address) as client:
                    port = client.sock.getsockname()[1]
                    fields = f"Host: h\r\nX-Name: n{number}-{turn}\r\nContent-Length: 3\r\n\r\n"
                    paths = [f"/{i}" if i % 3 else "/shared" for i in range(30)]
                    for first in range(0, 30, 6):
                        batch = paths[first : first + 1 + number % 6]
                        client.send("".join(f"POST {path} HTTP/1.1\r\n{fields}abc" for path in batch).encode())
                        for path in batch:
                            own = f"{port} n{number}-{turn} {path} abc".encode()
                            assert client.reply().body == (b"".join(RESULT) if path == "/shared" else own)

        together(*numbered(ask, 2 * THREADS))
        running.wait_until_all_are_gone()


@pytest.mark.parametrize("kind", THREADED_KINDS)
def test_responses_may_be_begun_by_any_thread(kind: str) -> None:
    """The first of two threads wins; the other gets an error or is ignored, and the client gets one complete answer."""

    def late(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        def start(status: str) -> None:
            try:
                start_response(status, [("X-Status", status)])
            except AssertionError:
                late_ones.append(status)

        together(lambda: start("201 One"), lambda: start("202 Other"))
        return [b"answer"]

    late_ones: list[str] = []
    with event_server(late, kind) as running, Client(running.address) as client:
        for _ in range(30):
            reply = client.get()
            assert reply.status in (201, 202)
            assert reply.body == b"answer"
    assert len(late_ones) <= 30
