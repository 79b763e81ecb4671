"""The cost of a request grows no faster than its size, for the worst heads.

No clock is read: quadratic work exceeds the time limit of the tests or is counted. The verdicts of bench/scaling.py,
which does read clocks, are tested with counted costs.
"""

from __future__ import annotations

import importlib
import io
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fastwsgi._events.single_loop import SingleLoop
from fastwsgi._events.states import ANSWER, HEAD
from fastwsgi._http.framing import frame_request
from fastwsgi._http.grammar import BadRequest, is_authority
from fastwsgi._http.settings import Settings
from fastwsgi.handlers import SimpleHandler

LINE = b"GET / HTTP/1.1\r\n"
HOST = b"Host: h\r\n"
NO_LIMIT = 1 << 30
SIZE = 1_000_000

# ---- one name, many fields ---------------------------------------------------------------------------


@pytest.mark.timeout(60)  # appending each field to a text would take ten minutes
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
    """With other fields between them, after a value in base, and with a name longer than all known ones."""
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


# ---- values that are matched by a pattern ------------------------------------------------------------

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
        frame_request(head, Settings())
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
    assert is_authority(text) == is_one


# ---- answers, and stopping ---------------------------------------------------------------------------


class TakesSome(io.BytesIO):
    """A stream that accepts a few octets at a time, and counts the octets offered."""

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
    """A connection that counts the reads of its state."""

    looks = 0

    def __init__(self, state: int) -> None:
        self._state = state

    @property
    def state(self) -> int:
        Watched.looks += 1
        return self._state


@pytest.mark.parametrize("is_reversed", [False, True])
def test_a_server_that_stops_does_not_look_at_all_connections_again_and_again(is_reversed: bool) -> None:
    loop: Any = SingleLoop(Settings())
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


# ---- the verdicts ------------------------------------------------------------------------------------

SIZES = (25, 100, 400, 1600)


@pytest.fixture
def slopes(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2]))
    yield importlib.import_module("bench.slopes")
    del sys.modules["bench.slopes"]


class Counted(str):
    """A text that counts the comparisons with it."""

    comparisons = 0
    __slots__ = ()
    __hash__ = str.__hash__

    def __eq__(self, other: object) -> bool:
        Counted.comparisons += 1
        return str.__eq__(self, other)


def counting(work: Callable[[list[Counted]], object], constant: int) -> list[int]:
    """The number of comparisons that some work needs at each size, plus a constant."""
    costs = []
    for size in SIZES:
        texts = [Counted(f"{number:05}") for number in range(size)]
        Counted.comparisons = 0
        work(texts)
        costs.append(Counted.comparisons + constant)
    return costs


def repeats(texts: list[Counted]) -> int:
    """Compare each text with all texts before it."""
    return sum(text in texts[:i] for i, text in enumerate(texts))


def has_last(texts: list[Counted]) -> bool:
    return "99999" in texts


@pytest.mark.parametrize(
    ("work", "constant", "verdict"),
    [
        (has_last, 1, "met"),
        (has_last, 1000, "met"),
        (repeats, 1, "missed"),
        (repeats, 20_000, "missed"),  # it hides the quadratic cost except at the largest size
    ],
    ids=["linear", "linear and a constant", "square", "square and a constant"],
)
def test_the_judge_tells_a_square(slopes: Any, work: Any, constant: int, verdict: str) -> None:
    costs = counting(work, constant)
    assert slopes.judge(SIZES, [costs, costs]).verdict == verdict


def test_slopes_are_powers(slopes: Any) -> None:
    for power in (0, 0.5, 1, 1.5, 2):
        costs = [3 * size**power for size in SIZES]
        found = slopes.judge(SIZES, [costs, costs], limit=power)
        assert math.isclose(found.slope, power, abs_tol=1e-9)
        assert math.isclose(found.tail, power, abs_tol=1e-9)
        assert found.spread == 0
    # With least squares, a wrong point in the middle of three moves the line, but doesn't change its slope.
    assert math.isclose(slopes.slope((1, 10, 100), (1, 50, 100)), 1)


def test_the_least_cost_counts(slopes: Any) -> None:
    rounds = [[100, 400, 9999], [100, 999, 1600], [700, 400, 1600], [100, 400, 1600]]
    assert slopes.least(rounds) == [100, 400, 1600]
    assert slopes.judge((1, 4, 16), rounds).verdict == "met"


@pytest.mark.parametrize(
    ("odd", "even", "verdict"),
    [
        ((1, 4, 16), (1, 4, 16), "met"),
        ((1, 4, 16), (1, 6, 32), "too noisy"),  # one half of the rounds exceeds the limit
        ((1, 3, 6), (1, 2, 3), "too noisy"),  # no half does, but they differ
        ((1, 8, 64), (1, 9, 90), "missed"),  # both halves exceed it, although they differ
        ((1, 1, 7), (1, 1, 7), "missed"),  # by the last two points, although the whole line is flatter
    ],
)
def test_rounds_that_do_not_agree(slopes: Any, odd: Any, even: Any, verdict: str) -> None:
    assert slopes.judge((1, 4, 16), [odd, even, odd, even]).verdict == verdict
