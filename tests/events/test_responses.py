"""The framing of responses on the event-driven path, their limits, and the errors of applications."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clients import GET, OLD, Client, CutShortError
from fastwsgi.handlers import BaseHandler
from fastwsgi.validate import validator
from servers import ALL_KINDS, BLOCK, of, returning, starting

start = pytest.fixture(params=ALL_KINDS)(starting)


class Sized:
    """An iterable that isn't a list and has a length."""

    def __init__(self, *blocks: Any) -> None:
        self.blocks = blocks

    def __len__(self) -> int:
        return len(self.blocks)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.blocks)


# ---- framing ----------------------------------------------------------------------------------------


def late(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    """PEP 3333: start_response() may be called as late as with the first block."""
    start_response("200 OK", [])
    yield b"abc"
    yield b"def"


def writing(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """PEP 3333, "The write() Callable"."""
    write = start_response("200 OK", [])
    write(b"ab")
    write(b"")
    write(b"c")
    return [b"def"]


def only_writing(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [])(b"abcdef")
    return []


def replacing(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """PEP 3333, "Error Handling": with exc_info, headers that weren't sent can be replaced."""
    start_response("500 Not yet", [("X-First", "1")])
    try:
        raise ValueError
    except ValueError:
        start_response("200 OK", [], sys.exc_info())
    return [b"abcdef"]


# name: application, body, its length if known, and the length if known for HEAD
BODIES: dict[str, tuple[Any, bytes, int | None, int | None]] = {
    "list": (returning(lambda: [b"abc", b"def"]), b"abcdef", 6, 6),
    "tuple": (returning(lambda: (b"abc", b"", b"def")), b"abcdef", 6, 6),
    "empty list": (returning(list), b"", 0, None),
    "list of an empty block": (returning(lambda: [b""]), b"", 0, None),
    "large list": (returning(lambda: [BLOCK, BLOCK]), BLOCK * 2, len(BLOCK) * 2, len(BLOCK) * 2),
    "iterable of one block": (returning(lambda: Sized(b"abcdef")), b"abcdef", 6, 6),
    "iterable of two blocks": (returning(lambda: Sized(b"abc", b"def")), b"abcdef", None, None),
    "generator": (of(b"abc", b"def"), b"abcdef", None, None),
    "generator without blocks": (of(), b"", 0, None),
    "generator of empty blocks": (of(b"", b""), b"", 0, None),
    "empty blocks between others": (of(b"", b"abc", b"", b"def", b""), b"abcdef", None, None),
    "late start_response": (late, b"abcdef", None, None),
    "write()": (writing, b"abcdef", None, None),
    "only write()": (only_writing, b"abcdef", None, None),
    "exc_info before headers": (replacing, b"abcdef", 6, 6),
    "its own length": (of(b"abc", b"def", headers=[("Content-Length", "6")]), b"abcdef", 6, 6),
    "its own length 0": (of(headers=[("content-length", "0")]), b"", 0, 0),
    "bytes": (returning(lambda: (bytes([octet]) for octet in b"abcdef")), b"abcdef", None, None),
}

# RFC 9112 section 9.3. name: request, whether the client uses HTTP/1.1, whether it keeps the connection open
REQUESTS: dict[str, tuple[bytes, bool, bool]] = {
    "1.1": (GET, True, True),
    "1.1 close": (b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n", True, False),
    "1.1 close among others": (b"GET / HTTP/1.1\r\nHost: h\r\nConnection: a, CLOSE ,b\r\n\r\n", True, False),
    "1.0": (OLD, False, False),
    "1.0 keep-alive": (b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n", False, True),
    "1.0 both": (b"GET / HTTP/1.0\r\nConnection: keep-alive, close\r\n\r\n", False, False),
}


@pytest.mark.parametrize("arrival", ["whole", "byte by byte", "with trailing data"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("body", BODIES)
def test_an_answer_and_its_framing(start: Any, body: str, method: str, arrival: str) -> None:
    """RFC 9112 sections 6 and 9, RFC 9110 sections 8.6 and 9.3.2."""
    application, content, *lengths = BODIES[body]
    length = lengths[method == "HEAD"]
    address = start(application).address
    for request, modern, may_stay in REQUESTS.values():
        delimited = length is not None or modern or method == "HEAD"
        stays = may_stay and delimited
        fields: dict[str, str] = {}
        if length is not None:
            fields["Content-Length"] = str(length)
        elif modern and method == "GET":
            fields["Transfer-Encoding"] = "chunked"
        if not stays:
            fields["Connection"] = "close"
        elif not modern:
            fields["Connection"] = "keep-alive"
        with Client(address) as client:
            data = request.replace(b"GET", method.encode())
            client.send(data * 2 if arrival == "with trailing data" else data, arrival)
            for _ in range(2 if stays and arrival == "with trailing data" else 1):
                reply = client.reply(method)
                assert reply.head.startswith(b"HTTP/1.1 200 OK\r\nDate: ")
                found = {name.title(): value for name, value in reply.fields.items()}
                assert found == fields
                assert reply.body == (content if method == "GET" else b"")
            if stays:
                assert client.is_open()
            else:
                assert client.rest() == b""


# RFC 9110 sections 8.6, 15.3.5 and 15.4.5. name: status, the application's fields, its blocks, the fields sent
BODILESS = {
    "204": ("204 No Content", [], [], {}),
    "204 with a body": ("204 No Content", [], [b"abc"], {}),
    "204 with a length": ("204 No Content", [("Content-Length", "0")], [], {}),
    "204 by a generator": ("204 No Content", [], None, {}),
    "304": ("304 Not Modified", [("ETag", '"a"')], [], {"ETag": '"a"'}),
    "304 with a body": ("304 Not Modified", [], [b"abc"], {}),
    "304 with a length": ("304 Not Modified", [("Content-Length", "7")], [], {"Content-Length": "7"}),
    "304 by a generator": ("304 Not Modified", [], None, {}),
}


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("case", BODILESS)
def test_an_answer_without_a_body(start: Any, case: str, method: str) -> None:
    status, headers, blocks, fields = BODILESS[case]
    result = (lambda: iter([b"abc"])) if blocks is None else (lambda: blocks)
    with Client(start(returning(result, status, headers)).address) as client:
        for _ in range(2):  # on one connection, so that the octets after the head must be the next answer
            client.send(GET.replace(b"GET", method.encode()))
            reply = client.reply(method)
            assert reply.head.startswith(f"HTTP/1.1 {status}\r\n".encode())
            assert reply.fields == fields


def test_an_application_may_use_its_list_again(start: Any) -> None:
    headers: list[tuple[str, str]] = [("X-A", "b")]

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", headers)
        return [environ["PATH_INFO"].encode()[1:]]

    with Client(start(application).address) as client:
        for target in ("/", "/abc", "/"):
            assert client.get(target).fields == {"X-A": "b", "Content-Length": str(len(target) - 1)}
    assert headers == [("X-A", "b")]


def test_http_1_0_by_the_handler_class(start: Any) -> None:
    """A handler class that sets HTTP/1.0 gets it, whatever version the client uses."""
    address = start(of(b"abc"), attributes={"protocol_version": "HTTP/1.0"}).address
    with Client(address) as client:
        reply = client.get()
        assert reply.head.startswith(b"HTTP/1.0 200 OK\r\n")
        assert reply[1:] == (b"abc", "connection")
        assert reply.fields == {}


# ---- a wrong Content-Length -------------------------------------------------------------------------


def measured(length: int, blocks: list[bytes], how: str) -> Callable[..., Any]:
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        write = start_response("200 OK", [("Content-Length", str(length))])
        if how != "write()":
            return blocks if how == "list" else iter(blocks)
        for block in blocks:
            write(block)
        return []

    return application


@pytest.mark.parametrize("how", ["list", "iterator", "write()"])
@pytest.mark.parametrize("blocks", [[b"abcde"], [b"ab", b"cde"], [b"abc", b"de"], [b"abc", b"d", b"e"]])
def test_more_than_the_content_length(start: Any, how: str, blocks: list[bytes], capsys: Any) -> None:
    """RFC 9112 section 6.3: the body is cut and the error logged; the client would read the rest as the next answer."""
    running = start(measured(3, blocks, how))
    with Client(running.address) as client:
        for _ in range(2):
            assert client.get()[1:] == (b"abc", "length")
    running.wait_until_all_are_gone()
    logged = capsys.readouterr().err
    assert logged.count("more bytes than its Content-Length") == 2
    assert logged.count('" 200 3\n') == 2


@pytest.mark.parametrize("how", ["list", "iterator", "write()"])
@pytest.mark.parametrize("blocks", [[], [b"ab"], [b"a", b"b"]])
def test_less_than_the_content_length(start: Any, how: str, blocks: list[bytes], capsys: Any) -> None:
    """The connection is closed and the error logged; otherwise the client would read the next answer as the rest."""
    with Client(start(measured(3, blocks, how)).address) as client:
        client.send(GET * 2)
        client.head()
        assert client.rest() == b"".join(blocks)
    assert capsys.readouterr().err.count("fewer bytes than its Content-Length") == 1


def test_a_length_that_lies(start: Any, capsys: Any) -> None:
    """An iterable has a length of one block, but yields two."""

    class Lying(Sized):
        def __len__(self) -> int:
            return 1

    running = start(returning(lambda: Lying(b"abc", b"def")))
    with Client(running.address) as client:
        for _ in range(2):
            assert client.get()[1:] == (b"abc", "length")
    running.wait_until_all_are_gone()
    assert capsys.readouterr().err.count("more bytes than its Content-Length") == 2


# ---- errors -----------------------------------------------------------------------------------------


def raising(environ: dict[str, Any], start_response: Any) -> Any:
    raise LookupError("on purpose")


def raising_after_start(environ: dict[str, Any], start_response: Any) -> Any:
    start_response("200 OK", [("X-First", "1")])
    raise LookupError("on purpose")


def raising_iterator(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
    start_response("200 OK", [("Content-Length", "1000")])
    yield b""
    raise LookupError("on purpose")


def starting_twice(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [])
    start_response("200 OK", [])
    return []


def writing_text(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [])("abc")
    return []


def a_text_file(environ: dict[str, Any], start_response: Any) -> Any:
    start_response("200 OK", [])
    return environ["wsgi.file_wrapper"](io.StringIO("abc"))


def a_file_with_bad_headers(environ: dict[str, Any], start_response: Any) -> Any:
    start_response("200 OK", [("X", "\u20ac")])
    return environ["wsgi.file_wrapper"](open(__file__, "rb"))


def field(name: Any, value: Any = "x") -> Callable[..., Any]:
    return returning(lambda: [b"abc"], headers=[(name, value)])


BAD_APPLICATIONS: dict[str, Any] = {
    "raises": raising,
    "raises after start_response": raising_after_start,
    "raises before the first block": raising_iterator,
    "starts twice": starting_twice,
    "doesn't start": lambda environ, start_response: [b"abc"],
    "doesn't start, empty": lambda environ, start_response: [],
    "doesn't start, generator": lambda environ, start_response: iter([b"", b"abc"]),
    "returns None": returning(lambda: None),
    "returns a number": returning(lambda: 5),
    # PEP 3333: bytes only, and no similar type
    "str block": returning(lambda: ["abc"]),
    "empty str block": returning(lambda: [""]),
    "bytearray block": returning(lambda: [bytearray(b"abc")]),
    "None block": returning(lambda: [None]),
    "str from a generator": of("abc"),
    "str": returning(lambda: "abc"),
    "writes str": writing_text,
    "text file": a_text_file,
    "file with a bad field": a_file_with_bad_headers,
    # RFC 9110 sections 5.1, 5.5 and 15; RFC 9112 section 4
    "CRLF in a value": field("X-A", "a\r\nX-Injected: b"),
    "LF in a value": field("X-A", "a\nX-Injected: b"),
    "CR in a value": field("X-A", "a\rX-Injected: b"),
    "NUL in a value": field("X-A", "a\0"),
    "DEL in a value": field("X-A", "a\x7f"),
    "CRLF in a name": field("X-Injected: a\r\nX-B"),
    "LF in a name": field("X-Injected\n"),
    "euro in a value": field("X-A", "\u20ac"),
    "euro in a name": field("X-\u20ac"),
    "bytes for a value": field("X-A", b"x"),
    "bytes for a name": field(b"X-A"),
    "number for a value": field("X-A", 5),
    "CRLF in the status": returning(list, "200 OK\r\nX-Injected: a"),
    "LF in the status": returning(list, "200 OK\nX-Injected: a"),
    "euro in the status": returning(list, "200 \u20ac"),
    "no reason": returning(list, "200"),
    "no code": returning(list, "OK"),
    "number for a status": returning(list, 200),  # type: ignore[arg-type]
    # RFC 9110 section 7.6.1 and PEP 3333: these are the server's
    "Connection": field("Connection", "keep-alive"),
    "Transfer-Encoding": field("transfer-encoding", "chunked"),
    # RFC 9110 section 8.6
    "two lengths": returning(lambda: [b"abc"], headers=[("Content-Length", "3"), ("content-length", "3")]),
    **{f"length {value!r}": field("Content-Length", value) for value in (
        "", "-1", "+3", "3 ", "3, 3", "0x3", "3.0", "1_0", "abc", "\xb2", "00000000000000000003")},
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_APPLICATIONS)
@pytest.mark.parametrize("request_bytes", [GET, OLD], ids=["1.1", "1.0"])
def test_an_application_that_fails_is_a_500(start: Any, case: str, request_bytes: bytes, capsys: Any) -> None:
    """The client gets one complete answer with nothing from the application; the error is in the log only."""
    running = start(BAD_APPLICATIONS[case])
    with Client(running.address) as client:
        stays = request_bytes == GET
        for _ in range(2 if stays else 1):
            client.send(request_bytes)
            reply = client.reply()
            assert reply.status == 500
            fields = {"Content-Type": "text/plain", "Content-Length": str(len(BaseHandler.error_body))}
            assert reply.fields == (fields if stays else fields | {"Connection": "close"})
            assert reply.body == BaseHandler.error_body
        if not stays:
            assert client.rest() == b""
    running.wait_until_all_are_gone()
    logged = capsys.readouterr().err
    assert logged.count("Traceback (most recent call last)") == (2 if stays else 1)
    assert '" 500 59' in logged


def test_no_500_has_a_body_for_head(start: Any) -> None:
    with Client(start(raising).address) as client:
        for _ in range(2):
            client.send(GET.replace(b"GET", b"HEAD"))
            assert client.reply("HEAD").status == 500


def failing_by(how: str, headers: list[tuple[str, str]]) -> Callable[..., Any]:
    """An application that fails after its headers and a block are sent."""

    def generate(start_response: Any) -> Iterator[Any]:
        yield b"abc"
        if how == "a str":
            yield "def"
        try:
            raise LookupError("on purpose")
        except LookupError:
            if how == "exc_info":
                # PEP 3333, "Error Handling": start_response() must raise the exception that it gets
                start_response("500 Oops", [("X-Injected", "1")], sys.exc_info())
                yield b"not reached"
            raise

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        write = start_response("200 OK", headers)
        if how == "after write()":
            write(b"abc")
            raise LookupError("on purpose")
        return generate(start_response)

    return application


@pytest.mark.parametrize("how", ["raise", "a str", "exc_info", "after write()"])
@pytest.mark.parametrize("framing", ["chunked", "length", "connection"])
def test_an_answer_that_fails_in_the_middle_never_looks_whole(start: Any, how: str, framing: str, capsys: Any) -> None:
    """RFC 9112 section 8: nothing else is answered, and nothing is injected."""
    headers = [("Content-Length", "6")] if framing == "length" else []
    with Client(start(failing_by(how, headers)).address) as client:
        client.send((OLD if framing == "connection" else GET) + GET)
        head = client.head()
        assert head.startswith(b"HTTP/1.1 200 ")
        assert b"Injected" not in head
        if framing == "connection":
            with pytest.raises(ConnectionResetError):  # an orderly end would be the end of the body
                client.rest()
        else:
            assert client.rest() == (b"abc" if framing == "length" else b"3\r\nabc\r\n")
    assert ("AssertionError" if how == "a str" else "LookupError: on purpose") in capsys.readouterr().err


# ---- the standard's checks of application and server ------------------------------------------------


def posted(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    body = environ["wsgi.input"]
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [body.read(1), body.readline(), b"".join(body), body.read(10)]


def plain(result: Callable[[dict[str, Any]], Any]) -> Callable[..., Any]:
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return result(environ)

    return application


def writing_plain(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])(b"abc")
    return [b"def"]


def wrapping(environ: dict[str, Any], start_response: Any) -> Any:
    start_response("200 OK", [("Content-Type", "text/plain")])
    return environ["wsgi.file_wrapper"](open(__file__, "rb"))


HERE = Path(__file__).read_bytes()

VALIDATED: dict[str, tuple[Any, bytes]] = {
    "list": (plain(lambda environ: [b"abc", b"def"]), b"abcdef"),
    "generator": (plain(lambda environ: (block for block in (b"abc", b"", b"def"))), b"abcdef"),
    "write()": (writing_plain, b"abcdef"),
    "file": (wrapping, HERE),
    "POST": (posted, b"one\ntwo\nthree"),
}


@pytest.mark.parametrize("case", VALIDATED)
@pytest.mark.parametrize("framing", [b"Content-Length: 13\r\n\r\none\ntwo\nthree",
                                     b"Transfer-Encoding: chunked\r\n\r\nd\r\none\ntwo\nthree\r\n0\r\n\r\n"],
                         ids=["length", "chunked"])  # fmt: skip
def test_the_validator_finds_nothing(start: Any, case: str, framing: bytes, capsys: Any) -> None:
    application, body = VALIDATED[case]
    with Client(start(validator(application)).address) as client:
        for _ in range(2):
            client.send(b"POST /a/b?c=d HTTP/1.1\r\nHost: h\r\n" + framing)
            reply = client.reply()
            assert (reply.status, reply.body) == (200, body)
    assert all('" 200 ' in line for line in capsys.readouterr().err.splitlines())


def test_a_reply_is_a_reply() -> None:
    """The client of these tests detects the errors that it must detect."""
    client = Client.__new__(Client)
    for data, error in (
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc", CutShortError),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", CutShortError),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n03\r\nabc\r\n0\r\n\r\n", AssertionError),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", AssertionError),
        (b"HTTP/1.1 200 OK\r\nA: b\n\r\n\r\n", CutShortError),
        (b"HTTP/1.1 200 OK\r\n", CutShortError),
    ):
        client.file = io.BytesIO(data)  # type: ignore[assignment]
        with pytest.raises(error):
            client.reply()
    data = b"HTTP/1.1 200 OK\r\nA: b\r\nTransfer-Encoding: chunked\r\n\r\na\r\n0123456789\r\n0\r\n\r\n"
    client.file = io.BytesIO(data)  # type: ignore[assignment]
    reply = client.reply()
    assert (reply.body, reply.fields) == (b"0123456789", {"A": "b", "Transfer-Encoding": "chunked"})
