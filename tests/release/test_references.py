"""The compiled twin frees its memory: after thousands of calls, also with refused input, nothing is left."""

from __future__ import annotations

import contextlib
import gc
import io
import sys
from collections.abc import Callable
from typing import Any

import pytest

COUNTS = bool(getattr(sys, "getallocatedblocks", int)())
pytestmark = [
    pytest.mark.compiled,
    pytest.mark.skipif(not COUNTS, reason="with PYTHONMALLOC=malloc Python counts no blocks"),
]

CALLS = 2000
#: The number of blocks by which the interpreter's own caches may change.
SLACK = CALLS // 10

HEAD = b"GET /a%20b?c=d HTTP/1.1\r\nHost: h\r\nX-Some-Thing: 1\r\nCookie: a=b\r\nCookie: c=d\r\n\r\n"
MANY = b"GET / HTTP/1.1\r\n" + b"A-%d: b\r\n" * 40 % tuple(range(40)) + b"\r\n"
FIELDS = [("Content-Type", "text/html"), ("X-A", "caf\xe9")]


def changed_headers(twin: Any) -> None:
    headers = twin.Headers(list(FIELDS))
    headers["X-B"] = "1"
    headers.add_header("X-C", "2", filename="a")
    headers.setdefault("X-A", "x")
    del headers["X-B"]
    bytes(headers), str(headers), headers.items(), headers.get_all("x-a"), repr(headers)


WORKS: dict[str, Callable[[Any], object]] = {
    "a date": lambda twin: twin.format_date_time(951782400),
    "a date out of range": lambda twin: twin.format_date_time(10**20),
    "a status": lambda twin: twin.check_status("200 OK"),
    "a bad status": lambda twin: twin.check_status("20 OK"),
    "fields": lambda twin: (twin.check_fields(FIELDS), twin.format_fields(FIELDS)),
    "a bad field": lambda twin: twin.check_fields([*FIELDS, ("a", "b\r\nc")]),
    "a field that is none": lambda twin: twin.format_fields([*FIELDS, (1, "c")]),
    "a preamble": lambda twin: twin.format_preamble("1.1", "200 OK", "now", "us"),
    "headers": changed_headers,
    "a bad header": lambda twin: twin.Headers(list(FIELDS)).add_header("X", "a\r\nb"),
    "a file": lambda twin: list(twin.FileWrapper(io.BytesIO(b"abc" * 100), 10)),
    "a head": lambda twin: twin.parse_head(HEAD).fields,
    "a head whose fields nobody wants": lambda twin: twin.parse_head(MANY),
    "a bad head": lambda twin: twin.parse_head(HEAD.replace(b"Cookie: c", b"Coo kie: c")),
    "a bad target": lambda twin: twin.parse_head(HEAD.replace(b"/a", b"a")),
    "an environ": lambda twin: twin.build_environ({"A": "b"}, twin.parse_head(HEAD)),
    "an environ of many": lambda twin: twin.build_environ({}, twin.parse_head(MANY)),
    "fields of a name": lambda twin: twin.parse_head(HEAD).get_all("cookie"),
}


def growth(call: Callable[[], object]) -> int:
    """How many blocks *CALLS* calls leave behind, and how many references, if the interpreter counts them."""
    references: Callable[[], int] = getattr(sys, "gettotalrefcount", int)

    def repeat() -> int:
        for _ in range(CALLS):
            with contextlib.suppress(Exception):
                call()
        gc.collect()
        return sys.getallocatedblocks() + references()

    repeat()  # fill the caches before the measurement
    before = repeat()
    return repeat() - before


def test_a_leak_is_seen() -> None:
    kept: list[object] = []
    assert growth(lambda: kept.append(object())) >= CALLS


@pytest.mark.parametrize("work", WORKS.values(), ids=list(WORKS))
def test_nothing_is_left_behind(work: Callable[[Any], object]) -> None:
    from fastwsgi import _speedups

    assert growth(lambda: work(_speedups)) < SLACK
