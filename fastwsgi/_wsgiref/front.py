"""The event-driven server's front for a ``WSGIServer``: call the hooks that a program overrides.

Here a request handler is an adapter: it presents a parsed request to a hook. It is made only when a hook needs it, and
it doesn't read from the socket.
"""

from __future__ import annotations

import io
import socket
import sys
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler as _Base
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from fastwsgi._backend import Request
from fastwsgi._events.front import is_ctrl_c
from fastwsgi._http.environ import add_body, request_environ
from fastwsgi.handlers import error_stream

from .hooks import CONTENT_TYPE, ENVIRON_HOOKS, LOG_HOOKS, Overridden

if TYPE_CHECKING:
    from fastwsgi._events.response import Response
    from fastwsgi._http.grammar import BadRequest
    from fastwsgi._http.settings import Settings
    from fastwsgi.types import ErrorStream, WSGIApplication, WSGIEnvironment


# What is different in a handler class after a program has changed one of its hooks.
_attributes = attrgetter(*{*ENVIRON_HOOKS, *LOG_HOOKS}, "server_version")


class ServerFront:
    """Connects an ``EventServer`` to a WSGIServer; see ``Front``.

    server: the WSGIServer; handler_class: the class of its request handlers, whose hooks are called; response_class:
    runs the application; http_version: "1.1" or "1.0"; listens_again: whether we may choose the backlog; look: tells
    which hooks are overridden now. A program may change its classes at any time.
    """

    begins_with_proxy = False
    is_interruptible = True
    multiprocess = False
    revise: Callable[[WSGIEnvironment], None] | None = None
    log_line: Callable[[Request, str, int], str] | None = None

    def __init__(
        self,
        server: Any,
        handler_class: type[Any],
        response_class: type[Response],
        *,
        http_version: str,
        listens_again: bool,
        look: Callable[[], Overridden],
    ) -> None:
        self.server = self.holder = server
        self.listener: socket.socket = server.socket
        self.settings: Settings = server.settings
        self.handler_class = handler_class
        self.response_class = response_class
        self.http_version = http_version
        self.listens_again = listens_again
        self.get_app: Callable[[], WSGIApplication] = server.get_app
        self._look = look
        self._seen: object = None
        self._seen_base: object = None
        self.notice()
        nobody = Request("GET", "/", "HTTP/1.1", [])
        nobody.address = ("", 0)
        #: Of a handler, because a class may have its own month names, and these may be properties.
        self.log_time: Callable[[], str] = self._adapter(nobody).log_date_time_string
        nobody.adapter = None

    def notice(self) -> None:
        """Find out which hooks are overridden now."""
        self._seen, self._seen_base = _attributes(self.handler_class), _Base.log_message
        self.hooks = self._look()
        self.has_app_hook, self.has_environ_hooks, self.has_log_hooks, self.logs, self._software = self.hooks

    def is_for(self, server: Any) -> bool:
        """Whether this front still fits a server, whose attributes a program may change."""
        return (
            self.listener is server.socket
            and self.handler_class is server.RequestHandlerClass
            and self.settings is server.settings
        )

    @property
    def base_environ(self) -> WSGIEnvironment:
        return self.server.base_environ  # type: ignore[no-any-return]

    def accepts(self, sock: socket.socket, address: Any, /) -> bool:
        return self.server.verify_request(sock, address)  # type: ignore[no-any-return]

    def turn_away(self, sock: socket.socket, /) -> None:
        self.server.shutdown_request(sock)

    def handle_error(self, sock: socket.socket | None, address: Any, /) -> None:
        self.server.handle_error(sock, address)

    def _adapter(self, request: Request) -> Any:
        """The handler object for a request: the same one for all hooks, until the request is logged."""
        handler = request.adapter
        if handler is None:
            request.adapter = handler = object.__new__(self.handler_class)
            handler.server = self.server
            handler.request = handler.connection = request.sock
            handler.client_address = request.address
            handler.protocol_version = f"HTTP/{self.http_version}"
            handler._wrap(request)
        return handler

    def make_environ(self, request: Request, size: int) -> WSGIEnvironment:
        if _attributes(self.handler_class) != self._seen or _Base.log_message is not self._seen_base:
            self.notice()
        if self.has_environ_hooks:
            handler = self._adapter(request)
            environ: WSGIEnvironment = handler.get_environ()
            # A hook may have changed these.
            request.is_persistent = not handler.close_connection
            request.method, request.version = handler.command, handler.request_version
        else:
            environ = request_environ(self.server.base_environ, request, self._software, CONTENT_TYPE)
        add_body(environ, request, size)
        return environ

    def error_stream(self, request: Request) -> ErrorStream:
        return self._adapter(request).get_stderr() if self.has_environ_hooks else error_stream()

    def error_answer(self, request: Request, error: BadRequest) -> bytes:
        """The octets that the handler's send_error() writes. Its log hooks can't prevent them by raising."""
        handler = self._adapter(request)
        handler.wfile = answer = io.BytesIO()
        handler.log_error = self._guarded(handler, handler.log_error)
        handler.log_request = self._guarded(handler, handler.log_request)
        try:
            handler._refuse(error)
        finally:
            del handler.log_error, handler.log_request  # they hold the handler
            request.adapter = None
        return answer.getvalue()

    def _guarded(self, handler: Any, hook: Callable[..., object]) -> Callable[..., None]:
        """Wrap a hook so that it raises nothing but a Ctrl-C: handle_error() gets its exceptions."""

        def guarded(*args: Any, **keywords: Any) -> None:
            try:
                hook(*args, **keywords)
            except BaseException as error:
                self.handle_error(handler.request, handler.client_address)
                if is_ctrl_c(error):
                    raise

        return guarded

    def log_request(self, request: Request, status: str, size: int) -> None:
        if not self.logs and request.adapter is None:
            return
        line = request.line
        # If another hook got a handler, it may have changed it; and log_message() escapes these characters.
        if self.has_log_hooks or request.adapter is not None or "\\" in line or not line.isprintable():
            try:
                self._adapter(request).log_request(status, size)
            finally:
                request.adapter = None  # to avoid a reference cycle
        else:
            try:  # noqa: SIM105 - suppress() takes longer than the call
                self.write_log(f'{request.client[0] or "-"} - - [{self.log_time()}] "{line}" {status} {size}\n')
            except Exception:  # a log line that can't be written must not fail the request
                pass

    def log_error(self, request: Request, message: str, *args: object) -> None:
        self._adapter(request).log_error(message, *args)

    def log_failure(self, request: Request, what: str, error: BaseException) -> None:
        is_made = request.adapter is None
        try:
            self._adapter(request)._log_failure(what, error)
        finally:
            if is_made:
                request.adapter = None

    def write_log(self, lines: str) -> None:
        if sys.stderr is not None:
            sys.stderr.write(lines)
