"""The table of a connection's states: it is complete, and a connection goes through all of it."""

from __future__ import annotations

from typing import Any

import pytest

from clients import GET, Client
from fastwsgi._events.states import ANSWER, BODY, CLOSED, HANDSHAKE, HEAD, IDLE, PROXY, SEND, STATES
from fastwsgi._http.settings import Settings
from servers import KINDS, hello, returning, starting

start = pytest.fixture(params=KINDS)(starting)


def test_every_state_can_be_reached_and_left() -> None:
    names = [state.name for state in STATES]
    assert len(set(names)) == len(names)
    reached = {PROXY.name, HANDSHAKE.name, IDLE.name}  # the states in which a connection can begin
    for state in STATES:
        assert set(state.follows) <= set(names), state
        assert bool(state.follows) == (state is not CLOSED), state
        assert state.name not in state.follows
        reached |= set(state.follows)
    assert reached == set(names)


def test_a_connection_can_be_closed_in_every_state() -> None:
    assert all(CLOSED.name in state.follows for state in STATES if state is not CLOSED)


def test_every_time_is_a_setting() -> None:
    settings = Settings()
    assert {state for state in STATES if not state.timeout} == {PROXY, HANDSHAKE, ANSWER, CLOSED}
    assert all(getattr(settings, state.timeout) > 0 for state in STATES if state.timeout)


def test_only_between_requests_may_the_lane_answer() -> None:
    assert [state for state in STATES if state.for_lane] == [IDLE]
    assert [state for state in STATES if state.takes_input] == [IDLE, HEAD, BODY]
    assert [state for state in STATES if state.is_answering] == [ANSWER, SEND]
    assert [state for state in STATES if state.is_idle] == [PROXY, HANDSHAKE, IDLE]


def test_the_life_of_a_connection(start: Any, transitions: set[tuple[str, str]]) -> None:
    """The request is sent in pieces, so that the connection passes through each state."""
    running = start(hello)
    with Client(running.address) as client:
        client.send(b"POST / HTTP/1.1\r\nHost: h\r\n")
        running.wait_until(lambda: ("IDLE", "HEAD") in transitions)
        client.send(b"Content-Length: 2\r\n\r\n")
        running.wait_until(lambda: ("HEAD", "BODY") in transitions)
        client.send(b"ab")
        assert client.reply("POST").body == b"hello"
        client.send(b"GET / HTTP/1.1\r\n\r\n")
        assert client.reply().status == 400
    running.wait_until_all_are_gone()
    assert transitions >= {("BODY", "ANSWER"), ("ANSWER", "IDLE"), ("ANSWER", "LINGER"), ("LINGER", "CLOSED")}


def test_an_answer_that_waits(start: Any, transitions: set[tuple[str, str]]) -> None:
    running = start(returning(lambda: (bytes(1 << 16) for _ in range(200))))
    with Client(running.address, room=4096) as client:
        client.send(GET + GET)
        running.wait_until(lambda: ("ANSWER", "SEND") in transitions)
        for _ in range(2):
            assert len(client.reply().body) == 200 << 16
    assert ("SEND", "ANSWER") in transitions
    assert transitions & {("SEND", "HEAD"), ("ANSWER", "HEAD")}  # the second request had already arrived
