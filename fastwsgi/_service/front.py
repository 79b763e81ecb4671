"""The event-driven server's front for a service: a clean environ, no hooks, its own logs."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING, Any, Protocol

from fastwsgi._events.response import Response
from fastwsgi._events.socket_kinds import is_tls
from fastwsgi._http.environ import add_body, request_environ
from fastwsgi._http.error_answer import error_answer
from fastwsgi._version import __version__
from fastwsgi.handlers import error_stream

from .error_log import report

if TYPE_CHECKING:
    from fastwsgi._backend import Request
    from fastwsgi._http.grammar import BadRequest
    from fastwsgi.types import ErrorStream, WSGIApplication, WSGIEnvironment

    from .proxies import Proxies

SOFTWARE = f"fastwsgi/{__version__}"


class Logger(Protocol):
    """Writes the access log."""

    #: Whether lines are in the common format, which the fast lane makes by itself.
    is_common: bool

    @property
    def line(self) -> Callable[[Request, str, int, str], str] | None:
        """Makes the log line of a request with its line end: (request, status, size, the server's port).

        None: ``log()`` must be called for each request.
        """
        ...

    def log(self, request: Request, status: str, size: int, port: str) -> None:
        """Log a request; see AccessLog.line()."""

    def stamp(self) -> str:
        """The time, as lines in the common format have it."""
        ...

    def write(self, lines: str) -> None:
        """Write lines; each includes its line end."""

    def reopen(self) -> None:
        """Open the log file again, after it was renamed."""

    def close(self) -> None:
        """Close the log file."""


class ServiceResponse(Response):
    """An answer without the process's environment variables in the environ."""

    server_software = SOFTWARE
    os_environ: MutableMapping[str, str] = {}  # noqa: RUF012 - SimpleHandler's attribute


class ServiceFront:
    """Connects an ``EventServer`` to a service, for one listening socket; see ``Front``."""

    http_version = "1.1"
    listens_again = False
    has_app_hook = False
    has_environ_hooks = False
    handler_class: type | None = None
    hooks = None
    is_interruptible = False  # SIGINT has a handler, or this isn't the main thread
    response_class: type[Response] = ServiceResponse

    def __init__(
        self,
        sock: socket.socket,
        application: WSGIApplication,
        access_log: Logger | None,
        proxies: Proxies,
        *,
        multiprocess: bool,
        begins_with_proxy: bool,
    ) -> None:
        self.listener = sock
        self.holder = self
        self.application: WSGIApplication | None = application
        self.multiprocess = multiprocess
        self.begins_with_proxy = begins_with_proxy
        self.revise: Callable[[WSGIEnvironment], None] | None = proxies.revise
        self._proxies = proxies
        self._access_log = access_log
        self.logs = access_log is not None
        name, self._port = _server_name(sock)
        self.base_environ: WSGIEnvironment = {
            "SERVER_NAME": name,
            "SERVER_PORT": self._port,
            "GATEWAY_INTERFACE": "CGI/1.1",
            "SCRIPT_NAME": "",
        }
        line, port = access_log.line if access_log is not None else None, self._port
        is_common = access_log is None or access_log.is_common
        self.has_log_hooks = not is_common and line is None
        self.log_line: Callable[[Request, str, int], str] | None = None
        if not is_common and line is not None:
            self.log_line = lambda request, status, size: line(request, status, size, port)

    def notice(self) -> None:
        """Do nothing, because there are no hooks."""

    def get_app(self) -> WSGIApplication:
        return self.application  # type: ignore[return-value]

    def accepts(self, sock: socket.socket, address: Any) -> bool:
        return True

    def turn_away(self, sock: socket.socket) -> None:
        sock.close()

    def make_environ(self, request: Request, size: int) -> WSGIEnvironment:
        environ = request_environ(self.base_environ, request, SOFTWARE)
        add_body(environ, request, size)
        return environ

    def error_stream(self, request: Request) -> ErrorStream:
        return error_stream()

    def error_answer(self, request: Request, error: BadRequest) -> bytes:
        self._find_client(request)
        if isinstance(error.__cause__, OSError | MemoryError):
            self.log_failure(request, error.reason, error.__cause__)
        answer, phrase = error_answer(error, SOFTWARE, is_head=request.method == "HEAD")
        self.log_error(request, "code %d, message %s", error.status, phrase)
        try:
            self._log(request, str(error.status), 0)
        except BaseException:  # a log that fails must not prevent the answer
            self.handle_error(request.sock, request.address)
        return answer

    # ---- logs ----------------------------------------------------------------------------------------

    def _find_client(self, request: Request) -> None:
        """Find whom a trusted proxy names, for a request without an environ."""
        if request.environ is None and request.method and self._proxies.trusts_anybody:
            environ = self.make_environ(request, 0)
            self._proxies.revise(environ)
            request.client = environ["REMOTE_ADDR"], environ["REMOTE_PORT"]

    def log_request(self, request: Request, status: str, size: int) -> None:
        if self._access_log is not None:
            self._find_client(request)
            self._log(request, status, size)

    def _log(self, request: Request, status: str, size: int) -> None:
        if self._access_log is not None:
            self._access_log.log(request, status, size, self._port)

    def log_error(self, request: Request, message: str, *args: object) -> None:
        report(logging.INFO, "%s: " + message, request.client[0] or "-", *args)

    def log_failure(self, request: Request, what: str, error: BaseException) -> None:
        report(logging.ERROR, "%s: %r: %s: %s", request.client[0] or "-", request.line, what, error)

    def log_time(self) -> str:
        return self._access_log.stamp() if self._access_log is not None else ""

    def write_log(self, lines: str) -> None:
        if self._access_log is not None:
            self._access_log.write(lines)

    def handle_error(self, sock: socket.socket | None, address: Any) -> None:
        report(logging.ERROR, "An error outside of the application, with client %s", address, exc_info=True)


def _server_name(sock: socket.socket) -> tuple[str, str]:
    """The name and port of a listening socket for SERVER_NAME and SERVER_PORT, which PEP 3333 requires."""
    tls = is_tls(sock)
    address = sock.getsockname()
    if not isinstance(address, tuple):
        return "localhost", "443" if tls else "80"
    host, port = address[:2]
    return socket.gethostname() if host in ("0.0.0.0", "::") else host, str(port)
