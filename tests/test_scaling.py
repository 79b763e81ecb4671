"""What a request costs grows no faster than the request: the heads that would be the worst, at sizes that tell.

No clock is read: what is quadratic here, ends in the time limit.
"""

from __future__ import annotations

from typing import Any

import pytest

from fastwsgi._grammar import AUTHORITY, BadRequest
from fastwsgi._server.request import check_head
from fastwsgi._server.settings import Settings

LINE = b"GET / HTTP/1.1\r\n"
HOST = b"Host: h\r\n"
NO_LIMIT = 1 << 30
SIZE = 1_000_000

# ---- one name, many fields ---------------------------------------------------------------------------


@pytest.mark.timeout(60)  # a text that grows by each field takes ten minutes
@pytest.mark.parametrize(
    ("field", "key", "value"),
    [
        (b"Cookie: a=012345", "HTTP_COOKIE", "; ".join(["a=012345"] * SIZE)),
        (b"X: 01234567", "HTTP_X", ",".join(["01234567"] * SIZE)),
        (b"Content-Type: a/b", "CONTENT_TYPE", "a/b"),
    ],
    ids=["known", "unknown", "single"],
)
def test_fields_of_one_name(twin: Any, field: bytes, key: str, value: str) -> None:
    head = twin.parse_head(LINE + (field + b"\r\n") * SIZE + b"\r\n", 8190, NO_LIMIT)
    assert twin.build_environ({}, head)[key] == value


def test_fields_of_one_name_are_joined_in_their_order(twin: Any) -> None:
    """Whatever stands between them, and behind what the base has; a name longer than any known one, too."""
    long_name = b"X-" + b"a" * 80
    section = b"".join(
        b"X-A: a%d\r\nCookie: c%d\r\n%s: l%d\r\nX-B: b%d\r\nX_A: no\r\nHost: \r\n" % (i, i, long_name, i, i)
        for i in range(3)
    )
    base = {"HTTP_X_B": "base", "HTTP_COOKIE": "base", "CONTENT_TYPE": "base"}
    environ = twin.build_environ(base, twin.parse_head(LINE + section + b"\r\n"))
    assert {key: value for key, value in environ.items() if key.startswith(("HTTP_", "CONTENT_"))} == {
        "HTTP_X_A": "a0,a1,a2",
        "HTTP_X_B": "base,b0,b1,b2",
        "HTTP_COOKIE": "base; c0; c1; c2",
        "HTTP_HOST": ",,",
        "HTTP_X_" + "A" * 80: "l0,l1,l2",
        "CONTENT_TYPE": "base",
    }
    assert base == {"HTTP_X_B": "base", "HTTP_COOKIE": "base", "CONTENT_TYPE": "base"}


# ---- values that a pattern looks at ------------------------------------------------------------------

REFUSED = {
    "spaces in a coding's parameter": (b"Transfer-Encoding: a;" + b" " * SIZE + b",", 400),
    "tabs in a coding's parameter": (b"Transfer-Encoding: a;" + b"\t" * SIZE + b",@", 400),
    "spaces before a coding": (b"Transfer-Encoding: a," + b" " * SIZE + b"@", 400),
    "spaces behind a coding": (b"Transfer-Encoding: a" + b" " * SIZE + b"@", 400),
    "a long coding": (b"Transfer-Encoding: " + b"a" * SIZE, 501),
    "a long coding, and more": (b"Transfer-Encoding: " + b"a" * SIZE + b"@", 400),
    "codings": (b"Transfer-Encoding: a" + b" , a" * (SIZE // 4), 501),
    "codings with parameters": (b"Transfer-Encoding: a" + b" ;, a" * (SIZE // 4) + b",", 400),
    "semicolons": (b"Transfer-Encoding: a" + b" ;" * (SIZE // 2) + b",", 400),
    "a length": (b"Content-Length: " + b"1" * SIZE, 400),
    "expectations": (b"Expect: 100-continue\r\n" * (SIZE // 22) + b"Expect: a", 417),
    "hosts": (b"Host:\r\n" * (SIZE // 7) + b"Host: h", 400),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("name", REFUSED)
def test_heads_that_are_refused(twin: Any, name: str) -> None:
    fields, status = REFUSED[name]
    head = twin.parse_head(LINE + HOST + fields + b"\r\n\r\n", 8190, NO_LIMIT)
    with pytest.raises(BadRequest) as refused:
        check_head(head, Settings())
    assert refused.value.status == status


@pytest.mark.timeout(60)
@pytest.mark.parametrize(
    ("text", "is_one"),
    [
        ("a" * SIZE, True),
        ("a" * SIZE + ":80", True),
        ("a" * SIZE + "<", False),
        ("%41" * SIZE, True),
        ("%41" * SIZE + "%4", False),
        ("%" * SIZE, False),
        ("a:" * SIZE, False),
        ("[" + ":" * SIZE, False),
        ("[v" + "1" * SIZE + "]", False),
        ("[v1." + "a" * SIZE, False),
    ],
    ids=lambda value: value[-4:] if isinstance(value, str) else None,
)
def test_hosts(text: str, is_one: bool) -> None:
    assert (AUTHORITY.fullmatch(text) is not None) == is_one
