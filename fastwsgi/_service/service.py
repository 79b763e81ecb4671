"""One application on its listening sockets, in one thread or several: start, serve, stop without losing a request.

The event-driven server behind make_server, with a front of its own: a clean environ, no hooks, other logs.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, MutableMapping, Sequence
from http import HTTPStatus
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from fastwsgi._backend import build_environ
from fastwsgi._events.event_server import EventServer
from fastwsgi._events.loop import Loop, SharedLoop
from fastwsgi._events.poller import READ, WakeUp, wait_for
from fastwsgi._events.response import Response
from fastwsgi._events.socket_kinds import is_tls
from fastwsgi._version import __version__
from fastwsgi.simple_server import ServerHandler, WSGIRequestHandler

from .access_log import AccessLog, LogFile
from .error_log import report
from .proxies import Proxies

if TYPE_CHECKING:
    from fastwsgi.types import WSGIApplication, WSGIEnvironment

    from .options import Options

SOFTWARE = f"fastwsgi/{__version__}"

# What all threads together have to end in, in seconds, when nobody is waited for any more.
_LAST = 1.0


class Listener(Protocol):
    """A listening socket that a service serves."""

    @property
    def sock(self) -> socket.socket:
        """The socket, or a TLS socket around it."""
        ...

    @property
    def is_inherited(self) -> bool:
        """Whether another process may go on to accept on it."""
        ...

    def close(self) -> None:
        """Close it."""


class Logger(Protocol):
    """What writes the access log."""

    #: Whether lines are common ones, which the fast lane makes by itself.
    is_common: bool

    def log(self, request: Any, status: str, size: int, seconds: float) -> None:
        """Log a request; see AccessLog.line()."""

    def stamp(self) -> str:
        """The time, as common lines have it."""
        ...

    def write(self, lines: str) -> None:
        """Write common lines."""

    def reopen(self) -> None:
        """Go on in a new file."""

    def close(self) -> None:
        """Write no more."""


class Front:
    """What an EventServer asks of the server in front of it, for one listening socket."""

    def __init__(
        self,
        sock: socket.socket,
        application: WSGIApplication,
        settings: Options,
        access_log: Logger | None,
        proxies: Proxies,
        multiprocess: bool,
    ) -> None:
        self.socket = sock
        self.application = application
        self.settings = settings
        self.access_log = access_log
        self.proxies = proxies
        self.multiprocess = multiprocess
        name, port = _server_name(sock)
        self.base_environ = {
            "SERVER_NAME": name,
            "SERVER_PORT": port,
            "GATEWAY_INTERFACE": "CGI/1.1",
            "SCRIPT_NAME": "",
        }

    def get_app(self) -> WSGIApplication:
        return self.application

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return True

    def shutdown_request(self, request: socket.socket) -> None:
        request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        report(logging.ERROR, "An error outside of the application, with client %s", client_address, exc_info=True)


def _server_name(sock: socket.socket) -> tuple[str, str]:
    """The name and port that PEP 3333 wants to be there, where no Host tells them."""
    tls = is_tls(sock)
    address = sock.getsockname()
    if not isinstance(address, tuple):
        return "localhost", "443" if tls else "80"
    host, port = address[:2]
    return socket.gethostname() if host in ("0.0.0.0", "::") else host, str(port)


class RequestHandler(WSGIRequestHandler):
    """Holds one request: its environ has nothing but the request in it, and its log line is the access log's."""

    server_version = SOFTWARE
    sys_version = ""
    server: Any

    def version_string(self) -> str:
        return SOFTWARE

    def get_environ(self) -> WSGIEnvironment:
        environ = build_environ(self.server.base_environ, self._head)  # type: ignore[arg-type]
        if is_tls(self.connection):
            environ["HTTPS"] = "on"  # by which wsgi.url_scheme is chosen
        environ["SERVER_SOFTWARE"] = SOFTWARE
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = self._client()
        environ["REQUEST_URI"] = self._head.target  # type: ignore[union-attr]
        return environ

    def log_date_time_string(self) -> str:
        log = self.server.access_log
        return log.stamp() if log is not None else ""

    def log_request(self, code: Any = "-", size: Any = "-") -> None:
        front = self.server
        if front.access_log is None:
            return
        if self._head is not None and front.proxies.trusts_anybody:
            environ = self.get_environ()
            front.proxies.revise(environ)
            self.client_address = environ["REMOTE_ADDR"], environ["REMOTE_PORT"]
        seconds = monotonic() - self.began
        status = str(code.value if isinstance(code, HTTPStatus) else code)
        front.access_log.log(self, status, size if isinstance(size, int) else 0, seconds)

    def log_error(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        report(logging.INFO, "%s: " + format, self.address_string(), *args)

    def _log_failure(self, what: str, error: BaseException) -> None:
        report(logging.ERROR, "%s: %r: %s: %s", self.address_string(), self.requestline, what, error)


class _Response(Response, ServerHandler):
    """An answer by the handlers' code, without the process's environment variables in the environ."""

    server_software = SOFTWARE
    os_environ: MutableMapping[str, str] = {}  # noqa: RUF012 - SimpleHandler's attribute

    def setup_environ(self) -> None:
        front = self.request_handler.server
        self.wsgi_multiprocess = front.multiprocess
        super().setup_environ()
        front.proxies.revise(self.environ)


class Service:
    """Serves an application on listening sockets.

    application: PEP 3333 callable; options: which of them concern listening, is not looked at; listeners: their
    sockets, of which each may be a TLS one; multiprocess: whether other processes serve the application, too;
    access_log: a replacement for that of the options.
    """

    def __init__(
        self,
        application: WSGIApplication,
        options: Options,
        listeners: Sequence[Listener],
        *,
        multiprocess: bool = False,
        access_log: Logger | None = None,
    ) -> None:
        self.options = options
        self._listeners = listeners
        self._threads: list[threading.Thread] = []
        self._is_stopping = False
        self._bell = WakeUp()
        if access_log is None and options.access_log is not None:
            access_log = AccessLog(options.access_log_format, LogFile(options.access_log))
        self.access_log = access_log
        proxies = Proxies(options.forwarded_allow_ips, options.forwarded_fields)
        self.loop: Loop = SharedLoop(options) if options.threads > 1 else Loop(options)
        self._servers = [
            EventServer(
                Front(listener.sock, application, options, access_log, proxies, multiprocess),
                RequestHandler,
                _Response,
                options,
                self.loop,
                has_log_hooks=access_log is not None and not access_log.is_common,
                logs=access_log is not None,
                write_log=access_log.write if access_log is not None else _drop,
                revise=proxies.revise,
                threads=options.threads,
                begins_with_proxy=options.proxy_protocol,
                is_interruptible=False,  # SIGINT has a handler, or this isn't the main thread
            )
            for listener in listeners
        ]

    @property
    def requests(self) -> int:
        """How many requests were answered, about: threads count without waiting for each other."""
        return self.loop.requests + sum(lane.requests for server in self._servers for lane in server.lanes)

    def serve(self, actions: Callable[[], None] = lambda: None, interval: float = 0.5) -> None:
        """Serve until ``stop()``. actions: called every so many seconds at least, in this thread."""
        if not isinstance(self.loop, SharedLoop):
            self.loop.serve(lambda: self._is_stopping, interval, actions)
            return
        for number in range(self.options.threads):
            # Daemons, so that an application that hangs doesn't keep the process.
            name = f"fastwsgi-{number}"
            thread = threading.Thread(target=self._serve_in_thread, args=(number,), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)
        while not self._is_stopping:
            wait_for(self._bell.fd, READ, interval)
            actions()

    def _serve_in_thread(self, number: int) -> None:
        assert isinstance(self.loop, SharedLoop)
        while not self.loop.is_stopped:
            try:
                self.loop.serve_in_thread(number)
            except BaseException:  # which is an application's: a Ctrl-C comes to the main thread
                report(logging.ERROR, "An error in thread %d; it goes on", number, exc_info=True)

    def stop(self) -> None:
        """Have ``serve()`` return; from any thread, or a signal handler."""
        # No lock: the thread that a signal handler interrupts may have it.
        self._is_stopping = True
        self.loop.close_each()  # now, so that a request in the application is answered as the last one
        self._bell.wake()
        self.loop.wake()

    def reopen_logs(self) -> None:
        """Go on in a new file, after the old one was moved away."""
        if self.access_log is not None:
            self.access_log.reopen()

    def finish(self, actions: Callable[[], None] = lambda: None) -> None:
        """Accept no more, answer what has been received, close everything; in ``options.graceful_timeout`` seconds.

        actions: called again and again.
        """
        try:
            self.loop.retire()
            for server, listener in zip(self._servers, self._listeners, strict=True):
                if not listener.is_inherited:  # else another process accepts who waits there
                    self.loop.accept_all(server)
                    listener.close()
            self.loop.finish(self.options.graceful_timeout, patiently=True, actions=actions)
            end = monotonic() + _LAST
            for thread in self._threads:
                thread.join(max(end - monotonic(), 0.0))
        finally:
            self.close()

    def close(self) -> None:
        """Close every connection and listening socket now."""
        self.loop.is_stopped = True
        if isinstance(self.loop, SharedLoop) and any(thread.is_alive() for thread in self._threads):
            self.loop.close_parked()
        else:
            self.loop.close()
        for listener in self._listeners:
            listener.close()
        self._bell.close()
        if self.access_log is not None:
            self.access_log.close()


def _drop(lines: str) -> None:
    """Write to no log."""
