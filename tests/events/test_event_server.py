"""The event-driven server: refused requests, time limits, open connections, and the order of answers."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from bad_requests import BAD_FIELDS, BAD_LINES
from clients import GET, Client, CutShortError, connect, exchange
from fastwsgi._events.phases import RETIRED, STOPPED
from servers import ALL_KINDS, EventServer, returning, starting

start = pytest.fixture(params=ALL_KINDS)(starting)

POST = b"POST / HTTP/1.1\r\nHost: h\r\n"
ANSWER = re.compile(rb"HTTP/1\.[01] (\d{3}) ")


class Recorder:
    """An application that answers with the request's body, and records the targets."""

    def __init__(self) -> None:
        self.targets: list[str] = []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        self.targets.append(environ["REQUEST_URI"])
        start_response("200 OK", [])
        return [environ["wsgi.input"].read()]


# ---- requests that are refused ----------------------------------------------------------------------

# BAD_LINES and BAD_FIELDS test the parsers; these cases test the server. Sections are of RFC 9112 unless noted.
REFUSED: dict[str, tuple[bytes, int]] = {
    **{f"line: {name}": (line + b"Host: h\r\n\r\n", status) for name, (line, status) in BAD_LINES.items()},
    **{
        f"field: {name}": (b"GET / HTTP/1.1\r\nHost: h\r\n" + section.replace(b"Host", b"X-A"), 400)
        for name, section in BAD_FIELDS.items()
        if name not in ("data behind", "a second empty line", "cut in a line")  # completed by the next octets
    },
    # section 2.2: a line ends with CRLF
    "bare LFs": (b"GET / HTTP/1.1\nHost: h\n\n", 400),
    "a bare LF behind the line": (b"GET / HTTP/1.1\nHost: h\r\n\r\n", 400),
    "a bare LF behind a field": (b"GET / HTTP/1.1\r\nHost: h\nX-A: b\r\n\r\n", 400),
    "a bare LF for an empty line": (b"GET / HTTP/1.1\r\nHost: h\r\n\n", 400),
    "a bare LF first": (b"\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    "bare CRs": (b"GET / HTTP/1.1\rHost: h\r\r", 400),
    "a bare CR behind a field": (b"GET / HTTP/1.1\r\nHost: h\rX-A: b\r\n\r\n", 400),
    "a bare CR first": (b"\rGET / HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    "white space before the first field": (b"GET / HTTP/1.1\r\n X-A: b\r\nHost: h\r\n\r\n", 400),
    "a tab before the first field": (b"GET / HTTP/1.1\r\n\tX-A: b\r\nHost: h\r\n\r\n", 400),
    # section 3.2, and RFC 9110 section 7.1
    "non-ASCII target": (b"GET /\xe9 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    "asterisk for POST": (b"POST * HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    "authority for OPTIONS": (b"OPTIONS h:80 HTTP/1.1\r\nHost: h\r\n\r\n", 400),
    "CONNECT in origin-form": (b"CONNECT / HTTP/1.1\r\nHost: h\r\n\r\n", 501),
    # section 2.3 and RFC 9110 section 15.6.6
    "HTTP/3": (b"GET / HTTP/3.0\r\nHost: h\r\n\r\n", 505),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    # RFC 9110 section 15.5.15 and RFC 6585 section 5
    "a line without end": (b"GET /" + b"a" * 8300, 414),
    "a section without end": (b"GET / HTTP/1.1\r\n" + b"X-A: b\r\n" * 8300, 431),
    "a field without end": (b"GET / HTTP/1.1\r\nX-A: " + b"b" * 66000, 431),
    "many fields": (b"GET / HTTP/1.1\r\nHost: h\r\n" + b"A: b\r\n" * 100 + b"\r\n", 431),
    # RFC 9110 sections 15.5.14 and 10.1.1
    "a long body": (POST + b"Content-Length: 2000\r\n\r\n" + b"a" * 2000, 413),
    "a long body, announced": (POST + b"Content-Length: 2000\r\nExpect: 100-continue\r\n\r\n", 413),
    "a long chunk": (POST + b"Transfer-Encoding: chunked\r\n\r\n7d0\r\n" + b"a" * 2000, 413),
    "long chunks": (POST + b"Transfer-Encoding: chunked\r\n\r\n" + b"3e8\r\n%s\r\n" % (b"a" * 1000) * 2, 413),
    # A request in a body: a server that read it as a request would run what an attacker made up.
    "a request in a body": (POST + b"Content-Length: x\r\n\r\nGET /in-the-body HTTP/1.1\r\nHost: h\r\n\r\n", 400),
}


def test_the_table_has_what_it_takes() -> None:
    assert REFUSED["field: NUL"][0] == b"GET / HTTP/1.1\r\nHost: h\r\nX-A: a\x00b\r\n\r\n"
    assert len(REFUSED) > 70


@pytest.mark.parametrize("arrival", ["whole", "byte by byte", "with trailing data"])
@pytest.mark.parametrize("case", REFUSED)
def test_a_request_that_is_refused(start: Any, case: str, arrival: str, capsys: Any) -> None:
    """It gets one answer, with its status and no traceback; the application isn't called, the connection is closed."""
    request, status = REFUSED[case]
    application = Recorder()
    running = start(application, max_body=1000)
    answer = exchange(running.address, request, arrival, may_be_reset=True)
    assert ANSWER.findall(answer) == [b"%d" % status]
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"\r\nConnection: close" in head
    assert b"\r\nContent-Length: %d" % len(body) in head
    assert application.targets == []
    running.wait_until_all_are_gone()
    logged = capsys.readouterr().err
    assert "Traceback" not in logged
    assert logged.count("\n") == 2  # the error and the request


@pytest.mark.parametrize("arrival", ["whole", "byte by byte", "with trailing data"])
def test_nothing_is_parsed_behind_an_error(start: Any, arrival: str) -> None:
    """RFC 9112 section 11.2: the octets after a request that can't be parsed may be anything."""
    application = Recorder()
    answer = exchange(start(application).address, GET + b"GET  / HTTP/1.1\r\n\r\n" + GET, arrival, may_be_reset=True)
    assert ANSWER.findall(answer) == [b"200", b"400"]
    assert application.targets == ["/"]


@pytest.mark.parametrize("arrival", ["whole", "byte by byte"])
def test_asterisk_form(start: Any, arrival: str) -> None:
    """RFC 9112 section 3.2.4."""
    application = Recorder()
    with Client(start(application).address) as client:
        client.send(b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", arrival)
        assert client.reply().status == 200
    assert application.targets == ["*"]


@pytest.mark.parametrize("arrival", ["whole", "byte by byte"])
def test_empty_lines_before_a_request(start: Any, arrival: str) -> None:
    """RFC 9112 section 2.2: they are skipped, and aren't requests."""
    application = Recorder()
    with Client(start(application).address) as client:
        for _ in range(2):
            client.send(b"\r\n\r\n" + GET, arrival)
            assert client.reply().status == 200
        client.send(b"\r\n")
        client.sock.shutdown(socket.SHUT_WR)
        assert client.rest() == b""
    assert application.targets == ["/", "/"]


# ---- time -------------------------------------------------------------------------------------------

# RFC 9110 section 15.5.9. name: the octets sent, and the status; None: closed without an answer
UNFINISHED: dict[str, tuple[bytes, int | None]] = {
    "nothing": (b"", None),
    "an empty line": (b"\r\n", None),
    "half a line": (b"GET / HT", 408),
    "a line": (b"GET / HTTP/1.1\r\n", 408),
    "half a head": (b"GET / HTTP/1.1\r\nHost: h\r\nX-", 408),
    "a head without its end": (b"GET / HTTP/1.1\r\nHost: h\r\n", 408),
    "no body": (POST + b"Content-Length: 5\r\n\r\n", 408),
    "half a body": (POST + b"Content-Length: 5\r\n\r\nab", 408),
    "no chunk": (POST + b"Transfer-Encoding: chunked\r\n\r\n", 408),
    "half a chunk": (POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab", 408),
    "no last chunk": (POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n", 408),
    "no trailer": (POST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", 408),
}


@pytest.mark.parametrize("before", [b"", GET], ids=["first", "second"])
@pytest.mark.parametrize("case", UNFINISHED)
def test_what_isnt_complete_in_time(start: Any, case: str, before: bytes) -> None:
    data, status = UNFINISHED[case]
    application = Recorder()
    running = start(application, head_timeout=0.1, progress_timeout=0.1, keep_alive_timeout=0.1, linger_timeout=0.03)
    with Client(running.address) as client:
        client.send(before + data)
        if before:
            assert client.reply().status == 200
        answer = client.rest()
        assert ANSWER.findall(answer) == ([] if status is None else [b"408"])
        running.wait_until_all_are_gone()
    assert application.targets == ["/"] * bool(before)


def test_a_body_may_take_its_time_if_it_comes_on(start: Any) -> None:
    """The timeout of a body restarts whenever octets arrive."""
    with Client(start(Recorder(), progress_timeout=0.3).address) as client:
        client.send(POST + b"Content-Length: 8\r\n\r\n")
        client.sock.settimeout(0.1)
        for _ in range(8):
            with pytest.raises(TimeoutError):
                client.sock.recv(1)  # there is no answer yet, and 0.1 s pass
            client.sock.sendall(b"a")
        client.sock.settimeout(10)
        assert client.reply().body == b"a" * 8


def test_a_head_may_not(start: Any) -> None:
    """The timeout of a head counts from its start: single octets don't extend it."""
    with Client(start(Recorder(), head_timeout=0.4).address) as client:
        client.send(b"GET / HTTP/1.1\r\nX-A: ")
        client.sock.settimeout(0.1)
        for _ in range(100):
            try:
                assert client.sock.recv(1) == b"H"
                break
            except TimeoutError:
                client.sock.sendall(b"a")
        else:
            pytest.fail("ten seconds for a head")
        assert client.rest().startswith(b"TTP/1.1 408 ")


@pytest.mark.parametrize("data", [b"", b"\x16\x03\x01\x02\x00"], ids=["silent", "half a hello"])
def test_a_handshake_that_takes_too_long(start: Any, data: bytes) -> None:
    """It doesn't delay other clients, and it is ended."""
    running = start(Recorder(), tls=True, head_timeout=0.3)
    with Client(running.address) as silent:
        silent.send(data)
        for _ in range(3):
            with Client(running.address, tls=True) as client:
                assert client.get().status == 200
        assert silent.rest() == b""


class Slow:
    """An application that runs until the test ends it."""

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Event(), threading.Event()

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"first"
        if environ["PATH_INFO"] == "/slow":
            self.begun.set()
            assert self.may_end.wait(20)
        yield b"last"


def test_an_application_may_take_its_time_at_nobodys_cost(start: Any) -> None:
    """Its time isn't charged to clients: no timeout expires because of it."""
    application = Slow()
    running = start(application, head_timeout=0.2, progress_timeout=0.2, keep_alive_timeout=0.2)
    with Client(running.address) as slow, Client(running.address) as other, Client(running.address) as third:
        third.send(POST + b"Content-Length: 3\r\n\r\nab")
        other.get()
        slow.send(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")
        assert application.begun.wait(10)
        other.send(GET)
        third.send(b"c")
        slow.sock.settimeout(0.6)
        assert slow.head()
        assert slow.chunk() == b"first"
        with pytest.raises(TimeoutError):
            slow.sock.recv(1)
        application.may_end.set()
        assert slow.file.raw._sock is slow.sock  # type: ignore[attr-defined]
        assert other.reply().body == b"firstlast"
        assert third.reply().body == b"firstlast"


def test_a_long_answer_to_a_fast_reader(start: Any) -> None:
    """An answer may take any time if the client reads what is sent."""
    paused = threading.Event()

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        for i in range(2000):  # many turns of the loop
            if i % 400 == 0:
                paused.wait(0.1)
            yield b"%04d" % i

    with Client(start(application, progress_timeout=0.2).address) as client:
        assert client.get().body == b"".join(b"%04d" % i for i in range(2000))


# ---- several requests on a connection ---------------------------------------------------------------

PIPELINE = b"".join([
    b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\n",
    b"POST /2 HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc",
    b"\r\n",  # RFC 9112 section 2.2
    b"POST /3 HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n1\r\nf\r\n0\r\n\r\n",
    b"GET /4 HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"GET /5 HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
    b"GET /6 HTTP/1.1\r\nHost: h\r\n\r\n",
])  # fmt: skip


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("arrival", ["whole", "byte by byte"])
def test_requests_on_one_connection(start: Any, arrival: str, tls: bool) -> None:
    """RFC 9112 section 9.3.2: they are answered in order, and none after the one that closes."""
    application = Recorder()
    with Client(start(application, tls=tls).address, tls=tls) as client:
        try:
            client.send(PIPELINE, arrival)
        except OSError:
            assert arrival == "byte by byte"  # closed before the last
        assert [client.reply().body for _ in range(5)] == [b"", b"abc", b"def", b"", b""]
        with contextlib.suppress(ConnectionError):
            assert client.rest() == b""
    assert application.targets == ["/1", "/2", "/3", "/4", "/5"]


def test_many_requests_on_one_connection(start: Any) -> None:
    application = Recorder()
    with Client(start(application).address) as client:
        for _ in range(5):
            client.send(b"".join(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % i for i in range(1000)))
            for _ in range(1000):
                assert client.reply().status == 200
    assert application.targets == [f"/{i}" for i in range(1000)] * 5


@pytest.mark.parametrize("kind_of_answer", ["list", "generator", "write()"])
def test_a_request_waits_until_the_one_before_is_answered(start: Any, kind_of_answer: str) -> None:
    """A request waits as long as an octet of the answer before it still has to be sent."""
    size, events = 1 << 24, []

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        events.append(environ["PATH_INFO"])
        write = start_response("200 OK", [("Content-Length", str(size))])
        if kind_of_answer == "list":
            return [bytes(size)]
        if kind_of_answer == "generator":
            return (bytes(65536) for _ in range(size // 65536))
        for _ in range(size // 65536):
            write(bytes(65536))
        return []

    running: EventServer = start(application)
    with Client(running.address, room=4096) as client, Client(running.address) as other:
        client.send(b"GET /1 HTTP/1.1\r\nHost: h\r\n\r\nGET /2 HTTP/1.1\r\nHost: h\r\n\r\n")
        client.head()
        other.send(b"HEAD /3 HTTP/1.1\r\nHost: h\r\n\r\n")
        other.reply("HEAD")
        assert events == ["/1", "/3"]
        assert client.file.read(size) == bytes(size)
        assert client.reply().body == bytes(size)
        assert events == ["/1", "/3", "/2"]


# ---- 100 (Continue) ---------------------------------------------------------------------------------

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
EXPECT = b"Expect: 100-continue\r\n"


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (POST + EXPECT + b"Content-Length: 5\r\n\r\n", b"hello"),
        (POST + EXPECT + b"Transfer-Encoding: chunked\r\n\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
    ],
    ids=["length", "chunked"],
)
def test_100_continue(start: Any, head: bytes, body: bytes) -> None:
    """RFC 9110 section 10.1.1: it is sent once, before the application is called, to a client that waits for it."""
    application = Recorder()
    with Client(start(application).address) as client:
        for count in range(2):
            client.send(head)
            assert client.head() == CONTINUE
            assert len(application.targets) == count
            client.send(body, "byte by byte")
            assert client.reply().body == b"hello"


@pytest.mark.parametrize(
    "request_bytes",
    [
        POST + EXPECT + b"Content-Length: 5\r\n\r\nhello",
        POST + EXPECT + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b"POST / HTTP/1.0\r\nHost: h\r\n" + EXPECT + b"Content-Length: 5\r\n\r\nhello",
        POST + EXPECT + b"\r\n",
        POST + EXPECT + b"Content-Length: 0\r\n\r\n",
    ],
    ids=["body is there", "chunks are there", "HTTP/1.0", "no body", "empty body"],
)
def test_no_100_continue(start: Any, request_bytes: bytes) -> None:
    with Client(start(Recorder()).address) as client:
        client.send(request_bytes)
        assert client.reply().status == 200


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (EXPECT + b"Content-Length: 2000\r\n", 413),
        (EXPECT + b"Content-Length: 5\r\nContent-Length: 5\r\n", 400),
        (b"Expect: 100-continue, more\r\nContent-Length: 5\r\n", 417),
    ],
)
def test_no_100_continue_for_what_is_refused(start: Any, fields: bytes, status: int) -> None:
    with Client(start(Recorder(), max_body=1000).address) as client:
        client.send(POST + fields + b"\r\n")
        assert client.reply().status == status
        assert client.rest() == b""


# ---- the end of a connection ------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_client_that_goes_on_sending_can_read_why_it_is_refused(start: Any, framing: str) -> None:
    """RFC 9112 section 9.6: closing with unread octets would reset the connection, and the answer would be lost."""
    with Client(start(Recorder(), max_body=1000).address) as client:
        if framing == "length":
            client.send(POST + b"Content-Length: 8000000\r\n\r\n")
            block = bytes(65536)
        else:
            client.send(POST + b"Transfer-Encoding: chunked\r\n\r\n")
            block = b"10000\r\n" + bytes(65536) + b"\r\n"
        for _ in range(120):
            client.send(block)  # everything is accepted, because the server reads and drops it
        assert client.reply().status == 413
        assert client.rest() == b""


def test_the_server_waits_only_so_long_for_a_client_to_close(start: Any) -> None:
    running = start(Recorder(), linger_timeout=0.1)
    with Client(running.address) as client:
        client.send(b"x\r\n\r\n")
        assert client.reply().status == 400
        assert client.rest() == b""
        running.wait_until_all_are_gone()


@pytest.mark.parametrize("data", [b"", b"\r\n", b"\r"])
def test_a_client_that_says_nothing(start: Any, data: bytes, capsys: Any) -> None:
    """It may leave without an answer and without a log line."""
    running = start(Recorder())
    for leave in (Client.close, Client.reset):
        client = Client(running.address)
        client.send(data)
        running.wait_until(lambda: running.connections)
        leave(client)
        running.wait_until_all_are_gone()
    assert '" 400 ' not in capsys.readouterr().err or data == b"\r"


def test_a_half_closed_connection_is_answered(start: Any) -> None:
    """RFC 9112 section 9.6: a client may close its half when it has sent its last request."""
    with Client(start(Recorder()).address) as client:
        client.send(GET * 3)
        client.sock.shutdown(socket.SHUT_WR)
        for _ in range(3):
            assert client.reply().status == 200
        assert client.rest() == b""


def test_shutdown_lets_answers_be_read(start: Any) -> None:
    """Answers that have begun are completed; idle connections are closed."""
    size = 1 << 24

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [bytes(size)]

    running: EventServer = start(application, graceful_timeout=10.0)
    with Client(running.address) as idle, Client(running.address, room=4096) as reader:
        idle.send(b"\r\n")
        reader.send(GET)
        reader.head()
        stopper = threading.Thread(target=running.server.shutdown)
        stopper.start()
        assert idle.rest() == b""
        assert stopper.is_alive()
        assert reader.file.read(size) == bytes(size)
        assert reader.rest() == b""
        stopper.join(10)
        assert not stopper.is_alive()


def test_nothing_is_accepted_during_shutdown(start: Any) -> None:
    """Not even when deadlines are checked while other clients read their answers."""
    application = returning(lambda: [bytes(1 << 24)])
    running: EventServer = start(application, graceful_timeout=10.0, linger_timeout=0.04)
    with Client(running.address, room=4096) as reader:
        reader.send(GET)
        reader.head()
        stopper = threading.Thread(target=running.server.shutdown)
        stopper.start()
        inside = running.server._inside.loop
        running.wait_until(lambda: inside.phase in (RETIRED, STOPPED))
        sweep = inside._next_sweep
        with connect(running.address):
            running.wait_until(lambda: inside._next_sweep > sweep + 0.02)
            assert len(inside.connections) == 1
        reader.reset()
        stopper.join(10)


def test_what_a_hook_raises_ends_one_connection(start: Any, capsys: Any) -> None:
    """As in socketserver: handle_error() is called, the client gets no answer, and other clients are still served."""
    hook: dict[str, Any] = {}

    def get_environ(self: Any) -> Any:
        if self.path == "/bad":
            raise LookupError("on purpose")
        return super(hook["class"], self).get_environ()

    attributes: dict[str, Any] = {"get_environ": get_environ}
    running = start(Recorder(), attributes=attributes)
    hook["class"] = running.server.RequestHandlerClass
    with Client(running.address) as bad, Client(running.address) as good:
        bad.send(b"POST /bad HTTP/1.1\r\nHost: h\r\nContent-Length: 600000\r\n\r\n" + bytes(600_000))
        with pytest.raises((CutShortError, ConnectionError)):
            bad.reply()
        assert good.get().status == 200
    assert "LookupError: on purpose" in capsys.readouterr().err


def test_the_last_answer_says_so(start: Any) -> None:
    """RFC 9112 section 9.6: a server announces in its last answer that it will close the connection."""
    running: EventServer = start(Recorder())
    with Client(running.address) as client:
        client.send(GET)
        assert "Connection" not in client.reply().fields
        running.server.shutdown()
        running.server.timeout = 10
        with Client(running.address) as other:
            other.send(GET * 2)
            running.server.handle_request()
            assert other.reply().fields["Connection"] == "close"
            assert other.rest() == b""


def test_an_idle_connection_holds_nothing(start: Any) -> None:
    running: EventServer = start(Recorder())
    with Client(running.address) as client:
        client.send(POST + b"Content-Length: 600000\r\n\r\n" + bytes(600_000))
        assert len(client.reply().body) == 600_000
        client.get()
        (connection,) = running.connections
        names = ("body", "buffer", "request", "output", "response")
        running.wait_until(lambda: all(getattr(connection, name) is None for name in names))


@pytest.mark.parametrize("how", ["answered", "fails", "client goes"])
def test_the_file_of_a_large_body_is_closed(start: Any, how: str) -> None:
    bodies: list[Any] = []

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        bodies.append(environ["wsgi.input"])
        start_response("200 OK", [])
        yield b"abc"
        if how == "fails":
            raise LookupError("on purpose")
        while how == "client goes":
            yield bytes(65536)

    running: EventServer = start(application)
    with Client(running.address) as client:
        client.send(POST + b"Content-Length: 600000\r\n\r\n" + bytes(600_000))
        client.head()
        if how == "client goes":
            client.reset()
        running.wait_until(lambda: bodies[0].closed)


def test_a_half_sent_head_behind_a_request_has_a_heads_time(start: Any) -> None:
    running: EventServer = start(Recorder(), head_timeout=1000.0, progress_timeout=5.0, keep_alive_timeout=5.0)
    with Client(running.address) as client:
        client.send(POST + b"Content-Length: 3\r\n\r\nabc" + b"GET / HTTP")
        assert client.reply().body == b"abc"
        running.wait_until(lambda: running.connections[0].deadline - time.monotonic() > 900)


def test_an_application_that_has_nothing_to_say_yet_blocks_nobody(start: Any) -> None:
    """PEP 3333, "Middleware Handling of Block Boundaries": an iterable yields empty blocks while it waits."""
    begun: list[bool] = []
    done: list[bool] = []

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        if environ["PATH_INFO"] == "/done":
            done.append(True)
        while not done:
            begun.append(True)
            yield b""
        yield b"done"

    running: EventServer = start(application)
    with Client(running.address) as waiting, Client(running.address) as other:
        waiting.send(GET)
        running.wait_until(lambda: begun)
        assert other.get("/done").body == b"done"
        assert waiting.reply().body == b"done"


@pytest.mark.parametrize("end", ["Connection: close", "HTTP/1.0", "idle", "refused"])
def test_tls_ends_with_a_closure_alert(start: Any, end: str) -> None:
    """RFC 9112 section 9.8: without the alert, an attacker may have truncated the answer."""
    data = {
        "Connection: close": b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
        "HTTP/1.0": b"GET / HTTP/1.0\r\n\r\n",
        "idle": GET,
        "refused": b"GET /\r\n\r\n",
    }[end]

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"abc"

    running: EventServer = start(application, tls=True, keep_alive_timeout=0.05, linger_timeout=0.05)
    with Client(running.address, tls=True, strict=True) as client:
        client.send(data)
        client.reply()
        assert client.rest() == b""


def test_tls_has_no_closure_alert_for_an_answer_that_fails(start: Any) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        yield b"abc"
        raise LookupError("on purpose")

    with Client(start(application, tls=True).address, tls=True, strict=True) as client:
        client.send(b"GET / HTTP/1.0\r\n\r\n")
        with pytest.raises(OSError, match=r"EOF|reset"):
            client.reply()
