"""Gateway base classes: run a WSGI application over an environ and three streams.

``BaseHandler`` is a sequence of small hooks that a subclass overrides, in the order in which ``run()``
reaches them: ``setup_environ``, the application, ``finish_response`` with ``write``, ``send_headers``
and ``finish_content``, then ``close``; ``handle_error`` when anything raises.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, MutableMapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from ._backend import accelerator, check_fields, check_status, current_date, format_preamble
from ._backend import format_date_time as format_date_time  # noqa: PLC0414 - wsgiref.handlers has the name
from .headers import Headers
from .util import FileWrapper, guess_scheme
from .util import is_hop_by_hop as is_hop_by_hop  # noqa: PLC0414

if TYPE_CHECKING:
    from .types import ErrorStream, InputStream, StartResponse, WSGIApplication, WSGIEnvironment

    ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]

    class _Output(Protocol):
        def write(self, data: bytes, /) -> object: ...
        def flush(self) -> object: ...

__all__ = ["BaseCGIHandler", "BaseHandler", "CGIHandler", "IISCGIHandler", "SimpleHandler", "read_environ"]

# ---- the process environment as a WSGI environ -------------------------------------------------------

_FROM_REQUEST = frozenset(
    {
        "AUTH_TYPE",
        "CONTENT_LENGTH",
        "CONTENT_TYPE",
        "HTTPS",
        "PATH_INFO",
        "QUERY_STRING",
        "REMOTE_IDENT",
        "REMOTE_USER",
        "REQUEST_METHOD",
        "SCRIPT_NAME",
    }
)


def _is_from_request(name: str) -> bool:
    """Whether a CGI variable contains octets of the request. On a redirect, Apache prefixes the names."""
    while name.startswith("REDIRECT_"):
        name = name[len("REDIRECT_") :]
    return name in _FROM_REQUEST or name.startswith(("HTTP_", "SSL_"))


def _windows_octets(value: str, software: str) -> bytes:
    """Encode a variable of Windows' Unicode environment back to its octets, as the server that set it decoded them."""
    if software.startswith("apache/"):
        return value.encode("iso-8859-1")
    # IIS decodes as UTF-8 if the octets are valid UTF-8. Python's own CGI server always does.
    if software.startswith("microsoft-iis/") or (software.startswith("simplehttp/") and "python/3" in software):
        return value.encode("utf-8")
    return value.encode(sys.getfilesystemencoding(), "replace")


def read_environ() -> dict[str, str]:
    """A copy of ``os.environ`` with the request's variables as PEP 3333's "bytes in unicode" strings.

    PEP 3333, "Unicode Issues": each character stands for an octet, as if decoded from Latin-1.
    """
    environ = dict(os.environ)
    software = environ.get("SERVER_SOFTWARE", "").lower()
    for name, value in environ.items():
        if not value.isascii() and _is_from_request(name):
            if sys.platform == "win32":
                if software.startswith("apache/"):
                    continue  # already one character an octet
                environ[name] = _windows_octets(value, software).decode("iso-8859-1")
            else:
                environ[name] = os.fsencode(value).decode("iso-8859-1")
    return environ


# ---- the error stream --------------------------------------------------------------------------------


class _Nowhere(io.TextIOBase):
    """A text stream that drops what is written."""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        return len(text)


_NOWHERE = _Nowhere()


def error_stream() -> ErrorStream:
    """``sys.stderr``, or if it is None (pythonw, some services), a stream that drops what is written."""
    return sys.stderr if sys.stderr is not None else _NOWHERE


def _shown(exc_info: ExcInfo, limit: int | None) -> str:
    """A traceback as text. If the exception can't be formatted, the text has at least the stack."""
    from traceback import format_exception, format_tb

    try:
        return "".join(format_exception(*exc_info, limit=limit))
    except Exception as error:
        lines = ["Traceback (most recent call last):\n", *format_tb(exc_info[2], limit)]
        return f"{''.join(lines)}{exc_info[0]!r}, which can't be shown: {type(error)!r}\n"


# ---- handlers ----------------------------------------------------------------------------------------

# How many octets are offered to a stream at a time after a partial write.
_LARGEST_REST = 65536


class BaseHandler:
    """Runs a WSGI application for one request; see PEP 3333, "The Server/Gateway Side".

    Attributes and methods may be overridden by class or by instance. A subclass must give ``_write``,
    ``_flush``, ``get_stdin``, ``get_stderr`` and ``add_cgi_vars``.
    """

    wsgi_version: tuple[int, int] = (1, 0)
    wsgi_multithread: bool = True
    wsgi_multiprocess: bool = True
    wsgi_run_once: bool = False

    origin_server: bool = True
    """Whether we talk to the client itself, not to a gateway that reads a Status line."""
    http_version: str = "1.0"
    server_software: str | None = None
    """For SERVER_SOFTWARE and Server, if we are the origin server."""

    os_environ: MutableMapping[str, str] = read_environ()
    """Under every request's own variables; shared, so treat it as read-only."""

    wsgi_file_wrapper: type[FileWrapper] | None = FileWrapper
    """The class of ``wsgi.file_wrapper``; None: there is none."""
    headers_class: type[Headers] = Headers

    traceback_limit: int | None = None
    """How many frames of a traceback are logged; None: all."""
    error_status: str = "500 Internal Server Error"
    error_headers: list[tuple[str, str]] = [("Content-Type", "text/plain")]  # noqa: RUF012 - wsgiref's
    error_body: bytes = b"A server error occurred.  Please contact the administrator."

    # The state of the request being answered.
    environ: WSGIEnvironment
    status: str | None = None
    result: Any = None
    headers_sent: bool = False
    headers: Headers | None = None
    bytes_sent: int = 0
    # Whether the answer is complete. Then write() and start_response(), which an application may keep, refuse calls,
    # because the octets would get into the next answer.
    _is_over: bool = False

    def run(self, application: WSGIApplication) -> None:
        """Call the application and send what it answers; log what it raises, and answer 500 if possible.

        A client's disconnect isn't logged. Only an error in the handling of an error is raised.
        """
        if self._is_over:  # for an earlier request
            self._is_over = False
        try:
            if _run_stock is None or not _run_stock(self, application, _STOCK):
                self.setup_environ()
                self.result = application(self.environ, self.start_response)
                self.finish_response()
        except (ConnectionAbortedError, BrokenPipeError, ConnectionResetError):
            self._is_over = True  # here too, because close() wasn't called
        except BaseException:  # KeyboardInterrupt and SystemExit too: the hook decides
            try:
                self.handle_error()
            except BaseException:
                self.close()
                raise
            self._is_over = True

    def setup_environ(self) -> None:
        """Set ``self.environ``: the process's variables, the request's, and the ``wsgi.`` keys."""
        environ = self.environ = self.os_environ.copy()  # type: ignore[attr-defined]
        self.add_cgi_vars()
        environ["wsgi.input"] = self.get_stdin()
        environ["wsgi.errors"] = self.get_stderr()
        environ["wsgi.version"] = self.wsgi_version
        environ["wsgi.run_once"] = self.wsgi_run_once
        environ["wsgi.url_scheme"] = self.get_scheme()
        environ["wsgi.multithread"] = self.wsgi_multithread
        environ["wsgi.multiprocess"] = self.wsgi_multiprocess
        if self.wsgi_file_wrapper is not None:
            environ["wsgi.file_wrapper"] = self.wsgi_file_wrapper
        if self.origin_server and self.server_software:
            environ.setdefault("SERVER_SOFTWARE", self.server_software)

    def finish_response(self) -> None:
        """Send the application's iterable, then close it and this handler.

        After an error only the iterable is closed: the state is kept for ``handle_error``.
        """
        try:
            if not (self.result_is_file() and self.sendfile()):
                for data in self.result:
                    self.write(data)
                self.finish_content()
        except BaseException:
            if hasattr(self.result, "close"):
                self.result.close()
            raise
        self.close()

    def get_scheme(self) -> str:
        """The value of ``wsgi.url_scheme``."""
        return guess_scheme(self.environ)

    def set_content_length(self) -> None:
        """Set Content-Length if it is known, which it is if the iterable has exactly one block."""
        try:
            blocks = len(self.result)
        except (TypeError, AttributeError, NotImplementedError):
            return
        if blocks == 1:
            assert self.headers is not None
            self.headers["Content-Length"] = str(self.bytes_sent)

    def cleanup_headers(self) -> None:
        """Set defaults in ``self.headers`` just before they are sent."""
        if "Content-Length" not in self.headers:  # type: ignore[operator]
            self.set_content_length()

    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None
    ) -> Callable[[bytes], None]:
        """PEP 3333's ``start_response()``.

        Raises AssertionError for a status or headers of the wrong form, and if it is called twice
        without exc_info, or after the response; ValueError for control characters; exc_info's exception if headers
        were sent.
        """
        if self._is_over:
            raise AssertionError("the response is complete")
        if exc_info:
            try:
                if self.headers_sent:
                    raise exc_info[1].with_traceback(exc_info[2])  # type: ignore[union-attr]
            finally:
                exc_info = None  # avoid a reference cycle of traceback and frame
        elif self.headers is not None:
            raise AssertionError("Headers already set!")
        self.status = status
        self.headers = self.headers_class(headers)
        self._validate_status(self._convert_string_type(status, "Status"))
        check_fields(headers)
        return self.write

    def _validate_status(self, status: str) -> None:
        check_status(status)

    def _convert_string_type(self, value: str, title: str) -> str:
        if type(value) is str:
            return value
        raise AssertionError(f"{title} must be of type str (got {value!r})")

    def send_preamble(self) -> None:
        """Send the status line, and Date and Server unless the application set them."""
        if not self.origin_server:
            self._write(f"Status: {self.status}\r\n".encode("iso-8859-1"))
        elif self.client_is_modern():
            headers = self.headers
            assert headers is not None
            assert self.status is not None
            date = None if "Date" in headers else current_date()
            server = None if not self.server_software or "Server" in headers else self.server_software
            self._write(format_preamble(self.http_version, self.status, date, server))

    def write(self, data: bytes) -> None:
        """PEP 3333's ``write()``: send a block of the body, and the headers before the first.

        Raises AssertionError if data isn't bytes, before start_response, and after the response.
        """
        if type(data) is not bytes:
            raise AssertionError("write() argument must be a bytes instance")
        if not self.status:
            raise AssertionError("write() before start_response()")
        if self._is_over:
            raise AssertionError("the response is complete")
        if self.headers_sent:
            self.bytes_sent += len(data)
        else:
            self.bytes_sent = len(data)  # before the headers: set_content_length() reads it
            self.send_headers()
        self._write(data)
        self._flush()

    def sendfile(self) -> bool:
        """Override to transmit ``self.result``, a ``wsgi_file_wrapper``, by a function of the platform.

        An override sends the headers first if they weren't sent, and returns True if it has transmitted the file.
        """
        return False

    def finish_content(self) -> None:
        """Send the headers of a response whose body has no block."""
        if not self.headers_sent:
            # Keep a length that the application has set: the answer to HEAD may have one.
            self.headers.setdefault("Content-Length", "0")  # type: ignore[union-attr]
            self.send_headers()

    def close(self) -> None:
        """Close the application's iterable, if it has ``close()``, and forget the request."""
        try:
            if hasattr(self.result, "close"):
                self.result.close()
        finally:
            self.result = self.headers = self.status = None
            self.environ = None  # type: ignore[assignment]
            self.bytes_sent = 0
            self.headers_sent = False
            self._is_over = True

    def send_headers(self) -> None:
        """Send the preamble and the header fields."""
        self.cleanup_headers()
        has_head = not self.origin_server or self.client_is_modern()
        # Any error must come before something is sent.
        fields = bytes(self.headers) if has_head else b""  # type: ignore[arg-type]
        self.headers_sent = True
        if has_head:
            self.send_preamble()
            if getattr(self.send_preamble, "__func__", None) is not BaseHandler.send_preamble:
                fields = bytes(self.headers)  # type: ignore[arg-type]  # an override may have set fields
            self._write(fields)

    def result_is_file(self) -> bool:
        """Whether the application returned a ``wsgi_file_wrapper``."""
        wrapper = self.wsgi_file_wrapper
        return wrapper is not None and isinstance(self.result, wrapper)

    def client_is_modern(self) -> bool:
        """Whether the client expects a status line and headers, as all do after HTTP/0.9."""
        protocol: str = self.environ["SERVER_PROTOCOL"]
        return protocol.upper() != "HTTP/0.9"

    def log_exception(self, exc_info: ExcInfo) -> None:
        """Write a traceback to the error stream. If that fails, drop it and raise nothing."""
        try:
            stderr = self.get_stderr()
            stderr.write(_shown(exc_info, self.traceback_limit))
            stderr.flush()
        except KeyboardInterrupt:
            raise
        except BaseException:  # there is no other place to report it
            pass
        finally:
            exc_info = (None, None, None)  # avoid a reference cycle of traceback and frame

    def handle_error(self) -> None:
        """Log the current exception, and answer 500 if nothing was sent: close() may raise after a complete answer."""
        self.log_exception(sys.exc_info())
        if not (self.headers_sent or self._is_over):
            self.result = self.error_output(self.environ, self.start_response)
            self.finish_response()

    def error_output(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        """A WSGI application for the answer to an error. It doesn't tell the client what happened."""
        start_response(self.error_status, self.error_headers[:], sys.exc_info())
        return [self.error_body]

    def _write(self, data: bytes) -> None:
        """Take bytes for the client; they may be sent now or at the next ``_flush``."""
        raise NotImplementedError

    def _flush(self) -> None:
        """Send what ``_write`` took."""
        raise NotImplementedError

    def get_stdin(self) -> InputStream:
        """The stream for ``wsgi.input``."""
        raise NotImplementedError

    def get_stderr(self) -> ErrorStream:
        """The stream for ``wsgi.errors``."""
        raise NotImplementedError

    def add_cgi_vars(self) -> None:
        """Put the request's variables into ``self.environ``."""
        raise NotImplementedError


class SimpleHandler(BaseHandler):
    """A handler over given streams and a given environ, for origin servers.

    stdin: readable; stdout: ``write(bytes)`` and ``flush()``, writing each block in full; stderr:
    writable text; environ: the request's variables; multithread, multiprocess: the ``wsgi.`` flags.
    """

    def __init__(
        self,
        stdin: InputStream,
        stdout: _Output,
        stderr: ErrorStream,
        environ: MutableMapping[str, Any],
        multithread: bool = True,
        multiprocess: bool = False,
    ) -> None:
        self.stdin = stdin
        self.stdout: Any = stdout
        self.stderr = stderr
        self.base_env = environ
        self.wsgi_multithread = multithread
        self.wsgi_multiprocess = multiprocess

    def get_stdin(self) -> InputStream:
        """The stream that was given as stdin."""
        return self.stdin

    def get_stderr(self) -> ErrorStream:
        """The stream that was given as stderr."""
        return self.stderr

    def add_cgi_vars(self) -> None:
        """Put the variables that were given as environ into ``self.environ``."""
        self.environ.update(self.base_env)

    def _write(self, data: bytes) -> None:
        written = self.stdout.write(data)
        if written is not None and written != len(data):
            self._write_rest(data, written)

    def _write_rest(self, data: bytes, written: int | None) -> None:
        """Write the rest after a partial write, with a warning, because ``stdout`` should write each block in full."""
        import warnings

        warnings.warn(
            "SimpleHandler.stdout.write() should not do partial writes", DeprecationWarning, stacklevel=3
        )
        start = len(data) if written is None else written
        while start < len(data):
            # Offer a limited part, because copying all the rest for each write takes quadratic time.
            piece = data[start : start + _LARGEST_REST]
            written = self.stdout.write(piece)
            start += len(piece) if written is None else written

    def _flush(self) -> None:
        self.stdout.flush()


# The accelerator's shortcut: run_stock(handler, application, stock) does what BaseHandler.run() does, except for the
# handling of errors, if no hook of a SimpleHandler is overridden. It returns whether it did. stock: SimpleHandler's
# hooks by name (a class may have its own close(), _write() and _flush()), and None for attributes that a class may set;
# none of these names may be set on the instance. It sends an answer of one block in one piece. For any other answer it
# calls the handler's methods, which continue where it stopped.
_run_stock: Callable[..., bool] | None = getattr(accelerator, "run_stock", None)

# What must be unchanged for run_stock(): the hooks, in the order in which run() calls them, and the attributes that
# only the class may set.
_STOCK: dict[str, Callable[..., Any] | None] = {
    name: getattr(SimpleHandler, name)
    for name in (
        "setup_environ", "add_cgi_vars", "get_stdin", "get_stderr", "get_scheme", "start_response",
        "_convert_string_type", "_validate_status", "finish_response", "result_is_file", "sendfile", "write",
        "send_headers", "cleanup_headers", "set_content_length", "client_is_modern", "send_preamble",
        "_write", "_flush", "finish_content", "close",
    )
} | dict.fromkeys((
    "os_environ", "headers_class", "wsgi_version", "wsgi_run_once", "wsgi_file_wrapper", "origin_server",
    "http_version", "server_software", "status", "headers", "headers_sent",
))  # fmt: skip


class BaseCGIHandler(SimpleHandler):
    """A SimpleHandler for gateways: the status goes into a ``Status:`` line (RFC 3875 section 6.3.3)."""

    origin_server = False


class CGIHandler(BaseCGIHandler):
    """Answers one CGI request, from ``sys.stdin`` and ``os.environ`` (RFC 3875)."""

    wsgi_run_once = True
    # read_environ() returns all variables. Those of an earlier request in this process must not get in.
    os_environ: MutableMapping[str, str] = {}  # noqa: RUF012

    def __init__(self) -> None:
        _init_from_process(self, read_environ())


class IISCGIHandler(BaseCGIHandler):
    """A CGIHandler for Microsoft's IIS in its default setting, where PATH_INFO begins with SCRIPT_NAME.

    RFC 3875 section 4.1.5 separates the two, so the repeated part is cut off.
    """

    wsgi_run_once = True
    os_environ: MutableMapping[str, str] = {}  # noqa: RUF012

    def __init__(self) -> None:
        environ = read_environ()
        path, script = environ.get("PATH_INFO", ""), environ.get("SCRIPT_NAME", "")
        if f"{path}/".startswith(f"{script}/"):
            environ["PATH_INFO"] = path[len(script) :]
        _init_from_process(self, environ)


def _init_from_process(handler: BaseCGIHandler, environ: dict[str, str]) -> None:
    streams = sys.stdin.buffer, sys.stdout.buffer, error_stream()
    BaseCGIHandler.__init__(handler, *streams, environ, multithread=False, multiprocess=True)
