"""The costs of work without sockets that grow with its input: for bench/scaling.py. Heads are in scaling_heads.py.

Each row of ``COSTS`` prepares work of some size on one twin. Only the work itself is measured.
"""

from __future__ import annotations

import importlib
import io
import os
import sys
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from types import ModuleType, SimpleNamespace
from typing import Any

from bench.slopes import LIMIT

MODULES = (
    "_backend", "_http.grammar", "_service.access_log", "_service.bind", "_service.options", "_service.proxies",
    "_service.service", "_http.body", "_events.connection", "_http.head_reader", "_events.output", "_http.framing",
    "handlers", "headers", "util", "validate", "simple_server",
)  # fmt: skip

Work = Callable[[], object]


class Twin:
    """The package's modules on one twin."""

    def __init__(self, name: str) -> None:
        """Import them afresh. name: "compiled" or "pure"; SystemExit if that isn't built."""
        self.name = name
        for module in [module for module in sys.modules if module.split(".")[0] == "fastwsgi"]:
            del sys.modules[module]
        os.environ["FASTWSGI_PURE"] = "1" if name == "pure" else ""
        if importlib.import_module("fastwsgi").implementation != name:
            raise SystemExit("the compiled twin isn't built")
        self._modules = {module: importlib.import_module(f"fastwsgi.{module}") for module in MODULES}
        self["_backend"].load_pure()
        fill_memory(self["headers"].Headers)

    def __getitem__(self, module: str) -> ModuleType:
        return self._modules[module]


def fill_memory(headers_class: Any) -> None:
    """Fill the pure twin's table of remembered fields, so that a small input isn't found in it."""
    bytes(headers_class([(f"X-Known-{i}", f"known value {i}") for i in range(1000)]))


@dataclass(frozen=True)
class Cost:
    """Work on inputs of several sizes; the unit of a size is what grows."""

    sizes: tuple[int, ...]
    #: Makes the input, and returns the work to measure, which raises if its result is wrong.
    prepare: Callable[[Twin, int], Work]
    limit: float = LIMIT


COSTS: dict[str, Cost] = {}

MANY = (156, 625, 2500, 10_000)  # up to the largest allowed limit of fields
SECTION = (1 << 10, 1 << 12, 1 << 14, 1 << 16)  # octets, up to the usual limit of a field section
BODY = (1 << 16, 1 << 18, 1 << 20, 1 << 22)
COPIED = (1 << 20, 1 << 22, 1 << 24)  # all larger than the inner caches
HELD = (50, 200, 800, 3200)  # all smaller

LINE = b"GET / HTTP/1.1\r\n"
HOST = b"Host: h\r\n"
START = LINE + HOST
NO_LIMIT = 1 << 30


def cost(name: str, sizes: tuple[int, ...]) -> Callable[[Callable[[Twin, int], Work]], Callable[[Twin, int], Work]]:
    """Enter a function in the table."""

    def enter(prepare: Callable[[Twin, int], Work]) -> Callable[[Twin, int], Work]:
        COSTS[name] = Cost(sizes, prepare)
        return prepare

    return enter


def check(is_right: object) -> None:
    if not is_right:
        raise SystemExit("a wrong result was measured")


# ---- bodies ------------------------------------------------------------------------------------------


def lines(n: int) -> bytes:
    return b"a line of a body, as long as many are\r\n" * n


def chunked(data: bytes, size: int) -> bytes:
    blocks = [data[i : i + size] for i in range(0, len(data), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(block), block) for block in blocks) + b"0\r\n\r\n"


BODIES: dict[str, tuple[tuple[int, ...], Callable[[int], bytes]]] = {
    "n octets in large chunks": (BODY, lambda n: chunked(bytes(n), 1 << 16)),
    "n chunks of an octet": (MANY, lambda n: chunked(bytes(n), 1)),
    "n trailer fields": (MANY, lambda n: b"0\r\n" + b"A: b\r\n" * n + b"\r\n"),
    "n chunk extensions": (MANY, lambda n: b"1;a=b\r\na\r\n" * n + b"0\r\n\r\n"),
}


def body_costs(shape: str, sizes: tuple[int, ...], make: Callable[[int], bytes]) -> None:
    def options(twin: Twin) -> Any:
        return twin["_service.options"].Options(max_field_section=1 << 24, max_body_in_memory=1 << 24)

    @cost(f"chunked body, event-driven: {shape}", sizes)
    def event_driven(twin: Twin, n: int) -> Work:
        data, settings, body_class = make(n), options(twin), twin["_http.body"].IncomingBody

        def work() -> None:
            body, buffer = body_class(None, settings), bytearray()
            for i in range(0, len(data), 1 << 16):  # the size of one receive()
                buffer += data[i : i + (1 << 16)]
                done = body.take(buffer)
            check(done)

        return work

    @cost(f"chunked body, classic: {shape}", sizes)
    def classic(twin: Twin, n: int) -> Work:
        data, settings, read_chunked = make(n), options(twin), twin["_http.body"].read_chunked

        def work() -> None:
            body, _ = read_chunked(io.BufferedReader(io.BytesIO(data)), settings)
            body.close()

        return work


for _shape, (_sizes, _make) in BODIES.items():
    body_costs(_shape, _sizes, _make)


@cost("body with Content-Length, event-driven: n octets", COPIED)
def _body(twin: Twin, n: int) -> Work:
    body_class = twin["_http.body"].IncomingBody
    piece, settings = bytes(1 << 14), twin["_service.options"].Options(max_body_in_memory=1 << 26)

    def work() -> None:
        body = body_class(n, settings)
        for _ in range(n >> 14):
            done = body.take(bytearray(piece))
        check(done)

    return work


def read_blocks(body: Any) -> int:
    return sum(map(len, iter(lambda: body.read(8192), b"")))


READINGS: dict[str, Callable[[Any], int]] = {
    "read(-1)": lambda body: len(body.read(-1)),
    "read(8192)": read_blocks,
    "readline()": lambda body: sum(map(len, iter(body.readline, b""))),
    "readlines()": lambda body: sum(map(len, body.readlines())),
    "iteration": lambda body: sum(map(len, body)),
}


def reading_costs(how: str, read: Callable[[Any], int]) -> None:
    @cost(f"wsgi.input, classic, by {how}: n lines", MANY)
    def prepare(twin: Twin, n: int) -> Work:
        reader, data = twin["_http.body"].BodyReader, lines(n)
        return lambda: check(read(reader(io.BufferedReader(io.BytesIO(data)), len(data))) == len(data))

    @cost(f"wsgi.input, validated, by {how}: n lines", MANY)
    def prepare_validated(twin: Twin, n: int) -> Work:
        wrapper, data = twin["validate"].InputWrapper, lines(n)
        return lambda: check(read(wrapper(io.BytesIO(data))) == len(data))


for _how, _read in READINGS.items():
    reading_costs(_how, _read)


# ---- Headers -----------------------------------------------------------------------------------------


def pairs(n: int) -> list[tuple[str, str]]:
    return [(f"X-Field-{i}", f"the value of field {i}") for i in range(n)]


OPERATIONS: dict[str, Callable[[Any, list[tuple[str, str]]], object]] = {
    "constructed": lambda headers, fields: type(headers)(fields),
    "bytes()": lambda headers, fields: bytes(headers),
    "str()": lambda headers, fields: str(headers),
    "get": lambda headers, fields: headers.get("x-last"),
    "get without a find": lambda headers, fields: headers.get("X-Missing"),
    "get_all": lambda headers, fields: headers.get_all("x-last"),
    "get_all without a find": lambda headers, fields: headers.get_all("X-Missing"),
    "in": lambda headers, fields: "X-Missing" in headers,
    "set": lambda headers, fields: headers.__setitem__("X-Last", "new"),
    "delete without a find": lambda headers, fields: headers.__delitem__("X-Missing"),
    "delete": lambda headers, fields: type(headers)(fields[:]).__delitem__("X-Last"),
    "setdefault": lambda headers, fields: headers.setdefault("x-last", "b"),
    "add_header": lambda headers, fields: type(headers)(fields[:]).add_header("X-Last", "a", b="c"),
    "items()": lambda headers, fields: headers.items(),
}


def headers_costs(operation: str, do: Callable[[Any, list[tuple[str, str]]], object]) -> None:
    for shape, make in {
        "n fields": pairs,
        "n fields of one name": lambda n: [("X-Last", value) for _, value in pairs(n)],
    }.items():
        if shape != "n fields" and operation not in ("constructed", "bytes()", "get_all", "delete", "set"):
            continue

        @cost(f"Headers, {operation}: {shape}", HELD)
        def prepare(twin: Twin, n: int, make: Any = make) -> Work:
            fields = [*make(n), ("X-Last", "value")]
            headers = twin["headers"].Headers(fields[:])
            if operation == "set":  # which would leave one of many fields
                headers_class = twin["headers"].Headers
                return lambda: do(headers_class(fields[:]), fields)
            return lambda: do(headers, fields)


for _operation, _do in OPERATIONS.items():
    headers_costs(_operation, _do)


@cost("Headers, bytes(): a value of n octets", SECTION)
def _headers_value(twin: Twin, n: int) -> Work:
    headers_class = twin["headers"].Headers
    return lambda: bytes(headers_class([("X-A", "a" * n)]))


@cost("Headers, add_header: n parameters", MANY)
def _add_header(twin: Twin, n: int) -> Work:
    headers_class, parameters = twin["headers"].Headers, {f"a{i}": 'b"\\' for i in range(n)}
    return lambda: headers_class().add_header("X-A", "a", **parameters)


# ---- answers -----------------------------------------------------------------------------------------


class Sink:
    """A stream that only counts octets, because storing them isn't part of an answer's cost."""

    size = 0

    def write(self, data: bytes) -> int:
        self.size += len(data)
        return len(data)

    def flush(self) -> None:
        pass


def answer_costs(shape: str, sizes: tuple[int, ...], make: Callable[[int], tuple[Any, Any]]) -> None:
    """The costs of answers. make: returns the fields besides Content-Type, and a function that makes the blocks."""
    for is_validated in (False, True):

        @cost(f"SimpleHandler.run{', validated' if is_validated else ''}: {shape}", sizes)
        def prepare(twin: Twin, n: int, is_validated: bool = is_validated) -> Work:
            fields, blocks = make(n)

            def application(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
                start_response("200 OK", [("Content-Type", "text/plain"), *fields])
                return blocks()  # type: ignore[no-any-return]

            app = twin["validate"].validator(application) if is_validated else application
            environ: dict[str, Any] = {"QUERY_STRING": ""}
            twin["util"].setup_testing_defaults(environ)
            handler_class, stderr = twin["handlers"].SimpleHandler, io.StringIO()

            def work() -> None:
                stdout = Sink()
                handler_class(io.BytesIO(), stdout, stderr, environ).run(app)
                check(not stderr.getvalue() and stdout.size > 0)

            return work


answer_costs("n fields", MANY, lambda n: (pairs(n), lambda: [b"a"]))
answer_costs("n blocks", MANY, lambda n: ([], lambda: (b"a block" for _ in range(n))))
answer_costs("a block of n octets", COPIED, lambda n: ([], lambda block=bytes(n): [block]))


class TakesSome(io.BytesIO):
    """A stream that accepts 512 octets at a time."""

    def write(self, data: Any) -> int:
        return super().write(data[:512])


@cost("SimpleHandler.run: a block of n octets, to a stream that takes 512 at a time", BODY)
def _partial_writes(twin: Twin, n: int) -> Work:
    block, environ = bytes(n), {}  # type: ignore[var-annotated]
    twin["util"].setup_testing_defaults(environ)
    handler_class = twin["handlers"].SimpleHandler

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [block]

    def work() -> None:
        stdout = TakesSome()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            handler_class(io.BytesIO(), stdout, io.StringIO(), environ).run(application)
        check(stdout.tell() > n)

    return work


@cost("FileWrapper: n octets", BODY)
def _file_wrapper(twin: Twin, n: int) -> Work:
    file, wrapper = io.BytesIO(bytes(n)), twin["util"].FileWrapper

    def work() -> None:
        file.seek(0)
        check(sum(map(len, wrapper(file))) == n)

    return work


def output_costs(shape: str, make: Callable[[int], list[bytes]]) -> None:
    @cost(f"output to a slow client: {shape}", BODY)
    def prepare(twin: Twin, n: int) -> Work:
        output_class, pieces = twin["_events.output"].Output, make(n)
        transport = SimpleNamespace(send=lambda sock, data: min(len(data), 4096), send_file=None)

        def work() -> None:
            output = output_class(NO_LIMIT)
            for piece in pieces:
                output.put(piece)
            while output:
                output.flush(None, transport)

        return work


output_costs("n octets in one piece", lambda n: [bytes(n)])
output_costs("n octets in pieces of 512", lambda n: [bytes(512)] * (n // 512))


# ---- logs and proxies --------------------------------------------------------------------------------


def proxy_costs(shape: str, fields: tuple[str, ...], make: Callable[[int], bytes]) -> None:
    @cost(f"proxies: {shape}", MANY)
    def prepare(twin: Twin, n: int) -> Work:
        backend, proxies = twin["_backend"], twin["_service.proxies"].Proxies(["10.0.0.0/8"], fields)
        data = START + make(n) + b"\r\n"
        base = {"REMOTE_ADDR": "10.0.0.1", "REMOTE_PORT": "1", "wsgi.url_scheme": "http"}

        def work() -> None:
            environ = backend.build_environ(base, backend.parse_head(data, 8190, NO_LIMIT))
            proxies.revise(environ)

        return work


proxy_costs(
    "X-Forwarded-For with n addresses", ("X-Forwarded-For",),
    lambda n: b"X-Forwarded-For: " + b"10.0.0.2, " * n + b"\r\n",
)  # fmt: skip
proxy_costs("n lines of X-Forwarded-For", ("X-Forwarded-For",), lambda n: b"X-Forwarded-For: 10.0.0.2\r\n" * n)
proxy_costs("n lines of Forwarded", ("Forwarded",), lambda n: b"Forwarded: for=10.0.0.2;proto=http\r\n" * n)
proxy_costs(
    "Forwarded with n quoted characters", ("Forwarded",), lambda n: b'Forwarded: for="' + b"\\a" * n + b'"\r\n'
)


def log_costs(kind: str) -> None:
    @cost(f"access log, {kind}: n characters to escape", MANY)
    def prepare(twin: Twin, n: int) -> Work:
        agent = b'"\\\xe9\t' * (n // 4)
        data = b"GET /" + b'"' * n + b" HTTP/1.1\r\n" + HOST + b"User-Agent: a" + agent + b"b\r\n\r\n"
        request = SimpleNamespace(
            client_address=("127.0.0.1", 1), command="GET", request_version="HTTP/1.1",
            requestline="GET /" + '"' * n + " HTTP/1.1", _head=twin["_backend"].parse_head(data, NO_LIMIT),
        )  # fmt: skip
        log = twin["_service.access_log"].AccessLog(kind, io.StringIO())
        return lambda: log.line(request, "200", 1, 0.1)


for _kind in ("common", "combined", "json"):
    log_costs(_kind)


@cost("shift_path_info: n segments", MANY)
def _shift_path_info(twin: Twin, n: int) -> Work:
    shift_path_info, path = twin["util"].shift_path_info, "/a/./b/" * n
    return lambda: shift_path_info({"PATH_INFO": path, "SCRIPT_NAME": "/a" * n})


@cost("request_uri: n octets to be quoted", MANY)
def _request_uri(twin: Twin, n: int) -> Work:
    environ = {"PATH_INFO": "/" + "\xe9 " * n, "QUERY_STRING": "a" * n}
    twin["util"].setup_testing_defaults(environ)
    request_uri = twin["util"].request_uri
    return lambda: request_uri(environ)
