"""The states of a connection, in one table: what each waits for, how long, and what can follow.

``Connection`` is in one state at a time, and takes from here what is done when it enters one. The diagram in the
documentation is drawn from this table.
"""

from __future__ import annotations

from .poller import READ, WRITE


class State:
    """A state of a connection.

    name: str; meaning: what happens in it; timeout: the setting that says how long it may last, in seconds, or "" for
    the time that is left of the state before; watches: READ or WRITE, what the socket is watched for on entering, or 0
    for what it was; follows: the names of the states that can come next. is_idle: whether no request has begun, so
    that the connection can be closed; takes_input: whether octets from the client belong to a request; is_answering:
    whether a request was given to the application; for_lane: whether the fast lane may answer the next request.
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

# What every connection begins with. Up to the first request it has head_timeout, from its start on.
PROXY = State("PROXY", "a proxy is to say who the client is", "", READ, "HANDSHAKE IDLE CLOSED", is_idle=True)
HANDSHAKE = State("HANDSHAKE", "TLS is being set up", "", 0, "IDLE CLOSED", is_idle=True)
IDLE = State(
    "IDLE", "no request has begun", "keep_alive_timeout", READ, "HEAD BODY ANSWER SEND CLOSED",
    is_idle=True, takes_input=True, for_lane=True,
)  # fmt: skip
HEAD = State("HEAD", "a part of a head is there", "head_timeout", READ, "IDLE BODY ANSWER CLOSED", takes_input=True)
BODY = State(
    "BODY", "the head is there, and a part of the body", "progress_timeout", READ, "ANSWER CLOSED", takes_input=True
)
ANSWER = State(
    "ANSWER", "the application has the request, without a limit", "", 0, "SEND HEAD IDLE LINGER CLOSED",
    is_answering=True,
)  # fmt: skip
SEND = State(
    "SEND", "a part of the answer waits for the client", "progress_timeout", WRITE, "ANSWER HEAD IDLE LINGER CLOSED",
    is_answering=True,
)  # fmt: skip
LINGER = State("LINGER", "all is sent; what the client still sends is dropped", "linger_timeout", READ, "CLOSED")
CLOSED = State("CLOSED", "the socket is closed", "", 0, "")
