"""What a request costs grows no faster than the request: the heads that would be the worst, at sizes that tell.

No clock is read: what is quadratic here, ends in the time limit.
"""

from __future__ import annotations

import io
from typing import Any

import pytest

from fastwsgi._grammar import AUTHORITY, BadRequest
from fastwsgi._server.connection import ANSWER, HEAD
from fastwsgi._server.loop import Loop
from fastwsgi._server.request import check_head
from fastwsgi._server.settings import Settings
from fastwsgi.handlers import SimpleHandler

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


# ---- answers, and the end ----------------------------------------------------------------------------


class TakesSome(io.BytesIO):
    """A stream that takes so much at a time, and counts what it was offered."""

    offered = 0

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most

    def write(self, data: Any) -> int:
        self.offered += len(data)
        return super().write(data[: self.most])


@pytest.mark.filterwarnings("ignore:SimpleHandler.stdout.write:DeprecationWarning")
def test_a_stream_that_takes_a_part_at_a_time() -> None:
    block = bytes(range(256)) * 16_384

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        start_response("200 OK", [])
        return [block]

    stdout = TakesSome(16_384)
    environ = {"SERVER_PROTOCOL": "HTTP/1.0"}
    SimpleHandler(io.BytesIO(), stdout, io.StringIO(), environ).run(application)
    assert stdout.getvalue().endswith(b"\r\n\r\n" + block)
    assert stdout.offered <= 6 * len(block)


class Watched:
    """A connection that counts the looks at its state."""

    looks = 0

    def __init__(self, state: int) -> None:
        self._state = state

    @property
    def state(self) -> int:
        Watched.looks += 1
        return self._state


@pytest.mark.parametrize("is_reversed", [False, True])
def test_a_server_that_stops_does_not_look_at_all_connections_again_and_again(is_reversed: bool) -> None:
    loop: Any = Loop(Settings())
    answering = [Watched(ANSWER) for _ in range(500)]
    loop.connections = dict(enumerate([Watched(HEAD) for _ in range(500)] + answering))
    Watched.looks = 0
    for connection in reversed(answering) if is_reversed else answering:
        assert loop._is_waited_for(False)
        connection._state = HEAD
    assert not loop._is_waited_for(False)
    late = loop.connections[3]
    late._state = ANSWER
    assert loop._is_waited_for(False)
    late._state = HEAD
    assert Watched.looks <= 8 * 1000
    assert loop._is_waited_for(True)
    loop.connections.clear()
    assert not loop._is_waited_for(True)
    loop.close()
