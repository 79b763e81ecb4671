"""The requests to servers, the applications that answer them, and the correct responses."""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from wsgiref import util

from .results import FailureError

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]

TARGET = "/shop/items?page=2&sort=price"
# The fields of a browser; Host is put in front of them.
FIELDS = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "Accept-Language": "en-GB,en;q=0.5",
    "Accept-Encoding": "gzip, deflate, br",
    "Referer": "https://www.example.com/shop/",
    "Connection": "keep-alive",
    "Cookie": "session=0123456789abcdef; theme=dark",
    "Upgrade-Insecure-Requests": "1",
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Site": "same-origin",
}
FILE = bytes(range(256)) * 4096
BLOCK = 65536  # block size for reading files
ITEMS: list[dict[str, Any]] = [{"id": number, "name": f"item {number}", "price": number / 4} for number in range(1365)]
DOCUMENT = json.dumps(ITEMS).encode("ascii")


class FileWrapper(util.FileWrapper):
    """For servers without their own wrapper; fastpysgi mistakes any class of this name for Werkzeug's."""

    buffer_size = BLOCK


def hello(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    # Content-Length is set for bjoern and gunicorn, which otherwise send even one block as a chunked body.
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "13")])
    return [b"Hello, world!"]


def post(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    answer = b"%d" % len(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(answer)))])
    return [answer]


def document(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(DOCUMENT)))])
    return [DOCUMENT]


def stream(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    for _ in range(100):
        yield b"x" * 100


def file(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    opened = open(os.environ["BENCH_FILE"], "rb")  # noqa: SIM115 - the wrapper closes it
    length = os.fstat(opened.fileno()).st_size
    start_response("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", str(length))])
    wrapper: type[FileWrapper] = environ.get("wsgi.file_wrapper", FileWrapper)
    return wrapper(opened, BLOCK)


APPS: dict[str, App] = {"hello": hello, "post": post, "document": document, "stream": stream, "file": file}


class Varied(NamedTuple):
    """What differs between requests: a text in the head, and what replaces it in request number ``count``."""

    place: str
    lua: str
    #: The same in Python.
    text: Callable[[int], str]


COOKIE = Varied("0123456789abcdef", 'string.format("%016d", count)', "{:016d}".format)
ADDRESS = Varied(
    "10.0.0.0",
    'string.format("10.%d.%d.%d", count / 65536 % 256, count / 256 % 256, count % 256)',
    lambda count: f"10.{count >> 16 & 255}.{count >> 8 & 255}.{count & 255}",
)


@dataclass(frozen=True)
class Workload:
    """A request, and the response body that a server must return."""

    about: str
    app: str
    answer: bytes
    fields: dict[str, str] = field(default_factory=dict)
    body: str = ""
    varies: Varied | None = None
    is_plain: bool = False  # whether Host is the only field

    @property
    def method(self) -> str:
        return "POST" if self.body else "GET"

    def head_fields(self, port: int) -> dict[str, str]:
        return {"Host": f"127.0.0.1:{port}", **({} if self.is_plain else FIELDS), **self.fields}

    def request(self, port: int, number: int | None = None) -> bytes:
        """The whole request, as bytes. number: of the request, if requests differ; None leaves the text as it is."""
        fields = self.head_fields(port)
        if self.body:
            fields["Content-Length"] = str(len(self.body))
        lines = [f"{self.method} {TARGET} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        text = "\r\n".join([*lines, "", self.body])
        if self.varies is not None and number is not None:
            text = text.replace(self.varies.place, self.varies.text(number))
        return text.encode("ascii")


HELLO = Workload("the same head again and again, 13 bytes back", "hello", b"Hello, world!")
CONNECTIONS = Workload("a new connection for each request", "hello", b"Hello, world!", {"Connection": "close"})
POST = Workload("8 KiB uploaded, the size back", "post", b"8192", body="x" * 8192)


def check_answer(workload: Workload, port: int) -> None:
    """Send one request, and compare the whole response."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(workload.method, TARGET, workload.body or None, workload.head_fields(port))
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise FailureError(f"no answer: {error!r}") from error
    finally:
        connection.close()
    if response.status != 200 or body != workload.answer:
        raise FailureError(f"wrong answer: {response.status}, {len(body)} bytes: {body[:50]!r}")
