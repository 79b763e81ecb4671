"""The HTTP server for WSGI applications: ``make_server()`` and the classes it puts together.

``WSGIServer`` is an ``http.server.HTTPServer`` and ``WSGIRequestHandler`` a ``BaseHTTPRequestHandler``:
each connection gets a handler object, which reads one request and answers it.
"""

from __future__ import annotations

import contextlib
import io
import platform
import socket
import socketserver
import sys
from collections.abc import Callable
from email.message import Message
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING, Any, TypeVar

from ._backend import RequestHead, build_environ, parse_head, parse_request_line
from ._grammar import BadRequest
from ._server.body import BodyReader, read_chunked
from ._server.head_reader import read_field_section
from ._server.request import Framing, check_head
from ._server.settings import Limits
from .handlers import SimpleHandler

if TYPE_CHECKING:
    from .types import ErrorStream, StartResponse, WSGIApplication, WSGIEnvironment

__all__ = ["WSGIRequestHandler", "WSGIServer", "demo_app", "make_server"]

_VERSION = "0.2"

# Scripts and tests compare the Server line, so it reads as the standard library's on each Python.
server_version = "WSGIServer" if sys.version_info >= (3, 15) else f"WSGIServer/{_VERSION}"
sys_version = f"{platform.python_implementation()}/{platform.python_version()}"
software_version = f"{server_version} {sys_version}"

LIMITS = Limits()

_ForkingMixIn: Any = getattr(socketserver, "ForkingMixIn", ())  # POSIX only


class ServerHandler(SimpleHandler):
    """Runs the application for a request handler, and has it log the answer."""

    server_software = software_version
    request_handler: WSGIRequestHandler

    def close(self) -> None:
        try:
            code = self.status.split(" ", 1)[0] if self.status else "-"
            self.request_handler.log_request(code, self.bytes_sent)
        finally:
            super().close()


class WSGIServer(HTTPServer):
    """A server for one WSGI application.

    server_address: (host, port), the host a name, an address, or "" for all interfaces; a host with
    colons is IPv6. RequestHandlerClass: called for each connection, usually WSGIRequestHandler.
    """

    application: WSGIApplication | None = None
    base_environ: WSGIEnvironment

    def __init__(
        self,
        server_address: tuple[str, int],
        RequestHandlerClass: Callable[..., Any],  # noqa: N803 - socketserver's name
        bind_and_activate: bool = True,
    ) -> None:
        host = server_address[0] if isinstance(server_address, tuple) else None
        if self.address_family == socket.AF_INET and isinstance(host, str) and ":" in host:
            self.address_family = socket.AF_INET6
        super().__init__(server_address, RequestHandlerClass, bind_and_activate)

    def server_bind(self) -> None:
        """Bind, and name the server by its address or, for all interfaces, the machine: without the DNS."""
        socketserver.TCPServer.server_bind(self)
        host, port = self.server_address[:2]
        self.server_name = socket.gethostname() if host in ("", "0.0.0.0", "::") else str(host)
        self.server_port = port
        self.setup_environ()

    def setup_environ(self) -> None:
        """Set ``self.base_environ``, what all requests' environs begin with."""
        self.base_environ = {
            "SERVER_NAME": self.server_name,
            "GATEWAY_INTERFACE": "CGI/1.1",
            "SERVER_PORT": str(self.server_port),
            "REMOTE_HOST": "",
            "CONTENT_LENGTH": "",
            "SCRIPT_NAME": "",
        }

    def get_app(self) -> WSGIApplication | None:
        """The application."""
        return self.application

    def set_app(self, application: WSGIApplication | None) -> None:
        """Set the application, a PEP 3333 callable."""
        self.application = application


class WSGIRequestHandler(BaseHTTPRequestHandler):
    """Reads one request from a connection and answers it by the server's application.

    request: the socket; client_address: (host, port, ...); server: the WSGIServer.
    """

    server_version = server_version
    raw_requestline: bytes

    _head: RequestHead | None = None
    _message: Message | None = None
    _request: tuple[str, str, str] | None = None
    _framing: Framing = Framing(0, expects_continue=False)

    @property
    def headers(self) -> Message:
        """The request's fields as an ``http.client.HTTPMessage``, made when first looked at."""
        if self._message is None:
            if self._head is None:
                raise AttributeError("headers")
            self._message = self.MessageClass()
            for name, value in self._head.fields:
                self._message[name] = value
        return self._message

    @headers.setter
    def headers(self, message: Message) -> None:
        self._message = message

    @headers.deleter
    def headers(self) -> None:
        self._message = self._head = None

    def address_string(self) -> str:
        """The client's address for the log, "-" where it has none (a unix socket)."""
        return self._client()[0] or "-"

    def _client(self) -> tuple[str, str]:
        address: Any = self.client_address
        if not isinstance(address, tuple | list) or not address:
            return "", ""
        return str(address[0]), str(address[1]) if len(address) > 1 else ""

    def get_environ(self) -> WSGIEnvironment:
        """A new environ for the current request, on a copy of the server's ``base_environ``.

        If ``headers`` was looked at, the fields are read from there: a subclass may have changed them.
        """
        head, request = self._head, (self.command, self.path, self.request_version)
        if head is None or self._message is not None or self._request != request:
            head = RequestHead(*request, [(name, value.strip(" \t")) for name, value in self.headers.items()])
        environ = build_environ(self.server.base_environ, head)  # type: ignore[attr-defined]
        environ["SERVER_SOFTWARE"] = self.server_version
        environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = self._client()
        if self._head is not None:
            environ["REQUEST_URI"] = self._head.target  # as it was sent, whatever became of self.path
        host = self.address_string()
        if host not in (environ["REMOTE_ADDR"], "-"):
            environ["REMOTE_HOST"] = host  # an override knows a name for the client
        environ.setdefault("CONTENT_TYPE", "text/plain")
        return environ

    def get_stderr(self) -> ErrorStream:
        """The stream for ``wsgi.errors``."""
        return sys.stderr

    def handle(self) -> None:
        """Read a request and answer it."""
        try:
            self.raw_requestline = self._read_request_line()
            if not self.parse_request():
                return
            environ = self.get_environ()
            opened = self._open_body(environ)
        except BadRequest as error:
            self.send_error(error.status, explain=error.reason)
            return
        except TimeoutError as error:
            self.log_error("Request timed out: %r", error)
            return
        except ConnectionError:
            return
        with opened as body:
            self._answer(environ, body)

    def _open_body(self, environ: WSGIEnvironment) -> Any:
        """The stream for ``wsgi.input``: it ends where the request does."""
        environ["wsgi.input_terminated"] = True
        length = self._framing.length
        if length is None:
            body, length = read_chunked(self.rfile, LIMITS)
            environ.pop("HTTP_TRANSFER_ENCODING", None)
            environ["CONTENT_LENGTH"] = str(length)
            return body
        if length:
            return BodyReader(self.rfile, length)
        return io.BytesIO() if self._is_on_socket() else contextlib.nullcontext(self.rfile)

    def _is_on_socket(self) -> bool:
        """Whether a client is there; a stream made by hand ends by itself, and may have been made to be read."""
        return isinstance(getattr(self, "connection", None), socket.socket)

    def _answer(self, environ: WSGIEnvironment, body: Any) -> None:
        stdout = _WholeWrites(self.wfile)
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
            handler.run(self.server.get_app())  # type: ignore[attr-defined]
        finally:
            stdout.flush()

    def _read_request_line(self) -> bytes:
        """The first line, or the second if that is empty (RFC 9112 section 2.2)."""
        line = self.rfile.readline(LIMITS.request_line + 3)
        return line if line not in (b"\r\n", b"\n") else self.rfile.readline(LIMITS.request_line + 3)

    def parse_request(self) -> bool:
        """Parse the request whose first line is ``raw_requestline``; read the rest of its head.

        Sets ``requestline``, ``command``, ``path``, ``request_version``, ``headers`` and
        ``close_connection``. Returns False if there is no request to answer: it has had its answer.
        """
        # What send_error() and the log want to know, whatever comes.
        self.command = ""
        self.request_version = "HTTP/1.0"
        self.close_connection = True
        self.requestline = self.raw_requestline.decode("iso-8859-1").rstrip("\r\n")
        if not self.requestline:
            return False
        try:
            # On its own first: the answer to a bad line mustn't wait for the lines after it.
            self.command, _, self.request_version = parse_request_line(
                self.raw_requestline, LIMITS.request_line, tolerant=True
            )
            section = read_field_section(self.rfile, LIMITS.field_section)
            if not section and self._is_on_socket():
                raise BadRequest(400, "Incomplete header section")
            head = parse_head(self.raw_requestline + section, LIMITS.request_line, LIMITS.fields, tolerant=True)
            self._framing = check_head(head, LIMITS)
        except BadRequest as error:
            self.send_error(error.status, explain=error.reason)
            return False
        self._head, self._message = head, None
        # As http.server has it: a path that starts with two slashes would read as a host in a Location.
        self.path = head.target if not head.target.startswith("//") else "/" + head.target.lstrip("/")
        self._request = self.command, self.path, self.request_version
        if self.protocol_version < "HTTP/1.1":
            return True
        # RFC 9112 section 9.3. A handler that loops over requests knows of lengths, but not of chunks.
        options = ",".join(head.get_all("Connection")).lower().replace(" ", "").split(",")
        self.close_connection = (
            "close" in options
            or (self.request_version < "HTTP/1.1" and "keep-alive" not in options)
            or self._framing.length is None
        )
        return self.handle_expect_100() if self._framing.expects_continue else True


_LARGE = 65536


class _WholeWrites:
    """An output stream that sends what was written in one piece at each flush."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.pieces: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.pieces.append(data)

    def flush(self) -> None:
        pieces, self.pieces = self.pieces, []
        if pieces:
            # A large piece isn't worth the copy that saves a system call.
            whole = [b"".join(pieces)] if sum(map(len, pieces)) <= _LARGE else pieces
            for data in whole:
                self.stream.write(data)
            self.stream.flush()

    def __getattr__(self, name: str) -> Any:
        # fileno() and the rest are for one who wants to write by himself: after what is waiting here.
        self.flush()
        return getattr(self.stream, name)


def demo_app(environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
    """A WSGI application that greets the world and lists its environ, as UTF-8 text."""
    lines = ["Hello world!", "", *(f"{name} = {value!r}" for name, value in sorted(environ.items())), ""]
    start_response("200 OK", [("Content-Type", "text/plain; charset=utf-8")])
    return ["\n".join(lines).encode("utf-8")]


_Server = TypeVar("_Server", bound=WSGIServer)


def make_server(
    host: str,
    port: int,
    app: WSGIApplication,
    server_class: type[_Server] = WSGIServer,  # type: ignore[assignment]
    handler_class: type[WSGIRequestHandler] = WSGIRequestHandler,
) -> _Server:
    """Make a server that listens and has its application.

    host: str, "" for all interfaces; port: int, 0 for a free one (``server.server_port`` tells which);
    app: PEP 3333 callable. Raises OSError if the address can't be bound.
    """
    server = server_class((host, port), handler_class)
    server.set_app(app)
    return server


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
