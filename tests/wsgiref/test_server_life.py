"""The life of a server: start, stop, single requests, kinds of sockets, TLS, signals, forks."""

from __future__ import annotations

import contextlib
import dataclasses
import http.client
import io
import os
import select
import signal
import socket
import socketserver
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest

from clients import CERTIFICATE, connect, exchange, fetch, read_all
from fastwsgi._events.phases import LAST_REQUESTS
from listening import may_fork_beside_threads
from programs import program_environment, running
from servers import listening_server, serving
from waiting import TIMEOUT

GET = b"GET / HTTP/1.0\r\n\r\n"
KEEPING = b"GET / HTTP/1.1\r\nHost: h\r\n\r\n"

posix = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
linux = pytest.mark.skipif(not hasattr(socket, "TCP_INFO"), reason="only Linux reports it")


def hello(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [b"Hello, world!"]


class Echo:
    """An application that answers with the body or, without one, the URL scheme; it counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.calls += 1
        start_response("200 OK", [])
        length = int(environ["CONTENT_LENGTH"] or 0)
        return [environ["wsgi.input"].read(length) if length else environ["wsgi.url_scheme"].encode()]


@pytest.fixture
def make(wsgi: SimpleNamespace, lane: bool) -> Callable[..., Any]:
    """make_server() with defaults and without a log."""

    def make(application: Any = hello, server: Any = None, host: str = "127.0.0.1", **attributes: Any) -> Any:
        attributes.setdefault("log_message", lambda self, *args: None)
        made = listening_server(wsgi, application, server, host=host, attributes=attributes, fast_lane=lane)
        if wsgi.package == "fastwsgi":
            path = wsgi.simple_server.explain(made).path
            assert path == "event-driven" or isinstance(made, socketserver.ThreadingMixIn)
        return made

    return make


def in_time(action: Callable[[], Any], bound: float) -> Any:
    begin = monotonic()
    result = action()
    assert monotonic() - begin < bound
    return result


def looping(server: Any) -> AbstractContextManager[Any]:
    """Run serve_forever() in a thread; end it by shutdown(), which must be quick. The server isn't closed."""
    return serving(server, poll_interval=0.5, bound=5, closes=False)


# ---- how a server starts to listen -------------------------------------------------------------------


@pytest.mark.shared
def test_bound_and_activated_later(wsgi: SimpleNamespace) -> None:
    module = wsgi.simple_server
    server = module.WSGIServer(("127.0.0.1", 0), module.WSGIRequestHandler, bind_and_activate=False)
    server.set_app(hello)
    server.server_bind()
    server.server_activate()
    with serving(server) as address:
        assert fetch(address, "/").body == b"Hello, world!"


class FakeSocket:
    def __init__(self) -> None:
        self.sent = b""

    def makefile(self, *args: Any) -> Any:
        return io.BytesIO(GET)

    def sendall(self, data: bytes) -> None:
        self.sent += bytes(data)


@pytest.mark.shared
def test_a_handler_called_by_hand_for_a_server_that_never_binds(wsgi: SimpleNamespace) -> None:
    module = wsgi.simple_server
    with module.WSGIServer(("localhost", 0), module.WSGIRequestHandler, bind_and_activate=False) as server:
        server.server_name, server.server_port = "name", 80
        server.setup_environ()
        server.set_app(hello)
        fake = FakeSocket()
        server.RequestHandlerClass(fake, ("127.0.0.1", 0), server)
    assert fake.sent.endswith(b"\r\n\r\nHello, world!")


@pytest.mark.shared
def test_address_family(wsgi: SimpleNamespace, make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wsgi.simple_server.WSGIServer, "address_family", socket.AF_INET6)
    server = make(host="::1")
    with serving(server):
        with connect(server.server_address, GET) as connection:
            assert read_all(connection).endswith(b"Hello, world!")
        assert server.socket.family == socket.AF_INET6


@pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="no unix sockets here")
def test_a_unix_socket(wsgi: SimpleNamespace, make: Any, tmp_path: Path) -> None:
    addresses: list[Any] = []

    class Server(wsgi.simple_server.WSGIServer):
        address_family = socket.AF_UNIX

        def server_bind(self) -> None:
            self.server_address = str(tmp_path / "socket")
            socketserver.TCPServer.server_bind(self)
            self.server_name, self.server_port = "unix", 0
            self.setup_environ()

        def verify_request(self, request: Any, client_address: Any) -> bool:
            addresses.append(client_address)
            return True

    with make(server=Server) as server, looping(server), connect(server.server_address, GET) as connection:
        assert read_all(connection).endswith(b"Hello, world!")
    assert addresses == [""]


@pytest.mark.shared
@linux
@pytest.mark.parametrize("backlog", [3, 17])
def test_request_queue_size(
    wsgi: SimpleNamespace, make: Any, monkeypatch: pytest.MonkeyPatch, backlog: int
) -> None:
    monkeypatch.setattr(wsgi.simple_server.WSGIServer, "request_queue_size", backlog)
    with make() as server:
        info = server.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
    assert struct.unpack("8x6I", info)[5] == backlog  # of a listening socket, tcpi_sacked is that


@pytest.mark.shared
@pytest.mark.parametrize("allowed", [True, False])
def test_allow_reuse_address(
    wsgi: SimpleNamespace, make: Any, monkeypatch: pytest.MonkeyPatch, allowed: bool
) -> None:
    monkeypatch.setattr(wsgi.simple_server.WSGIServer, "allow_reuse_address", allowed)
    with make() as server:
        assert bool(server.socket.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)) is allowed


@pytest.mark.shared
@pytest.mark.parametrize(("daemon", "blocks"), [(False, True), (True, True), (False, False)])
def test_daemon_threads_and_block_on_close(
    wsgi: SimpleNamespace, make: Any, monkeypatch: pytest.MonkeyPatch, daemon: bool, blocks: bool
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    threads: list[threading.Thread] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        threads.append(threading.current_thread())
        begun.set()
        go_on.wait(TIMEOUT)
        return hello(environ, start_response)

    monkeypatch.setattr(socketserver.ThreadingMixIn, "daemon_threads", daemon)
    monkeypatch.setattr(socketserver.ThreadingMixIn, "block_on_close", blocks)
    server = make(application, type("Threaded", (socketserver.ThreadingMixIn, wsgi.simple_server.WSGIServer), {}))
    with looping(server):
        connection = connect(server.server_address, GET)
        assert begun.wait(TIMEOUT)
    assert threads[0].daemon is daemon
    closer = threading.Thread(target=server.server_close)
    closer.start()
    closer.join(0.2 if blocks and not daemon else TIMEOUT)
    assert closer.is_alive() is (blocks and not daemon)
    go_on.set()
    closer.join(TIMEOUT)
    with connection:
        assert read_all(connection).endswith(b"Hello, world!")
    threads[0].join(TIMEOUT)


@pytest.mark.parametrize(
    ("version", "status_line", "keeps"),
    [("HTTP/1.0", b"HTTP/1.0 200 OK", False), ("HTTP/1.1", b"HTTP/1.1 200 OK", True), (None, b"HTTP/1.1 200 OK", True)],
)
def test_protocol_version(make: Any, version: str | None, status_line: bytes, keeps: bool) -> None:
    with serving(make(**({"protocol_version": version} if version else {}))) as address:
        answer = exchange(address, KEEPING * 2)
    assert answer.startswith(status_line + b"\r\n")
    assert answer.count(b"Hello, world!") == 1 + keeps


# ---- one request at a time ---------------------------------------------------------------------------


def test_handle_request_answers_exactly_one(make: Any) -> None:
    application = Echo()
    with (
        make(application) as server,
        connect(server.server_address, KEEPING * 2) as first,
        connect(server.server_address, GET) as second,
    ):
        server.handle_request()
        assert application.calls == 1
        assert read_all(first).count(b"HTTP/1.1 200 OK") == 1
        server.handle_request()
        assert application.calls == 2
        assert read_all(second).endswith(b"http")


@pytest.mark.shared
@pytest.mark.parametrize("where", ["server.timeout", "class attribute", "socket timeout"])
def test_handle_request_returns_when_nobody_comes(
    wsgi: SimpleNamespace, make: Any, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    if where == "class attribute":
        monkeypatch.setattr(wsgi.simple_server.WSGIServer, "timeout", 0.05)
    with make() as server:
        if where == "server.timeout":
            server.timeout = 0.05
        elif where == "socket timeout":
            server.socket.settimeout(0.05)
        for _ in range(2):
            begin = monotonic()
            in_time(server.handle_request, 5)
            assert monotonic() - begin >= 0.05


@pytest.mark.shared
def test_handle_request_without_waiting(make: Any) -> None:
    """With timeout = 0, a request that has arrived is answered."""
    with make() as server:
        server.timeout = 0
        in_time(server.handle_request, 5)
        with connect(server.server_address, GET) as connection:
            assert select.select([server], [], [], TIMEOUT)[0]
            server.handle_request()
            connection.settimeout(5)
            assert read_all(connection).endswith(b"Hello, world!")


@pytest.mark.parametrize("first", [b"", b"GET / HT", b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nab"])
def test_handle_request_waits_for_no_idle_client(make: Any, first: bytes) -> None:
    with make() as server, connect(server.server_address, first), connect(server.server_address):
        server.timeout = 0.1
        in_time(server.handle_request, 5)  # no client has sent a request
        server.timeout = TIMEOUT
        with connect(server.server_address, GET) as connection:
            in_time(server.handle_request, 5)
            assert read_all(connection).endswith(b"Hello, world!")


@pytest.mark.shared
def test_a_select_loop_of_ones_own(make: Any) -> None:
    with make() as server:
        for _ in range(3):
            with connect(server.server_address, GET) as connection:
                assert select.select([server.fileno()], [], [], TIMEOUT)[0]
                server.handle_request()
                assert read_all(connection).endswith(b"Hello, world!")


@pytest.mark.shared
@pytest.mark.parametrize("why", ["a hook raises", "the client has gone", "the request is bad", "it is refused"])
def test_handle_request_returns_whatever_became_of_it(wsgi: SimpleNamespace, make: Any, why: str) -> None:
    """A program that waits for one request must not have to wait for another."""
    failures: list[Any] = []

    class Server(wsgi.simple_server.WSGIServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            failures.append(client_address)

        def verify_request(self, request: Any, client_address: Any) -> bool:
            return why != "it is refused"

    def get_environ(self: Any) -> Any:
        if why == "a hook raises":
            raise LookupError("on purpose")
        return super(server.RequestHandlerClass, self).get_environ()

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if why == "the client has gone":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connection.close()
        return hello(environ, start_response)

    with make(application, Server, get_environ=get_environ) as server:
        server.timeout = 3
        request = b"GET / HTTP/1.1\r\nHost: h\r\n" + b"A: b\r\n" * (101 if why == "the request is bad" else 1) + b"\r\n"
        with connect(server.server_address, request) as connection:
            in_time(server.handle_request, 3)
        assert len(failures) == (why == "a hook raises")


# ---- starting and stopping ---------------------------------------------------------------------------


def test_shutdown_is_prompt_and_the_server_may_serve_again(make: Any) -> None:
    with make() as server:
        with looping(server):  # it limits the time of shutdown()
            idle, half, kept = (connect(server.server_address, data) for data in (b"", b"GET / HT", KEEPING))
            assert kept.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
        for connection in (idle, half, kept):
            with connection, contextlib.suppress(ConnectionResetError):
                assert connection.recv(1) == b""
        # The socket still listens: a client that connects now is answered when the server serves again.
        with connect(server.server_address, GET) as waiting:
            assert select.select([waiting], [], [], 0)[0] == []
            with looping(server):
                assert read_all(waiting).endswith(b"Hello, world!")
        port = server.server_port
    with pytest.raises(ConnectionRefusedError):
        connect(("127.0.0.1", port))


def test_nobody_is_accepted_while_it_stops(make: Any) -> None:
    """Clients that connect while another still reads its answer wait for the next server."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [b"x" * 20_000_000 if environ["PATH_INFO"] == "/large" else b"small"]

    with make(application) as server:
        server.settings = dataclasses.replace(server.settings, linger_timeout=0.1)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        with connect(server.server_address, b"GET /large HTTP/1.0\r\n\r\n") as slow:
            assert slow.recv(1) == b"H"
            stopper = threading.Thread(target=server.shutdown, daemon=True)
            stopper.start()
            while server._inside.loop.phase < LAST_REQUESTS:
                pass
            with connect(server.server_address) as late:
                thread.join(TIMEOUT)
                stopper.join(TIMEOUT)
                with looping(server):
                    late.sendall(GET)
                    assert read_all(late).endswith(b"\r\n\r\nsmall")


def test_the_port_can_be_bound_again_at_once(wsgi: SimpleNamespace, make: Any) -> None:
    """It works although the server has closed the connection first, so that it is in TIME_WAIT."""
    server = make()
    with server, looping(server):
        connection = connect(server.server_address, KEEPING)
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
    with connection:
        assert connection.recv(1) == b""
    again = wsgi.simple_server.make_server("127.0.0.1", server.server_port, hello)
    assert again.server_port == server.server_port
    again.server_close()


@pytest.mark.shared
def test_shutdown_from_a_thread_of_the_application(make: Any) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        threading.Thread(target=server.shutdown).start()
        return hello(environ, start_response)

    with make(application) as server, connect(server.server_address, GET) as connection:
        in_time(lambda: server.serve_forever(0.05), 5)
        assert read_all(connection).endswith(b"Hello, world!")


@pytest.mark.shared
def test_closed_before_it_is_shut_down(make: Any) -> None:
    """Many programs use this wrong order; nothing raises."""
    server = make()
    with looping(server):
        with connect(server.server_address, GET) as connection:
            assert read_all(connection).endswith(b"Hello, world!")
        server.server_close()


@pytest.mark.shared
def test_a_server_used_in_all_ways_one_after_the_other(make: Any) -> None:
    with make() as server:
        for way in (1, "forever", 1, 1, "forever", "forever", 1):
            loop = contextlib.nullcontext() if way == 1 else looping(server)
            with connect(server.server_address, GET) as connection, loop:
                if way == 1:
                    server.handle_request()
                assert read_all(connection).endswith(b"Hello, world!")


def test_a_keyboard_interrupt_in_the_application(make: Any) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/interrupt":
            raise KeyboardInterrupt
        return hello(environ, start_response)

    with make(application) as server, connect(server.server_address) as idle:
        with connect(server.server_address, b"GET /interrupt HTTP/1.0\r\n\r\n"), pytest.raises(KeyboardInterrupt):
            server.serve_forever()
        assert idle.recv(1) == b""
        assert server.socket.gettimeout() is None
        with looping(server), connect(server.server_address, GET) as connection:
            assert read_all(connection).endswith(b"Hello, world!")


INTERRUPTED = """
import importlib, os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
simple_server = importlib.import_module(sys.argv[1] + ".simple_server")
server = simple_server.make_server("127.0.0.1", 0, simple_server.demo_app)
before = len(os.listdir("/dev/fd"))
print(f"port {server.server_port}")
try:
    server.serve_forever()
except KeyboardInterrupt:
    print("interrupted", len(os.listdir("/dev/fd")) - before)
server.server_close()
"""


@posix
@pytest.mark.shared
def test_an_interrupt_while_it_serves(wsgi: SimpleNamespace) -> None:
    """serve_forever() raises it, and has closed everything that it opened."""
    args = ["-W", "error", "-X", "dev", "-c", INTERRUPTED, wsgi.package]
    with contextlib.ExitStack() as stack, running(
        args, r"port (?P<port>\d+)", environment=program_environment()
    ) as program:
        if wsgi.package == "fastwsgi":  # wsgiref would wait for this connection
            kept = stack.enter_context(connect(program.address))
            kept.sendall(KEEPING)
            assert b"200 OK" in kept.recv(65536)
        assert b"Hello world!" in exchange(program.address, GET)  # then no request is in progress
        program.process.send_signal(signal.SIGINT)
        program.process.wait(TIMEOUT)
    assert program.status == 0, program.stderr
    assert program.stdout.splitlines()[1:] == ["interrupted 0"]
    assert [line for line in program.stderr.splitlines() if '"GET / HTTP/1.' not in line] == []


# ---- forks -------------------------------------------------------------------------------------------


def forked(server: Any) -> int:
    """A child process that serves until SIGTERM, and then stops normally."""
    pid = os.fork()
    if not pid:
        try:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            with contextlib.suppress(KeyboardInterrupt):
                server.serve_forever()
        finally:
            os._exit(0)
    return pid


def ended(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    os.waitpid(pid, 0)


def pid_application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Length", str(len(str(os.getpid()))))])
    return [str(os.getpid()).encode()]


@posix
@may_fork_beside_threads
@pytest.mark.shared
def test_listening_in_the_parent_and_serving_in_a_child(make: Any) -> None:
    with make(pid_application) as server:
        child = forked(server)
        try:
            with connect(server.server_address, GET) as connection:
                assert int(read_all(connection).rpartition(b"\n")[2]) == child
        finally:
            ended(child)
        # Now the parent serves: the child hasn't changed its socket.
        with connect(server.server_address, GET) as connection:
            server.timeout = TIMEOUT
            server.handle_request()
            assert int(read_all(connection).rpartition(b"\n")[2]) == os.getpid()


@posix
@may_fork_beside_threads
def test_two_children_on_one_socket(make: Any) -> None:
    """When one stops, the other continues; neither blocks in accept() while it has clients."""
    with make(pid_application) as server:
        children = [forked(server), forked(server)]
        try:
            seen: set[int] = set()
            end = monotonic() + TIMEOUT
            while seen != set(children) and monotonic() < end:
                with contextlib.ExitStack() as stack:
                    for connection in [stack.enter_context(connect(server.server_address, GET)) for _ in range(8)]:
                        seen.add(int(read_all(connection).rpartition(b"\n")[2]))
            assert seen == set(children)
            ended(children.pop())
            with connect(server.server_address) as early, connect(server.server_address, GET) as late:
                assert int(read_all(late).rpartition(b"\n")[2]) == children[0]
                early.sendall(GET)
                early.settimeout(5)
                assert int(read_all(early).rpartition(b"\n")[2]) == children[0]
        finally:
            for child in children:
                ended(child)


# ---- TLS ---------------------------------------------------------------------------------------------


@pytest.fixture(params=["wrapped after listen", "wrapped before bind", "no handshake on connect"])
def tls(
    request: pytest.FixtureRequest, wsgi: SimpleNamespace, lane: bool
) -> Iterator[SimpleNamespace]:
    """A TLS server of an Echo, and a function that connects to it."""
    module, application, logged = wsgi.simple_server, Echo(), []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    trusting = ssl.create_default_context(cafile=CERTIFICATE)
    attributes = {"log_message": lambda self, *args: logged.append(args)}
    handler = type("Handler", (module.WSGIRequestHandler,), attributes)
    server = module.WSGIServer(("127.0.0.1", 0), handler, bind_and_activate=False)
    server.set_app(application)
    options = {"server_side": True, "do_handshake_on_connect": request.param != "no handshake on connect"}
    if request.param == "wrapped before bind":
        server.socket = context.wrap_socket(server.socket, **options)
    server.server_bind()
    server.server_activate()
    if request.param != "wrapped before bind":
        server.socket = context.wrap_socket(server.socket, **options)
    if wsgi.package == "fastwsgi":
        server.settings = dataclasses.replace(server.settings, fast_lane=lane)
        assert module.explain(server).path == "event-driven"
    yield SimpleNamespace(
        server=server, application=application, logged=logged, wrap=lambda sock: trusting.wrap_socket(
            sock, server_hostname="127.0.0.1"),
        connection=lambda: http.client.HTTPSConnection(
            "127.0.0.1", server.server_port, timeout=TIMEOUT, context=trusting),
    )  # fmt: skip
    server.server_close()


def test_tls(tls: SimpleNamespace) -> None:
    """Small and large requests, one after the other, on one connection if it is kept."""
    with serving(tls.server):
        connection = tls.connection()
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"https"
        body = os.urandom(300_000)
        connection.request("POST", "/", body)
        assert connection.getresponse().read() == body
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"https"
        connection.close()
    assert [args[2] for args in tls.logged] == ["200"] * 3


@pytest.mark.shared
def test_plaintext_to_a_tls_server_is_no_request(tls: SimpleNamespace) -> None:
    tls.server.handle_error = lambda *args: None
    with serving(tls.server), connect(tls.server.server_address, KEEPING) as connection:
        try:
            answer = read_all(connection)
        except ConnectionResetError:
            answer = b""
        assert b"HTTP/1" not in answer
    assert (tls.application.calls, tls.logged) == (0, [])


@pytest.mark.parametrize("begun", [b"", b"\x16", b"\x16\x03\x01\x02\x00\x01\x00"])
def test_a_client_that_shakes_no_hands_blocks_nobody(tls: SimpleNamespace, begun: bytes) -> None:
    with serving(tls.server), connect(tls.server.server_address, begun), connect(tls.server.server_address):
        connection = tls.connection()
        connection.request("GET", "/")
        assert connection.getresponse().read() == b"https"
        connection.close()


def test_handle_request_over_tls(tls: SimpleNamespace) -> None:
    """It answers one request; a client that never completes its handshake doesn't delay it."""
    server, answers = tls.server, []

    def ask() -> None:
        with tls.wrap(connect(server.server_address)) as connection:
            connection.sendall(KEEPING * 2)
            answers.append(read_all(connection))

    with connect(server.server_address):
        server.timeout = 0.1
        in_time(server.handle_request, 5)
        client = threading.Thread(target=ask, daemon=True)
        client.start()
        server.timeout = TIMEOUT
        in_time(server.handle_request, 10)
        server.server_close()
        client.join(TIMEOUT)
    assert [answer.count(b"\r\n\r\nhttps") for answer in answers] == [1]
    assert tls.application.calls == 1


@pytest.mark.shared
def test_hooks_see_the_tls_socket(tls: SimpleNamespace) -> None:
    """Programs read the client's certificate or the cipher from it."""
    seen: list[Any] = []

    class Server(type(tls.server)):  # type: ignore[misc]
        def verify_request(self, request: Any, client_address: Any) -> bool:
            seen.append(isinstance(request, ssl.SSLSocket))
            return True

    def log_request(self: Any, *args: Any) -> None:
        seen.append(self.request.cipher() is not None)

    tls.server.__class__ = Server
    tls.server.RequestHandlerClass.log_request = log_request
    with serving(tls.server):
        connection = tls.connection()
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        connection.close()
    assert seen == [True, True]


# ---- applications that control their server -----------------------------------------------------------


def test_an_application_may_ask_for_another_request(make: Any) -> None:
    """handle_request() inside of a request: the classic path answers the other one, and each client gets its answer."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/outer":
            with connect(server.server_address, b"GET /inner HTTP/1.0\r\n\r\n") as inner:
                server.handle_request()
                answers.append(read_all(inner))
        start_response("200 OK", [])
        return [environ["PATH_INFO"].encode()]

    answers: list[bytes] = []
    server = make(application)
    requests = b"GET /outer HTTP/1.1\r\nHost: h\r\n\r\nGET /next HTTP/1.0\r\n\r\n"
    with server, looping(server), connect(server.server_address, requests) as outer:
        found = read_all(outer)
    assert [answer.rpartition(b"\n")[2] for answer in answers] == [b"/inner"]
    assert b"\r\n\r\n/outerHTTP/1.1 200" in found
    assert found.endswith(b"\r\n\r\n/next")


def test_a_server_that_serves_serves_once(make: Any) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        with pytest.raises(RuntimeError, match="serving already"):
            server.serve_forever()
        return hello(environ, start_response)

    with make(application) as server, looping(server), connect(server.server_address, GET) as client:
        assert read_all(client).endswith(b"Hello, world!")


@pytest.mark.shared
def test_the_last_request_closes_the_server(make: Any) -> None:
    """As in a callback for a login; the answer still arrives."""

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        server.server_close()
        return hello(environ, start_response)

    server = make(application)
    with connect(server.server_address, GET) as client:
        in_time(server.handle_request, 5)
        assert read_all(client).endswith(b"Hello, world!")


def test_accept_may_fail(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On Linux, accept() reports network errors of a connection, such as a firewall's EPERM."""
    failures = [PermissionError(1, "Operation not permitted")]
    accept = socket.socket._accept  # type: ignore[attr-defined]

    def failing(self: Any) -> Any:
        if failures:
            raise failures.pop()
        return accept(self)

    monkeypatch.setattr(socket.socket, "_accept", failing)
    with make() as server, looping(server), connect(server.server_address, GET) as client:
        assert read_all(client).endswith(b"Hello, world!")
    assert not failures
