"""The fixtures of the tests of the event-driven path."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:  # importing fastwsgi chooses the implementation, which the leg has to do first
    from fastwsgi._events.connection import Connection
    from fastwsgi._events.states import State
    from servers import Log


@pytest.fixture
def log(capsys: pytest.CaptureFixture[str]) -> Log:
    """What the servers of this test write to standard error."""
    from servers import Log

    return Log(capsys)


Transitions = set[tuple[str, str]]


@pytest.fixture(autouse=True, scope="session")
def recorders() -> Iterator[list[Transitions]]:
    """Where to note which states follow which in this process; at the end each pair must be in the table."""
    from fastwsgi._events.connection import Connection

    seen: Transitions = set()
    allowed: Transitions = set()
    recorders = [seen]
    enter = Connection._enter

    def noting(self: Connection, state: State, now: float | None = None) -> None:
        before: State | None = getattr(self, "state", None)
        enter(self, state, now)
        if before is not None:
            for each in recorders:
                each.add((before.name, state.name))
            allowed.update((before.name, name) for name in before.follows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Connection, "_enter", noting)
        yield recorders
    assert seen <= allowed, f"not in the table of states: {sorted(seen - allowed)}"


@pytest.fixture
def transitions(recorders: list[Transitions]) -> Iterator[Transitions]:
    """Which states follow which during this test."""
    seen: Transitions = set()
    recorders.append(seen)
    yield seen
    recorders.pop()
