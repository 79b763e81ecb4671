"""The base of a connection: with the compiled accelerator it may answer whole requests by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from fastwsgi._backend import accelerator


class FastLane(Protocol):
    """What a server has in common for all requests, so that channels can answer usual ones in one compiled call.

    Each thread that serves has a lane of its own.
    """

    #: Whether the lane may be used.
    enabled: bool
    #: How many requests it has answered.
    requests: int

    def unlearn(self) -> None:
        """Close the lane until ``learn()`` is called."""

    def learn(self, template: dict[str, object], hidden: dict[str, object]) -> None:
        """Open the lane.

        template: an environ without what a request or its client determines; hidden: what a request's fields replace.
        """

    def take_log(self) -> str:
        """The lines of the log that weren't taken yet."""
        ...


class PlainChannel:
    """A channel without an accelerator.

    fd: the descriptor of a socket that doesn't block; lane: the fast lane of the thread that serves it, or None.

    The compiled channel calls these methods of its subclass ``Connection``: ``turn()`` when the socket may be ready;
    ``received(data)`` with octets for the general path; ``begin_response(request, environ, body)`` for a general
    response in mid-course, and ``adopt(response, rest, error, unsent)`` to go on with it;
    ``send_rest(data, rest, persistent)``; ``close_failed(request, error)``; ``describe(request)``; ``close()``.
    """

    __slots__ = ("between_requests", "deadline", "drained", "fd", "lane", "remote")

    def __init__(self, fd: int, lane: FastLane | None) -> None:
        self.fd = fd
        self.lane = lane
        #: Whether the next octet begins a request, and nothing waits to be sent.
        self.between_requests = lane is not None
        #: Whether on_event() has taken all that was there, and waits for more.
        self.drained = False
        #: When the connection has waited too long, by ``time.monotonic()``.
        self.deadline = 0.0
        #: The client's address and port as an environ has them, once somebody wanted to know.
        self.remote: tuple[str, str] | None = None

    def on_event(self) -> None:
        """Answer usual requests that have come; leave all else to ``turn()``."""
        self.turn()

    def turn(self) -> None:
        """Do what can be done now."""
        raise NotImplementedError

    def forget(self) -> None:
        """Give back memory that only speeds up the next request."""
        self.remote = None


if TYPE_CHECKING or accelerator is None:  # noqa: SIM108 - type checkers take an assignment for a variable
    Channel = PlainChannel
else:
    Channel = accelerator.Channel
