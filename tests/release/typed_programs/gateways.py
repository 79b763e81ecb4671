"""Handlers that run applications over streams. Also a program for wsgiref, so it's checked with either import."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable, MutableMapping
from typing import Any

from typing_extensions import assert_type

from fastwsgi.handlers import (
    BaseCGIHandler,
    BaseHandler,
    CGIHandler,
    IISCGIHandler,
    SimpleHandler,
    format_date_time,
    read_environ,
)
from fastwsgi.headers import Headers
from fastwsgi.simple_server import demo_app
from fastwsgi.types import ErrorStream, InputStream, StartResponse, WSGIApplication, WSGIEnvironment
from fastwsgi.util import FileWrapper, setup_testing_defaults


class LowerHeaders(Headers):
    def add_header(self, _name: str, _value: str | None, **_params: str | None) -> None:
        super().add_header(_name.lower(), _value, **_params)


class PrivateHandler(SimpleHandler):
    """Tells a client as little as can be, and keeps what went wrong."""

    http_version = "1.1"
    server_software = "Private/1.0"
    origin_server = True
    traceback_limit = 3
    error_status = "503 Service Unavailable"
    error_headers = [("Content-Type", "text/plain"), ("Retry-After", "60")]  # noqa: RUF012
    error_body = b"later"
    headers_class = LowerHeaders
    wsgi_file_wrapper = None
    wsgi_run_once = True
    os_environ: MutableMapping[str, str] = {}  # noqa: RUF012

    def setup_environ(self) -> None:
        super().setup_environ()
        path: str = self.base_env.get("PATH_INFO", "")
        self.os_environ["example.path"] = path

    def cleanup_headers(self) -> None:
        super().cleanup_headers()

    def client_is_modern(self) -> bool:
        return True

    def error_output(self, environ: WSGIEnvironment, start_response: StartResponse) -> list[bytes]:
        body = super().error_output(environ, start_response)
        assert_type(body, list[bytes])
        return [*body, b"\n"]

    def log_exception(self, exc_info: Any) -> None:
        self.get_stderr().write(repr(exc_info[1]))

    def close(self) -> None:
        super().close()


class BufferingHandler(BaseHandler):
    """All that a handler must have by itself."""

    def __init__(self, environ: dict[str, str]) -> None:
        self.request = environ
        self.octets = bytearray()

    def _write(self, data: bytes) -> None:
        self.octets += data

    def _flush(self) -> None:
        pass

    def get_stdin(self) -> InputStream:
        return io.BytesIO()

    def get_stderr(self) -> ErrorStream:
        return sys.stderr

    def add_cgi_vars(self) -> None:
        self.request.update(read_environ())

    def sendfile(self) -> bool:
        return self.result_is_file()


class GatewayHandler(BaseCGIHandler):
    def start_response(
        self, status: str, headers: list[tuple[str, str]], exc_info: Any = None
    ) -> Callable[[bytes], None]:
        write = super().start_response(status, [*headers, ("Date", format_date_time(None))], exc_info)
        assert_type(write, Callable[[bytes], None])
        return write


def answer(application: WSGIApplication) -> bytes:
    environ: dict[str, Any] = {}
    setup_testing_defaults(environ)
    output = io.BytesIO()
    handler = PrivateHandler(io.BytesIO(b"body"), output, io.StringIO(), environ, multithread=False)
    handler.run(application)
    assert_type(handler.wsgi_version, tuple[int, int])
    assert_type(handler.get_scheme(), str)
    assert_type(SimpleHandler.wsgi_file_wrapper, type[FileWrapper] | None)
    return output.getvalue()


def by_cgi() -> None:
    (IISCGIHandler() if sys.platform == "win32" else CGIHandler()).run(demo_app)
