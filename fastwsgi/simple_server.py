"""The HTTP server for WSGI applications: ``make_server()`` and the classes it puts together.

``WSGIServer`` is an ``http.server.HTTPServer`` and ``WSGIRequestHandler`` a ``BaseHTTPRequestHandler``:
each connection gets a handler object, which reads one request and answers it.
"""

from __future__ import annotations

import contextlib
import functools
import http.server
import io
import platform
import socket
import socketserver
import sys
import threading
import time
from collections.abc import Callable, Generator
from email.message import Message
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any, TypeVar, overload

from ._backend import Request, parse_head, parse_request_line
from ._events.socket_kinds import accepts_plainly, is_tls
from ._http.environ import add_body, request_environ, split_address
from ._http.framing import frame_request
from ._http.gather import GatheringStream
from ._http.grammar import BadRequest
from ._http.head_reader import read_field_section
from ._wsgiref.hooks import (
    CONTENT_TYPE,
    ENVIRON_HOOKS,
    HANDLER_HOOKS,
    LOG_HOOKS,
    SERVER_HOOKS,
    Explanation,
    Overridden,
    does_nothing,
    methods,
    overridden,
    sets,
    stock,
)
from .handlers import BaseHandler, SimpleHandler, error_stream

if TYPE_CHECKING:
    from ._events.loop import EventLoop
    from ._http.settings import Settings
    from ._wsgiref.event_path import Inside
    from .types import ErrorStream, StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["WSGIRequestHandler", "WSGIServer", "demo_app", "explain", "make_server"]

_VERSION = "0.2"

# Scripts and tests compare the Server field, so its value equals the standard library's on each Python.
server_version: str = "WSGIServer" if sys.version_info >= (3, 15) else f"WSGIServer/{_VERSION}"
sys_version: str = f"{platform.python_implementation()}/{platform.python_version()}"
software_version: str = f"{server_version} {sys_version}"

_log_date: tuple[int, str] = (-1, "")
_STOCK_LOG_MESSAGE = BaseHTTPRequestHandler.log_message
# From Python 3.15 the log may be in colours. It imports _colorize lazily; this look into vars() doesn't import it.
_LOG_IS_PLAIN = "_colorize" not in vars(http.server)

_ForkingMixIn: Any = getattr(socketserver, "ForkingMixIn", ())  # POSIX only


class ServerHandler(SimpleHandler):
    """Runs the application for a request handler, and calls its hook for the log."""

    server_software: str = software_version  # pyright: ignore[reportIncompatibleVariableOverride]
    request_handler: WSGIRequestHandler

    def close(self) -> None:
        """Log the answer by ``request_handler.log_request()``, then close as ``BaseHandler`` does."""
        try:
            code = self.status.split(" ", 1)[0] if self.status else "-"
            self.request_handler.log_request(code, self.bytes_sent)
        finally:
            super().close()


@functools.cache
def _default_settings() -> Settings:
    """The default settings; their module is loaded at the first call."""
    from ._http.settings import Settings

    return Settings()


class _DefaultSettings:
    """A class attribute whose value is the default settings."""

    def __get__(self, server: object, owner: type | None = None) -> Settings:
        return _default_settings()


class WSGIServer(HTTPServer):
    """A server for one WSGI application.

    server_address: (host, port), the host a name, an address, or "" for all interfaces; a host with
    colons is IPv6. RequestHandlerClass: called for each connection, usually WSGIRequestHandler.
    """

    application: WSGIApplication | None = None
    base_environ: WSGIEnvironment
    address_family: int
    server_name: str
    server_port: int
    settings: Settings = _DefaultSettings()  # type: ignore[assignment]
    """Limits and timeouts; read when serving starts."""

    _inside: Inside | None = None

    def __init__(
        self,
        server_address: tuple[str, int],
        RequestHandlerClass: Callable[..., Any],  # noqa: N803 - socketserver's name
        bind_and_activate: bool = True,
    ) -> None:
        address: Any = server_address  # a subclass may use another address family
        host = address[0] if isinstance(address, tuple) else None
        if self.address_family == socket.AF_INET and isinstance(host, str) and ":" in host:
            self.address_family = socket.AF_INET6
        # Import it now: when serving begins, the program may have lost the right to read our files.
        from ._wsgiref import event_path  # noqa: F401  # pyright: ignore[reportUnusedImport]

        super().__init__(server_address, RequestHandlerClass, bind_and_activate)

    def server_bind(self) -> None:
        """Bind; set the server's name to its address, or for all interfaces to the host name, without the DNS."""
        socketserver.TCPServer.server_bind(self)
        host, port = self.server_address[:2]
        self.server_name = socket.gethostname() if host in ("", "0.0.0.0", "::") else str(host)
        self.server_port = port
        self.setup_environ()

    def setup_environ(self) -> None:
        """Set ``self.base_environ``, the keys that every request's environ begins with."""
        self.base_environ = {
            "SERVER_NAME": self.server_name,
            "GATEWAY_INTERFACE": "CGI/1.1",
            "SERVER_PORT": str(self.server_port),
            "REMOTE_HOST": "",
            "CONTENT_LENGTH": "",
            "SCRIPT_NAME": "",
        }

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        """Serve until ``shutdown()`` is called in another thread. ``explain()`` tells which path serves.

        poll_interval: the longest time, in seconds, between two calls of ``service_actions()``.
        """
        explanation = explain(self)
        if "logging" in sys.modules:  # a program that wants log records has imported it
            import logging

            logging.getLogger(__name__).debug("%r is served %s", self, explanation)
        if explanation.path == "classic":
            super().serve_forever(poll_interval)
            return
        if self._inside is not None and self._inside.loop.is_running:
            raise RuntimeError("the server is serving already")
        self._close_inside()
        is_shut_down: threading.Event = self._BaseServer__is_shut_down  # type: ignore[attr-defined]
        is_shut_down.clear()
        try:
            self._inside = inside = _inside_of(self)
            inside.loop.serve(self._must_stop, poll_interval, self.service_actions)
            inside.loop.finish(inside.server.settings.graceful_timeout)
        finally:
            self._BaseServer__shutdown_request = False
            try:
                self._close_inside()
            finally:
                is_shut_down.set()

    def _must_stop(self) -> bool:
        return self._BaseServer__shutdown_request

    def handle_request(self) -> None:
        """Answer one request. If ``self.timeout`` is set, wait no longer than that for it, in seconds.

        A client that connects and sends nothing doesn't delay the request of another client.
        """
        inside = self._inside
        if explain(self).path == "classic" or (inside is not None and inside.loop.is_running):
            super().handle_request()  # an application may call this while it answers
            return
        if inside is not None and not inside.front.is_for(self):
            self._close_inside()
        if self._inside is None:
            self._inside = _inside_of(self)
        inside = self._inside
        timeouts = [each for each in (inside.server.listener_timeout, self.timeout) if each is not None]
        if not inside.loop.serve_one(min(timeouts, default=None)):
            self.handle_timeout()
        if inside.loop.is_stopped:  # the application has called server_close()
            inside.loop.finish(inside.server.settings.graceful_timeout)
            self._close_inside()

    def shutdown(self) -> None:
        """Make ``serve_forever()`` in another thread return, and wait until it has."""
        # Don't use super().shutdown(): it sets the flag again, and the other thread may have returned and cleared it.
        self._BaseServer__shutdown_request = True
        inside = self._inside
        if inside is not None:
            inside.loop.wake()
        self._BaseServer__is_shut_down.wait()  # type: ignore[attr-defined]

    def server_close(self) -> None:
        """Close the listening socket and every connection."""
        if self._inside is not None and self._inside.loop.is_running:
            self._inside.loop.stop()  # serve_forever() closes what it uses
        else:
            self._close_inside()
        super().server_close()

    def _close_inside(self) -> None:
        inside, self._inside = self._inside, None
        if inside is not None:
            inside.loop.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Print the exception being handled to stderr. If that fails, drop it and raise nothing."""
        if sys.stderr is None:  # socketserver would print to standard output
            return
        with contextlib.suppress(Exception):
            super().handle_error(request, client_address)

    def get_app(self) -> WSGIApplication | None:
        """The application."""
        return self.application

    def set_app(self, application: WSGIApplication | None) -> None:
        """Set the application, a PEP 3333 callable."""
        self.application = application


class WSGIRequestHandler(BaseHTTPRequestHandler):
    """Reads one request from a connection and answers it with the server's application.

    request: the socket; client_address: (host, port, ...); server: the WSGIServer.
    """

    server: WSGIServer  # pyright: ignore[reportIncompatibleVariableOverride]
    server_version: str = server_version
    raw_requestline: bytes
    requestline: str
    command: str
    path: str
    request_version: str
    close_connection: bool

    # The parsed request; its fields as a Message, once they were read; and the attributes as parsed, to notice whether
    # a program has changed them.
    _head: Request | None = None
    _message: Message | None = None
    _request: tuple[str, str, str] | None = None
    # How the body is framed. If a program has set the attributes of a handler by hand, there is no body.
    _framed: Request = Request("", "", "", [])

    @property
    def headers(self) -> Message:
        """The request's fields as an ``http.client.HTTPMessage``, made at the first access."""
        if self._message is None:
            if self._head is None:
                raise AttributeError("headers")
            message: Message = self.MessageClass()
            for name, value in self._head.fields:
                message[name] = value
            self._message = message
        return self._message

    @headers.setter
    def headers(self, message: Message) -> None:
        self._message = message

    @headers.deleter
    def headers(self) -> None:  # pyright: ignore[reportIncompatibleVariableOverride]
        self._message = self._head = None

    @property
    def _settings(self) -> Settings:
        settings: Settings | None = getattr(getattr(self, "server", None), "settings", None)
        return settings if settings is not None else _default_settings()

    def address_string(self) -> str:
        """The client's address for the log; "-" if it has none, as on a unix socket."""
        return split_address(self.client_address)[0] or "-"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
        """Write a log line to stderr: the client, the time, and ``format % args``.

        A line that can't be written is dropped, and the request doesn't fail.
        """
        if BaseHTTPRequestHandler.log_message is not _STOCK_LOG_MESSAGE:
            super().log_message(format, *args)
            return
        message = format % args
        if sys.stderr is None:
            return
        is_plain = _LOG_IS_PLAIN and message.isprintable() and "\\" not in message  # super() escapes other characters
        # Outside of the try block, because an error of a hook is no error of stderr.
        client, date = self.address_string(), self.log_date_time_string()
        try:
            if is_plain:
                sys.stderr.write(f"{client} - - [{date}] {message}\n")
            else:
                with _returning(self, address_string=client, log_date_time_string=date):
                    super().log_message(format, *args)
        except Exception:  # a program may replace stderr by any object
            pass

    def _log_failure(self, what: str, error: BaseException) -> None:
        """Log a failure of the server that spoils the answer to a request."""
        self.log_error("%s: %s", what, error)

    def log_date_time_string(self) -> str:
        """The local time for log lines, formatted once a second."""
        if self.monthname is not BaseHTTPRequestHandler.monthname:
            return super().log_date_time_string()
        global _log_date  # noqa: PLW0603 - one tuple, replaced whole, so a thread sees the old or the new one
        now = int(time.time())
        second, text = _log_date
        if second != now:
            text = super().log_date_time_string()
            _log_date = now, text
        return text

    def get_environ(self) -> WSGIEnvironment:
        """A new environ for the current request, on a copy of the server's ``base_environ``.

        If ``headers`` was accessed, its fields are used, because a subclass may have changed them.
        """
        request, now = self._head, (self.command, self.path, self.request_version)
        if request is None or self._message is not None or self._request != now:
            request = Request(*now, [(name, value.strip(" \t")) for name, value in self.headers.items()])
        request.client = client = split_address(self.client_address)
        request.is_tls = is_tls(getattr(self, "connection", None))
        environ = request_environ(self.server.base_environ, request, self.server_version, CONTENT_TYPE)
        if self._head is not None:
            environ["REQUEST_URI"] = self._head.target  # as the client sent it, even if self.path was changed
        if type(self).address_string is not _STOCK_ADDRESS_STRING:
            host = self.address_string()
            if host not in (client[0], "-"):
                environ["REMOTE_HOST"] = host  # an override returned a name for the client
        return environ

    def get_stderr(self) -> ErrorStream:
        """The stream for ``wsgi.errors``: ``sys.stderr``, or if that is None, a stream that drops everything."""
        return error_stream()

    def handle(self) -> None:
        """Read a request and answer it."""
        try:
            self.raw_requestline = self._read_request_line()
            if not self.parse_request():
                return
            environ = self.get_environ()
            opened = self._open_body(environ)
        except BadRequest as error:
            self._refuse(error)
            return
        except TimeoutError as error:
            self.log_error("Request timed out: %r", error)
            return
        except ConnectionError:
            return
        with opened as body:
            self._answer(environ, body)

    def _open_body(self, environ: WSGIEnvironment) -> Any:
        """The stream for ``wsgi.input``, which ends where the request's body ends."""
        request = self._framed
        length, size, chunked = request.length, 0, None
        if length is None:
            from ._http.body import read_chunked

            chunked, size = read_chunked(self.rfile, self._settings)
        add_body(environ, request, size)
        if chunked is not None:
            return chunked
        if length:
            from ._http.body import BodyReader

            return BodyReader(self.rfile, length)
        return io.BytesIO() if self._is_on_socket() else contextlib.nullcontext(self.rfile)

    def _is_on_socket(self) -> bool:
        """Whether the request comes from a socket. Another stream ends by itself, and the application may read it."""
        return isinstance(getattr(self, "connection", None), socket.socket)

    def _answer(self, environ: WSGIEnvironment, body: Any) -> None:
        stdout = GatheringStream(self.wfile)
        handler = ServerHandler(
            body,
            stdout,
            self.get_stderr(),
            environ,
            multithread=isinstance(self.server, socketserver.ThreadingMixIn),
        )
        handler.wsgi_multiprocess = isinstance(self.server, _ForkingMixIn)
        handler.request_handler = self
        try:
            handler.run(self.server.get_app())  # type: ignore[arg-type]  # without one, the answer is 500
        finally:
            stdout.flush()

    def _read_request_line(self) -> bytes:
        """The first line, or the second if that is empty (RFC 9112 section 2.2)."""
        longest = self._settings.max_request_line + len(b"\r\n") + 1
        line = self.rfile.readline(longest)
        return line if line not in (b"\r\n", b"\n") else self.rfile.readline(longest)

    def parse_request(self) -> bool:
        """Parse the request whose first line is ``raw_requestline``; read the rest of its head.

        Sets ``requestline``, ``command``, ``path``, ``request_version``, ``headers`` and
        ``close_connection``. Returns False if the request was bad and has had its answer.
        """
        self._begin_request(self.raw_requestline)
        if not self.requestline:
            return False
        limits = self._settings
        try:
            # Parse the line alone first: the answer to a bad line must not wait for the lines after it.
            self.command, _, self.request_version = parse_request_line(
                self.raw_requestline, limits.max_request_line, tolerant=True
            )
            section = read_field_section(self.rfile, limits.max_field_section)
            if not section and self._is_on_socket():
                raise BadRequest(400, "Incomplete header section")
            data = self.raw_requestline + section
            request = parse_head(data, limits.max_request_line, limits.max_fields, tolerant=True)
            frame_request(request, limits, needs_host=self._is_on_socket())
        except BadRequest as error:
            self._refuse(error)
            return False
        self._take_request(request)
        if request.length is None:
            self.close_connection = True  # a handler that loops over requests may not decode chunks
        if self.protocol_version < "HTTP/1.1" or not request.expects_continue:
            return True
        return self.handle_expect_100()

    def _refuse(self, error: BadRequest) -> None:
        """Answer a bad request, or one whose body can't be stored; log the cause of the latter."""
        if isinstance(error.__cause__, OSError | MemoryError):
            self._log_failure(error.reason, error.__cause__)
        self.send_error(error.status, explain=error.reason)

    def _begin_request(self, request_line: bytes) -> None:
        """Set the attributes that send_error() and the log need, even if the request is bad."""
        self.raw_requestline = request_line
        self.requestline = request_line.decode("iso-8859-1").rstrip("\r\n")
        self.command = ""
        self.request_version = "HTTP/1.0"
        self.close_connection = True

    def _take_request(self, request: Request) -> None:
        """Set the attributes from a parsed request."""
        self._head, self._message, self._framed = request, None, request
        # As http.server does: in a Location field, a path that starts with two slashes would name another host.
        path = request.target if not request.target.startswith("//") else "/" + request.target.lstrip("/")
        self.command, self.path, self.request_version = self._request = request.method, path, request.version
        self.close_connection = self.protocol_version < "HTTP/1.1" or not request.is_persistent

    def _wrap(self, request: Request) -> None:
        """Take over a request that the event-driven server has read, so that hooks can see it."""
        line, end, _ = request.raw.partition(b"\n")
        self._begin_request(line + end)
        if request.method:
            self._take_request(request)


_STOCK_ADDRESS_STRING = WSGIRequestHandler.address_string


def demo_app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    """A WSGI application that greets the world and lists its environ, as UTF-8 text."""
    lines = ["Hello world!", "", *(f"{name} = {value!r}" for name, value in sorted(environ.items())), ""]
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    return ["\n".join(lines).encode("utf-8")]


_Server = TypeVar("_Server", bound=WSGIServer)


@overload
def make_server(
    host: str, port: int, app: WSGIApplication, *, handler_class: type[WSGIRequestHandler] = ...
) -> WSGIServer: ...
@overload
def make_server(
    host: str,
    port: int,
    app: WSGIApplication,
    server_class: type[_Server],
    handler_class: type[WSGIRequestHandler] = ...,
) -> _Server: ...
def make_server(
    host: str,
    port: int,
    app: WSGIApplication,
    server_class: type[WSGIServer] = WSGIServer,
    handler_class: type[WSGIRequestHandler] = WSGIRequestHandler,
) -> WSGIServer:
    """Make a server that listens, and set its application.

    host: str, "" for all interfaces; port: int, 0 for a free one (``server.server_port`` tells which);
    app: PEP 3333 callable. Raises OSError if the address can't be bound.
    """
    server = server_class((host, port), handler_class)
    server.set_app(app)
    return server


# ---- which path serves ------------------------------------------------------------------------------

# The attributes as they are now, to notice later changes in a subclass or in these classes.
_STOCK_SERVER = stock(WSGIServer, SERVER_HOOKS)
_STOCK_LISTENING = stock(WSGIServer, ["request_queue_size", "server_activate"])
_STOCK_APP = stock(WSGIServer, ["get_app"])
_STOCK_HANDLER = stock(WSGIRequestHandler, HANDLER_HOOKS)
_STOCK_ENVIRON = stock(WSGIRequestHandler, ENVIRON_HOOKS)
_STOCK_LOG = stock(WSGIRequestHandler, LOG_HOOKS)
_STOCK_RESPONSE = methods(ServerHandler)
_StockServerHandler = ServerHandler


def explain(server: WSGIServer) -> Explanation:
    """Tell which path would serve a server now, and why: ``explanation.path`` and ``explanation.reasons``.

    "event-driven": one loop serves all connections, and keeps them open between requests. "classic": as in
    socketserver, each connection gets a handler object, because the program overrides a hook that only this path calls.
    """
    reasons: list[str] = []
    server_class, handler_class = type(server), server.RequestHandlerClass
    for name in overridden(server_class, _STOCK_SERVER, server):
        reasons.append(f"{server_class.__name__}.{name} is overridden")
    if not (isinstance(handler_class, type) and issubclass(handler_class, WSGIRequestHandler)):
        reasons.append(f"{handler_class!r} isn't a subclass of WSGIRequestHandler")
    else:
        for name in overridden(handler_class, _STOCK_HANDLER):
            reasons.append(f"{handler_class.__name__}.{name} is overridden")
    if ServerHandler is not _StockServerHandler:
        reasons.append("simple_server.ServerHandler is replaced")
    for name in overridden(_StockServerHandler, _STOCK_RESPONSE):
        reasons.append(f"ServerHandler.{name} is overridden")
    if not accepts_plainly(server.socket):
        reasons.append(f"{type(server.socket).__name__} has its own accept()")
    return Explanation("classic" if reasons else "event-driven", tuple(reasons))


def _inside_of(server: WSGIServer, loop: EventLoop | None = None, threads: int = 1) -> Inside:
    """Make the objects that serve a server on the event-driven path. loop: None for a new SingleLoop."""
    from ._wsgiref.event_path import make_inside, response_of
    from ._wsgiref.front import ServerFront

    handler_class: Any = server.RequestHandlerClass
    # Both say 1.0 by default. If the program set one, honour it.
    http_version = "1.1"
    if sets(handler_class, "protocol_version", BaseHTTPRequestHandler):
        http_version = min(http_version, handler_class.protocol_version.removeprefix("HTTP/"))
    if sets(ServerHandler, "http_version", BaseHandler):
        http_version = min(http_version, ServerHandler.http_version)
    front = ServerFront(
        server,
        handler_class,
        response_of(_StockServerHandler),
        http_version=http_version,
        listens_again=not overridden(type(server), _STOCK_LISTENING, server),
        look=functools.partial(_hooks_of, server),
    )
    return make_inside(front, loop, threads)


def _hooks_of(server: WSGIServer) -> Overridden:
    handler_class: Any = server.RequestHandlerClass
    is_stock = handler_class.log_request is _STOCK_LOG["log_request"]
    log, arguments = (handler_class.log_message, 2) if is_stock else (handler_class.log_request, 3)
    is_silent = does_nothing(log, arguments, more=is_stock)
    return Overridden(
        app=bool(overridden(type(server), _STOCK_APP, server)),
        environ=bool(overridden(handler_class, _STOCK_ENVIRON)) or type(handler_class.server_version) is not str,
        log=not is_silent and _has_log_hooks(handler_class),
        logs=not is_silent,
        software=handler_class.server_version,
    )


def _has_log_hooks(handler_class: type) -> bool:
    """Whether a program or http.server changes log lines, so that the handler has to make them."""
    is_patched = BaseHTTPRequestHandler.log_message is not _STOCK_LOG_MESSAGE
    return is_patched or bool(overridden(handler_class, _STOCK_LOG)) or _log_is_coloured()


@contextlib.contextmanager
def _returning(handler: Any, **values: str) -> Generator[None]:
    """Make methods of a handler return these values for a while, without a call of the methods that it has."""
    before = {name: vars(handler)[name] for name in values if name in vars(handler)}
    for name, value in values.items():
        setattr(handler, name, lambda value=value: value)
    try:
        yield
    finally:
        for name in values:
            delattr(handler, name)
        vars(handler).update(before)


def _log_is_coloured() -> bool:
    """Whether http.server writes log lines in colours: from Python 3.15, on a terminal with colours."""
    colorize = getattr(http.server, "_colorize", None)
    try:
        return colorize is not None and sys.stderr is not None and bool(colorize.can_colorize(file=sys.stderr))
    except ValueError:  # stderr is closed
        return False


if sys.version_info < (3, 15):
    __version__ = _VERSION
else:

    def __getattr__(name: str) -> str:
        if name == "__version__":
            import warnings

            message = "'__version__' is deprecated and slated for removal in Python 3.20"
            warnings.warn(message, DeprecationWarning, stacklevel=2)
            return _VERSION
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
