"""Applications and middleware, with types for each part. Also a program for wsgiref, checked with either import."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from io import BytesIO, StringIO
from types import TracebackType
from typing import Any

from typing_extensions import assert_type

from fastwsgi.types import ErrorStream, FileWrapper, InputStream, StartResponse, WSGIApplication, WSGIEnvironment
from fastwsgi.validate import ErrorWrapper, InputWrapper, IteratorWrapper, WriteWrapper, WSGIWarning, validator

ExcInfo = tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None]


def hello(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    body: InputStream = environ["wsgi.input"]
    errors: ErrorStream = environ["wsgi.errors"]
    errors.write("read")
    errors.flush()
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    write(body.read(10) + body.readline() + b"".join(body))
    return body.readlines()


def stream(environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
    start_response("200 OK", [])
    yield b"a"


class Application:
    def __init__(self, greeting: str) -> None:
        self.greeting = greeting

    def __call__(self, environ: dict[str, Any], start_response: StartResponse) -> list[bytes]:
        wrapper: FileWrapper = environ["wsgi.file_wrapper"]
        start_response("200 OK", [("Content-Type", "text/plain")], None)
        return [self.greeting.encode(), *wrapper(BytesIO(), 8192)]


class Upper:
    """Middleware: the status of another application in capitals."""

    def __init__(self, application: WSGIApplication) -> None:
        self.application = application

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        def start(
            status: str, headers: list[tuple[str, str]], exc_info: ExcInfo | None = None, /
        ) -> Callable[[bytes], object]:
            return start_response(status.upper(), headers, exc_info)

        return self.application(environ, start)


def all_of_them() -> list[WSGIApplication]:
    checked = validator(Upper(hello))
    assert_type(checked, WSGIApplication)
    return [hello, stream, Application("hi"), checked, Upper(stream), validator(Application("ho"))]


def checked_parts(warning: type[Warning] = WSGIWarning) -> None:
    assert_type(InputWrapper(BytesIO()).read(5), bytes)
    ErrorWrapper(StringIO()).writelines(["a", "b"])
    WriteWrapper(BytesIO().write)(b"data")
    assert_type(next(IteratorWrapper(iter([b"a"]), None)), bytes)
