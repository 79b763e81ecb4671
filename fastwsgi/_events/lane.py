"""Tell the fast lane what all requests of a server have in common.

The fast lane is the compiled shortcut for simple requests; see docs/architecture.md. No rule of the general path is
repeated here. Instead the general path makes the environ of an empty request: what is in that environ is in every
environ.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from fastwsgi._backend import Headers, Request, accelerator

from .response import Client, Response

if TYPE_CHECKING:
    from .channel import FastLane
    from .front import Front

#: How many connections can have a memo (what the lane remembers of a connection for its next request) at a time. The
#: limit keeps the memory constant for ten thousand idle connections.
MEMOS = 1024

_NOBODY: Any = None
# The keys that depend on the request or its client. The lane sets them.
_OWN = (
    "REQUEST_METHOD", "REQUEST_URI", "PATH_INFO", "QUERY_STRING", "SERVER_PROTOCOL", "REMOTE_ADDR", "REMOTE_PORT",
    "wsgi.input", "wsgi.errors",
)  # fmt: skip


class LaneServer(Protocol):
    """What lanes need of their server."""

    front: Front
    #: What the lanes learned last. Lanes that know the same share one object.
    taught: tuple[dict[str, Any], dict[str, Any]] | None

    def make_response(self, client: Client, request: Request, environ: dict[str, Any], body: Any) -> Response:
        """Make a response to a request."""
        ...


def make_lanes(server: LaneServer, threads: int) -> list[FastLane]:
    """Make a lane for each thread, or none if there is no accelerator."""
    if accelerator is None:
        return []
    lanes: list[FastLane] = [accelerator.FastLane(server) for _ in range(threads)]
    for lane in lanes:
        teach(lane, server)
    return lanes


def teach(lane: FastLane, server: LaneServer) -> None:
    """Open the lane for a server, or leave it closed if the environs of requests may differ in unknown ways."""
    lane.unlearn()
    front = server.front
    front.notice()
    if front.has_environ_hooks:
        return
    request = Request("GET", "/", "HTTP/1.1", [("Host", "")])
    response = server.make_response(_NOBODY, request, front.make_environ(request, 0), None)
    base = front.base_environ
    if (
        front.http_version != "1.1"
        or type(response.os_environ) is not dict
        or response.headers_class is not Headers
        or type(base) is not dict
        or any(name.startswith("HTTP_") for name in base)  # a field of this name would be joined to it
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
    # All lanes get the same objects. Their identity tells a lane that it may use the memo of another lane.
    lane.learn(*taught, front.hooks)
