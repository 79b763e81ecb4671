"""Teach the fast lane what all requests of a server have in common.

Nothing is written here that the general path knows: it answers a request that has nothing of its own, and what
its environ holds then, is what every environ holds.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Protocol

from fastwsgi._backend import FastLane, Headers, RequestHead
from fastwsgi._http.framing import Framing

from .response import Response

#: How many connections have a memo at a time; ten thousand idle ones cost no more.
MEMOS = 1024

_NOBODY: Any = SimpleNamespace(sock=None, address=("", 0), began=0.0)
_NOTHING = RequestHead("GET", "/", "HTTP/1.1", [("Host", "")])
# What a request and its client determine, and the lane sets.
_OWN = (
    "REQUEST_METHOD", "REQUEST_URI", "PATH_INFO", "QUERY_STRING", "SERVER_PROTOCOL", "REMOTE_ADDR", "REMOTE_PORT",
    "wsgi.input", "wsgi.errors",
)  # fmt: skip


class LaneServer(Protocol):
    """What there must be of a server."""

    front: Any
    http_version: str
    #: Whether log lines are made by hooks that a program overrides.
    has_log_hooks: bool
    #: Whether there are log lines.
    logs: bool
    #: What the lanes were taught last, so that those which know the same have it in common.
    taught: tuple[dict[str, Any], dict[str, Any]] | None

    def make_handler(self, connection: Any, request_line: bytes) -> Any: ...
    def make_response(self, connection: Any, handler: Any, environ: dict[str, Any], body: Any) -> Response: ...


def teach(lane: FastLane, server: LaneServer) -> None:
    """Open the lane for a server, or leave it closed if each environ may be of another making."""
    lane.unlearn()
    handler = server.make_handler(_NOBODY, b"")
    handler._take_head(_NOTHING, Framing(0, expects_continue=False))
    response = server.make_response(_NOBODY, handler, handler._whole_environ(0), None)
    if (
        server.http_version != "1.1"
        or type(response.os_environ) is not dict
        or response.headers_class is not Headers
        or type(server.front.base_environ) is not dict
        or any(name.startswith("HTTP_") for name in server.front.base_environ)  # a field would be joined to it
    ):
        return
    response.setup_environ()
    template = {
        name: value for name, value in response.environ.items() if name not in _OWN and not name.startswith("HTTP_")
    }
    hidden = {name: value for name, value in response.os_environ.items() if name.startswith("HTTP_")}
    taught = server.taught
    if taught is None or taught != (template, hidden):
        server.taught = taught = template, hidden
    # The same objects for all lanes: by them a lane knows that it may use what another remembers.
    template, hidden = taught
    lane.learn(template, hidden, server.has_log_hooks, handler.log_date_time_string if server.logs else None)
