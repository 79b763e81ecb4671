"""Time wsgiref's hot paths against both twins: one process, interleaved rounds, ratios with their spread.

    python -m bench.micro [--rounds N] [--only TEXT] [--check]

Each row runs the same work on the standard library, the pure twin and the compiled twin, in turn, a round
at a time, and prints the median time of a call and the medians of the ratios within a round, with their
first and last deciles. ``--check`` exits with status 1 if a ratio misses its target.

The standard library has no parser apart from its request handler, so the first three rows have its
``parse_request`` and ``get_environ`` on one side and our ``parse_head`` and ``build_environ`` on the other;
the three rows after them have the handlers' methods on both sides.
"""

from __future__ import annotations

import argparse
import importlib
import io
import os
import platform
import statistics
import sys
import timeit
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

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
REQUEST_LINE, SECTION = HEAD.split(b"\r\n", 1)[0] + b"\r\n", HEAD.split(b"\r\n", 1)[1]
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
NAMES = ("types", "util", "headers", "handlers", "validate", "simple_server")

# What the compiled twin must reach on CPython 3.11, as times wsgiref's speed; the pure twin's own targets.
TARGETS = {
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
PURE_TARGETS = {"parse a 10-field head": 5}  # and 1 for all others


def load(package: str, pure: bool = False) -> SimpleNamespace:
    """Import wsgiref's modules from a package afresh; for ours, on the twin asked for."""
    for name in [name for name in sys.modules if name.split(".")[0] == "fastwsgi"]:
        del sys.modules[name]
    os.environ["FASTWSGI_PURE"] = "1" if pure else ""
    modules: dict[str, ModuleType] = {}
    for name in NAMES:
        if (package, name) != ("wsgiref", "types"):
            modules[name] = importlib.import_module(f"{package}.{name}")
    if package == "fastwsgi" and importlib.import_module("fastwsgi").implementation != ("pure" if pure else "compiled"):
        raise SystemExit("the compiled twin isn't built")
    return SimpleNamespace(**modules)


#: A statement to time, and the names in it.
Timed = tuple[str, dict[str, Any]]
Row = Callable[[SimpleNamespace], Timed]


class Socketless:
    """What a request handler needs of its server."""

    base_environ = {  # noqa: RUF012
        "SERVER_NAME": "localhost", "GATEWAY_INTERFACE": "CGI/1.1", "SERVER_PORT": "8000",
        "REMOTE_HOST": "", "CONTENT_LENGTH": "", "SCRIPT_NAME": "",
    }  # fmt: skip


def handler_on(wsgi: SimpleNamespace) -> Any:
    handler_class = wsgi.simple_server.WSGIRequestHandler
    handler = handler_class.__new__(handler_class)
    handler.client_address = ("127.0.0.1", 50000)
    handler.server = Socketless
    handler.raw_requestline = REQUEST_LINE
    handler.rfile = io.BufferedReader(io.BytesIO(SECTION))
    return handler


def app(environ: dict, start_response: Callable) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), ("X-Test", "yes")])
    return [b"Hello, world!"]


def handler_row(statement: str, parsed: bool = False) -> Row:
    """A row of work with a request handler, on either side."""

    def prepare(wsgi: SimpleNamespace) -> Timed:
        handler = handler_on(wsgi)
        if parsed:
            handler.parse_request()
            if len(handler.get_environ()["HTTP_ACCEPT"]) != 63:
                raise SystemExit("the environ lacks a field")
        return statement, {"handler": handler, "rewind": handler.rfile.seek}

    return prepare


def kernel_row(statement: str, stock: Row) -> Row:
    """A row of work with the functions behind our request handler, and with the handler on wsgiref's side."""

    def prepare(wsgi: SimpleNamespace) -> Timed:
        if wsgi.simple_server.__name__.startswith("wsgiref"):
            return stock(wsgi)
        backend = sys.modules[wsgi.simple_server.parse_head.__module__]
        head = backend.parse_head(HEAD)
        if len(head.fields) != 10:
            raise SystemExit("the head lacks a field")
        names = {"parse_head": backend.parse_head, "build_environ": backend.build_environ}
        return statement, {**names, "HEAD": HEAD, "head": head, "base": Socketless.base_environ}

    return prepare


PARSE = "rewind(0); handler.parse_request()"
ENVIRON = "handler.get_environ()"


def headers_row(statement: str) -> Row:
    return lambda wsgi: (
        statement,
        {"Headers": wsgi.headers.Headers, "headers": wsgi.headers.Headers(FIELDS[:]), "FIELDS": FIELDS},
    )


def run_row(validated: bool) -> Row:
    def prepare(wsgi: SimpleNamespace) -> Timed:
        environ = {
            "REQUEST_METHOD": "GET", "SERVER_NAME": "localhost", "SERVER_PORT": "8000", "SCRIPT_NAME": "",
            "PATH_INFO": "/", "QUERY_STRING": "", "SERVER_PROTOCOL": "HTTP/1.1", "HTTP_HOST": "localhost:8000",
        }  # fmt: skip
        stdin, stdout, stderr = io.BytesIO(), io.BytesIO(), io.StringIO()
        application = wsgi.validate.validator(app) if validated else app
        wsgi.handlers.SimpleHandler(stdin, stdout, stderr, environ).run(application)
        if not stdout.getvalue().endswith(b"Hello, world!") or stderr.getvalue():
            raise SystemExit(f"wrong answer: {stdout.getvalue()!r} {stderr.getvalue()}")
        return "rewind(0); SimpleHandler(stdin, stdout, stderr, environ).run(application)", {
            "SimpleHandler": wsgi.handlers.SimpleHandler, "rewind": stdout.seek, "application": application,
            "stdin": stdin, "stdout": stdout, "stderr": stderr, "environ": environ,
        }  # fmt: skip

    return prepare


def file_wrapper(wsgi: SimpleNamespace) -> Timed:
    file = io.BytesIO(bytes(256 * 1024))
    names = {"FileWrapper": wsgi.util.FileWrapper, "file": file, "rewind": file.seek}
    return "rewind(0)\nfor block in FileWrapper(file): pass", names


ROWS: dict[str, Row] = {
    "parse a 10-field head": kernel_row("parse_head(HEAD)", handler_row(PARSE)),
    "environ from it": kernel_row("build_environ(base, head)", handler_row(ENVIRON, parsed=True)),
    "both": kernel_row("build_environ(base, parse_head(HEAD))", handler_row(f"{PARSE}; {ENVIRON}")),
    "handler.parse_request": handler_row(PARSE),
    "handler.get_environ": handler_row(ENVIRON, parsed=True),
    "both by the handler": handler_row(f"{PARSE}; {ENVIRON}"),
    "Headers of a list of 8": headers_row("Headers(FIELDS)"),
    "Headers get (last of 8)": headers_row("headers.get('content-length')"),
    "Headers set": headers_row("headers['Content-Length'] = '13'"),
    "bytes(Headers) of 8": headers_row("bytes(headers)"),
    "format_date_time": lambda wsgi: ("f(1_700_000_000.5)", {"f": wsgi.handlers.format_date_time}),
    "is_hop_by_hop": lambda wsgi: ("f('Content-Type')", {"f": wsgi.util.is_hop_by_hop}),
    "SimpleHandler.run": run_row(validated=False),
    "the same under validator": run_row(validated=True),
    "FileWrapper over 256 KiB": file_wrapper,
}


def seconds(timer: timeit.Timer, count: int) -> float:
    return timer.timeit(count) / count


def measure(works: list[Timed], rounds: int) -> list[list[float]]:
    """Seconds a call: a list a round, an entry an implementation; about 4 ms each."""
    timers = [timeit.Timer(statement, globals=names) for statement, names in works]
    counts = [max(1, int(0.004 / seconds(timer, max(1, int(0.002 / seconds(timer, 3)))))) for timer in timers]
    return [[seconds(timer, count) for timer, count in zip(timers, counts, strict=True)] for _ in range(rounds)]


def ratio(times: list[list[float]], column: int) -> tuple[float, float, float]:
    """How many times faster than the first column: median, first and last decile over the rounds."""
    ratios = sorted(row[0] / row[column] for row in times)
    tenth = len(ratios) // 10
    return statistics.median(ratios), ratios[tenth], ratios[-1 - tenth]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=41)
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    parser.add_argument("--check", action="store_true", help="fail if a target is missed")
    options = parser.parse_args()

    implementations = [load("wsgiref"), load("fastwsgi", pure=True)]
    names = ["wsgiref", "pure"]
    if platform.python_implementation() == "CPython":
        implementations.append(load("fastwsgi"))
        names.append("compiled")
    python = f"{platform.python_implementation()} {platform.python_version()}"
    print(f"{python}, {platform.machine()}, {options.rounds} rounds")
    print(f"{'microseconds a call':<26}" + "".join(f"{name:>10}" for name in names), end="")
    print("".join(f"{'× ' + name + ' (10%–90%)':>26}" for name in names[1:]), " target")
    missed = 0
    for title, prepare in ROWS.items():
        if options.only not in title:
            continue
        times = measure([prepare(wsgi) for wsgi in implementations], options.rounds)
        line = f"{title:<26}"
        line += "".join(f"{statistics.median(column) * 1e6:>10.3f}" for column in zip(*times, strict=True))
        ratios = [ratio(times, column) for column in range(1, len(names))]
        line += "".join(f"{f'{median:.2f} ({low:.2f}–{high:.2f})':>26}" for median, low, high in ratios)
        verdicts = [(ratios[0][0], PURE_TARGETS.get(title, 1))]
        if len(ratios) > 1 and title in TARGETS:
            verdicts.append((ratios[1][0], TARGETS[title]))
        bad = [f"{value:.2f} is under {target}" for value, target in verdicts if value < target]
        missed += len(bad)
        print(line, "", ", ".join(bad) or f"met ({', '.join(str(target) for _, target in verdicts)})")
    return 1 if missed and options.check else 0


if __name__ == "__main__":
    sys.exit(main())
