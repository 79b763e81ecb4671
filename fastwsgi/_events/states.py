"""The states of a connection, in one table: what each waits for, how long, and what can follow.

``Connection`` is in one state at a time. When it enters a state, it sets its timeout and events from this table. The
diagram in the documentation is drawn from this table too.
"""

from __future__ import annotations

from .poller import READ, WRITE


class State:
    """A state of a connection.

    name: str; meaning: what happens in it; timeout: the setting with its longest duration, in seconds, or "" to keep
    the deadline of the state before; watches: READ or WRITE, the event to watch the socket for, or 0 for no change;
    follows: the names of the states that can come next. is_idle: whether no request has begun, so that the connection
    can be closed; takes_input: whether octets from the client belong to a request; is_answering: whether a request was
    given to the application; for_lane: whether the fast lane may answer the next request.
    """

    __slots__ = (
        "follows", "for_lane", "index", "is_answering", "is_idle", "meaning", "name", "takes_input", "timeout",
        "watches",
    )  # fmt: skip

    def __init__(
        self,
        name: str,
        meaning: str,
        timeout: str,
        watches: int,
        follows: str,
        *,
        is_idle: bool = False,
        takes_input: bool = False,
        is_answering: bool = False,
        for_lane: bool = False,
    ) -> None:
        self.index = len(STATES)
        self.name = name
        self.meaning = meaning
        self.timeout = timeout
        self.watches = watches
        self.follows = tuple(follows.split())
        self.is_idle = is_idle
        self.takes_input = takes_input
        self.is_answering = is_answering
        self.for_lane = for_lane
        STATES.append(self)

    def __repr__(self) -> str:
        return self.name


#: All states, in the order in which a connection can be in them.
STATES: list[State] = []

# The states before the first request share one deadline: head_timeout after the connection was accepted.
PROXY = State("PROXY", "the proxy must send the client's address", "", READ, "HANDSHAKE IDLE CLOSED", is_idle=True)
HANDSHAKE = State("HANDSHAKE", "TLS is being set up", "", 0, "IDLE CLOSED", is_idle=True)
IDLE = State(
    "IDLE", "no request has begun", "keep_alive_timeout", READ, "HEAD BODY ANSWER SEND CLOSED",
    is_idle=True, takes_input=True, for_lane=True,
)  # fmt: skip
HEAD = State("HEAD", "a part of the head is there", "head_timeout", READ, "IDLE BODY ANSWER CLOSED", takes_input=True)
BODY = State(
    "BODY", "the head is complete, the body isn't", "progress_timeout", READ, "ANSWER CLOSED", takes_input=True
)
ANSWER = State(
    "ANSWER", "the application runs, without a limit", "", 0, "SEND HEAD IDLE LINGER CLOSED",
    is_answering=True,
)  # fmt: skip
SEND = State(
    "SEND", "a part of the answer waits to be sent", "progress_timeout", WRITE, "ANSWER HEAD IDLE LINGER CLOSED",
    is_answering=True,
)  # fmt: skip
LINGER = State("LINGER", "all is sent; further input is dropped", "linger_timeout", READ, "CLOSED")
CLOSED = State("CLOSED", "the socket is closed", "", 0, "")
