"""Compare the compiled twin with the pure one on generated input: values, exception types and messages."""

from __future__ import annotations

import io
import sys
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fastwsgi import _fallback as pure
from generated import examples
from twins import Text, outcome

if sys.implementation.name == "cpython":
    compiled: Any = pytest.importorskip("fastwsgi._speedups", exc_type=ModuleNotFoundError)

pytestmark = pytest.mark.compiled

# Names and values, mostly good, sometimes with characters that must be refused or handled by the pure twin.
GOOD_NAMES = st.sampled_from(["Content-Type", "content-type", "CONTENT-LENGTH", "X-A", "Set-Cookie", "Date", "te", "x"])
ODD_TEXT = st.text(st.characters(max_codepoint=0x17F), max_size=12) | st.sampled_from(["\u212a", "\u0130", "a\r\nb: c"])
NAMES = GOOD_NAMES | ODD_TEXT
VALUES = st.sampled_from(["", "text/html", "a\tb", "1", "caf\xe9", "a" * 40, "x\r\ny", "\x7f"]) | ODD_TEXT
ODDITIES = st.sampled_from([None, 1, b"bytes", Text("Content-Type"), ("a",)])


def odd(strategy: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(strategy, strategy, strategy, strategy, strategy, strategy, ODDITIES)


PAIRS = st.tuples(NAMES, VALUES)
GOOD_FIELDS = st.lists(st.tuples(GOOD_NAMES, st.sampled_from(["1", "text/html", "a b", "caf\xe9"])), max_size=8)
FIELDS = GOOD_FIELDS | st.lists(
    st.one_of(PAIRS, PAIRS, PAIRS, st.tuples(odd(NAMES), odd(VALUES)), st.lists(VALUES, max_size=3), ODDITIES),
    max_size=8,
)


def same(call: str, *args: Any) -> None:
    """Check that both twins' functions have the same result, and the same effect on the arguments."""
    assert outcome(getattr(compiled, call), *args) == outcome(getattr(pure, call), *args)


@given(
    st.integers(0, 253402300799)
    | st.floats(0, 253402300799)
    | st.integers(-(10**20), 10**20)
    | st.floats()
    | st.none()
    | ODDITIES
)
@example(951782400)  # 29 February 2000
@example(4107542400)  # 1 March 2100, which has no leap day before it
@example(253402300799)
@example(253402300799.9)
@example(253402300800)
@example(-1)
@example(-0.0)
@example(True)
def test_format_date_time(timestamp: Any) -> None:
    if timestamp is not None:  # the current time
        same("format_date_time", timestamp)


def test_every_day_of_four_centuries() -> None:
    for day in range(400 * 366):
        assert compiled.format_date_time(day * 86400) == pure.format_date_time(day * 86400)


@given(odd(NAMES | st.sampled_from(sorted(pure.HOP_BY_HOP)).map(str.title)))
def test_is_hop_by_hop(name: Any) -> None:
    same("is_hop_by_hop", name)


@given(odd(st.from_regex(r"\A[0-9\u0660x ]{0,4} ?[ -~\xe9\t\r\n\x7f]{0,6}\Z")))
def test_check_status(status: Any) -> None:
    same("check_status", status)


@given(odd(FIELDS))
def test_check_fields(fields: Any) -> None:
    same("check_fields", fields)


@given(odd(FIELDS))
def test_format_fields(fields: Any) -> None:
    same("format_fields", fields)


@given(odd(VALUES), odd(VALUES), odd(VALUES), odd(VALUES))
def test_format_preamble(version: Any, status: Any, date: Any, server: Any) -> None:
    same("format_preamble", version, status, date, server)


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("get"), odd(NAMES), odd(VALUES)),
        st.tuples(st.just("__setitem__"), odd(NAMES), odd(VALUES)),
        st.tuples(st.just("setdefault"), odd(NAMES), odd(VALUES)),
        st.tuples(st.just("add_header"), odd(NAMES), odd(VALUES)),
        st.tuples(st.sampled_from(["__getitem__", "__delitem__", "__contains__", "get", "get_all"]), odd(NAMES)),
        st.tuples(st.sampled_from(["keys", "values", "items", "__len__", "__str__", "__bytes__", "__repr__"])),
        st.tuples(st.just("_headers.append"), FIELDS),
    ),
    max_size=12,
)


class CompiledChild(compiled.Headers if sys.implementation.name == "cpython" else object):  # type: ignore[misc]
    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name, default) or "always"


class PureChild(pure.Headers):
    def get(self, name: str, default: Any = None) -> Any:
        return super().get(name, default) or "always"


PureChild.__name__ = CompiledChild.__name__ = "Child"


@pytest.mark.parametrize("child", [False, True], ids=["Headers", "a subclass"])
@examples(300)
@given(fields=st.none() | odd(FIELDS), operations=OPERATIONS)
def test_headers(child: bool, fields: Any, operations: list[tuple[Any, ...]]) -> None:
    classes = (CompiledChild, PureChild) if child else (compiled.Headers, pure.Headers)
    copies = [list(fields) if type(fields) is list else fields for _ in classes]
    made = [outcome(cls, copy) for cls, copy in zip(classes, copies, strict=True)]
    assert made[0][0] == made[1][0]
    if made[0][0] == "raises":
        assert made[0] == made[1]
        return
    one, other = made[0][1], made[1][1]
    for name, *args in operations:
        if name == "_headers.append":
            one._headers.extend(args[0])
            other._headers.extend(args[0])
        else:
            assert outcome(getattr(one, name), *args) == outcome(getattr(other, name), *args), (name, args)
        assert one._headers == other._headers, (name, args)
    for mapping, copy in zip((one, other), copies, strict=True):
        assert fields is None or mapping._headers is copy


@given(st.dictionaries(st.sampled_from(["filename", "a_b", "c"]), odd(st.none() | VALUES)), odd(VALUES))
def test_add_header_parameters(parameters: dict[str, Any], value: Any) -> None:
    one, other = compiled.Headers(), pure.Headers()
    assert outcome(one.add_header, "A", value, **parameters) == outcome(other.add_header, "A", value, **parameters)
    assert one._headers == other._headers


@given(st.binary(max_size=100), st.integers(1, 20))
def test_file_wrapper(content: bytes, size: int) -> None:
    assert list(compiled.FileWrapper(io.BytesIO(content), size)) == list(pure.FileWrapper(io.BytesIO(content), size))


# ---- requests ---------------------------------------------------------------------------------------

METHODS = st.sampled_from(["GET", "POST", "OPTIONS", "CONNECT", "get", "PROPFIND", "", "G T", "G\xe9T", "(x)"])
TARGETS = st.sampled_from(
    [
        "/", "*", "//a//b?c", "/a%20b?c=%20", "/%", "/%4", "/%zz%41", "/a?b?c", "/\xe9", "/\x80%80", "/a b", "/\x7f",
        "http://h/p?q", "HTTP://h:80", "https://[::1]:443/x", "http://h?x", "http://", "http://u@h/", "http://h:x/",
        "ftp://h/", "h:80", "x", "", "/" + "a" * 60, "/#f", "?q", "http://h/#f",
    ]
)  # fmt: skip
VERSIONS = st.sampled_from(
    ["HTTP/1.1", "HTTP/1.0", "HTTP/1.9", "HTTP/2.0", "HTTP/0.9", "http/1.1", "HTTP/1.", "", "HTTP/11"]
)
ENDS = st.sampled_from(["\r\n"] * 12 + ["\n", "\r", ""])
FIELD_NAMES = st.sampled_from(
    [
        "Host", "host", "Content-Type", "content-length", "Cookie", "COOKIE", "X-Forwarded-For", "Accept", "te",
        "X-Some-Thing", "x_y", "X-" + "long" * 20, "A", "Bad Name", "B\xe4d", "", " Folded", "\tFolded", "Ctl\x01",
    ]
)  # fmt: skip
FIELD_VALUES = st.sampled_from(
    [" a", "a", "  a b \t", "", " ", "\tx", " caf\xe9", " " + "v" * 50, " a,b", " a\x00", " \x7f", " a\rb", " :", " 5"]
)


def odd_one(usual: list[str], all_of_them: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """At most one unusual part, because a message with only random parts would hardly ever be good."""
    return st.sampled_from(usual * 3) | all_of_them


LINES = st.tuples(
    odd_one(["GET", "POST", "PUT"], METHODS),
    st.just(" "),
    odd_one(["/", "/a/b?c=d", "/%41"], TARGETS),
    st.just(" "),
    odd_one(["HTTP/1.1", "HTTP/1.0"], VERSIONS),
    ENDS,
)
FIELD_LINES = st.tuples(
    odd_one(["Host", "Accept", "cookie", "X-Some-Thing"], FIELD_NAMES),
    st.just(":"),
    odd_one([" a", " text/html, */*"], FIELD_VALUES),
    ENDS,
)
HEADS = st.builds(
    lambda line, fields, end: ("".join(line) + "".join("".join(field) for field in fields) + end).encode("latin-1"),
    LINES,
    st.lists(FIELD_LINES, max_size=6) | st.lists(FIELD_LINES, min_size=30, max_size=36),
    st.sampled_from(["\r\n"] * 8 + ["\n", "", "\r\n\r\n", "\r\nx", "x"]),
)


def parts(head: Any) -> tuple[Any, ...]:
    return head.method, head.target, head.version, head.fields


def parsed(twin: Any, data: Any, *args: Any) -> tuple[Any, ...]:
    return outcome(lambda: parts(twin.parse_head(data, *args)))


@examples(1000)
@given(HEADS, st.sampled_from([8190, 20]), st.sampled_from([100, 33, 32, 3, 0]), st.booleans())
@example(b"GET / HTTP/1.1\r\n" + b"a:b\r\n" * 33 + b"\r\n", 8190, 100, False)
@example(b"GET / HTTP/1.1\r\n\n", 8190, 100, True)
@example(b"", 8190, 100, True)
@example(b"\n", 8190, 100, True)
def test_parse_head(data: bytes, max_line: int, max_fields: int, tolerant: bool) -> None:
    limits = max_line, max_fields, tolerant
    assert parsed(compiled, data, *limits) == parsed(pure, data, *limits)
    line_end = data.find(b"\n") + 1
    for line in (data, data[:line_end]):
        assert outcome(compiled.parse_request_line, line, max_line, tolerant) == outcome(
            pure.parse_request_line, line, max_line, tolerant
        )


@examples(1000)
@given(st.binary(max_size=60) | HEADS, st.booleans())
def test_parse_head_of_anything(data: bytes, tolerant: bool) -> None:
    assert parsed(compiled, data, 8190, 100, tolerant) == parsed(pure, data, 8190, 100, tolerant)


@examples(1000)
@given(
    HEADS,
    st.booleans(),
    st.dictionaries(st.sampled_from(["HTTP_X_SOME_THING", "CONTENT_LENGTH", "HTTP_COOKIE", "X"]), st.text(max_size=3)),
)
def test_build_environ(data: bytes, tolerant: bool, base: dict[str, Any]) -> None:
    before = dict(base)
    try:
        head = pure.parse_head(data, tolerant=tolerant)
    except pure.BadRequest:
        return
    expected = pure.build_environ(base, head)
    fast = compiled.parse_head(data, tolerant=tolerant)
    assert compiled.build_environ(base, fast) == expected
    assert fast.fields == head.fields
    assert compiled.build_environ(base, fast) == expected
    assert compiled.build_environ(base, compiled.Request(*parts(head))) == expected
    assert base == before
    for name in ("Host", "cookie", "X-SOME-THING", "None", "\xe9"):
        assert fast.get_all(name) == head.get_all(name)


@given(st.lists(st.sampled_from([b"a", b"\n", b"\r\n", b"\r", b"xyz: q"])).map(b"".join), st.data())
def test_find_head_end(data: bytes, draw: st.DataObject) -> None:
    end = pure.find_head_end(data)
    assert compiled.find_head_end(data) == end
    # In pieces: the end must be the same for every number of octets searched before.
    searched = draw.draw(st.integers(0, len(data) if end < 0 else max(0, end - 1)))
    assert pure.find_head_end(data[:searched]) == -1
    assert compiled.find_head_end(data, searched) == pure.find_head_end(data, searched) == end
