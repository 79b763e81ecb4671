"""The fast lane sends the same octets and makes the same calls as the general path, for any request."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import gzip
import io
import re
import socket
import sys
import tempfile
import weakref
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients import exchange
from fastwsgi import simple_server
from fastwsgi._backend import Request, accelerator
from fastwsgi._events.channel import PlainChannel
from fastwsgi._events.connection import Connection
from fastwsgi._events.lane import teach
from fastwsgi._events.shared_loop import SharedLoop
from fastwsgi._events.single_loop import plain_hand_out
from fastwsgi.simple_server import ServerHandler, WSGIRequestHandler, make_server
from fastwsgi.validate import validator
from generated import examples
from servers import returning, serving

Application = Callable[[dict[str, Any], Any], Any]

# ---- applications ------------------------------------------------------------------------------------

TEXT = [("Content-Type", "text/plain")]


def answering(result: Callable[[], Any], status: str = "200 OK", headers: Any = TEXT) -> Application:
    """An application that starts its response and returns a new result."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response(status, list(headers))
        return result()

    return application


class Closing:
    """An iterable without a length. Its close() is counted, and may fail."""

    closed = 0

    def __init__(self, blocks: Any, fails: bool = False) -> None:
        self.blocks, self.fails = blocks, fails

    def __iter__(self) -> Iterator[Any]:
        return iter(self.blocks)

    def close(self) -> None:
        Closing.closed += 1
        if self.fails:
            raise LookupError("in close()")


class ClosingList(list):  # type: ignore[type-arg]
    close = Closing.close
    fails = False


def late(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", TEXT)
    yield b"late "
    yield b""
    yield b"start"


def written(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    write = start_response("200 OK", TEXT)
    write(b"written ")
    write(b"before ")
    return [b"the result"]


def writes_between(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    write = start_response("200 OK", TEXT)
    yield b"one "
    write(b"two ")
    yield b"three"


def fails(environ: dict[str, Any], start_response: Any) -> Any:
    raise LookupError("before the start")


def fails_late(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", TEXT)
    yield b"some"
    raise LookupError("in the middle")


def starts_again(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    import sys

    start_response("200 OK", [("X-First", "1")])
    try:
        raise LookupError
    except LookupError:
        start_response("503 Later", [("X-Second", "2")], sys.exc_info())
    return [b"replaced"]


def reads(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    stream = environ["wsgi.input"]
    data = [stream.read(2), stream.readline(), *stream.readlines(), stream.read()]
    start_response("200 OK", TEXT)
    return [repr(data).encode()]


def spoils_its_environ(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    body = repr(sorted(key for key in environ if key.startswith("HTTP_"))).encode()
    environ.clear()
    environ["wsgi.input"] = None
    start_response("200 OK", TEXT)
    return [body]


def file_answer(environ: dict[str, Any], start_response: Any) -> Any:
    file = tempfile.TemporaryFile()  # noqa: SIM115 - the wrapper closes it
    file.write(b"0123456789" * 100)
    file.seek(5)
    start_response("200 OK", TEXT)
    return environ["wsgi.file_wrapper"](file)


def packed_file(environ: dict[str, Any], start_response: Any) -> Any:
    start_response("200 OK", TEXT)
    return environ["wsgi.file_wrapper"](gzip.GzipFile(fileobj=io.BytesIO(gzip.compress(b"unpacked"))))


def no_start(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    return [b"no start"]


APPLICATIONS: dict[str, Application] = {
    "one block": answering(lambda: [b"Hello, world!"]),
    "several blocks": answering(lambda: [b"Hello", b", ", b"world!"]),
    "tuple": answering(lambda: (b"a", b"b")),
    "no block": answering(list),
    "empty block": answering(lambda: [b""]),
    "empty generator": answering(lambda: iter(())),
    "generator": answering(lambda: (b"%d;" % number for number in range(300))),
    "generator with length": answering(lambda: (b"ab" for _ in range(3)), headers=[("Content-Length", "6")]),
    "generator too short": answering(lambda: (b"ab" for _ in range(3)), headers=[("Content-Length", "7")]),
    "generator too long": answering(lambda: (b"ab" for _ in range(3)), headers=[("Content-Length", "5")]),
    "generator of large blocks": answering(lambda: (bytes([65 + i]) * 70000 for i in range(3))),
    "late start": late,
    "write": written,
    "write between": writes_between,
    "string": answering(lambda: [b"ok", "not bytes"]),
    "string only": answering(lambda: ["not bytes"]),
    "bytes as iterable": answering(lambda: b"ab"),
    "None": answering(lambda: None),
    "no start": no_start,
    "raises": fails,
    "raises late": fails_late,
    "starts again": starts_again,
    "closing": answering(lambda: Closing([b"a", b"b"])),
    "close fails": answering(lambda: Closing([b"a", b"b"], fails=True)),
    "list with close": answering(lambda: ClosingList([b"a"])),
    "its own length": answering(lambda: [b"abc"], headers=[("content-length", "3")]),
    "its own length with zeros": answering(lambda: [b"abc"], headers=[("Content-Length", "003")]),
    "too short": answering(lambda: [b"abc"], headers=[("Content-Length", "4")]),
    "too long": answering(lambda: [b"abc"], headers=[("Content-Length", "2")]),
    "bad length": answering(lambda: [b"abc"], headers=[("Content-Length", "three")]),
    "two lengths": answering(lambda: [b"abc"], headers=[("Content-Length", "3"), ("Content-Length", "3")]),
    "its own Date and Server": answering(lambda: [b"a"], headers=[("date", "today"), ("SERVER", "mine")]),
    "its own Server": answering(lambda: [b"a"], headers=[("Server", "mine")]),
    "hop-by-hop": answering(lambda: [b"a"], headers=[("Connection", "close")]),
    "injection": answering(lambda: [b"a"], headers=[("X", "a\r\nY: b")]),
    "injection in status": answering(lambda: [b"a"], status="200 OK\r\nX: y"),
    "bad status": answering(lambda: [b"a"], status="200"),
    "Latin-1": answering(lambda: [b"a"], headers=[("X", "\xe9\t")]),
    "Unicode": answering(lambda: [b"a"], headers=[("X", "\u20ac")]),
    "204": answering(list, status="204 No Content"),
    "204 with body": answering(lambda: [b"a"], status="204 No Content", headers=[("Content-Length", "1")]),
    "304": answering(lambda: [b"a"], status="304 Not Modified", headers=[("ETag", '"a"')]),
    "304 streamed": answering(lambda: (b"a" for _ in "ab"), status="304 Not Modified"),
    "large": answering(lambda: [b"x" * 200_000]),
    "large in blocks": answering(lambda: [b"x" * 40_000] * 4),
    "file": file_answer,
    "packed file": packed_file,
    "reads": reads,
    "spoils its environ": spoils_its_environ,
    "validated": validator(answering(lambda: [b"valid"])),
    "validated generator": validator(late),
}

# ---- requests ----------------------------------------------------------------------------------------

BROWSER = (
    b"Host: localhost:8000\r\nUser-Agent: Mozilla/5.0 (X11; Linux x86_64)\r\nAccept: text/html,*/*;q=0.8\r\n"
    b"Accept-Language: en-US,en;q=0.5\r\nConnection: keep-alive\r\nCookie: a=1; b=2\r\n\r\n"
)
GET = b"GET /a/b?c=d HTTP/1.1\r\n" + BROWSER


def head(*fields: bytes, line: bytes = b"GET / HTTP/1.1") -> bytes:
    return b"\r\n".join((line, *fields, b"", b""))


H = b"Host: h"
METHODS = (b"GET", b"HEAD", b"POST")
REQUESTS = {
    "plain": GET,
    "thrice the same": GET * 3,
    "the same fields, other lines": GET + b"POST /x HTTP/1.1\r\n" + BROWSER + b"GET /y?z HTTP/1.0\r\n" + BROWSER + GET,
    # A memo has one request line, and learns another one after that line has not come for a while.
    "lines that come back": (
        GET * 3
        + b"".join(b"%s /%d?%d HTTP/1.1\r\n" % (method, i, i) + BROWSER for i in range(13) for method in METHODS)
        + (b"GET /12?12 HTTP/1.1\r\n" + BROWSER) * 3 + GET * 2
    ),
    "a line, and a longer one": b"".join(
        b"GET %s HTTP/1.1\r\n" % target + BROWSER
        for target in (b"/a", b"/a", b"/a", b"/ab", b"/a", b"/b", b"/a?", b"/a")
    ),
    "other fields": GET + head(H, b"X: 1") + head(H, b"X: 2") + GET,
    "HEAD": head(H, line=b"HEAD / HTTP/1.1") + GET,
    "close": head(H, b"Connection: close") + GET,
    "Close": head(H, b"connection: Close"),
    "keep-alive, close": head(H, b"Connection: keep-alive, close") + GET,
    "two Connections": head(H, b"Connection: keep-alive", b"Connection: close") + GET,
    "upgrade": head(H, b"Connection: upgrade", b"Upgrade: h2c") + GET,
    "1.0": head(line=b"GET / HTTP/1.0") + GET,
    "1.0 with Host": head(H, line=b"GET / HTTP/1.0") + GET,
    "1.0 keep-alive": head(H, b"Connection: keep-alive", line=b"GET / HTTP/1.0") + GET,
    "1.0 then 1.1, one block of fields": b"GET / HTTP/1.0\r\n" + BROWSER + GET,
    "1.2": head(H, line=b"GET / HTTP/1.2") + GET,
    "body": head(H, b"Content-Length: 11", line=b"POST / HTTP/1.1") + b"ab\ncd\nef\n12" + GET,
    "two bodies": (head(H, b"Content-Length: 3", line=b"POST / HTTP/1.1") + b"ab\n") * 2,
    "no body": head(H, b"Content-Length: 0", line=b"POST / HTTP/1.1") + GET,
    "zeros": head(H, b"Content-Length: 003", line=b"POST / HTTP/1.1") + b"abc" + GET,
    "large body": head(H, b"Content-Length: 40000", line=b"POST / HTTP/1.1") + b"x" * 40000 + GET,
    "body cut short": head(H, b"Content-Length: 40", line=b"POST / HTTP/1.1") + b"x",
    "chunked": head(H, b"Transfer-Encoding: chunked", line=b"POST / HTTP/1.1") + b"3\r\nabc\r\n0\r\n\r\n" + GET,
    "expectation": head(H, b"Expect: 100-continue", b"Content-Length: 1", line=b"PUT / HTTP/1.1") + b"x" + GET,
    "content type": head(H, b"Content-Type: text/x", b"content-type: text/y"),
    "several of a name": head(H, b"X-A: 1", b"x-a: 2", b"Cookie: a", b"cookie: b", b"X_A: 3"),
    "unknown names": head(H, b"X-Unknown-Field: 1", b"X-" + b"long-" * 30 + b": 2"),
    "empty values": head(H, b"A:", b"B:   ", b"C:\t d \t"),
    "octets": head(H, b"X: \xe9\xff"),
    "hidden variable": head(H, b"Hidden: seen") + head(H),
    "percent": head(H, line=b"GET /%41%e9%2f%zz%?%41 HTTP/1.1"),
    "slashes": head(H, line=b"GET //host/path?a HTTP/1.1"),
    "backslash": head(H, line=b"GET /\\a HTTP/1.1"),
    "absolute": head(H, line=b"GET http://other/path HTTP/1.1") + GET,
    "asterisk": head(H, line=b"OPTIONS * HTTP/1.1") + GET,
    "CONNECT": head(H, line=b"CONNECT h:1 HTTP/1.1") + GET,
    "CONNECT a path": head(H, line=b"CONNECT /a HTTP/1.1") + GET,
    "method": head(H, line=b"C /a HTTP/1.1") + head(H, line=b"CONNECTED /a HTTP/1.1"),
    "empty line first": b"\r\n" + GET,
    "empty line between": GET + b"\r\n" + GET,
    "no Host": head() + GET,
    "empty Host": head(b"Host:") + GET,
    "two Hosts": head(H, H) + GET,
    "bad Host": head(b"Host: a/b") + GET,
    "IPv6 Host": head(b"Host: [::1]:80") + GET,
    "Host with port": head(b"Host: a-b.c:80") + GET,
    "Host with empty port": head(b"Host: a:") + GET,
    "folded": head(H, b"A: b", b" c") + GET,
    "bare LF": head(H, b"A: b\nC: d") + GET,
    "NUL": head(H, b"A: \0") + GET,
    "space before colon": head(H, b"A : b") + GET,
    "two spaces": head(H, line=b"GET  / HTTP/1.1") + GET,
    "HTTP/2": head(H, line=b"GET / HTTP/2.0") + GET,
    "long target": head(H, line=b"GET /" + b"a" * 9000 + b" HTTP/1.1") + GET,
    "long fields": head(H, b"A: " + b"a" * 8000, b"B: " + b"b" * 3000) + GET,
    "many fields": head(H, *[b"X%d: y" % number for number in range(60)]) + GET,
    "too many fields": head(H, *[b"X: y"] * 101) + GET,
    "half a head": b"GET / HTTP/1.1\r\nHost",
}  # fmt: skip

# ---- both servers ------------------------------------------------------------------------------------


class Handler(WSGIRequestHandler):
    """Logs to a list by a hook that the lane must call."""

    lines: list[str]

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        self.lines.append(self.address_string() + " " + format % args)


class Pair:
    """Two servers that differ only in the lane, each with the environs of its calls."""

    def __init__(self, stack: contextlib.ExitStack) -> None:
        self.application: Application = APPLICATIONS["one block"]
        self.sides = [self.start(stack, fast_lane) for fast_lane in (True, False)]

    def start(self, stack: contextlib.ExitStack, fast_lane: bool) -> Any:
        calls: list[dict[str, Any]] = []

        def application(environ: dict[str, Any], start_response: Any) -> Any:
            calls.append(environ.copy())
            return self.application(environ, start_response)

        handler_class = type("H", (Handler,), {"lines": []})
        server = make_server("127.0.0.1", 0, application, handler_class=handler_class)
        server.settings = dataclasses.replace(server.settings, fast_lane=fast_lane, linger_timeout=0.2)
        address = stack.enter_context(serving(server))
        return SimpleNamespace(address=address, calls=calls, lines=handler_class.lines)

    def compare(self, application: Application, request: bytes, arrival: str) -> None:
        if arrival == "byte by byte" and is_last(request):
            # A client that still sends after such a request may lose the answer because of a reset.
            request = request[: request.index(b"\r\n\r\n") + 4]
        self.application = application
        Closing.closed = 0
        told = []
        for side in self.sides:
            side.calls.clear()
            side.lines.clear()
            Closing.closed, closed = 0, 0
            answer = exchange(side.address, request, arrival, may_be_reset=True)
            closed = Closing.closed
            told.append((plain(answer), [comparable(call) for call in side.calls], list(side.lines), closed))
        assert told[0] == told[1]


def is_last(request: bytes) -> bool:
    """Whether the client has announced that the first request is its last."""
    first = request.partition(b"\r\n\r\n")[0].lower()
    options = b",".join(re.findall(rb"^connection:(.*)$", first, re.MULTILINE))
    return b"close" in options or (b" http/1.0" in first and b"keep-alive" not in options)


def plain(answer: bytes) -> bytes:
    """Remove what depends on time: the date, and whether the body had arrived when the head was read."""
    return re.sub(rb"Date: [^\r]{29}\r\n", b"Date: now\r\n", answer.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b""))


def comparable(environ: dict[str, Any]) -> dict[str, Any]:
    varying = {"REMOTE_PORT", "SERVER_PORT", "wsgi.input"}
    return {name: value for name, value in environ.items() if name not in varying}


@pytest.fixture(scope="module")
def pair() -> Iterator[Pair]:
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(ServerHandler, "os_environ", {"HTTP_HIDDEN": "by the process", "PATH": "/bin", "HTTP_HOST": "x"})
        yield Pair(stack)


WAYS = pytest.mark.parametrize("arrival", ["whole", "byte by byte", "with trailing data"])


@WAYS
@pytest.mark.parametrize("request_name", ["plain", "thrice the same", "1.0", "1.0 keep-alive", "HEAD", "body"])
@pytest.mark.parametrize("application", APPLICATIONS)
def test_any_application(
    pair: Pair, application: str, request_name: str, arrival: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pair.compare(APPLICATIONS[application], REQUESTS[request_name], arrival)


@WAYS
@pytest.mark.parametrize("application", ["one block", "generator", "reads"])
@pytest.mark.parametrize("request_name", REQUESTS)
def test_any_request(pair: Pair, request_name: str, application: str, arrival: str) -> None:
    pair.compare(APPLICATIONS[application], REQUESTS[request_name], arrival)


FIELDS = st.sampled_from(
    [H, b"Host: other", b"Connection: close", b"Connection: keep-alive", b"Content-Length: 3", b"Content-Length: 0",
     b"X-A: 1", b"x-a: 2", b"X_A: 3", b"Cookie: a", b"Expect: 100-continue", b"Transfer-Encoding: chunked", b"bad",
     b"Content-Type: a/b", b"A: \xff", b"Hidden: seen"]
)  # fmt: skip
LINES = st.sampled_from(
    [b"GET / HTTP/1.1", b"GET /a?b HTTP/1.1", b"GET / HTTP/1.0", b"HEAD / HTTP/1.1", b"POST /%20 HTTP/1.1"]
)
REQUEST = st.builds(
    lambda line, fields, body: head(H, *fields, line=line) + body,
    LINES, st.lists(FIELDS, max_size=4), st.sampled_from([b"", b"", b"abc", b"3\r\nabc\r\n0\r\n\r\n"]),
)  # fmt: skip


@examples(150, deadline=None)
@given(st.lists(REQUEST, min_size=1, max_size=4), st.sampled_from(["one block", "generator", "reads", "write"]))
def test_any_requests_one_after_the_other(pair: Pair, requests: list[bytes], application: str) -> None:
    pair.compare(APPLICATIONS[application], b"".join(requests), "whole")


# ---- which requests take the lane, and which the general path ------------------------------------------


def general_requests(server: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list that gets the target of each request on the general path."""
    targets: list[str] = []
    take = Connection._take_head

    def noting(self: Connection) -> Request | None:
        request = take(self)
        if request is not None:
            targets.append(request.target)
        return request

    monkeypatch.setattr(Connection, "_take_head", noting)
    return targets


@pytest.mark.compiled
def test_usual_requests_take_the_lane(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    server = make_server("127.0.0.1", 0, APPLICATIONS["one block"])
    targets = general_requests(server, monkeypatch)
    with serving(server) as address:
        exchange(address, GET * 2 + REQUESTS["body"] + head(H, line=b"GET /\\ HTTP/1.0"))
        assert targets == []
        exchange(address, REQUESTS["chunked"])
        assert targets == ["/", "/a/b?c=d"]  # and the octets after it in the buffer
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().err).splitlines()
    assert [re.sub(r"\[.*?\]", "[]", line) for line in lines] == [
        '127.0.0.1 - - [] "GET /a/b?c=d HTTP/1.1" 200 13',
        '127.0.0.1 - - [] "GET /a/b?c=d HTTP/1.1" 200 13',
        '127.0.0.1 - - [] "POST / HTTP/1.1" 200 13',
        '127.0.0.1 - - [] "GET /a/b?c=d HTTP/1.1" 200 13',
        '127.0.0.1 - - [] "GET /\\\\ HTTP/1.0" 200 13',
        '127.0.0.1 - - [] "POST / HTTP/1.1" 200 13',
        '127.0.0.1 - - [] "GET /a/b?c=d HTTP/1.1" 200 13',
    ]


def test_log_lines_are_http_servers(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """The lines of the lane and of the general path are equal, character by character."""
    monkeypatch.setattr("time.time", lambda: 1_700_000_000.0)
    lines = []
    for fast_lane in (True, False):
        server = make_server("127.0.0.1", 0, APPLICATIONS["one block"])
        server.settings = dataclasses.replace(server.settings, fast_lane=fast_lane)
        with serving(server) as address:
            exchange(address, GET)
        lines.append(re.sub(r"\[.*?\]", "[]", capsys.readouterr().err))
    assert lines[0] == lines[1]


@pytest.mark.parametrize("fast_lane", [True, False])
def test_classes_changed_while_serving(fast_lane: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next request sees the change, even on a connection with an older memo."""
    seen: list[Any] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append((environ["wsgi.run_once"], environ.get("ADDED")))
        if len(seen) == 2:
            monkeypatch.setattr(ServerHandler, "wsgi_run_once", True)
            monkeypatch.setattr(ServerHandler, "os_environ", {"ADDED": "later"})
            monkeypatch.setattr(ServerHandler, "server_software", "Other/1")
        start_response("200 OK", [])
        return [b""]

    server = make_server("127.0.0.1", 0, application, handler_class=type("H", (Handler,), {"lines": []}))
    server.settings = dataclasses.replace(server.settings, fast_lane=fast_lane)
    with serving(server) as address:
        answer = exchange(address, GET * 4)
    assert seen == [(False, None)] * 2 + [(True, "later")] * 2
    assert re.findall(rb"Server: (\w+)", answer) == [b"WSGIServer"] * 1 + [b"Other"] * 3


@pytest.mark.parametrize("fast_lane", [True, False])
def test_the_application_may_be_changed(fast_lane: bool) -> None:
    server = make_server("127.0.0.1", 0, APPLICATIONS["one block"])

    def first(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        server.set_app(answering(lambda: [b"second"]))
        start_response("200 OK", [])
        return [b"first"]

    server.set_app(first)
    server.settings = dataclasses.replace(server.settings, fast_lane=fast_lane)
    with serving(server) as address:
        assert re.findall(rb"first|second", exchange(address, GET * 2)) == [b"first", b"second"]


def test_late_calls_do_no_harm(pair: Pair) -> None:
    """An application keeps start_response and write(), and calls them after its response."""
    kept: list[Any] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        for write in kept:
            with pytest.raises(AssertionError):
                write(b"too late")
        kept[:] = [start_response("200 OK", TEXT)]
        return [b"answer"]

    for side in pair.sides:
        kept.clear()
        pair.application = application
        answer = exchange(side.address, GET * 3)
        assert (answer.count(b"answer"), answer.count(b"too late")) == (3, 0)


@pytest.mark.skipif(sys.implementation.name == "pypy", reason="only CPython counts references")
@pytest.mark.parametrize("fast_lane", [True, False])
def test_an_iterable_that_holds_start_response_goes_with_its_response(fast_lane: bool) -> None:
    """As PEP 3333's application that is a class: no reference cycle is left for the garbage collector."""
    made = weakref.WeakSet[Any]()

    class Application:
        def __init__(self, environ: dict[str, Any], start_response: Any) -> None:
            self.environ, self.start = environ, start_response
            made.add(self)

        def __iter__(self) -> Iterator[bytes]:
            self.start("200 OK", TEXT)
            yield b"answer"

    server = make_server("127.0.0.1", 0, Application, handler_class=type("H", (Handler,), {"lines": []}))
    server.settings = dataclasses.replace(server.settings, fast_lane=fast_lane)
    gc.disable()
    try:
        with serving(server) as address:
            assert exchange(address, GET * 20).count(b"6\r\nanswer\r\n") == 20
        assert len(made) <= 1  # the last one may still be a local variable of the loop
    finally:
        gc.enable()


@pytest.mark.parametrize("fast_lane", [True, False])
def test_base_environ_may_grow(fast_lane: bool) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        server.base_environ["ADDED"] = "later"
        start_response("200 OK", TEXT)
        return [environ.get("ADDED", "not yet").encode()]

    server = make_server("127.0.0.1", 0, application, handler_class=type("H", (Handler,), {"lines": []}))
    server.settings = dataclasses.replace(server.settings, fast_lane=fast_lane)
    with serving(server) as address:
        assert re.findall(rb"later|not yet", exchange(address, GET * 3)) == [b"not yet", b"later", b"later"]


@pytest.mark.parametrize("application", ["one block", "closing"])
def test_a_log_hook_that_raises(application: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The answer has been sent, so the exception is logged; the iterable is closed, and the connection stays open."""

    class Raising(Handler):
        lines: list[str] = []  # noqa: RUF012

        def log_request(self, *args: Any) -> None:
            raise LookupError("in the hook")

    found = []
    for fast_lane in (True, False):
        Closing.closed = 0
        server = make_server("127.0.0.1", 0, APPLICATIONS[application], handler_class=Raising)
        server.settings = dataclasses.replace(server.settings, fast_lane=fast_lane)
        with serving(server) as address:
            found.append((plain(exchange(address, GET * 2)), Closing.closed))
        assert capsys.readouterr().err.count("LookupError: in the hook") == 2
    assert found[0] == found[1]
    assert found[0][1] == 2 * (application == "closing")


# ---- distributing events -----------------------------------------------------------------------------


def channel_of(channel_class: Any, log: list[Any], name: str, error: BaseException | None = None) -> Any:
    def turn(self: Any) -> None:
        log.append(name)
        if error is not None:
            raise error

    return type("Noting", (channel_class,), {"turn": turn})(0, None)


@pytest.fixture(params=["plain", "accelerated"])
def events(request: pytest.FixtureRequest) -> SimpleNamespace:
    """The channel class and hand_out(), without the accelerator and with it."""
    if request.param == "plain":
        return SimpleNamespace(channel=PlainChannel, hand_out=plain_hand_out)
    if accelerator is None:
        pytest.skip("there is no accelerator on this leg")
    return SimpleNamespace(channel=accelerator.Channel, hand_out=accelerator.hand_out)


def test_events_are_handed_out_in_order(events: SimpleNamespace) -> None:
    """All connections get their events, even if one raises; the other descriptors are returned."""
    log: list[Any] = []
    error = ValueError("x")
    connections = {
        3: channel_of(events.channel, log, "a"),
        5: channel_of(events.channel, log, "b", error),
        4: channel_of(events.channel, log, "c"),
    }
    failed: list[Any] = []

    def fail(connection: Any) -> None:
        failed.append((connection, sys.exc_info()[1]))

    others = events.hand_out([(9, 1), (5, 4), (3, 1), (8, 5), (4, 1), (3, 1)], connections, fail)
    assert others == [9, 8]
    assert log == ["b", "a", "c", "a"]
    assert failed == [(connections[5], error)]


def test_what_must_end_the_loop_does(events: SimpleNamespace) -> None:
    log: list[Any] = []
    connections = {
        3: channel_of(events.channel, log, "a", KeyboardInterrupt()),
        4: channel_of(events.channel, log, "b"),
    }
    with pytest.raises(KeyboardInterrupt):
        events.hand_out([(3, 1), (4, 1)], connections, log.append)
    assert log == ["a"]


# ---- the lanes of several threads --------------------------------------------------------------------


@pytest.mark.compiled
def test_lanes_share_what_they_remember() -> None:
    """Otherwise the fields would be parsed again whenever another thread serves the connection."""
    seen: list[str] = []
    with make_server("127.0.0.1", 0, returning(lambda: [b"hello"])) as server:
        loop = SharedLoop(server.settings)
        inside = simple_server._inside_of(server, loop, 2).server
        inside.front.revise = lambda environ: seen.append(environ["PATH_INFO"])
        for lane in inside.lanes:
            teach(lane, inside)
        seen.clear()
        ours, theirs = socket.socketpair()
        with ours:
            theirs.setblocking(False)
            connection = Connection(inside, theirs, ("127.0.0.1", 1))
            loop.connections[connection.fd] = connection
            for i, lane in enumerate([inside.lanes[0], inside.lanes[0], inside.lanes[1], inside.lanes[0]]):
                ours.sendall(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % i)
                connection.lane = lane
                connection.on_event()
                assert ours.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
            loop.close()
    # The environ is made for the first request and for the second, when the memo stores it, and never again.
    assert seen == ["/0", "/1"]
