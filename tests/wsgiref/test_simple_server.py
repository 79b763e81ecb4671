"""``make_server()`` and its classes over real sockets: answers, hooks, and bad input."""

from __future__ import annotations

import http.client
import io
import re
import socket
import sys
from types import SimpleNamespace
from typing import Any

import pytest

from clients import connect, exchange, fetch
from servers import listening_server, serving

pytestmark = pytest.mark.shared


def hello(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"Hello, world!"]


def echo(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """Answer with the request's own keys, one line each."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    names = [name for name in environ if name.isupper() and not name.startswith(("PYTEST", "PATH=", "LC_"))]
    return ["\n".join(f"{name}={environ[name]}" for name in names).encode("latin-1")]


def environ_of(answer: bytes) -> dict[str, str]:
    body = answer.split(b"\r\n\r\n", 1)[1].decode("latin-1")
    return dict(line.split("=", 1) for line in body.split("\n"))


class Quiet:
    """A handler that stores the log lines."""

    lines: list[str]

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        self.lines.append(format % args)


@pytest.fixture
def make(wsgi: SimpleNamespace) -> Any:
    def make(application: Any = hello, *handler_bases: type, server_class: Any = None, **attributes: Any) -> Any:
        bases = (*handler_bases, Quiet, wsgi.simple_server.WSGIRequestHandler)
        handler_class = type("Handler", bases, {"lines": [], **attributes})
        return listening_server(wsgi, application, server_class, handler_class)

    return make


def test_an_answer(make: Any) -> None:
    server = make()
    with serving(server) as address:
        answer = exchange(address, b"GET /a?b HTTP/1.0\r\nHost: h\r\n\r\n")
    head, body = answer.split(b"\r\n\r\n")
    assert body == b"Hello, world!"
    assert re.fullmatch(
        rb"HTTP/1\.[01] 200 OK\r\nDate: [^\r]{29}\r\nServer: WSGIServer(/0\.2)? \w+/[\w.+]+\r\n"
        rb"Content-Type: text/plain\r\nContent-Length: 13(\r\nConnection: close)?",
        head,
    )
    assert server.RequestHandlerClass.lines == ['"GET /a?b HTTP/1.0" 200 13']


def test_the_log_line_goes_to_stderr(wsgi: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    server = wsgi.simple_server.make_server("127.0.0.1", 0, hello)
    with serving(server) as address:
        exchange(address, b"GET / HTTP/1.0\r\n\r\n")
    logged = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().err)
    assert re.fullmatch(r'127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4} \d\d:\d\d:\d\d\] "GET / HTTP/1\.0" 200 13\n', logged)


def test_environ(make: Any, wsgi: SimpleNamespace) -> None:
    server = make(echo)
    with serving(server) as address:
        request = b"POST /a%20b/c?d=e%20f HTTP/1.1\r\nHost: h:1\r\nX-A: 1\r\nx-a:  2 \r\nContent-Length: 0\r\n\r\n"
        environ = environ_of(exchange(address, request))
    expected = {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "",
        "PATH_INFO": "/a b/c",
        "QUERY_STRING": "d=e%20f",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_PORT": str(server.server_port),
        "SERVER_SOFTWARE": wsgi.simple_server.WSGIRequestHandler.server_version,
        "GATEWAY_INTERFACE": "CGI/1.1",
        "REMOTE_ADDR": "127.0.0.1",
        "REMOTE_HOST": "",
        "CONTENT_LENGTH": "0",
        "CONTENT_TYPE": "text/plain",
        "HTTP_HOST": "h:1",
        "HTTP_X_A": "1,2",
    }
    assert expected.items() <= environ.items()


@pytest.mark.differs("extra-environ-keys")
def test_extra_environ_keys(make: Any) -> None:
    with serving(make(echo)) as address, connect(address) as connection:
        port = connection.getsockname()[1]
        connection.sendall(b"GET //a%20b?c HTTP/1.0\r\n\r\n")
        environ = environ_of(connection.makefile("rb").read())
    assert environ["REMOTE_PORT"] == str(port)
    assert environ["REQUEST_URI"] == "//a%20b?c"
    assert environ["PATH_INFO"] == "/a b"


@pytest.mark.differs("extra-environ-keys")
def test_request_uri_is_as_sent_when_headers_were_looked_at(make: Any) -> None:
    class Looking:
        def get_environ(self: Any) -> Any:
            assert len(self.headers) == 0
            return super().get_environ()  # type: ignore[misc]

    with serving(make(echo, Looking)) as address:
        environ = environ_of(exchange(address, b"GET //a?b HTTP/1.0\r\n\r\n"))
    assert (environ["REQUEST_URI"], environ["PATH_INFO"]) == ("//a?b", "/a")


@pytest.mark.differs("environ-fields")
def test_fields_in_the_environ(make: Any) -> None:
    with serving(make(echo)) as address:
        environ = environ_of(
            exchange(address, b"GET / HTTP/1.0\r\nX_A: 1\r\nCookie: a\r\nCookie: b\r\nServer-Port: 1\r\n\r\n")
        )
    assert "HTTP_X_A" not in environ
    assert environ["HTTP_COOKIE"] == "a; b"
    assert environ["HTTP_SERVER_PORT"] == "1"


@pytest.mark.differs("absolute-form")
def test_an_absolute_target(make: Any) -> None:
    with serving(make(echo)) as address:
        environ = environ_of(exchange(address, b"GET http://other:81/a?b HTTP/1.1\r\nHost: h\r\n\r\n"))
    assert (environ["PATH_INFO"], environ["QUERY_STRING"], environ["HTTP_HOST"]) == ("/a", "b", "other:81")


def test_demo_app(wsgi: SimpleNamespace) -> None:
    environ = {"A": "\u20ac", "B": 1}
    started: list[Any] = []
    (body,) = wsgi.simple_server.demo_app(environ, lambda *args: started.append(args))
    assert started == [("200 OK", [("Content-Type", "text/plain; charset=utf-8")])]
    assert body == "Hello world!\n\nA = '\u20ac'\nB = 1\n".encode()


def test_a_body_is_read_from_wsgi_input(make: Any) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"]))]

    with serving(make(application)) as address:
        assert fetch(address, "/", "POST", b"x" * 100_000).body == b"x" * 100_000


# ---- hooks ------------------------------------------------------------------------------------------


def test_headers_is_an_http_message_made_when_looked_at(make: Any) -> None:
    seen: list[Any] = []

    class Looking:
        def get_environ(self: Any) -> Any:
            seen.append(self.headers)
            assert self.headers is seen[-1]
            return super().get_environ()  # type: ignore[misc]

    with serving(make(echo, Looking)) as address:
        environ = environ_of(exchange(address, b"GET / HTTP/1.0\r\nX-A: 1\r\nX-B:  two words \r\n\r\n"))
    assert isinstance(seen[0], http.client.HTTPMessage)
    assert seen[0]["x-a"] == "1"
    assert seen[0].get_all("X-B")[0].strip() == "two words"
    assert environ["HTTP_X_A"] == "1"


@pytest.mark.differs("lazy-headers")
def test_headers_isnt_made_for_nobody(wsgi: SimpleNamespace, make: Any) -> None:
    class Message(http.client.HTTPMessage):
        def __init__(self, *args: Any) -> None:
            raise AssertionError("no code may read it")

    with serving(make(hello, MessageClass=Message)) as address:
        assert exchange(address, b"GET / HTTP/1.0\r\nX-A: 1\r\n\r\n").endswith(b"Hello, world!")


def test_a_subclass_may_change_headers_and_path(make: Any) -> None:
    class Changing:
        def get_environ(self: Any) -> Any:
            del self.headers["X-A"]
            self.headers["X-B"] = "2"
            self.path = "/other?x"
            return super().get_environ()  # type: ignore[misc]

    with serving(make(echo, Changing)) as address:
        environ = environ_of(exchange(address, b"GET /a HTTP/1.0\r\nX-A: 1\r\n\r\n"))
    assert "HTTP_X_A" not in environ
    assert environ["HTTP_X_B"] == "2"
    assert (environ["PATH_INFO"], environ["QUERY_STRING"]) == ("/other", "x")


def test_a_subclass_may_set_headers(wsgi: SimpleNamespace) -> None:
    handler_class = wsgi.simple_server.WSGIRequestHandler
    handler = handler_class.__new__(handler_class)
    with pytest.raises(AttributeError):
        handler.headers  # noqa: B018
    handler.headers = http.client.HTTPMessage()
    handler.headers["Content-Type"] = "text/x"
    handler.command, handler.path, handler.request_version = "GET", "/p", "HTTP/1.1"
    handler.client_address = ("10.0.0.1", 5)
    handler.server = SimpleNamespace(base_environ={"SERVER_NAME": "s"})
    environ = handler.get_environ()
    assert environ["CONTENT_TYPE"] == "text/x"
    assert (environ["PATH_INFO"], environ["SERVER_NAME"], environ["REMOTE_ADDR"]) == ("/p", "s", "10.0.0.1")


def test_get_environ_get_stderr_and_versions_are_hooks(make: Any) -> None:
    errors = io.StringIO()

    class Hooked:
        server_version = "Mine/1"

        def get_environ(self: Any) -> Any:
            return {**super().get_environ(), "ADDED": "yes"}  # type: ignore[misc]

        def get_stderr(self: Any) -> Any:
            return errors

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        environ["wsgi.errors"].write("noted")
        return echo(environ, start_response)

    with serving(make(application, Hooked)) as address:
        environ = environ_of(exchange(address, b"GET / HTTP/1.0\r\n\r\n"))
    assert environ["ADDED"] == "yes"
    assert environ["SERVER_SOFTWARE"] == "Mine/1"
    assert errors.getvalue() == "noted"


def test_a_handler_that_keeps_the_connection(make: Any, wsgi: SimpleNamespace) -> None:
    """As Django's does: it has its own loop over requests, with parse_request() and its own ServerHandler."""

    class Keeping:
        protocol_version = "HTTP/1.1"

        def handle(self: Any) -> None:
            self.close_connection = True
            self.handle_one()
            while not self.close_connection:
                self.handle_one()

        def handle_one(self: Any) -> None:
            self.raw_requestline = self.rfile.readline(65537)
            if not self.parse_request():
                return
            handler = wsgi.simple_server.ServerHandler(
                self.rfile, self.wfile, self.get_stderr(), self.get_environ(), multithread=False
            )
            handler.request_handler = self
            handler.http_version = "1.1"
            handler.run(self.server.get_app())

    with serving(make(echo, Keeping)) as address:
        connection = http.client.HTTPConnection(*address, timeout=10)
        bodies = []
        for path in ("/one", "/two"):
            connection.request("GET", path, headers={"X-Path": path})
            bodies.append(connection.getresponse().read().decode())
        sock = connection.sock
        connection.request("GET", "/three", headers={"Connection": "close"})
        connection.getresponse().read()
        assert sock.recv(1) == b""
        connection.close()
    assert ["HTTP_X_PATH=/one" in bodies[0], "HTTP_X_PATH=/two" in bodies[1]] == [True, True]


@pytest.mark.parametrize(
    ("request_head", "closes"),
    [
        (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", False),
        (b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", True),
        (b"GET / HTTP/1.0\r\n\r\n", True),
        (b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", False),
    ],
)
def test_close_connection(wsgi: SimpleNamespace, request_head: bytes, closes: bool) -> None:
    assert parsed(wsgi, request_head, "HTTP/1.1").close_connection is closes
    assert parsed(wsgi, request_head, "HTTP/1.0").close_connection is True


def parsed(wsgi: SimpleNamespace, head: bytes, protocol_version: str) -> Any:
    handler_class = wsgi.simple_server.WSGIRequestHandler
    handler = handler_class.__new__(handler_class)
    handler.rfile, handler.wfile = io.BufferedReader(io.BytesIO(head)), io.BytesIO()
    handler.protocol_version = protocol_version
    handler.raw_requestline = handler.rfile.readline()
    assert handler.parse_request()
    return handler


def test_expect_100(wsgi: SimpleNamespace) -> None:
    head = b"PUT / HTTP/1.1\r\nHost: h\r\nExpect: 100-Continue\r\nContent-Length: 1\r\n\r\nx"
    handler = parsed(wsgi, head, "HTTP/1.1")
    assert handler.wfile.getvalue() == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert handler.rfile.read() == b"x"
    assert parsed(wsgi, head, "HTTP/1.0").wfile.getvalue() == b""


def test_only_the_head_is_read(wsgi: SimpleNamespace) -> None:
    """The stream may have peek() or only readline()."""
    head = b"PUT / HTTP/1.0\r\nA: b\r\n\r\n"
    for stream in (io.BytesIO(head + b"\r\n\r\nbody"), io.BufferedReader(io.BytesIO(head + b"\r\n\r\nbody"))):
        handler_class = wsgi.simple_server.WSGIRequestHandler
        handler = handler_class.__new__(handler_class)
        handler.rfile, handler.wfile = stream, io.BytesIO()
        handler.raw_requestline = stream.readline()
        assert handler.parse_request()
        assert handler.headers.items() == [("A", "b")]
        assert stream.read() == b"\r\n\r\nbody"


def test_threading_mix_in(make: Any, wsgi: SimpleNamespace) -> None:
    from socketserver import ThreadingMixIn

    class Threaded(ThreadingMixIn, wsgi.simple_server.WSGIServer):
        pass

    server = make(server_class=Threaded)
    with serving(server) as address, connect(address):  # an idle connection doesn't block other clients
        assert fetch(address, "/").body == b"Hello, world!"
        server.daemon_threads = True
        server.block_on_close = False


@pytest.mark.differs("true-multithread")
@pytest.mark.parametrize("threaded", [False, True])
def test_multithread_tells_the_truth(make: Any, wsgi: SimpleNamespace, threaded: bool) -> None:
    from socketserver import ThreadingMixIn

    seen: list[bool] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(environ["wsgi.multithread"])
        return hello(environ, start_response)

    cls = wsgi.simple_server.WSGIServer
    server = make(application, server_class=type("Server", (ThreadingMixIn, cls), {}) if threaded else cls)
    with serving(server) as address:
        fetch(address, "/")
    assert seen == [threaded]


def test_handle_request_answers_one(make: Any) -> None:
    server = make()
    with server, connect(server.server_address) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        server.timeout = 10
        server.handle_request()
        assert connection.makefile("rb").read().endswith(b"Hello, world!")


def test_bound_later(wsgi: SimpleNamespace) -> None:
    server = wsgi.simple_server.WSGIServer(
        ("127.0.0.1", 0), wsgi.simple_server.WSGIRequestHandler, bind_and_activate=False
    )
    with server:
        assert not hasattr(server, "base_environ")
        server.server_bind()
        server.server_activate()
        assert server.base_environ["SERVER_PORT"] == str(server.server_port) != "0"


@pytest.mark.differs("ipv6-from-host")
def test_ipv6_is_chosen_from_the_host(wsgi: SimpleNamespace) -> None:
    with wsgi.simple_server.make_server("::1", 0, hello) as server:
        assert server.address_family == socket.AF_INET6
        assert server.base_environ["SERVER_NAME"] == "::1"


@pytest.mark.differs("no-dns")
def test_no_dns(wsgi: SimpleNamespace, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> Any:
        raise AssertionError("the DNS was asked")

    monkeypatch.setattr(socket, "getfqdn", refuse)
    monkeypatch.setattr(socket, "gethostbyaddr", refuse)
    with make() as server:
        assert server.server_name == "127.0.0.1"
    with wsgi.simple_server.make_server("", 0, hello) as server:
        assert server.server_name == socket.gethostname()


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no unix sockets here")
@pytest.mark.differs("no-client-address")
def test_a_client_without_an_address(wsgi: SimpleNamespace, capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs = socket.socketpair()
    seen: list[dict[str, Any]] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(environ)
        return hello(environ, start_response)

    with wsgi.simple_server.make_server("127.0.0.1", 0, application) as server, ours, theirs:
        theirs.sendall(b"GET / HTTP/1.0\r\n\r\n")
        server.RequestHandlerClass(ours, "", server)
        ours.close()
        assert theirs.makefile("rb").read().endswith(b"Hello, world!")
    assert seen[0]["REMOTE_ADDR"] == ""
    assert capsys.readouterr().err.lstrip("\x1b[0123456789;m").startswith("- - - [")


@pytest.mark.differs("client-name")
def test_an_overridden_address_string_names_the_client(make: Any) -> None:
    class Naming:
        def address_string(self) -> str:
            return "client.example"

    with serving(make(echo, Naming)) as address:
        environ = environ_of(exchange(address, b"GET / HTTP/1.0\r\n\r\n"))
    assert environ["REMOTE_HOST"] == "client.example"
    assert environ["REMOTE_ADDR"] == "127.0.0.1"


@pytest.mark.parametrize("address", [("local",), ["local", 0], ("local", 5, 0, 0)])
def test_client_addresses_of_other_kinds(make: Any, address: Any) -> None:
    fake = FakeSocket(b"GET / HTTP/1.0\r\n\r\n")
    with make(echo) as server:
        server.RequestHandlerClass(fake, address, server)
    assert environ_of(b"".join(fake.sent))["REMOTE_ADDR"] == "local"


def test_server_addresses_of_other_kinds(wsgi: SimpleNamespace) -> None:
    server_class, handler_class = wsgi.simple_server.WSGIServer, wsgi.simple_server.WSGIRequestHandler
    server_class(None, handler_class, bind_and_activate=False).server_close()
    with server_class((b"127.0.0.1", 0), handler_class) as server:
        assert server.server_port


def test_a_server_handler_may_use_the_socket_itself(
    make: Any, wsgi: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Sending(wsgi.simple_server.ServerHandler):
        def __init__(self, stdin: Any, stdout: Any, stderr: Any, environ: Any, multithread: bool = False) -> None:
            super().__init__(stdin, stdout, stderr, environ, multithread=multithread)

        def sendfile(self) -> bool:
            self.send_headers()
            with socket.socket(fileno=socket.dup(self.stdout.fileno())) as connection:
                connection.sendall(b"by hand")
            return True

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [("Content-Length", "7")])
        return environ["wsgi.file_wrapper"](io.BytesIO(b""))

    monkeypatch.setattr(wsgi.simple_server, "ServerHandler", Sending)
    with serving(make(application)) as address:
        assert exchange(address, b"GET / HTTP/1.0\r\n\r\n").endswith(b"\r\n\r\nby hand")


def test_headers_may_be_deleted(wsgi: SimpleNamespace) -> None:
    handler = parsed(wsgi, b"GET / HTTP/1.0\r\nA: b\r\n\r\n", "HTTP/1.0")
    del handler.headers
    assert not hasattr(handler, "headers")


class FakeSocket:
    """The part of a socket that a handler needs: a file to read, and a list of the sent octets."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.sent: list[bytes] = []

    def makefile(self, mode: str, size: int) -> Any:
        return io.BufferedReader(io.BytesIO(self.request))

    def sendall(self, data: bytes) -> None:
        self.sent.append(bytes(data))


def test_a_socket_that_only_makes_files_and_sends(make: Any) -> None:
    fake = FakeSocket(b"GET / HTTP/1.0\r\n\r\n")
    with make() as server:
        server.RequestHandlerClass(fake, ("127.0.0.1", 1), server)
        assert server.RequestHandlerClass.lines == ['"GET / HTTP/1.0" 200 13']
    assert b"".join(fake.sent).endswith(b"Hello, world!")


def test_a_request_made_by_hand_needs_no_host(make: Any) -> None:
    """Programs test their handlers in this way. A client's request needs a Host (RFC 9112 section 3.2)."""
    fake = FakeSocket(b"GET / HTTP/1.1\r\n\r\n")
    with make() as server:
        server.RequestHandlerClass(fake, ("127.0.0.1", 1), server)
    assert b"".join(fake.sent).endswith(b"Hello, world!")


@pytest.mark.differs("one-write")
def test_an_answer_is_sent_in_one_piece(make: Any) -> None:
    fake = FakeSocket(b"GET / HTTP/1.0\r\n\r\n")
    with make() as server:
        server.RequestHandlerClass(fake, ("127.0.0.1", 1), server)
    assert len(fake.sent) == 1


# ---- bad input --------------------------------------------------------------------------------------

BAD_REQUESTS = {
    "two spaces": (b"GET  / HTTP/1.1\r\n\r\n", 400),
    "no method": (b" / HTTP/1.1\r\n\r\n", 400),
    "control in target": (b"GET /\x01 HTTP/1.1\r\n\r\n", 400),
    "folded field": (b"GET / HTTP/1.1\r\nHost: a\r\n b\r\n\r\n", 400),
    "space before colon": (b"GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400),
    "NUL in field": (b"GET / HTTP/1.1\r\nHost: a\x00\r\n\r\n", 400),
    "bare CR in field": (b"GET / HTTP/1.1\r\nHost: a\rb\r\n\r\n", 400),
    "HTTP/2": (b"GET / HTTP/2.0\r\n\r\n", 505),
    "CONNECT": (b"CONNECT h:1 HTTP/1.1\r\n\r\n", 501),
    "long target": (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", 414),
    "HTTP/0.9": (b"GET /\r\n", 400),
    "many fields": (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 101 + b"\r\n", 431),
    "long field": (b"GET / HTTP/1.1\r\nA: " + b"b" * 70000 + b"\r\n\r\n", 431),
    "long section": (b"GET / HTTP/1.1\r\n" + (b"A: " + b"b" * 1000 + b"\r\n") * 70 + b"\r\n", 431),
}


@pytest.mark.differs("strict-requests")
@pytest.mark.parametrize("arrival", ["whole", "byte by byte", "with trailing data"])
@pytest.mark.parametrize("case", BAD_REQUESTS)
def test_a_bad_request(make: Any, case: str, arrival: str, capsys: pytest.CaptureFixture[str]) -> None:
    """It is answered with its status and no traceback; the application isn't called, the connection is closed."""
    request, status = BAD_REQUESTS[case]
    called: list[Any] = []
    server = make(lambda environ, start_response: called.append(environ))
    with serving(server) as address:
        answer = exchange(address, request, arrival, may_be_reset=True)
    assert re.match(rb"HTTP/1\.[01] %d [A-Z][\w -]+\r\n" % status, answer)
    assert b"Traceback" not in answer
    assert answer.count(b"HTTP/1.") == 1
    assert not called
    assert capsys.readouterr().err == ""
    assert len(server.RequestHandlerClass.lines) == 2  # the error and the request
    assert len(answer) < 1000


@pytest.mark.differs("strict-requests")
@pytest.mark.parametrize(
    "request_head",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\n",
        b"GET / HTTP/1.1\r\nHos",
        b"DELETE /x HTTP/1.1\r\n",
        b"DELETE /x HTTP/1.1",
        b"GE",
    ],
)
def test_a_head_that_is_cut_short(make: Any, request_head: bytes) -> None:
    called: list[Any] = []
    with serving(make(lambda environ, start_response: called.append(environ))) as address:
        answer = exchange(address, request_head, may_be_reset=True)
    assert re.match(rb"HTTP/1\.[01] 400 ", answer)
    assert not called


def test_nothing_sent_is_nothing_answered(make: Any, capsys: pytest.CaptureFixture[str]) -> None:
    server = make()
    with serving(server) as address:
        assert exchange(address, b"", may_be_reset=True) == b""
    assert server.RequestHandlerClass.lines == []
    assert capsys.readouterr().err == ""


@pytest.mark.differs("empty-line-first")
def test_an_empty_line_before_the_request_is_skipped(make: Any) -> None:
    with serving(make()) as address:
        assert exchange(address, b"\r\nGET / HTTP/1.0\r\n\r\n").endswith(b"Hello, world!")


@pytest.mark.differs("timeout-is-logged")
def test_a_timeout_is_logged_without_a_traceback(make: Any, capsys: pytest.CaptureFixture[str]) -> None:
    server = make(timeout=0.05)
    with serving(server) as address, connect(address) as connection:
        connection.sendall(b"GET / HT")
        assert connection.recv(1) == b""
    assert server.RequestHandlerClass.lines == ["Request timed out: TimeoutError('timed out')"]
    assert capsys.readouterr().err == ""


def test_the_application_that_fails(make: Any, capsys: pytest.CaptureFixture[str]) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        raise LookupError("on purpose")

    server = make(application)
    with serving(server) as address:
        answer = exchange(address, b"GET / HTTP/1.0\r\n\r\n")
    assert re.match(rb"HTTP/1\.[01] 500 Internal Server Error\r\n", answer)
    assert b"on purpose" not in answer
    assert "LookupError: on purpose" in capsys.readouterr().err
    assert server.RequestHandlerClass.lines == ['"GET / HTTP/1.0" 500 59']


@pytest.mark.skipif(sys.version_info < (3, 15), reason="a plain attribute before Python 3.15")
def test_version_is_deprecated(wsgi: SimpleNamespace) -> None:
    with pytest.warns(DeprecationWarning, match="'__version__' is deprecated and slated for removal") as caught:
        assert wsgi.simple_server.__version__ == "0.2"
    assert caught[0].filename == __file__
