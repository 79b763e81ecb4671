"""Details of the event-driven path that a rebuild can lose: time, cycles, handlers that look at their request."""

from __future__ import annotations

import gc
import io
import json
import socket
import threading
from types import SimpleNamespace
from typing import Any

import pytest

from clients import GET, Address, Client, connect, fetch
from fastwsgi import simple_server
from fastwsgi._backend import Request, parse_head
from fastwsgi._events.loop import EventLoop
from fastwsgi._events.phases import ASKED_TO_STOP, LAST_REQUESTS, RETIRED, SERVING, STOPPED
from fastwsgi._http.settings import Settings
from fastwsgi._service.access_log import AccessLog
from servers import BLOCK, KINDS, hello, listening_server, of, starting
from waiting import TIMEOUT, numbered, together

start = pytest.fixture(params=KINDS)(starting)
POST = b"POST / HTTP/1.1\r\nHost: h\r\n"

# ---- time ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [b"", GET], ids=["new connection", "after a request"])
def test_line_ends_before_a_request_buy_no_time(start: Any, first: bytes) -> None:
    running = start(hello, head_timeout=0.3, keep_alive_timeout=0.6)
    with Client(running.address) as client:
        if first:
            client.send(first)
            client.reply()
        client.sock.settimeout(0.05)
        for _ in range(100):
            try:
                client.sock.sendall(b"\r")
                client.sock.sendall(b"\n")
                if not client.sock.recv(1):
                    break
            except TimeoutError:
                continue
            except ConnectionError:
                break
        else:
            pytest.fail("the connection is still open")


@pytest.mark.parametrize(
    ("framing", "parts"),
    [
        (b"Content-Length: 5", (b"ab", b"cde")),
        (b"Transfer-Encoding: chunked", (b"5\r\nab", b"cde\r\n0\r\n\r\n")),
        (b"Content-Length: 200000", (bytes(100_000), bytes(100_000))),
    ],
)
def test_a_client_that_does_not_wait_gets_no_continue(
    start: Any, framing: bytes, parts: tuple[bytes, bytes], transitions: set[tuple[str, str]]
) -> None:
    running = start(hello)
    with Client(running.address) as client:
        client.send(POST + b"Expect: 100-continue\r\n" + framing + b"\r\n\r\n" + parts[0])
        running.wait_until(lambda: any(after == "BODY" for _, after in transitions))
        client.send(parts[1])
        assert client.reply("POST").status == 200


# ---- handle_request() in a loop ------------------------------------------------------------------------


def test_no_request_is_lost_between_two_calls(wsgi: SimpleNamespace) -> None:
    """Clients that have connected may have sent their request when the call returns that answered another one."""
    with listening_server(wsgi, hello, None, None) as server:

        def serve() -> None:
            while statuses.count(200) < 8 * 40:
                server.handle_request()

        def ask(number: int) -> None:
            for _ in range(40):
                statuses.append(fetch(Address(*server.server_address), "/").status)

        statuses: list[int] = []
        server.timeout = 0.1
        serving = threading.Thread(target=serve, daemon=True)
        serving.start()
        together(*numbered(ask, 8))
        serving.join(TIMEOUT)
    assert statuses == [200] * 8 * 40


# ---- nothing is kept ----------------------------------------------------------------------------------


class Environ(simple_server.WSGIRequestHandler):
    """Has a hook for the environ, and none for the log."""

    def get_environ(self) -> Any:
        return super().get_environ()


@pytest.mark.parametrize("fast_lane", [True, False])
@pytest.mark.parametrize("handler", [simple_server.WSGIRequestHandler, Environ])
@pytest.mark.parametrize(
    ("request_", "application"),
    [
        (GET, hello),
        (GET, of(b"too long", headers=[("Content-Length", "1")])),
        (b"BAD\r\n\r\n", hello),
        (POST + b"Transfer-Encoding: chunked\r\n\r\nx\r\n", hello),
    ],
    ids=["usual", "surplus", "bad line", "bad chunk"],
)
def test_no_request_is_left_in_a_cycle(
    wsgi: SimpleNamespace, handler: Any, fast_lane: bool, request_: bytes, application: Any
) -> None:
    def requests() -> int:
        return sum(isinstance(each, Request | handler) for each in gc.get_objects())

    with listening_server(wsgi, application, None, handler, fast_lane=fast_lane) as server:
        gc.collect()
        gc.disable()
        try:
            counts = []
            for _ in range(5):
                with connect(server.server_address) as client:
                    client.sendall(request_)
                    server.handle_request()
                    assert client.recv(10000)
                counts.append(requests())
            assert counts[-1] == counts[1]  # what a server or a lane keeps of one is there by then
        finally:
            gc.enable()


# ---- hooks that look at their handler ------------------------------------------------------------------


@pytest.mark.parametrize("hook", ["log_date_time_string", "monthname"])
def test_a_hook_for_the_date_of_the_log_sees_its_handler(
    start: Any, capsys: pytest.CaptureFixture[str], hook: str
) -> None:
    months = simple_server.WSGIRequestHandler.monthname
    attributes: dict[str, Any] = {
        "log_date_time_string": lambda self: f"a day of {self.client_address[0]} and {self.server.server_port > 0}",
        "monthname": property(lambda self: months if self.server and self.client_address else None),
    }
    running = start(hello, attributes={hook: attributes[hook]})
    with Client(running.address) as client:
        assert client.get("/").status == 200
    log = capsys.readouterr().err
    assert '"GET / HTTP/1.1" 200 5' in log
    assert ("a day of 127.0.0.1 and True" in log) == (hook == "log_date_time_string")


def test_a_server_version_that_is_a_property(start: Any) -> None:
    seen: list[str] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(environ["SERVER_SOFTWARE"])
        return hello(environ, start_response)

    running = start(application, attributes={"server_version": property(lambda self: "Mine/1")})
    with Client(running.address) as client:
        client.get("/")
    assert seen == ["Mine/1"]


def test_classes_that_change_while_they_serve(start: Any, capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[str] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        seen.append(environ["SERVER_SOFTWARE"])
        return hello(environ, start_response)

    running = start(application, attributes={"server_version": "First/1"})
    handler = running.server.RequestHandlerClass
    with Client(running.address) as client:
        client.get("/1")
        handler.server_version = "Second/1"
        handler.log_message = lambda self, *args: None
        client.get("/2")
        running.server.verify_request = lambda *args: False
        with Client(running.address) as other:
            assert other.rest() == b""
    assert seen == ["First/1", "Second/1"]
    assert '"GET /1 ' in (log := capsys.readouterr().err)
    assert '"GET /2 ' not in log


def test_a_class_that_changed_before_a_request_of_the_general_path(
    start: Any, capsys: pytest.CaptureFixture[str], transitions: set[tuple[str, str]]
) -> None:
    """The lane sees it, too, although the general path was the first to."""
    running = start(hello, attributes={"log_message": lambda self, *args: None})
    with Client(running.address) as client:
        client.get("/1")
        client.send(b"GE")
        running.wait_until(lambda: ("IDLE", "HEAD") in transitions)
        del running.server.RequestHandlerClass.log_message
        client.send(b"T /2 HTTP/1.1\r\nHost: h\r\n\r\n")
        client.reply()
        client.get("/3")
    log = capsys.readouterr().err
    assert [line.split('"')[1] for line in log.splitlines()] == ["GET /2 HTTP/1.1", "GET /3 HTTP/1.1"]


def test_headers_that_are_deleted_and_set_again_have_a_body(wsgi: SimpleNamespace) -> None:
    class Handler(simple_server.WSGIRequestHandler):
        def parse_request(self) -> bool:
            is_good = super().parse_request()
            message = self.headers
            del self.headers
            self.headers = message
            return is_good

    bodies: list[bytes] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        bodies.append(environ["wsgi.input"].read())
        return hello(environ, start_response)

    with listening_server(wsgi, application, None, Handler) as server, connect(server.server_address) as client:
        client.sendall(POST + b"Content-Length: 3\r\n\r\nabc")
        server.handle_request()
    assert bodies == [b"abc"]


def answer_requests(server: Any) -> None:
    """Until one raises."""
    for _ in range(200):
        server.handle_request()


def test_a_connection_that_a_ctrl_c_has_left_goes_on(wsgi: SimpleNamespace) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/stop":
            raise KeyboardInterrupt
        return hello(environ, start_response)

    with listening_server(wsgi, application, None, None) as server, connect(server.server_address) as client:
        server.timeout = 0.05
        for _ in range(2):
            server.handle_request()  # the poller has the connection
        client.sendall(b"GET /stop HTTP/1.1\r\nHost: h\r\n\r\n")
        with pytest.raises(KeyboardInterrupt):
            answer_requests(server)
        client.shutdown(socket.SHUT_WR)
        for _ in range(200):
            server.handle_request()
            if not server._inside.loop.connections:
                break
        assert not server._inside.loop.connections


# ---- answers and logs ----------------------------------------------------------------------------------


def test_a_status_below_100_has_its_body(start: Any) -> None:
    running = start(lambda environ, start_response: start_response("099 Odd", []) and [b"abc"])
    with Client(running.address) as client:
        client.send(GET)
        reply = client.reply()
        assert (reply.head[9:12], reply.body) == (b"099", b"abc")


@pytest.mark.parametrize("field", [("Connection", "keep-alive"), ("Transfer-Encoding", "chunked")])
def test_fields_that_are_added_too_late_are_not_sent_twice(start: Any, field: tuple[str, str]) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        headers: list[tuple[str, str]] = []
        start_response("200 OK", headers)
        headers.append(field)
        return iter([b"abc", BLOCK + b"x"])

    running = start(application)
    with Client(running.address) as client:
        client.send(b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n")
        head = client.head()
        assert head.count(field[0].encode() + b":") == 1


def test_the_fields_of_a_request_are_its_own(start: Any) -> None:
    """A program that changes those of one request changes no other's."""
    counts: list[int] = []

    def log_request(self: Any, code: Any = "-", size: Any = "-") -> None:
        counts.append(len(self._head.fields))
        self._head.fields.append(("X", "y"))

    running = start(hello, attributes={"log_request": log_request})
    with Client(running.address) as client:
        for _ in range(4):
            client.get("/")
    assert counts == [1, 1, 1, 1]


def test_a_json_line_is_json_whatever_the_status() -> None:
    request = parse_head(GET)
    assert json.loads(AccessLog("json", io.StringIO()).line(request, "099", 0))["status"] == 99


# ---- phases --------------------------------------------------------------------------------------------


def test_a_loop_never_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal handler may come between any two steps of another call."""
    for name in ("_open_poller", "_close_poller", "_pause_accepting"):
        monkeypatch.setattr(EventLoop, name, lambda self: None)
    loop = EventLoop(Settings())
    try:
        for phase in (LAST_REQUESTS, RETIRED, ASKED_TO_STOP, SERVING, STOPPED, LAST_REQUESTS):
            before = loop.phase
            loop._reach(phase)
            assert loop.phase == max(before, phase)
    finally:
        loop.close()
