"""Parsing request heads: what is accepted, and each kind of bad input with its answer."""

from __future__ import annotations

from typing import Any

import pytest

from bad_requests import BAD_FIELDS, BAD_LINES
from fastwsgi._http.grammar import BadRequest

LINE = b"GET / HTTP/1.1\r\n"


def test_a_head(twin: Any) -> None:
    head = twin.parse_head(b"POST /a?b=c HTTP/1.0\r\nHost: h\r\nX-A:  b c\t\r\nx-a:d\r\nEmpty:\r\n\r\n")
    assert (head.method, head.target, head.version) == ("POST", "/a?b=c", "HTTP/1.0")
    assert head.fields == [("Host", "h"), ("X-A", "b c"), ("x-a", "d"), ("Empty", "")]
    assert head.get_all("x-A") == ["b c", "d"]
    assert head.get_all("y") == []


def test_text_is_latin_1(twin: Any) -> None:
    head = twin.parse_head(LINE + b"A: caf\xc3\xa9\r\n\r\n")
    assert head.fields == [("A", "caf\u00c3\u00a9")]


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 100])
def test_number_of_fields(twin: Any, count: int) -> None:
    head = twin.parse_head(LINE + b"".join(b"X-%d: %d\r\n" % (n, n) for n in range(count)) + b"\r\n")
    assert head.fields == [(f"X-{n}", str(n)) for n in range(count)]


@pytest.mark.parametrize("data", ["GET / HTTP/1.1\r\n\r\n", None, 1], ids=repr)
def test_a_head_is_bytes(twin: Any, data: Any) -> None:
    with pytest.raises((TypeError, AttributeError)):
        twin.parse_head(data)


@pytest.mark.parametrize("case", BAD_LINES)
@pytest.mark.parametrize("tolerant", [False, True])
def test_a_bad_request_line(twin: Any, case: str, tolerant: bool) -> None:
    line, status = BAD_LINES[case]
    for call, data in (
        (twin.parse_request_line, line),
        (twin.parse_head, line + b"\r\n"),
        (twin.parse_head, line + b"Host: h\r\n\r\n"),
    ):
        with pytest.raises(BadRequest) as caught:
            call(data, tolerant=tolerant)
        assert caught.value.status == status
        assert str(caught.value) == f"{status} {caught.value.reason}"
        assert len(caught.value.reason) < 50


def test_a_line_of_the_limit(twin: Any) -> None:
    line = b"GET /%s HTTP/1.1\r\n" % (b"a" * (8190 - 14))
    assert len(line) == 8190 + 2
    assert twin.parse_head(line + b"\r\n").target == "/" + "a" * (8190 - 14)
    with pytest.raises(BadRequest, match=r"^414 "):
        twin.parse_head(line.replace(b"a", b"aa", 1) + b"\r\n")


@pytest.mark.parametrize("case", BAD_FIELDS)
@pytest.mark.parametrize("tolerant", [False, True])
@pytest.mark.parametrize("before", [b"", b"Accept: */*\r\n"])
def test_a_bad_field_section(twin: Any, case: str, tolerant: bool, before: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        twin.parse_head(LINE + before + BAD_FIELDS[case], tolerant=tolerant)
    assert caught.value.status == 400
    assert 0 < len(caught.value.reason) < 50


def test_too_many_fields(twin: Any) -> None:
    with pytest.raises(BadRequest, match=r"^431 Too many header fields$"):
        twin.parse_head(LINE + b"A: b\r\n" * 101 + b"\r\n")
    assert len(twin.parse_head(LINE + b"A: b\r\n" * 101 + b"\r\n", max_fields=101).fields) == 101


TOLERATED = {
    "bare LF": b"GET / HTTP/1.1\nA: b\n\n",
    "mixed": b"GET / HTTP/1.1\r\nA: b\nC: d\r\n\n",
    "target above ASCII": b"GET /\xe9 HTTP/1.1\r\n\r\n",
    "no end": b"GET / HTTP/1.0",
    "only the line": b"GET / HTTP/1.0\r\n",
}


@pytest.mark.parametrize("case", TOLERATED)
def test_what_only_the_tolerant_parser_takes(twin: Any, case: str) -> None:
    data = TOLERATED[case]
    with pytest.raises(BadRequest, match=r"^400 "):
        twin.parse_head(data)
    assert twin.parse_head(data, tolerant=True).method == "GET"


ENVIRONS = {
    "origin": ("GET", "/a/b?c=d", {"PATH_INFO": "/a/b", "QUERY_STRING": "c=d"}),
    "encoded": ("GET", "/%61%2Fb%zz%?%20", {"PATH_INFO": "/a/b%zz%", "QUERY_STRING": "%20"}),
    "octets": ("GET", "/%c3%A9", {"PATH_INFO": "/\u00c3\u00a9"}),
    "slashes": ("GET", "///a//b", {"PATH_INFO": "/a//b", "REQUEST_URI": "///a//b"}),
    "only slashes": ("GET", "//", {"PATH_INFO": "/"}),
    "encoded slashes": ("GET", "/%2f/a", {"PATH_INFO": "///a"}),
    "no query": ("GET", "/", {"QUERY_STRING": ""}),
    "second mark": ("GET", "/a?b?c", {"PATH_INFO": "/a", "QUERY_STRING": "b?c"}),
    "asterisk": ("OPTIONS", "*", {"PATH_INFO": "", "REQUEST_URI": "*"}),
    "absolute": ("GET", "http://other:81/a?b", {"PATH_INFO": "/a", "QUERY_STRING": "b", "HTTP_HOST": "other:81"}),
    "absolute, no path": ("GET", "HTTPS://[::1]", {"PATH_INFO": "/", "HTTP_HOST": "[::1]"}),
    "absolute, only query": ("GET", "http://o?b", {"PATH_INFO": "/", "QUERY_STRING": "b", "HTTP_HOST": "o"}),
}


@pytest.mark.parametrize("case", ENVIRONS)
def test_environ_of_a_target(twin: Any, case: str) -> None:
    method, target, expected = ENVIRONS[case]
    head = twin.parse_head(f"{method} {target} HTTP/1.1\r\nHost: h\r\n\r\n".encode())
    environ = twin.build_environ({}, head)
    assert expected.items() <= environ.items()
    assert environ["REQUEST_METHOD"] == method
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert environ["REQUEST_URI"] == target
    if "HTTP_HOST" not in expected:
        assert environ["HTTP_HOST"] == "h"


def test_environ_of_fields(twin: Any) -> None:
    base = {"CONTENT_LENGTH": "", "A": "b"}
    head = twin.parse_head(
        LINE
        + b"Content-Type: text/plain\r\nCONTENT-LENGTH: 5\r\nContent-type: other\r\n"
        + b"Cookie: a=1\r\ncookie: b=2\r\nX-A: 1\r\nAccept: x\r\nx-a: 1\r\naccept: y\r\n"
        + b"X_A: dropped\r\nX-" + b"l" * 70 + b": long\r\nServer-Name: me\r\n\r\n"
    )  # fmt: skip
    environ = twin.build_environ(base, head)
    assert {name: value for name, value in environ.items() if not name.startswith(("RE", "SERV", "PATH", "QU"))} == {
        "A": "b",
        "CONTENT_TYPE": "text/plain",
        "CONTENT_LENGTH": "5",
        "HTTP_COOKIE": "a=1; b=2",
        "HTTP_X_A": "1,1",
        "HTTP_ACCEPT": "x,y",
        "HTTP_X_" + "L" * 70: "long",
        "HTTP_SERVER_NAME": "me",
    }
    assert base == {"CONTENT_LENGTH": "", "A": "b"}


@pytest.mark.parametrize("head", [None, 1, b"GET / HTTP/1.1"])
def test_what_is_no_head(twin: Any, head: Any) -> None:
    with pytest.raises(AttributeError):
        twin.build_environ({}, head)


def test_keys_are_exact(twin: Any) -> None:
    """The table of known names never confuses two names, in any case."""
    from fastwsgi._http.grammar import KNOWN_FIELDS, environ_key

    for name in KNOWN_FIELDS:
        for spelling in (name, name.lower(), name.upper(), name + "x", name[:-1] + "-"):
            head = twin.parse_head(LINE + spelling.encode() + b": v\r\n\r\n")
            assert twin.build_environ({}, head)[environ_key(spelling)] == "v"


def test_keys_of_names_of_any_token_characters(twin: Any) -> None:
    from fastwsgi._http.grammar import environ_key

    tokens = "!#$%&'*+-.^`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    for size in range(1, len(tokens) + 1):
        for name in (tokens[:size], tokens[-size:], tokens[:size] + "_", "_" + tokens[-size:]):
            environ = twin.build_environ({}, twin.parse_head(LINE + name.encode() + b": v\r\n\r\n"))
            found = [key for key in environ if key.startswith("HTTP_")]
            assert found == ([] if "_" in name else [environ_key(name)])


SIZE = 4_000_000  # a parser with quadratic cost would take hours


@pytest.mark.parametrize(
    "section",
    [b"A:" + b" " * SIZE + b"\x00", b"a" * SIZE, b"A:" + b" \t" * (SIZE // 2) + b"b\x00", b"A:b\r\n" * (SIZE // 5)],
    ids=["spaces", "no colon", "white space", "fields"],
)
def test_cost_is_linear(twin: Any, section: bytes) -> None:
    """It ends within the time limit of a test."""
    with pytest.raises(BadRequest):
        twin.parse_head(LINE + section + b"\r\n\r\n")


def test_white_space_is_cut_off_in_linear_time(twin: Any) -> None:
    head = twin.parse_head(LINE + b"A:" + b" " * SIZE + b"b" + b"\t" * SIZE + b"\r\n\r\n")
    assert head.fields == [("A", "b")]


def test_a_head_that_arrives_byte_by_byte(twin: Any) -> None:
    data = LINE + b"Host: h\r\nA: b\r\n\r\n"
    for size in range(len(data)):
        assert twin.find_head_end(data[:size], max(0, size - 1)) == -1
    assert twin.find_head_end(data, len(data) - 1) == len(data)
    assert twin.find_head_end(data + data) == len(data)
