"""Every hook that programs override: the path that serves them, and the calls, which must be as in wsgiref."""

from __future__ import annotations

import contextlib
import functools
import http.client
import http.server
import io
import os
import socket
import socketserver
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FunctionType, SimpleNamespace
from typing import Any, ClassVar

import pytest

from clients import connect, exchange, fetch
from fastwsgi._wsgiref.hooks import does_nothing
from listening import may_fork_beside_threads
from servers import listening_server, serving
from waiting import TIMEOUT

GET = b"GET /a?b HTTP/1.0\r\nX-A: 1\r\n\r\n"
BAD = b"GET / HTTP/1.1\r\nHost: h\r\n" + b"A: b\r\n" * 101 + b"\r\n"
PUT = b"PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 1\r\nConnection: close\r\n\r\nx"

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")


def hello(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"Hello, world!"]


def failing(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    def deeper() -> Any:
        raise LookupError("on purpose")

    return deeper()


def reading(environ: dict[str, Any], start_response: Any) -> Any:
    """Answer with a file, if the server has a wrapper for it."""
    start_response("200 OK", [])
    wrapper = environ.get("wsgi.file_wrapper", lambda file: [b"no wrapper"])
    return wrapper(io.BytesIO(b"from a file"))


def telling(names: str) -> Callable[..., list[bytes]]:
    """An application that answers with some variables of its environ, one line each."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return ["\n".join(str(environ.get(name)) for name in names.split()).encode()]

    return application


# ---- ways to override and to record calls ------------------------------------------------------------


@pytest.fixture
def make(wsgi: SimpleNamespace, lane: bool) -> Callable[..., Any]:
    """Makes servers from classes and from attributes, which are set on the instance before it is bound."""

    def make(application: Any = hello, server: Any = None, handler: Any = None, on_instance: Any = None) -> Any:
        return listening_server(wsgi, application, server, handler, on_instance=on_instance, fast_lane=lane)

    return make


@pytest.fixture
def assert_path(wsgi: SimpleNamespace) -> Callable[..., None]:
    """Assert the path that explain() returns, and for the classic path that a reason has the name."""

    def assert_path(server: Any, path: str, name: str = "") -> None:
        if wsgi.package == "fastwsgi":
            explanation = wsgi.simple_server.explain(server)
            assert explanation.path == path, explanation
            assert path == "event-driven" or any(name in reason for reason in explanation.reasons), explanation

    return assert_path


def override(way: str, cls: type, patch: pytest.MonkeyPatch, **attributes: Any) -> type:
    """Give a class these attributes, in one of the ways that programs use."""
    if way == "in the class":
        return type("Class", (cls,), attributes)
    if way == "in a base":
        return type("Class", (type("Base", (cls,), attributes),), {})
    if way == "in a mixin":
        return type("Class", (type("Mixin", (), attributes), cls), {})
    for name, value in attributes.items():
        patch.setattr(cls, name, value)
    return cls


CLASS_WAYS = ("in the class", "in a base", "in a mixin", "at run time")


class Notes(list[tuple[Any, ...]]):
    """The arguments of each call of a hook, without self."""

    def hook(self, cls: type, name: str) -> Any:
        """An override for a method: it records the call, and calls the original."""
        stock = getattr(cls, name)

        def noted(instance: Any, *args: Any, **kwargs: Any) -> Any:
            self.append((*args, *kwargs.values()))
            return stock(instance, *args, **kwargs) if name != "__new__" else object.__new__(instance)

        return noted


def sent(server: Any, request: bytes) -> tuple[bytes, Any]:
    """Send a request; return the answer, and the client's own address."""
    with serving(server) as address, connect(address) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        return connection.makefile("rb").read(), connection.getsockname()


def one_of(answer: bytes, name: str) -> str:
    fields = http.client.parse_headers(io.BytesIO(answer.partition(b"\r\n")[2]))
    (value,) = fields.get_all(name, [])
    return str(value)


# ---- hooks that both paths call ----------------------------------------------------------------------

HANDLER_HOOKS: dict[str, tuple[bytes, list[tuple[Any, ...]]]] = {
    "log_request": (GET, [("200", 13)]),
    "log_message": (GET, [('"%s" %s %s', "GET /a?b HTTP/1.0", "200", "13")]),
    "log_error": (BAD, [("code %d, message %s", 431, ...)]),
    "address_string": (GET, [(), ()]),
    "log_date_time_string": (GET, [()]),
    "version_string": (BAD, [()]),
    "date_time_string": (BAD, [()]),
    "get_stderr": (GET, [()]),
    "get_environ": (GET, [()]),
}


def _marked(names: Iterable[str]) -> list[Any]:
    """Parameters; CPython from 3.13 on calls address_string() only for the log."""
    differs = pytest.mark.differs("client-name")
    return [pytest.param(name, marks=differs) if name == "address_string" else name for name in names]


@pytest.mark.shared
@pytest.mark.parametrize("way", CLASS_WAYS)
@pytest.mark.parametrize("name", _marked(HANDLER_HOOKS))
def test_a_hook_of_the_handler(
    wsgi: SimpleNamespace, make: Any, assert_path: Any, monkeypatch: pytest.MonkeyPatch, name: str, way: str
) -> None:
    request, expected = HANDLER_HOOKS[name]
    notes = Notes()
    cls = wsgi.simple_server.WSGIRequestHandler
    server = make(handler=override(way, cls, monkeypatch, **{name: notes.hook(cls, name)}))
    assert_path(server, "event-driven")
    answer, _ = sent(server, request)
    assert answer.endswith(b"Hello, world!") is (request is GET)
    assert [args if ... not in wanted else (*args[:-1], ...) for args, wanted in zip(notes, expected, strict=True)] == (
        expected
    )
    assert [[type(arg) for arg in args] for args in notes if name == "log_request"] in ([], [[str, int]])


@pytest.mark.shared
def test_what_hooks_return_is_used(
    wsgi: SimpleNamespace, make: Any, assert_path: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    errors = io.StringIO()

    class Handler(wsgi.simple_server.WSGIRequestHandler):
        server_version, sys_version = "Mine/1", "Sys/2"

        def address_string(self) -> str:
            return "client.example"

        def log_date_time_string(self) -> str:
            return "today"

        def date_time_string(self, timestamp: Any = None) -> str:
            return "now"

        def get_stderr(self) -> Any:
            return errors

        def get_environ(self) -> Any:
            return {**super().get_environ(), "ADDED": "yes"}

        def log_error(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
            self.log_message("refused %d", args[0])

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["wsgi.errors"].write("noted")
        return telling("SERVER_SOFTWARE ADDED REMOTE_ADDR REMOTE_HOST")(environ, start_response)

    server = make(application, handler=Handler)
    assert_path(server, "event-driven")
    with serving(server) as address:
        answer, refusal = exchange(address, GET), exchange(address, BAD)
    body = answer.partition(b"\r\n\r\n")[2]
    told = body.decode().split("\n")
    assert told[:3] == ["Mine/1", "yes", "127.0.0.1"]
    assert told[3] == "client.example" or wsgi.package == "wsgiref"  # "client-name" in differences.py
    assert (one_of(refusal, "Server"), one_of(refusal, "Date")) == ("Mine/1 Sys/2", "now")
    assert errors.getvalue() == "noted"
    lines = [line.rpartition("client.example")[2] for line in capsys.readouterr().err.splitlines()]
    assert lines[:2] == [f' - - [today] "GET /a?b HTTP/1.0" 200 {len(body)}', " - - [today] refused 431"]


@pytest.mark.shared
@pytest.mark.parametrize("hook", ["log_request", "log_message", "get_environ", "get_stderr"])
def test_the_handler_that_hooks_see(wsgi: SimpleNamespace, make: Any, hook: str) -> None:
    cls = wsgi.simple_server.WSGIRequestHandler
    seen: list[Any] = []

    def look(self: Any, *args: Any) -> Any:
        seen.append((self.client_address, self.server, self.requestline, self.command, self.path,
                     self.request_version, self.raw_requestline))  # fmt: skip
        seen.append((type(self.headers), self.headers.items(), self.request is self.connection,
                     self.request.getpeername()))  # fmt: skip
        return getattr(cls, hook)(self, *args)

    server = make(handler=type("Handler", (cls,), {hook: look}))
    _, client = sent(server, GET)
    assert seen == [
        (client, server, "GET /a?b HTTP/1.0", "GET", "/a?b", "HTTP/1.0", b"GET /a?b HTTP/1.0\r\n"),
        (http.client.HTTPMessage, [("X-A", "1")], True, client),
    ]


def test_each_request_of_a_connection_has_its_own_handler(wsgi: SimpleNamespace, make: Any) -> None:
    seen: list[Any] = []

    class Handler(wsgi.simple_server.WSGIRequestHandler):
        def log_request(self, code: Any = "-", size: Any = "-") -> None:
            assert isinstance(self.headers, http.client.HTTPMessage)
            seen.append((self.path, self.headers["X-N"], self.headers["X-Only-0"]))

    with serving(make(handler=Handler)) as address:
        connection = http.client.HTTPConnection(*address, timeout=TIMEOUT)
        for number in range(3):
            connection.request("GET", f"/{number}", headers={f"X-Only-{number}": "here", "X-N": str(number)})
            connection.getresponse().read()
        connection.close()
    assert seen == [("/0", "0", "here"), ("/1", "1", None), ("/2", "2", None)]


# ---- hooks of the server that both paths call --------------------------------------------------------

SERVER_WAYS = (*CLASS_WAYS, "on the instance")


def with_hook(make: Any, wsgi: Any, patch: Any, name: str, way: str, hook: Any, **others: Any) -> Any:
    """A server with an overridden hook."""
    cls = wsgi.simple_server.WSGIServer
    if way == "on the instance":
        return make(on_instance={name: hook}, **others)
    return make(server=override(way, cls, patch, **{name: hook}), **others)


@pytest.mark.shared
@pytest.mark.parametrize("way", SERVER_WAYS)
@pytest.mark.parametrize(
    "name", ["verify_request", "handle_error", "get_app", "setup_environ", "server_bind", "server_activate"]
)
def test_a_hook_of_the_server(
    wsgi: SimpleNamespace,
    make: Any,
    assert_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    way: str,
) -> None:
    def escape(self: Any) -> Any:
        raise LookupError("on purpose")

    handler = wsgi.simple_server.WSGIRequestHandler
    if name == "handle_error":
        handler = type("Handler", (handler,), {"get_environ": escape})
    notes = Notes()
    hook = notes.hook(wsgi.simple_server.WSGIServer, name)
    server = with_hook(make, wsgi, monkeypatch, name, way, hook, handler=handler)
    assert_path(server, "event-driven")
    answer, client = sent(server, GET)
    assert answer.endswith(b"Hello, world!") is (name != "handle_error")
    assert ("LookupError: on purpose" in capsys.readouterr().err) is (name == "handle_error")
    (args,) = notes
    assert args[1:] == ((client,) if name in ("verify_request", "handle_error") else ())
    assert all(isinstance(arg, socket.socket) for arg in args[:1])


@pytest.mark.shared
@pytest.mark.parametrize("way", SERVER_WAYS)
def test_service_actions_are_called_again_and_again(
    wsgi: SimpleNamespace, make: Any, assert_path: Any, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    calls = threading.Semaphore(0)
    server = with_hook(make, wsgi, monkeypatch, "service_actions", way, lambda self: calls.release())
    assert_path(server, "event-driven")
    with serving(server):
        assert [calls.acquire(timeout=TIMEOUT) for _ in range(5)] == [True] * 5  # no client has connected


@pytest.mark.shared
@pytest.mark.parametrize("way", ["in the class", "on the instance"])
def test_a_client_that_is_refused(
    wsgi: SimpleNamespace, make: Any, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    served: list[Any] = []
    hook = lambda self, request, client_address: False  # noqa: E731
    server = with_hook(make, wsgi, monkeypatch, "verify_request", way, hook, application=served.append)
    with serving(server) as address, connect(address) as connection:
        assert connection.recv(1) == b""
    assert not served


# ---- hooks that need the classic path ----------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.parametrize("way", SERVER_WAYS)
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("get_request", ""),
        ("process_request", "socket address"),
        ("finish_request", "socket address"),
        ("shutdown_request", "socket"),
        ("close_request", "socket"),
        ("handle_timeout", ""),
    ],
)
def test_a_hook_of_the_server_that_only_the_classic_path_has(
    wsgi: SimpleNamespace,
    make: Any,
    assert_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    expected: str,
    way: str,
) -> None:
    notes = Notes()
    server = with_hook(make, wsgi, monkeypatch, name, way, notes.hook(wsgi.simple_server.WSGIServer, name))
    assert_path(server, "classic", name)
    if name == "handle_timeout":
        with server:
            server.timeout = 0.01
            server.handle_request()
    else:
        assert sent(server, GET)[0].endswith(b"Hello, world!")
    assert [" ".join("socket" if isinstance(arg, socket.socket) else "address" for arg in args) for args in notes] == [
        expected
    ]


@pytest.mark.shared
@pytest.mark.parametrize("way", CLASS_WAYS)
@pytest.mark.parametrize(
    ("name", "request_", "args"),
    [
        ("__new__", GET, 3),
        ("__init__", GET, 3),
        ("setup", GET, 0),
        ("handle", GET, 0),
        ("handle_one_request", GET, None),  # wsgiref's handle() doesn't call it, so override that too
        ("finish", GET, 0),
        ("parse_request", GET, 0),
        ("handle_expect_100", PUT, 0),
        ("send_error", BAD, None),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_hook_of_the_handler_that_only_the_classic_path_has(
    wsgi: SimpleNamespace,
    make: Any,
    assert_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    request_: bytes,
    args: int | None,
    way: str,
) -> None:
    if (name, way) == ("__new__", "at run time"):
        pytest.skip("CPython's object.__new__() stays broken for a class that had another for a while")
    notes = Notes()
    cls = wsgi.simple_server.WSGIRequestHandler
    attributes = {name: notes.hook(cls, name), "protocol_version": "HTTP/1.1"}
    server = make(handler=override(way, cls, monkeypatch, **attributes))
    assert_path(server, "classic", name)
    answer, _ = sent(server, request_)
    assert answer.endswith(b"Hello, world!") is (request_ is not BAD)
    assert len(notes) == (name != "handle_one_request")
    assert args is None or len(notes[0]) == args


@pytest.mark.shared
@pytest.mark.parametrize("way", CLASS_WAYS)
@pytest.mark.parametrize(
    ("name", "value", "effect"),
    [
        ("rbufsize", 0, lambda handler: isinstance(handler.rfile, socket.SocketIO)),
        ("wbufsize", -1, lambda handler: isinstance(handler.wfile, io.BufferedWriter)),
        ("timeout", 25, lambda handler: handler.connection.gettimeout() == 25),
    ],
)
def test_an_attribute_of_the_handler_that_only_the_classic_path_has(
    wsgi: SimpleNamespace,
    make: Any,
    assert_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    value: Any,
    effect: Any,
    way: str,
) -> None:
    cls = wsgi.simple_server.WSGIRequestHandler
    seen: list[bool] = []

    def log_request(self: Any, *args: Any) -> None:
        seen.append(effect(self))

    server = make(handler=override(way, cls, monkeypatch, **{name: value, "log_request": log_request}))
    assert_path(server, "classic", name)
    assert sent(server, GET)[0].endswith(b"Hello, world!")
    assert seen == [True]


class PlainHandler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.wfile.write(b"Hello, world!")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        pass


class StreamHandler(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.rfile.readline()
        self.wfile.write(b"Hello, world!")


@pytest.mark.shared
@pytest.mark.parametrize("kind", ["http.server", "socketserver", "partial", "function"])
def test_a_handler_of_another_kind(wsgi: SimpleNamespace, make: Any, assert_path: Any, kind: str) -> None:
    cls = wsgi.simple_server.WSGIRequestHandler

    def build(request: Any, client_address: Any, server: Any) -> Any:
        return cls(request, client_address, server)

    kinds = {
        "http.server": PlainHandler,
        "socketserver": StreamHandler,
        "partial": functools.partial(cls),
        "function": build,
    }
    server = make(handler=kinds[kind])
    assert_path(server, "classic", "isn't a subclass of WSGIRequestHandler")
    assert sent(server, GET)[0].endswith(b"Hello, world!")


class AcceptingSocket(socket.socket):
    def accept(self) -> tuple[socket.socket, Any]:
        connection, _ = super().accept()
        return connection, ("elsewhere", 7)


@pytest.mark.shared
def test_a_listening_socket_of_its_own_kind(make: Any, assert_path: Any) -> None:
    server = make(telling("REMOTE_ADDR"))
    server.socket = AcceptingSocket(fileno=server.socket.detach())
    assert_path(server, "classic", "AcceptingSocket")
    assert sent(server, GET)[0].endswith(b"elsewhere")


@pytest.mark.shared
@pytest.mark.parametrize("where", ["in the class", "in a base"])
def test_threading_mix_in(wsgi: SimpleNamespace, make: Any, assert_path: Any, where: str) -> None:
    """Each connection has a thread, so requests that wait for each other are answered."""
    barrier = threading.Barrier(2)

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        barrier.wait(TIMEOUT)
        return hello(environ, start_response)

    cls = type("Threaded", (socketserver.ThreadingMixIn, wsgi.simple_server.WSGIServer), {})
    server = make(application, server=cls if where == "in the class" else type("Derived", (cls,), {}))
    assert_path(server, "classic", "process_request")
    answers: list[bytes] = []
    with serving(server) as address:
        first = threading.Thread(target=lambda: answers.append(exchange(address, GET)))
        first.start()
        answers.append(exchange(address, GET))
        first.join(TIMEOUT)
    assert [answer[-13:] for answer in answers] == [b"Hello, world!"] * 2


@posix
@pytest.mark.shared
@may_fork_beside_threads
def test_forking_mix_in(wsgi: SimpleNamespace, make: Any, assert_path: Any) -> None:
    cls = type("Forking", (socketserver.ForkingMixIn, wsgi.simple_server.WSGIServer), {})

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [str(os.getpid() == parent).encode()]

    parent = os.getpid()
    with make(application, server=cls) as server, connect(server.server_address) as connection:
        assert_path(server, "classic", "process_request")
        connection.settimeout(TIMEOUT)
        connection.sendall(GET)
        server.handle_request()
        assert connection.makefile("rb").read().endswith(b"\r\n\r\nFalse")


# ---- hooks of the answer: ServerHandler and its bases ------------------------------------------------


class Wrapper:
    def __init__(self, file: Any, size: int = 0) -> None:
        self.blocks = iter([file.read().upper()])

    def __iter__(self) -> Iterator[bytes]:
        return self.blocks


def marking(wsgi: SimpleNamespace) -> type:
    class Marking(wsgi.headers.Headers):  # type: ignore[misc]
        def __init__(self, headers: Any = None) -> None:
            super().__init__(headers)
            self["X-Marked"] = "yes"

    return Marking


# attribute: its value, the application, and octets that the answer or the log must have; after b"!", must not have
ATTRIBUTES: dict[str, tuple[Any, Any, bytes]] = {
    "error_status": ("503 Busy", failing, b" 503 Busy\r\n"),
    "error_headers": ([("X-Error", "yes")], failing, b"\r\nX-Error: yes\r\n"),
    "error_body": (b"It broke.", failing, b"\r\n\r\nIt broke."),
    "http_version": ("1.0", hello, b"HTTP/1.0 200 OK\r\n"),
    "server_software": ("Mine/9", hello, b"\r\nServer: Mine/9\r\n"),
    "os_environ": ({"ONLY": "this"}, telling("ONLY PATH"), b"\r\n\r\nthis\nNone"),
    "wsgi_file_wrapper": (Wrapper, reading, b"FROM A FILE"),
    "headers_class": (marking, hello, b"\r\nX-Marked: yes\r\n"),
    "traceback_limit": (1, failing, b"!in deeper"),
}


@pytest.mark.shared
@pytest.mark.parametrize("where", ["ServerHandler", "SimpleHandler", "BaseHandler", "a subclass in its place"])
@pytest.mark.parametrize("name", ATTRIBUTES)
def test_an_attribute_of_the_response_handler(
    wsgi: SimpleNamespace,
    make: Any,
    assert_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    where: str,
) -> None:
    value, application, expected = ATTRIBUTES[name]
    if name == "headers_class":
        value = value(wsgi)
    cls = wsgi.simple_server.ServerHandler
    if where == "a subclass in its place":
        monkeypatch.setattr(wsgi.simple_server, "ServerHandler", type("Sub", (cls,), {name: value}))
    else:
        monkeypatch.setattr(getattr(wsgi.simple_server, where, None) or getattr(wsgi.handlers, where), name, value)
        if getattr(cls, name) is not value:
            expected = b"\r\nServer: WSGIServer"  # ServerHandler has its own
    server = make(application)
    assert_path(server, "classic" if where.startswith("a ") else "event-driven", "ServerHandler is replaced")
    with serving(server) as address:
        answer = exchange(address, b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
    logged = capsys.readouterr().err.encode()
    assert b"LookupError: on purpose" in logged or application is not failing
    if expected.startswith(b"!"):
        assert expected[1:] not in logged
    elif name == "http_version" and where == "BaseHandler":
        assert b" 200 OK\r\n" in answer  # it would be 1.0 without the override
    else:
        assert expected in answer


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "application", "expected"),
    [("server_software", hello, b"Server:"), ("wsgi_file_wrapper", reading, b"from a file")],
)
def test_an_attribute_set_to_none(
    wsgi: SimpleNamespace, make: Any, monkeypatch: pytest.MonkeyPatch, name: str, application: Any, expected: bytes
) -> None:
    assert expected in sent(make(application), GET)[0]
    monkeypatch.setattr(wsgi.simple_server.ServerHandler, name, None)
    assert expected not in sent(make(application), GET)[0]


METHODS: dict[str, Any] = {
    "__init__": hello, "_flush": hello, "_write": hello, "add_cgi_vars": hello, "cleanup_headers": hello,
    "client_is_modern": hello, "close": hello, "error_output": failing, "finish_content": hello,
    "finish_response": hello, "get_scheme": hello, "get_stderr": hello, "get_stdin": hello, "handle_error": failing,
    "log_exception": failing, "result_is_file": hello, "run": hello, "send_headers": hello, "send_preamble": hello,
    "sendfile": reading, "set_content_length": hello, "setup_environ": hello, "start_response": hello, "write": hello,
}  # fmt: skip


@pytest.mark.shared
def test_these_are_all_methods(wsgi: SimpleNamespace) -> None:
    cls = wsgi.simple_server.ServerHandler
    found = {name for name in dir(cls) if isinstance(getattr(cls, name), FunctionType)}
    assert {name for name in found if name[0] != "_"} == {name for name in METHODS if name[0] != "_"}


@pytest.mark.shared
@pytest.mark.parametrize("where", ["ServerHandler", "the class that defines it", "a subclass in its place"])
@pytest.mark.parametrize("name", METHODS)
def test_a_method_of_the_response_handler(
    wsgi: SimpleNamespace, make: Any, assert_path: Any, monkeypatch: pytest.MonkeyPatch, name: str, where: str
) -> None:
    notes = Notes()
    cls = wsgi.simple_server.ServerHandler
    hook = notes.hook(cls, name)
    if where == "a subclass in its place":
        monkeypatch.setattr(wsgi.simple_server, "ServerHandler", type("Sub", (cls,), {name: hook}))
    else:
        owner = next(each for each in cls.__mro__ if name in vars(each))
        monkeypatch.setattr(owner if where.startswith("the") else cls, name, hook)
    server = make(METHODS[name])
    assert_path(server, "classic", "ServerHandler is replaced" if where.startswith("a ") else f".{name} is overridden")
    answer, _ = sent(server, GET)
    assert answer.startswith(b"HTTP/1.0 500 " if METHODS[name] is failing else b"HTTP/1.0 200 ")
    assert notes


@pytest.mark.shared
def test_a_method_below_the_one_that_is_called(
    wsgi: SimpleNamespace, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ServerHandler.close() calls the method of its base class, on both paths."""
    notes = Notes()
    monkeypatch.setattr(wsgi.handlers.BaseHandler, "close", notes.hook(wsgi.handlers.BaseHandler, "close"))
    assert sent(make(), GET)[0].endswith(b"Hello, world!")
    assert len(notes) == 1


# ---- hooks that raise --------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [LookupError, OSError, ConnectionResetError])
@pytest.mark.parametrize(
    ("name", "request_"),
    [("get_environ", GET), ("get_stderr", GET), ("address_string", GET), ("log_request", BAD), ("log_error", BAD),
     ("version_string", BAD), ("date_time_string", BAD), ("get_app", GET), ("verify_request", GET)],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_hook_that_raises(
    wsgi: SimpleNamespace, make: Any, assert_path: Any, name: str, request_: bytes, error: type[Exception]
) -> None:
    """handle_error() is called once, the connection is closed, and the next one is served.

    A log hook that raises doesn't prevent the answer to a bad request.
    """
    module = wsgi.simple_server
    failures: list[Any] = []
    errors = iter([error("on purpose")])

    def hook(self: Any, *args: Any) -> Any:
        for each in errors:
            raise each
        return getattr(super(cls, self), name)(*args)

    def handle_error(self: Any, request: Any, client_address: Any) -> None:
        failures.append((type(sys.exc_info()[1]), isinstance(request, socket.socket), client_address))

    of_server = hasattr(module.WSGIServer, name)
    cls = type("Hooked", (module.WSGIServer if of_server else module.WSGIRequestHandler,), {name: hook})
    bases = (cls,) if of_server else (module.WSGIServer,)
    server = make(server=type("Server", bases, {"handle_error": handle_error}), handler=None if of_server else cls)
    assert_path(server, "event-driven")
    with serving(server) as address:
        with connect(address) as connection:
            client = connection.getsockname()
            connection.sendall(request_)
            if name.startswith("log_"):
                assert connection.recv(65536).startswith(b"HTTP/1.1 431 ")
            with contextlib.suppress(ConnectionResetError):  # the server closed it before it had read everything
                assert connection.recv(1) == b""
        assert fetch(address, "/").body == b"Hello, world!"
    assert failures == [(error, True, client)]


@pytest.mark.shared
@pytest.mark.parametrize("target", ["/", "/a\\b"])
@pytest.mark.parametrize("name", ["address_string", "log_date_time_string"])
def test_the_error_of_a_hook_for_the_log_is_told(
    wsgi: SimpleNamespace, make: Any, capsys: pytest.CaptureFixture[str], target: str, name: str
) -> None:
    """Also for a line that has to be escaped."""

    def raising(self: Any) -> str:
        if self.raw_requestline:
            raise LookupError("on purpose")
        return "nobody"

    handler = type("Handler", (wsgi.simple_server.WSGIRequestHandler,), {name: raising})
    sent(make(handler=handler), f"GET {target} HTTP/1.0\r\n\r\n".encode())
    assert "LookupError: on purpose" in capsys.readouterr().err


@pytest.mark.shared
def test_what_one_hook_sets_another_sees(
    wsgi: SimpleNamespace, make: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """A program behind a proxy sets its client in get_environ(); the log and the answer use that."""

    class Handler(wsgi.simple_server.WSGIRequestHandler):  # type: ignore[misc, name-defined]
        def get_environ(self) -> Any:
            environ = super().get_environ()
            self.client_address = ("192.0.2.7", 1)
            self.requestline = "GET /hidden HTTP/1.0"
            self.command = "HEAD"
            return environ

    answer, _ = sent(make(handler=Handler), b"GET /secret HTTP/1.0\r\n\r\n")
    assert answer[8:13] == b" 200 "
    log = capsys.readouterr().err
    assert log.startswith("192.0.2.7 - - [")
    assert '"GET /hidden HTTP/1.0" 200' in log


def silent(self: Any, *args: Any) -> None:
    """Says nothing."""


class Quiet:
    """Functions that do nothing, and such as look so."""

    quiet: ClassVar[list[Any]] = [
        silent,
        lambda *args: None,
        lambda self, template, *args: None,
        lambda self, *args, **keywords: None,
        lambda self, template="", *args: None,
    ]
    heard: ClassVar[list[Any]] = []
    others: ClassVar[list[Any]] = [
        lambda self, *args: Quiet.heard.append(args),
        lambda self, template, a: None,
        lambda self, a, b, c, *args: None,
        lambda self, *args, need: None,
        lambda self, *args: 5,
        lambda self, *args: self.nothing,
        print,
        property(lambda self: lambda *args: Quiet.heard.append(args)),
    ]


@pytest.mark.parametrize("function", Quiet.quiet)
def test_a_function_that_does_nothing_is_seen_to(function: Any) -> None:
    assert does_nothing(function, 2, more=True)
    assert does_nothing(function, 3, more=False)


@pytest.mark.parametrize("function", Quiet.others)
def test_any_other_function_is_called(function: Any) -> None:
    assert not does_nothing(function, 2, more=True)


def test_a_function_for_just_these_arguments() -> None:
    assert does_nothing(lambda self, code, size: None, 3, more=False)
    assert does_nothing(lambda self, code="-", size="-": None, 3, more=False)
    assert not does_nothing(lambda self, code: None, 3, more=False)


@pytest.mark.parametrize("name", ["log_message", "log_request"])
def test_a_log_that_is_silenced(
    wsgi: SimpleNamespace, make: Any, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    """It costs nothing: no handler is made."""
    made: list[Any] = []

    class Handler(wsgi.simple_server.WSGIRequestHandler):  # type: ignore[misc, name-defined]
        def _wrap(self, request: Any) -> None:
            made.append(request.line)
            super()._wrap(request)

    setattr(Handler, name, silent)
    server = make(handler=Handler)
    with serving(server) as address, connect(address) as client:
        for _ in range(3):
            client.sendall(b"GET /a?b HTTP/1.1\r\nHost: h\r\n\r\n")
            assert client.recv(1000).endswith(b"Hello, world!")
        assert [line for line in made if line] == []
        Handler.log_message = Handler.log_request = print  # a program may change its mind
        client.sendall(b"GET /a?c HTTP/1.1\r\nHost: h\r\n\r\n")
        assert client.recv(1000).endswith(b"Hello, world!")
    assert capsys.readouterr().err == ""
    assert made[-1] == "GET /a?c HTTP/1.1"


@pytest.mark.shared
def test_a_class_that_changes_between_two_requests(
    wsgi: SimpleNamespace, make: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    class Handler(wsgi.simple_server.WSGIRequestHandler):  # type: ignore[misc, name-defined]
        pass

    def get_environ(self: Any) -> Any:
        return {**wsgi.simple_server.WSGIRequestHandler.get_environ(self), "QUERY_STRING": "changed"}

    seen: list[str] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(environ["QUERY_STRING"])
        return hello(environ, start_response)

    with make(application, handler=Handler) as server:
        for attributes in ({}, {"get_environ": get_environ, "log_message": lambda *args: None}):
            for name, value in attributes.items():
                setattr(Handler, name, value)
            with connect(server.server_address) as client:
                client.sendall(GET)
                server.handle_request()
                assert client.recv(100)
    assert seen == ["b", "changed"]
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.shared
def test_a_log_method_patched_in_http_server(
    wsgi: SimpleNamespace, make: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Programs patch it to silence all handlers of the process."""
    lines: list[str] = []
    monkeypatch.setattr(
        http.server.BaseHTTPRequestHandler, "log_message", lambda self, text, *args: lines.append(text % args)
    )
    with serving(make(handler=wsgi.simple_server.WSGIRequestHandler)) as address:
        assert exchange(address, GET).endswith(b"Hello, world!")
        assert exchange(address, GET).endswith(b"Hello, world!")
    assert lines == ['"GET /a?b HTTP/1.0" 200 13'] * 2
    assert capsys.readouterr().err == ""


@pytest.mark.shared
@pytest.mark.parametrize("target", ["/", "/a\\b", "/\xe9"])
def test_the_log_escapes_what_is_not_printable(
    wsgi: SimpleNamespace, make: Any, target: str, capsys: pytest.CaptureFixture[str]
) -> None:
    class Handler(wsgi.simple_server.WSGIRequestHandler):  # type: ignore[name-defined, misc]
        def log_request(self, code: Any = "-", size: Any = "-") -> None:
            self.log_message("%s\t%s\x9b", target, code)

    with serving(make(handler=Handler)) as address:
        assert exchange(address, GET).endswith(b"Hello, world!")
    escaped = target.replace("\\", "\\\\")
    assert capsys.readouterr().err.endswith(f"] {escaped}\\x09200\\x9b\n")


@pytest.mark.shared
@pytest.mark.parametrize("name", ["log_request", "log_message", "log_date_time_string"])
def test_a_log_hook_that_raises(
    wsgi: SimpleNamespace, make: Any, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exception is logged to wsgi.errors, because the answer has been sent."""

    def hook(self: Any, *args: Any) -> Any:
        raise LookupError("on purpose")

    server = make(handler=type("Handler", (wsgi.simple_server.WSGIRequestHandler,), {name: hook}))
    with serving(server) as address:
        assert exchange(address, GET).endswith(b"Hello, world!")
        assert exchange(address, GET).endswith(b"Hello, world!")
    assert capsys.readouterr().err.count("LookupError: on purpose\n") >= 2


@pytest.mark.parametrize("name", ["handle_error", pytest.param("service_actions", marks=pytest.mark.shared)])
def test_a_hook_whose_error_ends_the_server(wsgi: SimpleNamespace, make: Any, name: str) -> None:
    module = wsgi.simple_server

    def hook(self: Any, *args: Any) -> Any:
        raise LookupError("on purpose")

    handler = type("Handler", (module.WSGIRequestHandler,), {"get_environ": hook})
    server = make(server=type("Server", (module.WSGIServer,), {name: hook}), handler=handler)
    with server, connect(server.server_address) as connection:
        connection.sendall(GET)
        with pytest.raises(LookupError, match="on purpose"):
            server.serve_forever(0.02)
