"""Types for a front: the object that connects the event-driven server to simple_server or to serve().

There are two fronts. The one in ``_wsgiref`` calls the hooks of a ``WSGIServer`` and its handler class. The one in
``_service`` has no hooks.
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
    """An object with the application that is served."""

    application: WSGIApplication | None


class Front(ResponseFront, Protocol):
    """Connects the event-driven server to simple_server or serve(), for one listening socket."""

    @property
    def listener(self) -> socket.socket:
        """The listening socket, or a TLS socket around it."""
        ...

    @property
    def holder(self) -> HasApplication:
        """The object with the application; its attribute is read for each request."""
        ...

    @property
    def base_environ(self) -> WSGIEnvironment:
        """The keys that all environs begin with."""
        ...

    @property
    def handler_class(self) -> type | None:
        """The class with the hooks, if there are any. The fast lane sees when it's changed."""
        ...

    @property
    def response_class(self) -> type[Response]:
        """The class that runs the application and sends its answer."""
        ...

    #: Whether we may call listen() again, to set the backlog.
    listens_again: bool
    #: Whether get_app() has to be called for each request.
    has_app_hook: bool
    #: Whether hooks can put anything into an environ, so that no part of it can be prepared.
    has_environ_hooks: bool
    #: Whether log_request() has to be called for each request. If not, the fast lane makes the lines.
    has_log_hooks: bool
    #: Whether requests are logged.
    logs: bool
    #: Whether each connection begins with a PROXY protocol header.
    begins_with_proxy: bool
    #: Whether Ctrl-C is a KeyboardInterrupt here, and not a signal with a handler.
    is_interruptible: bool
    #: Makes the log line of a request: (request, status, octets of the body) -> the line with its line end. None: lines
    #: are in the common format, or log_request() writes them if has_log_hooks is true.
    log_line: Callable[[Request, str, int], str] | None

    @property
    def hooks(self) -> object:
        """What ``notice()`` has found out last. An equal value means that nothing has changed."""
        ...

    def notice(self) -> None:
        """Find out which hooks a program overrides now."""

    def get_app(self) -> WSGIApplication:
        """The application."""
        ...

    def accepts(self, sock: socket.socket, address: Any, /) -> bool:
        """Whether to serve a client that has connected."""
        ...

    def turn_away(self, sock: socket.socket, /) -> None:
        """Close the socket of a client that accepts() refused."""

    def make_environ(self, request: Request, size: int) -> WSGIEnvironment:
        """Make the request's part of its environ. size: how many octets its body has; they have been received."""
        ...

    def error_answer(self, request: Request, error: BadRequest) -> bytes:
        """Log a request that is refused, and return the whole answer. Raises nothing but a Ctrl-C."""
        ...

    def log_failure(self, request: Request, what: str, error: BaseException) -> None:
        """Log a failure on the server's side."""

    def log_time(self) -> str:
        """The time, as log lines in the common format have it."""
        ...

    def write_log(self, lines: str) -> None:
        """Write lines to the log; each includes its line end."""

    def handle_error(self, sock: socket.socket | None, address: Any, /) -> None:
        """Log the exception being handled, which belongs to a connection and to no response."""


def is_ctrl_c(error: BaseException) -> bool:
    """Whether an error is a KeyboardInterrupt in the main thread; Ctrl-C interrupts no other thread."""
    return issubclass(type(error), KeyboardInterrupt) and threading.current_thread() is threading.main_thread()
