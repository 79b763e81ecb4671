"""The hot paths: the same work on wsgiref and on both twins, in one process, in turn.

The twins are our two implementations, pure and compiled. In wsgiref, the parser is part of the request handler. So the
first four rows compare its ``parse_request`` and ``get_environ`` with our ``parse_head`` and ``build_environ``. The
three rows after them compare the handlers' methods on both sides.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import sys
import time
import timeit
from collections.abc import Callable, Generator
from types import ModuleType, SimpleNamespace
from typing import Any, NamedTuple

from .results import FailureError, Row, Target

GROUP = "hot paths"
IMPLEMENTATIONS = ("wsgiref", "pure", "compiled")

HEAD = (
    b"GET /shop/items?page=2&sort=price HTTP/1.1\r\n"
    b"Host: www.example.com:8000\r\n"
    b"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n"
    b"Accept: text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8\r\n"
    b"Accept-Language: en-GB,en;q=0.5\r\n"
    b"Accept-Encoding: gzip, deflate, br\r\n"
    b"Referer: https://www.example.com/shop/\r\n"
    b"Connection: keep-alive\r\n"
    b"Cookie: session=0123456789abcdef; theme=dark\r\n"
    b"Upgrade-Insecure-Requests: 1\r\n"
    b"Sec-Fetch-Mode: navigate\r\n"
    b"\r\n"
)
FIELDS = [
    ("Content-Type", "text/html; charset=utf-8"),
    ("Date", "Mon, 05 Jun 2006 18:49:54 GMT"),
    ("Cache-Control", "no-cache, private"),
    ("Vary", "Accept-Encoding, Cookie"),
    ("X-Frame-Options", "SAMEORIGIN"),
    ("Set-Cookie", "session=0123456789abcdef; Path=/; HttpOnly"),
    ("X-Request-Id", "7f3c9d3e-5d1f-4b8a"),
    ("Content-Length", "1024"),
]
SHORT_HEAD = b"GET / HTTP/1.1\r\nHost: www.example.com:8000\r\n\r\n"
MODULES = ("types", "util", "headers", "handlers", "validate", "simple_server")

# The targets on CPython 3.11, as multiples of wsgiref's speed.
COMPILED_TARGETS: dict[str, float] = {
    "parse a 10-field head": 40,
    "environ from it": 10,
    "Headers get (last of 8)": 8,
    "Headers set": 5,
    "bytes(Headers) of 8": 8,
    "format_date_time": 20,
    "is_hop_by_hop": 2,
    "SimpleHandler.run": 4,
    "the same under validator": 5,
    "FileWrapper over 256 KiB": 1.3,
}
PURE_TARGETS = {"parse a 10-field head": 5}
OTHERWISE = 1


class Timed(NamedTuple):
    """A statement to time, the names in it, and an expression that must be equal on every implementation."""

    statement: str
    names: dict[str, Any]
    shown: str


#: Prepares the work for an implementation.
Work = Callable[[SimpleNamespace], Timed]


@contextlib.contextmanager
def ours_set_aside() -> Generator[None]:
    """Let the package, except for the benchmark, be imported again; restore the modules and the variable afterwards."""

    def loaded() -> list[str]:
        return [name for name in sys.modules if name == "fastwsgi" or name.startswith("fastwsgi.")]

    aside = {name: sys.modules.pop(name) for name in loaded() if not name.startswith("fastwsgi.bench")}
    variable = os.environ.get("FASTWSGI_PURE")
    try:
        yield
    finally:
        for name in loaded():
            if not name.startswith("fastwsgi.bench"):
                del sys.modules[name]
        sys.modules.update(aside)
        os.environ.pop("FASTWSGI_PURE", None)
        if variable is not None:
            os.environ["FASTWSGI_PURE"] = variable


def imported(implementation: str) -> SimpleNamespace | None:
    """The six modules of an implementation, and the twin behind ours; None if it isn't built."""
    package = "wsgiref" if implementation == "wsgiref" else "fastwsgi"
    modules: dict[str, ModuleType] = {}
    os.environ["FASTWSGI_PURE"] = "1" if implementation == "pure" else ""
    for name in MODULES:
        if (package, name) != ("wsgiref", "types"):  # new in 3.11, and not measured
            modules[name] = importlib.import_module(f"{package}.{name}")
    if package == "fastwsgi":
        modules["twin"] = importlib.import_module("fastwsgi._backend")
        if modules["twin"].implementation != implementation:
            return None
        modules["twin"].load_pure()  # the one that belongs to these modules
    return SimpleNamespace(**modules)


def load(implementation: str) -> SimpleNamespace | None:
    """Like imported(), beside other implementations. They can't start servers, which import more modules later."""
    with ours_set_aside():
        return imported(implementation)


class Socketless:
    """The part of a server that a request handler needs."""

    base_environ: dict[str, str] = {  # noqa: RUF012
        "SERVER_NAME": "localhost", "GATEWAY_INTERFACE": "CGI/1.1", "SERVER_PORT": "8000",
        "REMOTE_HOST": "", "CONTENT_LENGTH": "", "SCRIPT_NAME": "",
    }  # fmt: skip


def handler_on(wsgi: SimpleNamespace, head: bytes = HEAD) -> Any:
    request_line, section = head.split(b"\r\n", 1)
    handler_class = wsgi.simple_server.WSGIRequestHandler
    handler = handler_class.__new__(handler_class)
    handler.client_address = ("127.0.0.1", 50000)
    handler.server = Socketless
    handler.raw_requestline = request_line + b"\r\n"
    handler.rfile = io.BufferedReader(io.BytesIO(section))
    return handler


def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Test", "yes")])
    return [b"Hello, world!"]


PARSE = "rewind(0); handler.parse_request()"
ENVIRON = "environ = handler.get_environ()"


def handler_work(statement: str, shown: str, head: bytes = HEAD) -> Work:
    """Work with a request handler, on both sides."""

    def prepare(wsgi: SimpleNamespace) -> Timed:
        handler = handler_on(wsgi, head)
        handler.parse_request()
        return Timed(statement, {"handler": handler, "rewind": handler.rfile.seek}, shown)

    return prepare


def twin_work(statement: str, shown: str, stock: Work, head: bytes = HEAD) -> Work:
    """Work with the functions behind our request handler, compared with wsgiref's handler."""

    def prepare(wsgi: SimpleNamespace) -> Timed:
        if not hasattr(wsgi, "twin"):
            return stock(wsgi)
        names = {"parse_head": wsgi.twin.parse_head, "build_environ": wsgi.twin.build_environ, "HEAD": head}
        return Timed(statement, {**names, "head": wsgi.twin.parse_head(head), "base": Socketless.base_environ}, shown)

    return prepare


def headers_work(statement: str, shown: str = "bytes(headers)") -> Work:
    def prepare(wsgi: SimpleNamespace) -> Timed:
        headers = wsgi.headers.Headers(FIELDS[:])
        return Timed(statement, {"Headers": wsgi.headers.Headers, "headers": headers, "FIELDS": FIELDS}, shown)

    return prepare


def response_head(wsgi: SimpleNamespace) -> Timed:
    stdout = io.BytesIO()
    handler = wsgi.handlers.SimpleHandler(io.BytesIO(), stdout, io.StringIO(), {})
    handler.environ = {"SERVER_PROTOCOL": "HTTP/1.1"}
    handler.status, handler.headers = "200 OK", wsgi.headers.Headers(FIELDS[:])
    statement = "rewind(0); handler.headers_sent = False; handler.send_headers()"
    return Timed(statement, {"handler": handler, "rewind": stdout.seek, "stdout": stdout}, "stdout.getvalue()")


def run_work(validated: bool) -> Work:
    def prepare(wsgi: SimpleNamespace) -> Timed:
        environ = {
            "REQUEST_METHOD": "GET", "SERVER_NAME": "localhost", "SERVER_PORT": "8000", "SCRIPT_NAME": "",
            "PATH_INFO": "/", "QUERY_STRING": "", "SERVER_PROTOCOL": "HTTP/1.1", "HTTP_HOST": "localhost:8000",
        }  # fmt: skip
        stdin, stdout, stderr = io.BytesIO(), io.BytesIO(), io.StringIO()
        names = {
            "SimpleHandler": wsgi.handlers.SimpleHandler, "rewind": stdout.seek,
            "application": wsgi.validate.validator(app) if validated else app,
            "stdin": stdin, "stdout": stdout, "stderr": stderr, "environ": environ,
        }  # fmt: skip
        statement = "rewind(0); SimpleHandler(stdin, stdout, stderr, environ).run(application)"
        return Timed(statement, names, "stdout.getvalue(), stderr.getvalue()")

    return prepare


def file_wrapper(wsgi: SimpleNamespace) -> Timed:
    file = io.BytesIO(bytes(256 * 1024))
    names = {"FileWrapper": wsgi.util.FileWrapper, "file": file, "rewind": file.seek}
    return Timed("rewind(0)\nfor block in FileWrapper(file): pass", names, "file.tell(), block")


def date(wsgi: SimpleNamespace) -> Timed:
    return Timed("text = f(1_700_000_000.5)", {"f": wsgi.handlers.format_date_time}, "text")


def hop_by_hop(wsgi: SimpleNamespace) -> Timed:
    return Timed("found = f('Content-Type')", {"f": wsgi.util.is_hop_by_hop}, "bool(found)")


ACCEPT = "environ['HTTP_ACCEPT'], environ['QUERY_STRING']"
TARGET = "handler.command, handler.path"
TWIN_TARGET = "head.method, head.target"
HEAD_THEN_ENVIRON = f"{PARSE}; {ENVIRON}"

WORKS: dict[str, Work] = {
    "parse a 10-field head": twin_work("head = parse_head(HEAD)", TWIN_TARGET, handler_work(PARSE, TARGET)),
    "request line and Host": twin_work(
        "head = parse_head(HEAD)", TWIN_TARGET, handler_work(PARSE, TARGET, SHORT_HEAD), SHORT_HEAD
    ),
    "environ from it": twin_work("environ = build_environ(base, head)", ACCEPT, handler_work(ENVIRON, ACCEPT)),
    "both": twin_work(
        "environ = build_environ(base, parse_head(HEAD))", ACCEPT, handler_work(HEAD_THEN_ENVIRON, ACCEPT)
    ),
    "handler.parse_request": handler_work(PARSE, TARGET),
    "handler.get_environ": handler_work(ENVIRON, ACCEPT),
    "both by the handler": handler_work(HEAD_THEN_ENVIRON, ACCEPT),
    "Headers of a list of 8": headers_work("headers = Headers(FIELDS)"),
    "Headers get (last of 8)": headers_work("value = headers.get('content-length')", "value"),
    "Headers get_all": headers_work("values = headers.get_all('Vary')", "values"),
    "Headers in": headers_work("found = 'Vary' in headers", "found"),
    "Headers set": headers_work("headers['Content-Length'] = '13'"),
    "Headers add_header": headers_work(
        "headers = Headers(); headers.add_header('Content-Disposition', 'attachment', filename='a.txt')"
    ),
    "bytes(Headers) of 8": headers_work("octets = bytes(headers)", "octets"),
    "response head": response_head,
    "format_date_time": date,
    "is_hop_by_hop": hop_by_hop,
    "SimpleHandler.run": run_work(validated=False),
    "the same under validator": run_work(validated=True),
    "FileWrapper over 256 KiB": file_wrapper,
}

TARGETS = [
    Target(GROUP, name, implementation, targets.get(name, OTHERWISE))
    for name in WORKS
    for implementation, targets in (("pure", PURE_TARGETS), ("compiled", COMPILED_TARGETS))
]


# Don't count the time of other processes, if the resolution of the CPU time is fine enough.
CLOCK = time.process_time if time.get_clock_info("process_time").resolution < 1e-6 else time.perf_counter


def seconds(timer: timeit.Timer, count: int) -> float:
    return timer.timeit(count) / count


def measure(name: str, implementations: dict[str, SimpleNamespace], rounds: int, slice_seconds: float) -> Row:
    """Microseconds per call of one kind of work, on each implementation in turn; the first value is the correct one."""
    timed = {each: WORKS[name](wsgi) for each, wsgi in implementations.items()}
    values = {}
    for each, (statement, names, shown) in timed.items():
        scope = dict(names)
        exec(statement, scope)
        values[each] = eval(shown, scope)
    right = next(iter(values.values()))
    for each, value in values.items():
        if value != right:
            raise FailureError(f"{GROUP}: {name}: {each} gives {value!r:.300}, not {right!r:.300}")
    timers = {each: timeit.Timer(work.statement, timer=CLOCK, globals=work.names) for each, work in timed.items()}
    counts = {}
    for each, timer in timers.items():
        once = seconds(timer, max(1, int(slice_seconds / 2 / seconds(timer, 3))))
        counts[each] = max(1, int(slice_seconds / once))
    columns: dict[str, list[float]] = {each: [] for each in timers}
    for _ in range(rounds):
        for each, timer in timers.items():
            columns[each].append(seconds(timer, counts[each]) * 1e6)
    return Row(GROUP, name, "µs a call", columns)
