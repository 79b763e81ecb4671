"""The framing of request bodies: their ends, and the answer to each kind of bad framing.

Each case is sent in one piece, byte by byte, and with trailing data that must not be read as a request.
"""

from __future__ import annotations

import io
import re
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients import exchange
from fastwsgi._http.body import BodyReader, IncompleteBodyError, read_chunked
from fastwsgi._http.chunked import ChunkedBody
from fastwsgi._http.framing import frame_request
from fastwsgi._http.grammar import BadRequest
from fastwsgi._http.settings import Settings
from servers import listening_server, serving

LIMITS = Settings()


class Framing(NamedTuple):
    length: int | None
    expects_continue: bool


def framing(twin: Any, head: bytes, limits: Settings = LIMITS) -> Framing:
    request = twin.parse_head(head)
    frame_request(request, limits)
    return Framing(request.length, request.expects_continue)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (b"", Framing(0, False)),
        (b"Content-Length: 0\r\n", Framing(0, False)),
        (b"Content-Length: 0012\r\n", Framing(12, False)),
        (b"Transfer-Encoding: chunked\r\n", Framing(None, False)),
        (b"transfer-encoding: CHUNKED\r\n", Framing(None, False)),
        (b"Content-Length: 5\r\nExpect: 100-Continue\r\n", Framing(5, True)),
        (b"Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n", Framing(None, True)),
        (b"Expect: 100-continue\r\n", Framing(0, False)),
    ],
)
def test_good_framing(twin: Any, fields: bytes, expected: Framing) -> None:
    assert framing(twin, b"POST / HTTP/1.1\r\nHost: h\r\n" + fields + b"\r\n") == expected


@pytest.mark.parametrize(
    "host", [b"", b"h", b"h:80", b"h:", b"1.2.3.4:5", b"[::1]:80", b"a-b.c", b"%41", b"xn--bcher-kva.example", b"_x"]
)
def test_good_hosts(twin: Any, host: bytes) -> None:
    assert framing(twin, b"GET / HTTP/1.1\r\nHost: " + host + b"\r\n\r\n") == Framing(0, False)


def test_http_1_0_needs_no_host_and_knows_no_expectation(twin: Any) -> None:
    assert framing(twin, b"GET / HTTP/1.0\r\n\r\n") == Framing(0, False)
    assert framing(twin, b"PUT / HTTP/1.0\r\nExpect: x\r\nContent-Length: 1\r\n\r\n") == Framing(1, False)


H = b"POST / HTTP/1.1\r\nHost: h\r\n"

BAD_FRAMING = {
    # RFC 9112 section 3.2
    "no Host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "no Host, absolute-form": (b"GET http://h/ HTTP/1.1\r\n\r\n", 400),
    "two Hosts": (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
    "two Hosts in 1.0": (b"GET / HTTP/1.0\r\nHost: a\r\nhost: b\r\n\r\n", 400),
    "Host with a path": (b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    "Host with userinfo": (b"GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400),
    "Host list": (b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400),
    "Host port": (b"GET / HTTP/1.1\r\nHost: a:b\r\n\r\n", 400),
    "Host with octets": (b"GET / HTTP/1.1\r\nHost: b\xfccher\r\n\r\n", 400),
    "Host half a literal": (b"GET / HTTP/1.1\r\nHost: [::1\r\n\r\n", 400),
    # RFC 9112 section 6.3, RFC 9110 section 8.6
    "two lengths": (H + b"Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400),
    "a list of lengths": (H + b"Content-Length: 5, 5\r\n\r\nhello", 400),
    "plus": (H + b"Content-Length: +5\r\n\r\nhello", 400),
    "minus": (H + b"Content-Length: -5\r\n\r\nhello", 400),
    "hexadecimal": (H + b"Content-Length: 0x5\r\n\r\nhello", 400),
    "underscore": (H + b"Content-Length: 1_0\r\n\r\nhellohello", 400),
    "space inside": (H + b"Content-Length: 1 0\r\n\r\nhellohello", 400),
    "fraction": (H + b"Content-Length: 5.0\r\n\r\nhello", 400),
    "empty length": (H + b"Content-Length:\r\n\r\n", 400),
    "no-break space": (H + b"Content-Length: \xa05\r\n\r\nhello", 400),
    "superscript": (H + b"Content-Length: \xb2\r\n\r\nhi", 400),
    "twenty digits": (H + b"Content-Length: 00000000000000000005\r\n\r\nhello", 400),
    "over the limit": (H + b"Content-Length: 1073741825\r\n\r\n", 413),
    "nineteen digits": (H + b"Content-Length: 9999999999999999999\r\n\r\n", 413),
    # RFC 9112 section 6.1
    "length and coding": (H + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "coding and length": (H + b"Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400),
    "coding in 1.0": (b"POST / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "coding twice": (H + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked twice": (H + b"Transfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400),
    "no-break space around chunked": (H + b"Transfer-Encoding: \xa0chunked\r\n\r\n0\r\n\r\n", 400),
    "next line around chunked": (H + b"Transfer-Encoding: chunked\x85\r\n\r\n0\r\n\r\n", 400),
    "vertical tab around chunked": (H + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    "quoted": (H + b'Transfer-Encoding: "chunked"\r\n\r\n0\r\n\r\n', 400),
    "empty coding": (H + b"Transfer-Encoding:\r\n\r\n0\r\n\r\n", 400),
    "identity": (H + b"Transfer-Encoding: identity\r\n\r\n", 501),
    "gzip": (H + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "chunked first": (H + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 501),
    "chunked with a parameter": (H + b"Transfer-Encoding: chunked;a=b\r\n\r\n0\r\n\r\n", 501),
    "xchunked": (H + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
    # RFC 9110 section 10.1.1
    "expectation": (H + b"Expect: 200-ok\r\n\r\n", 417),
    "two expectations": (H + b"Expect: 100-continue, x\r\n\r\n", 417),
}


@pytest.mark.parametrize("case", BAD_FRAMING)
def test_bad_framing(twin: Any, case: str) -> None:
    request, status = BAD_FRAMING[case]
    with pytest.raises(BadRequest) as caught:
        framing(twin, request[: request.index(b"\r\n\r\n") + 4])
    assert caught.value.status == status


# RFC 9112 section 7.1
BAD_CHUNKS = {
    "empty size": b"\r\n",
    "no digits": b"x\r\n",
    "plus": b"+5\r\nhello\r\n0\r\n\r\n",
    "minus": b"-5\r\nhello\r\n0\r\n\r\n",
    "0x": b"0x5\r\nhello\r\n0\r\n\r\n",
    "underscore": b"0_5\r\nhello\r\n0\r\n\r\n",
    "space before": b" 5\r\nhello\r\n0\r\n\r\n",
    "space after": b"5 \r\nhello\r\n0\r\n\r\n",
    "seventeen digits": b"00000000000000005\r\nhello\r\n0\r\n\r\n",
    "bare LF": b"5\nhello\r\n0\r\n\r\n",
    "bare CR": b"5\rhello\r\n0\r\n\r\n",
    "CR in extension": b"5;a\rb\r\nhello\r\n0\r\n\r\n",
    "LF in extension": b"5;a\nb\r\nhello\r\n0\r\n\r\n",
    "NUL in extension": b"5;a\x00\r\nhello\r\n0\r\n\r\n",
    "long extension": b"5;" + b"a" * 2000 + b"\r\nhello\r\n0\r\n\r\n",
    "data too long": b"5\r\nhello!\r\n0\r\n\r\n",
    "data too short": b"5\r\nhell\r\n0\r\n\r\n",
    "data not ended": b"5\r\nhello0\r\n\r\n",
    "data ended by LF": b"5\r\nhello\n0\r\n\r\n",
    "bad trailer": b"0\r\nno colon\r\n\r\n",
    "folded trailer": b"0\r\nA: b\r\n c\r\n\r\n",
    "trailer ended by LF": b"0\r\nA: b\n\r\n",
    "long trailer": b"0\r\nA: " + b"b" * 70000 + b"\r\n\r\n",
    "many trailers": b"0\r\n" + b"A: b\r\n" * 20000 + b"\r\n",
    "no end": b"5\r\nhello\r\n",
    "cut in size": b"5",
    "cut in data": b"5\r\nhel",
    "cut after data": b"5\r\nhello",
    "cut in trailers": b"0\r\nA: b\r\n",
    "nothing": b"",
}


@pytest.mark.parametrize("case", BAD_CHUNKS)
def test_bad_chunks(case: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read_chunked(io.BytesIO(BAD_CHUNKS[case]), LIMITS)
    assert caught.value.status == 400


def test_a_chunked_body_over_the_limit() -> None:
    limits = Settings(max_body=10)
    for data in (b"b\r\n", b"5\r\nhello\r\n6\r\n", b"ffffffffffffffff\r\n"):
        with pytest.raises(BadRequest, match=r"^413 "):
            read_chunked(io.BytesIO(data), limits)
    file, size = read_chunked(io.BytesIO(b"5\r\nhello\r\n5\r\nhello\r\n0\r\n\r\n"), limits)
    with file:
        assert size == 10


@pytest.mark.parametrize("trailing", [b"", b"GET /second HTTP/1.1\r\n\r\n"])
def test_good_chunks(trailing: bytes) -> None:
    data = b"5\r\nhello\r\n1;a=b\r\n \r\n00005 ; x=\"y\"\r\nworld\r\n0;last\r\nTrailer: a\r\nB:\r\n\r\n"
    stream = io.BytesIO(data + trailing)
    file, size = read_chunked(stream, LIMITS)
    with file:
        assert (file.read(), size) == (b"hello world", 11)
    assert stream.read() == trailing


@given(st.lists(st.binary(min_size=1, max_size=300), max_size=8), st.sampled_from(["%x", "%X", "%05x"]), st.data())
def test_any_chunks_in_any_pieces(chunks: list[bytes], size_format: str, draw: st.DataObject) -> None:
    wire = b"".join(f"{size_format % len(chunk)}\r\n".encode() + chunk + b"\r\n" for chunk in chunks) + b"0\r\n\r\n"
    body = ChunkedBody(LIMITS)
    found, position = b"", 0
    while body.wanted >= 0:
        if body.wanted:
            size = draw.draw(st.integers(1, body.wanted))
            found += wire[position : position + size]
            body.take_data(size)
        else:
            size = wire.index(b"\n", position) + 1 - position
            body.take_line(wire[position : position + size])
        position += size
    assert found == b"".join(chunks)
    assert position == len(wire)
    assert body.size == len(found)


@pytest.mark.parametrize("size", [100, 1000])
def test_a_large_chunked_body_goes_to_disk(size: int) -> None:
    limits = Settings(max_body_in_memory=500)
    file, _ = read_chunked(io.BytesIO(b"%x\r\n%s\r\n0\r\n\r\n" % (size, b"x" * size)), limits)
    with file:
        assert isinstance(file, io.BytesIO) is (size <= 500)
        assert file.read() == b"x" * size


# ---- wsgi.input -------------------------------------------------------------------------------------

BODY = b"one\ntwo\n\nlast"


class Dribble(io.RawIOBase):
    """A stream that returns a few bytes at a time, as a socket may."""

    def __init__(self, data: bytes, size: int) -> None:
        self.data, self.size = data, size

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        piece, self.data = self.data[: min(self.size, len(buffer))], self.data[min(self.size, len(buffer)) :]
        buffer[: len(piece)] = piece
        return len(piece)


@pytest.mark.parametrize("piece", [1, 3, 1000])
def test_the_body_ends_where_it_ends(piece: int) -> None:
    def body() -> BodyReader:
        return BodyReader(io.BufferedReader(Dribble(BODY + b"more", piece)), len(BODY))

    assert body().read() == BODY
    assert body().read(1000) == BODY
    assert list(body()) == [b"one\n", b"two\n", b"\n", b"last"]
    assert body().readlines() == [b"one\n", b"two\n", b"\n", b"last"]
    reader = body()
    assert (reader.read(2), reader.readline(), reader.readline(2), reader.read(), reader.read(1)) == (
        b"on", b"e\n", b"tw", b"o\n\nlast", b"",
    )  # fmt: skip


def test_what_is_behind_the_body_is_left() -> None:
    stream = io.BufferedReader(io.BytesIO(BODY + b"next"))
    assert BodyReader(stream, len(BODY)).read() == BODY
    assert stream.read() == b"next"


@pytest.mark.parametrize("call", ["read", "readline", "readlines", "__next__"])
def test_a_body_cut_short_never_looks_complete(call: str) -> None:
    reader = BodyReader(io.BufferedReader(io.BytesIO(b"one")), 10)
    with pytest.raises(IncompleteBodyError, match="less than its Content-Length"):
        getattr(reader, call)()


# ---- over sockets -----------------------------------------------------------------------------------


@pytest.fixture(params=["event-driven", "general path", "classic"])
def server(wsgi: SimpleNamespace, request: pytest.FixtureRequest) -> Any:
    """A server that answers with the body that it read, and a list of its environs."""
    calls: list[dict[str, Any]] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        calls.append(environ)
        body = environ["wsgi.input"].read(1000)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [body, environ["wsgi.input"].read(1)]

    classic = request.param == "classic"
    attributes: dict[str, Any] = {"log_message": lambda self, *args: None}
    if classic:
        stock = wsgi.simple_server.WSGIRequestHandler
        attributes["handle"] = lambda self: stock.handle(self)  # noqa: PLW0108 - another function, so it's overridden
    fast_lane = request.param != "general path"
    made = listening_server(wsgi, application, attributes=attributes, fast_lane=fast_lane)
    assert wsgi.simple_server.explain(made).path == ("classic" if classic else "event-driven")
    with serving(made) as address:
        yield SimpleNamespace(address=address, calls=calls, classic=classic)


WAYS = pytest.mark.parametrize("arrival", ["whole", "byte by byte", "with trailing data"])
HUGE = {"long trailer", "many trailers"}


@WAYS
@pytest.mark.parametrize(
    "request_bytes",
    [request for request, _ in BAD_FRAMING.values()]
    + [H + b"Transfer-Encoding: chunked\r\n\r\n" + chunks for name, chunks in BAD_CHUNKS.items() if name not in HUGE],
    ids=[*BAD_FRAMING, *(f"chunks: {name}" for name in BAD_CHUNKS if name not in HUGE)],
)
def test_bad_framing_is_refused(server: Any, request_bytes: bytes, arrival: str) -> None:
    """It gets its own status; the application isn't called, and the following octets aren't read as a request."""
    expected = dict(BAD_FRAMING.values()).get(request_bytes, 400)
    answer = exchange(server.address, request_bytes, arrival, may_be_reset=True)
    assert re.match(rb"HTTP/1\.[01] %d " % expected, answer)
    assert len(re.findall(rb"HTTP/1\.\d \d\d\d", answer)) == 1
    assert not server.calls


@WAYS
@pytest.mark.parametrize(
    ("field", "body"),
    [
        (b"Transfer-Encoding: chunked", b"5\r\nhello\r\n6\r\n world\r\n0\r\nA: b\r\n\r\n"),
        (b"Content-Length: 11", b"hello world"),
    ],
)
def test_an_upload(server: Any, field: bytes, body: bytes, arrival: str) -> None:
    answer = exchange(server.address, H + field + b"\r\n\r\n" + body, arrival, may_be_reset=True)
    head, _, rest = answer.partition(b"\r\n\r\n")
    assert re.match(rb"HTTP/1\.[01] 200 ", head)
    assert rest.startswith(b"hello world") or b"\r\n\r\n0\r\n" in rest
    # The octets after the body aren't part of it: they are another request, a bad one.
    assert answer.count(b"HTTP/1.1 400 ") == (arrival == "with trailing data" and not server.classic)
    (environ,) = server.calls
    assert environ["CONTENT_LENGTH"] == "11"
    assert "HTTP_TRANSFER_ENCODING" not in environ
    assert environ["wsgi.input_terminated"] is True


@WAYS
def test_no_body_is_no_body(server: Any, arrival: str) -> None:
    """The application's read returns without waiting for the client to close."""
    assert exchange(server.address, b"GET / HTTP/1.0\r\n\r\n", arrival, may_be_reset=True).endswith(b"\r\n\r\n")
    assert len(server.calls) == 1


def test_an_upload_cut_short(server: Any) -> None:
    """It never looks complete: the application isn't called or, on the classic path, its read raises."""
    answer = exchange(server.address, H + b"Content-Length: 10\r\n\r\nhello", may_be_reset=True)
    if server.classic:
        assert answer == b""
        assert len(server.calls) == 1
    else:
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert not server.calls
