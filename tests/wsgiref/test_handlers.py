"""The handlers: their output, and the call of each overridden hook."""

from __future__ import annotations

import io
import re
import sys
from types import SimpleNamespace
from typing import Any

import pytest

pytestmark = pytest.mark.shared

ENVIRON = {"SERVER_PROTOCOL": "HTTP/1.1", "REQUEST_METHOD": "GET", "PATH_INFO": "/"}
DATE = ("Date", "Mon, 05 Jun 2006 18:49:54 GMT")

# Every method between run() and the stream that a subclass may override.
HOOKS = [
    "setup_environ", "add_cgi_vars", "get_stdin", "get_stderr", "get_scheme", "start_response",
    "finish_response", "result_is_file", "write", "send_headers", "cleanup_headers",
    "set_content_length", "client_is_modern", "send_preamble", "_write", "_flush", "finish_content", "close",
]  # fmt: skip


def hello(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain"), DATE])
    return [b"Hello, world!"]


HELLO = b"HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n" + b"Date: %s\r\n" % DATE[1].encode()


class Streams:
    """A handler's three streams."""

    def __init__(self) -> None:
        self.stdin, self.stdout, self.stderr = io.BytesIO(), io.BytesIO(), io.StringIO()

    def __iter__(self) -> Any:
        return iter((self.stdin, self.stdout, self.stderr))

    @property
    def sent(self) -> bytes:
        return self.stdout.getvalue()

    @property
    def logged(self) -> str:
        return self.stderr.getvalue()


def run(handler_class: Any, application: Any, **environ: str) -> tuple[Any, Streams]:
    streams = Streams()
    handler = handler_class(*streams, {**ENVIRON, **environ})
    handler.run(application)
    return handler, streams


@pytest.fixture
def simple(wsgi: SimpleNamespace) -> Any:
    return wsgi.handlers.SimpleHandler


def test_one_block(simple: Any) -> None:
    handler, streams = run(simple, hello)
    assert streams.sent == HELLO + b"Content-Length: 13\r\n\r\nHello, world!"
    assert streams.logged == ""
    assert (handler.status, handler.headers, handler.result, handler.environ) == (None, None, None, None)
    assert (handler.bytes_sent, handler.headers_sent) == (0, False)


def test_a_handler_may_run_again(simple: Any) -> None:
    handler, streams = run(simple, hello)
    once = streams.sent
    handler.run(hello)
    assert streams.sent == once * 2


@pytest.mark.parametrize(
    ("result", "framing", "body"),
    [
        ([b"a", b"b"], b"", b"ab"),
        ((b"a",), b"Content-Length: 1\r\n", b"a"),
        ([b""], b"Content-Length: 0\r\n", b""),
        ([], b"Content-Length: 0\r\n", b""),
        (iter([b"a"]), b"", b"a"),
        ({b"a": 1}, b"Content-Length: 1\r\n", b"a"),
    ],
    ids=["two blocks", "tuple", "empty block", "no block", "iterator", "another sized iterable"],
)
def test_bodies(simple: Any, result: Any, framing: bytes, body: bytes) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain"), DATE])
        return result

    _, streams = run(simple, application)
    assert streams.sent == HELLO + framing + b"\r\n" + body
    assert streams.logged == ""


def test_a_generator_may_start_the_response(simple: Any) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain"), DATE])
        yield b"a"

    assert run(simple, application)[1].sent == HELLO + b"\r\na"


def test_write(simple: Any) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        write = start_response("200 OK", [("Content-Type", "text/plain"), DATE])
        write(b"a")
        write(b"b")
        return [b"c"]

    assert run(simple, application)[1].sent == HELLO + b"\r\nabc"


def test_defaults_are_not_added_twice(simple: Any) -> None:
    class Named(simple):
        server_software = "Test/1"

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        fields = [("date", "today"), ("SERVER", "Other"), ("content-length", "2")]
        start_response("204 No Content", fields)
        return [b"ab"]

    assert run(Named, application)[1].sent == (
        b"HTTP/1.0 204 No Content\r\ndate: today\r\nSERVER: Other\r\ncontent-length: 2\r\n\r\nab"
    )


def test_date_and_server(simple: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Named(simple):
        server_software = "Test/1"
        http_version = "1.1"

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        return [b"a"]

    for second, text in ((0.9, "Thu, 01 Jan 1970 00:00:00 GMT"), (1e9, "Sun, 09 Sep 2001 01:46:40 GMT")):
        monkeypatch.setattr("time.time", lambda second=second: second)
        assert run(Named, application)[1].sent == (
            f"HTTP/1.1 200 OK\r\nDate: {text}\r\nServer: Test/1\r\nContent-Length: 1\r\n\r\na".encode()
        )


def test_environ(wsgi: SimpleNamespace, simple: Any) -> None:
    class Named(simple):
        server_software = "Test/1"
        os_environ = {"HOME": "/root", "PATH_INFO": "process's"}  # noqa: RUF012

    seen: list[dict[str, Any]] = []

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        seen.append(dict(environ))
        return hello(environ, start_response)

    _, streams = run(Named, application, HTTPS="on")
    assert seen == [
        {
            **ENVIRON,
            "HOME": "/root",
            "HTTPS": "on",
            "SERVER_SOFTWARE": "Test/1",
            "wsgi.input": streams.stdin,
            "wsgi.errors": streams.stderr,
            "wsgi.version": (1, 0),
            "wsgi.run_once": False,
            "wsgi.url_scheme": "https",
            "wsgi.multithread": True,
            "wsgi.multiprocess": False,
            "wsgi.file_wrapper": wsgi.util.FileWrapper,
        }
    ]
    assert "SERVER_SOFTWARE" not in Named.os_environ


def test_a_changed_os_environ_is_seen_by_the_next_request(simple: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    class Own(simple):
        os_environ = {"A": "1"}  # noqa: RUF012

    seen: list[Any] = []

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        seen.append(environ.get("A"))
        return hello(environ, start_response)

    run(Own, application)
    Own.os_environ["A"] = "2"
    run(Own, application)
    monkeypatch.setattr(Own, "os_environ", {"A": "3"})
    run(Own, application)
    handler = Own(*Streams(), ENVIRON)
    handler.os_environ = {"A": "4"}
    handler.run(application)
    assert seen == ["1", "2", "3", "4"]


def test_file_wrapper(wsgi: SimpleNamespace, simple: Any) -> None:
    file = io.BytesIO(b"0123456789")

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain"), DATE])
        return environ["wsgi.file_wrapper"](file, 4)

    _, streams = run(simple, application)
    assert streams.sent == HELLO + b"\r\n0123456789"
    assert file.closed


def test_sendfile_takes_over(simple: Any) -> None:
    class Sending(simple):
        def sendfile(self) -> bool:
            self.send_headers()
            self._write(b"sent")
            return True

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain"), DATE])
        return environ["wsgi.file_wrapper"](io.BytesIO(b"read"))

    assert run(Sending, application)[1].sent == HELLO + b"\r\nsent"


# ---- hooks ------------------------------------------------------------------------------------------


def recording(cls: Any, hook: str, calls: list[str]) -> Any:
    original = getattr(cls, hook)

    def method(self: Any, *args: Any) -> Any:
        calls.append(hook)
        return original(self, *args)

    return method


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("how", ["subclass", "instance", "patched later"])
@pytest.mark.parametrize("blocks", [1, 2])
def test_an_overridden_hook_is_called(
    simple: Any, hook: str, how: str, blocks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        return [b"Hello"] * blocks

    class Named(simple):
        server_software = "Test/1"

    monkeypatch.setattr("time.time", lambda: 0.0)
    _, untouched = run(Named, application)
    calls: list[str] = []
    method = recording(Named, hook, calls)
    streams = Streams()
    if how == "subclass":
        Named = type("Own", (Named,), {hook: method})  # noqa: N806
    handler = Named(*streams, ENVIRON)
    if how == "instance":
        setattr(handler, hook, method.__get__(handler))
    elif how == "patched later":
        monkeypatch.setattr(simple, hook, method)
    handler.run(application)
    assert calls
    assert set(calls) == {hook}
    assert streams.sent == untouched.sent
    assert streams.logged == ""


@pytest.mark.parametrize(
    ("attribute", "value", "expected"),
    [
        ("http_version", "1.1", b"HTTP/1.1 200 OK\r\n"),
        ("server_software", "Mine/1", b"\r\nServer: Mine/1\r\n"),
        ("origin_server", False, b"Status: 200 OK\r\n"),
    ],
)
@pytest.mark.parametrize("how", ["instance", "patched later"])
def test_an_attribute_set_later_is_honoured(
    simple: Any, attribute: str, value: Any, expected: bytes, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(simple, hello)
    streams = Streams()
    handler = simple(*streams, ENVIRON)
    if how == "instance":
        setattr(handler, attribute, value)
    else:
        monkeypatch.setattr(simple, attribute, value)
    handler.run(hello)
    assert expected in streams.sent


def test_a_class_with_its_own_attribute_access(simple: Any) -> None:
    asked: set[str] = set()

    class Own(simple):
        def __getattribute__(self, name: str) -> Any:
            asked.add(name)
            return super().__getattribute__(name)

    _, streams = run(Own, hello)
    assert streams.sent == HELLO + b"Content-Length: 13\r\n\r\nHello, world!"
    assert {"setup_environ", "os_environ", "finish_response", "send_preamble", "http_version"} <= asked


def test_headers_class(wsgi: SimpleNamespace, simple: Any) -> None:
    class Loud(wsgi.headers.Headers):
        def __bytes__(self) -> bytes:
            return b"X-Loud: yes\r\n\r\n"

    class Own(simple):
        headers_class = Loud

    assert run(Own, hello)[1].sent == b"HTTP/1.0 200 OK\r\nX-Loud: yes\r\n\r\nHello, world!"


def test_no_file_wrapper(simple: Any) -> None:
    class Own(simple):
        wsgi_file_wrapper = None

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        assert "wsgi.file_wrapper" not in environ
        return hello(environ, start_response)

    assert run(Own, application)[1].sent.endswith(b"Hello, world!")


def test_close_sees_the_finished_response(simple: Any) -> None:
    seen: list[Any] = []

    class Logging(simple):
        def close(self) -> None:
            seen.append((self.status, self.bytes_sent, self.headers_sent, self.result, self.headers["content-type"]))
            super().close()

    run(Logging, hello)
    assert seen == [("200 OK", 13, True, [b"Hello, world!"], "text/plain")]


@pytest.mark.parametrize("hook", ["_write", "_flush"])
def test_output_hooks_see_the_state(simple: Any, hook: str) -> None:
    seen: list[Any] = []

    class Watching(simple):
        def _write(self, data: bytes) -> None:
            if hook == "_write":
                seen.append((self.status, self.headers_sent, self.bytes_sent, self.headers["a"], self.result))
            super()._write(data)

        def _flush(self) -> None:
            if hook == "_flush":
                seen.append((self.status, self.headers_sent, self.bytes_sent, self.headers["a"], self.result))
            super()._flush()

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [("A", "1")])
        return [b"x"]

    run(Watching, application)
    assert seen[-1] == ("200 OK", True, 1, "1", [b"x"])


def test_odd_classes_take_the_long_way(simple: Any) -> None:
    class Meta(type):
        server_software = property(lambda cls: "meta")

    class ByMeta(simple, metaclass=Meta):
        pass

    class OwnDict(simple):
        attributes: dict[str, Any] = {}  # noqa: RUF012
        __dict__ = property(lambda self: None)  # type: ignore[assignment]

    for cls in (ByMeta, OwnDict):
        _, streams = run(cls, hello)
        assert streams.sent == HELLO + b"Content-Length: 13\r\n\r\nHello, world!"


def test_state_left_by_a_failure_is_minded(simple: Any) -> None:
    class Failing:
        def write(self, data: bytes) -> None:
            raise BrokenPipeError

    streams = Streams()
    handler = simple(streams.stdin, Failing(), streams.stderr, ENVIRON)
    handler.run(hello)
    handler.stdout = streams.stdout
    handler.run(hello)
    assert "Headers already set!" in streams.logged


def test_what_comes_after_the_end_is_refused(simple: Any) -> None:
    late: list[Any] = []

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        late.append(start_response("200 OK", [DATE]))
        return [b"x"]

    _, streams = run(simple, application)
    before = streams.sent
    with pytest.raises(AssertionError, match=r"^write\(\) before start_response\(\)$"):
        late[0](b"LATE")
    assert streams.sent == before


class Meddling:
    """A body that changes the application's list of headers when its length is read, while the head is made."""

    def __init__(self, fields: list[Any], meddle: Any) -> None:
        self.fields, self.meddle = fields, meddle

    def __len__(self) -> int:
        self.meddle(self.fields)
        return 1

    def __iter__(self) -> Any:
        return iter([b"x"])


@pytest.mark.parametrize(
    "meddle",
    [
        lambda fields: fields.extend([("X-Long", "A" * 5000)] * 9),
        lambda fields: fields.clear(),
        lambda fields: fields.__setitem__(0, ("B", "2" * 3000)),
        lambda fields: fields.append(None),
        pytest.param(
            lambda fields: fields.append(("C", "3\r\n\r\nD: 4")), marks=pytest.mark.differs("control-characters")
        ),
    ],
    ids=["grow", "shrink", "replace", "spoil", "inject"],
)
def test_a_list_that_changes_while_the_head_is_made(simple: Any, meddle: Any) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        fields = [("A", "1" * 900), DATE]
        start_response("200 OK", fields)
        return Meddling(fields, meddle)

    _, streams = run(simple, application)
    head, _, body = streams.sent.partition(b"\r\n\r\n")
    assert re.fullmatch(rb"HTTP/1\.0 [0-9]{3} [ -~]*(\r\n[A-Za-z-]+: [ -~]*)*", head)
    assert b"D: 4" not in head
    assert body in (b"x", SORRY, b"")


def test_a_clock_that_changes_the_list(simple: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fields = [("A", "1")]

    def clock() -> float:
        fields.extend([("X-Long", "A" * 5000)] * 9)
        return 0.0

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", fields)
        return [b"x"]

    monkeypatch.setattr("time.time", clock)
    _, streams = run(simple, application)
    assert re.fullmatch(rb"HTTP/1\.0 200 OK(\r\n[A-Za-z-]+: [ -~]*)*\r\n\r\nx", streams.sent)


def test_a_large_block_isnt_copied_behind_the_head(simple: Any) -> None:
    block = b"x" * 1_000_000
    pieces: list[Any] = []

    class Stream:
        def write(self, data: bytes) -> None:
            pieces.append(data)

        def flush(self) -> None:
            pieces.append("flush")

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        return [block]

    simple(io.BytesIO(), Stream(), io.StringIO(), ENVIRON).run(application)
    assert pieces[-2] is block
    assert pieces[-1] == "flush"
    assert b"Content-Length: 1000000\r\n" in b"".join(pieces[:-2])


# ---- errors -----------------------------------------------------------------------------------------

SORRY = b"A server error occurred.  Please contact the administrator."


def failing(steps: str) -> Any:
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        if "start" in steps:
            write = start_response("200 OK", [("Content-Type", "text/plain"), DATE])
            if "write" in steps:
                write(b"some")
        if "raise" in steps:
            raise LookupError("on purpose")
        return [b"Hello"] if "bytes" in steps else ["Hello"]

    return application


@pytest.mark.parametrize("steps", ["raise", "start raise", "return bytes", "start return str"])
def test_an_error_before_the_head_is_answered(simple: Any, steps: str) -> None:
    handler, streams = run(simple, failing(steps))
    assert re.fullmatch(
        rb"HTTP/1\.0 500 Internal Server Error\r\nDate: [^\r]*\r\nContent-Type: text/plain\r\n"
        rb"Content-Length: 59\r\n\r\n" + re.escape(SORRY),
        streams.sent,
    )
    assert streams.logged.startswith("Traceback")
    assert "on purpose" not in streams.sent.decode()
    assert handler.result is None


def test_an_error_after_the_head_is_only_logged(simple: Any) -> None:
    _, streams = run(simple, failing("start write raise"))
    assert streams.sent == HELLO + b"\r\nsome"
    assert "LookupError: on purpose" in streams.logged


def test_error_attributes(simple: Any) -> None:
    class Own(simple):
        error_status = "503 Busy"
        error_headers = [("X-Why", "test")]  # noqa: RUF012
        error_body = b"busy"
        traceback_limit = 0

    _, streams = run(Own, failing("raise"))
    assert streams.sent.startswith(b"HTTP/1.0 503 Busy\r\n")
    assert streams.sent.endswith(b"X-Why: test\r\nContent-Length: 4\r\n\r\nbusy")
    assert Own.error_headers == [("X-Why", "test")]
    assert 'File "' not in streams.logged


def test_exc_info_before_the_head_replaces_it(simple: Any) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [("X-First", "yes")])
        try:
            raise LookupError
        except LookupError:
            start_response("500 Oh", [("X-Second", "yes")], sys.exc_info())
        return [b"sorry"]

    sent = run(simple, application)[1].sent
    assert sent.startswith(b"HTTP/1.0 500 Oh\r\n")
    assert b"X-First" not in sent
    assert b"X-Second: yes\r\n" in sent


def test_exc_info_after_the_head_is_raised(simple: Any) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain"), DATE])(b"some")
        try:
            raise LookupError("on purpose")
        except LookupError:
            start_response("500 Oh", [], sys.exc_info())
        return [b"never"]

    _, streams = run(simple, application)
    assert streams.sent == HELLO + b"\r\nsome"
    assert "LookupError: on purpose" in streams.logged


@pytest.mark.parametrize("fails", [False, True])
def test_the_iterable_is_closed_once(simple: Any, fails: bool) -> None:
    class Body:
        closed = 0

        def __init__(self, fails: bool) -> None:
            self.blocks = iter([b"a", "no bytes" if fails else b"b"])

        def __iter__(self) -> Any:
            return self.blocks

        def close(self) -> None:
            self.closed += 1

    body = Body(fails)

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        return body

    _, streams = run(simple, application)
    assert body.closed == 1
    assert streams.sent.endswith(b"\r\n\r\na" if fails else b"\r\n\r\nab")
    assert ("AssertionError" in streams.logged) is fails


@pytest.mark.parametrize("error", [ConnectionAbortedError, BrokenPipeError, ConnectionResetError])
@pytest.mark.parametrize("blocks", [1, 2])
def test_a_client_that_went_away_is_no_error(simple: Any, error: type[Exception], blocks: int) -> None:
    class Gone:
        def write(self, data: bytes) -> None:
            raise error

        def flush(self) -> None:
            raise AssertionError("nothing was written")

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        return [b"a"] * blocks

    stderr = io.StringIO()
    handler = simple(io.BytesIO(), Gone(), stderr, ENVIRON)
    handler.run(application)
    assert stderr.getvalue() == ""
    assert handler.status == "200 OK"
    assert handler.headers_sent
    assert handler.result == [b"a"] * blocks


def test_a_failing_stream_keeps_the_state(simple: Any) -> None:
    class Failing:
        def write(self, data: bytes) -> None:
            raise OSError("on purpose")

    stderr = io.StringIO()
    handler = simple(io.BytesIO(), Failing(), stderr, ENVIRON)
    handler.run(hello)
    assert "OSError: on purpose" in stderr.getvalue()
    assert handler.status == "200 OK"
    assert handler.environ["PATH_INFO"] == "/"
    assert handler.headers["content-type"] == "text/plain"
    assert handler.result == [b"Hello, world!"]


@pytest.mark.parametrize("blocks", [1, 2])
def test_a_stream_that_writes_parts(simple: Any, blocks: int) -> None:
    written = bytearray()

    class Partial:
        def write(self, data: bytes) -> int:
            written.extend(data[:7])
            return len(data[:7])

        def flush(self) -> None:
            pass

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [DATE])
        return [b"Hello, world!"] * blocks

    with pytest.warns(DeprecationWarning, match="should not do partial writes"):
        simple(io.BytesIO(), Partial(), io.StringIO(), ENVIRON).run(application)
    assert written.endswith(b"\r\n\r\n" + b"Hello, world!" * blocks)


def test_a_second_start_response_needs_exc_info(simple: Any) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        start_response("200 OK", [])
        return [b"never"]

    _, streams = run(simple, application)
    assert "AssertionError: Headers already set!" in streams.logged
    assert streams.sent.endswith(SORRY)


BAD_STARTS = {
    "short": ("200", [], "AssertionError: Status must be at least 4 characters"),
    "no code": ("20X OK", [], "AssertionError: Status message must begin w/3-digit code"),
    "no space": ("200OK", [], "AssertionError: Status message must have a space after code"),
    "bytes status": (b"200 OK", [], "AssertionError: Status must be of type str (got b'200 OK')"),
    "tuple": ("200 OK", (), "TypeError: Headers must be a list of name/value tuples"),
    "bytes name": ("200 OK", [(b"A", "1")], "AssertionError: Header names/values must be of type str (got b'A')"),
    "hop-by-hop": ("200 OK", [("Connection", "x")], "AssertionError: Hop-by-hop header, 'Connection: x', not allowed"),
}


@pytest.mark.parametrize("case", BAD_STARTS)
def test_a_bad_start(simple: Any, case: str) -> None:
    status, headers, message = BAD_STARTS[case]

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response(status, headers)
        return [b"never"]

    _, streams = run(simple, application)
    assert message in streams.logged.splitlines()[-2:]
    assert streams.sent.endswith(SORRY)


@pytest.mark.differs("control-characters")
@pytest.mark.parametrize(
    ("status", "headers"),
    [("200 O\r\nK", []), ("200 OK\x00", []), ("200 OK", [("A\n", "1")]), ("200 OK", [("A", "1\r\nB: 2")])],
)
def test_injection(simple: Any, status: str, headers: Any) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response(status, headers)
        return [b"never"]

    _, streams = run(simple, application)
    assert "ValueError: Control characters" in streams.logged
    assert streams.sent.endswith(SORRY)
    assert b"B: 2" not in streams.sent


@pytest.mark.differs("control-characters")
def test_injection_after_start_response(simple: Any) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        fields = [("A", "1")]
        start_response("200 OK", fields)
        fields.append(("B", "2\r\n\r\nC: 3"))
        return [b"never"]

    _, streams = run(simple, application)
    assert "ValueError: Control characters" in streams.logged
    assert b"C: 3" not in streams.sent


def test_keyboard_interrupt_passes_through_a_handler_that_lets_it(simple: Any) -> None:
    class Passing(simple):
        def handle_error(self) -> None:
            raise  # noqa: PLE0704 - the one being handled

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(Passing, application)


# ---- CGI --------------------------------------------------------------------------------------------


def test_a_gateway_gets_a_status_line(wsgi: SimpleNamespace) -> None:
    _, streams = run(wsgi.handlers.BaseCGIHandler, hello)
    assert streams.sent == HELLO.replace(b"HTTP/1.0", b"Status:") + b"Content-Length: 13\r\n\r\nHello, world!"


def test_base_handler_wants_its_hooks(wsgi: SimpleNamespace) -> None:
    handler = wsgi.handlers.BaseHandler()
    for hook in ("_flush", "get_stdin", "get_stderr", "add_cgi_vars"):
        with pytest.raises(NotImplementedError):
            getattr(handler, hook)()
    with pytest.raises(NotImplementedError):
        handler._write(b"")


def test_http_0_9_gets_the_body_alone(simple: Any) -> None:
    assert run(simple, hello, SERVER_PROTOCOL="HTTP/0.9")[1].sent == b"Hello, world!"


def test_read_environ_gives_octets_as_characters(wsgi: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH_INFO", "/caf\u00e9")
    monkeypatch.setenv("REDIRECT_REDIRECT_HTTP_X", "\u20ac")
    monkeypatch.setenv("UNRELATED", "caf\u00e9")
    environ = wsgi.handlers.read_environ()
    assert environ["PATH_INFO"] == "/caf\u00c3\u00a9"
    assert environ["REDIRECT_REDIRECT_HTTP_X"] == "\u00e2\u0082\u00ac"
    assert environ["UNRELATED"] == "caf\u00e9"
