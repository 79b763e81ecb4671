"""What the event-driven server asks of the face in front of it, as types.

There are two faces: ``_wsgiref`` calls the hooks of a ``WSGIServer`` and its handler class, ``_service`` has none.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from .response import Response, ResponseFront

if TYPE_CHECKING:
    from fastwsgi._backend import Request
    from fastwsgi._http.grammar import BadRequest
    from fastwsgi.types import WSGIApplication, WSGIEnvironment


class HasApplication(Protocol):
    """What has the application that is served."""

    application: WSGIApplication | None


class Front(ResponseFront, Protocol):
    """The face of the server, for one listening socket."""

    @property
    def listener(self) -> socket.socket:
        """The listening socket, or a TLS socket around it."""
        ...

    @property
    def holder(self) -> HasApplication:
        """What has the application; its attribute is read for each request."""
        ...

    @property
    def base_environ(self) -> WSGIEnvironment:
        """What all environs begin with."""
        ...

    @property
    def response_class(self) -> type[Response]:
        """What runs the application and sends its answer."""
        ...

    #: Whether the backlog of the listening socket is ours to choose.
    listens_again: bool
    #: Whether get_app() has to be called for each request.
    has_app_hook: bool
    #: Whether an environ may hold anything, so that none can be prepared.
    has_environ_hooks: bool
    #: Whether log_request() has to be called for each request. Otherwise the fast lane makes the lines in common form.
    has_log_hooks: bool
    #: Whether requests are logged.
    logs: bool
    #: Whether each connection begins with a PROXY protocol header.
    begins_with_proxy: bool
    #: Whether Ctrl-C is a KeyboardInterrupt here, and not a signal with a handler.
    is_interruptible: bool
    #: Makes the line of a request for the log: (request, status, octets of the body) -> the line with its end. None: if
    #: has_log_hooks is true, log_request() is called.
    log_line: Callable[[Request, str, int], str] | None

    def get_app(self) -> WSGIApplication:
        """The application."""
        ...

    def accepts(self, sock: socket.socket, address: Any, /) -> bool:
        """Whether a client that has connected is served."""
        ...

    def turn_away(self, sock: socket.socket, /) -> None:
        """Close the socket of a client that isn't served."""

    def make_environ(self, request: Request, size: int) -> WSGIEnvironment:
        """The request's part of its environ. size: octets of the body, which was received."""
        ...

    def error_answer(self, request: Request, error: BadRequest) -> bytes:
        """The whole answer to a request that is refused, which is logged, too. Never raises but for a Ctrl-C."""
        ...

    def log_failure(self, request: Request, what: str, error: BaseException) -> None:
        """Log what has failed at this end."""

    def log_time(self) -> str:
        """The time, as lines in common form have it."""
        ...

    def write_log(self, lines: str) -> None:
        """Write lines to the log, each with its end."""

    def handle_error(self, sock: socket.socket | None, address: Any, /) -> None:
        """Log an exception that is being handled and belongs to a connection, but to no response."""


def is_ctrl_c(error: BaseException) -> bool:
    """Whether an error is a Ctrl-C where that is a KeyboardInterrupt: only the main thread is interrupted by one."""
    return issubclass(type(error), KeyboardInterrupt) and threading.current_thread() is threading.main_thread()
