"""The base class of a connection: with the accelerator it answers most requests in compiled code."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from fastwsgi._backend import accelerator


class FastLane(Protocol):
    """The compiled shortcut for simple requests: it keeps what all requests of a server have in common.

    With it a channel answers such a request in one compiled call. Each serving thread has its own lane.
    """

    #: Whether the lane may be used.
    enabled: bool
    #: How many requests it has answered.
    requests: int

    def unlearn(self) -> None:
        """Close the lane until ``learn()`` is called."""

    def learn(self, template: dict[str, object], hidden: dict[str, object], hooks: object) -> None:
        """Open the lane.

        template: the keys of an environ that no request or client changes; hidden: HTTP_* variables of the process
        environment, which the fields of a request replace; hooks: the front's.
        """

    def is_current(self, hooks: object) -> bool:
        """Whether what the lane has learned holds, after a change of the handler class. hooks: the front's, now."""
        ...

    def take_log(self) -> str:
        """Return the log lines that have collected since the last call."""
        ...


class PlainChannel:
    """A channel without the accelerator: the base class of ``Connection``.

    fd: the descriptor of a non-blocking socket; lane: the fast lane of the thread that serves it, or None.

    The compiled channel calls these methods of its subclass ``Connection``: ``turn()`` when the socket may be ready;
    ``received(data)`` with octets for the general path, which is the Python code for every kind of request;
    ``begin_response(request, environ, body)`` to make a response that the general path completes, and
    ``adopt(response, rest, error, unsent)`` to continue it; ``send_rest(data, rest, persistent)``;
    ``close_failed(request, error)``; ``describe(request)``; ``close()``.
    """

    __slots__ = ("between_requests", "deadline", "drained", "fd", "lane", "remote")

    def __init__(self, fd: int, lane: FastLane | None) -> None:
        self.fd = fd
        self.lane = lane
        #: Whether the next octet begins a request and nothing waits to be sent.
        self.between_requests = lane is not None
        #: Whether on_event() has read everything that the socket had.
        self.drained = False
        #: The time, by ``time.monotonic()``, at which the connection has waited too long.
        self.deadline = 0.0
        #: The client's address and port as an environ has them; None until they are first needed.
        self.remote: tuple[str, str] | None = None

    def on_event(self) -> None:
        """Answer the simple requests that have arrived; leave everything else to ``turn()``."""
        self.turn()

    def turn(self) -> None:
        """Do all the work that is possible now."""
        raise NotImplementedError

    def forget(self) -> None:
        """Free the memory that only makes the next request faster."""
        self.remote = None


if TYPE_CHECKING or accelerator is None:  # noqa: SIM108 - type checkers treat an assignment as a variable
    Channel = PlainChannel
else:
    Channel = accelerator.Channel
