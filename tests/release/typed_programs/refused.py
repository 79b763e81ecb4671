"""Code that type checkers have to refuse: an ignore comment that nothing needs is an error."""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from io import BytesIO, StringIO
from typing import Any

import fastwsgi
from fastwsgi.handlers import SimpleHandler
from fastwsgi.headers import Headers
from fastwsgi.simple_server import WSGIServer, demo_app, make_server
from fastwsgi.types import StartResponse, WSGIApplication, WSGIEnvironment
from fastwsgi.util import FileWrapper, shift_path_info
from fastwsgi.validate import validator


def text(environ: WSGIEnvironment, start_response: StartResponse) -> list[str]:
    start_response("200 OK", {"Content-Type": "text/plain"})  # type: ignore[arg-type]
    start_response(200, [])  # type: ignore[arg-type]
    start_response("200 OK")  # type: ignore[call-arg]
    start_response("200 OK", [])("text")  # type: ignore[arg-type]
    return ["text"]


def lonely(environ: WSGIEnvironment) -> list[bytes]:
    return []


def applications() -> WSGIApplication:
    validator(text)  # type: ignore[arg-type]
    make_server("", 0, lonely)  # type: ignore[arg-type]
    return text  # type: ignore[return-value]


def servers() -> None:
    make_server("", "8000", demo_app)  # type: ignore[call-overload]
    make_server("", 0, demo_app, Headers)  # type: ignore[type-var]
    make_server("", 0, demo_app, port=1)  # type: ignore[call-overload]
    WSGIServer.settings.max_body = 1  # type: ignore[misc]


def services(name: str | None) -> None:
    fastwsgi.serve(demo_app, thread=2)  # type: ignore[call-arg]
    fastwsgi.serve(demo_app, threads="2")  # type: ignore[arg-type]
    fastwsgi.serve(demo_app, "localhost:80", 4)  # type: ignore[call-arg]
    fastwsgi.serve(demo_app, bind=8000)  # type: ignore[arg-type]
    fastwsgi.serve(demo_app, max_body="1g")  # type: ignore[arg-type]
    fastwsgi.serve(demo_app, max_fields=1.5)  # type: ignore[arg-type]
    fastwsgi.serve(demo_app, validate="yes")  # type: ignore[arg-type]
    fastwsgi.serve(demo_app, certfile=b"cert.pem")  # type: ignore[arg-type]
    fastwsgi.serve(demo_app, forwarded_fields=[1])  # type: ignore[list-item]
    fastwsgi.serve(demo_app, reload=True)  # type: ignore[call-arg]
    fastwsgi.serve(text)  # type: ignore[arg-type]


def fields(headers: Headers) -> str:
    Headers({"A": "b"})  # type: ignore[arg-type]
    headers["Content-Length"] = 5  # type: ignore[assignment]
    headers.add_header("A", "b", size=5)  # type: ignore[arg-type]
    headers["A"].upper()  # type: ignore[union-attr]
    return headers.get("A")  # type: ignore[return-value]


def utilities(environ: WSGIEnvironment) -> str:
    FileWrapper("name.txt")  # type: ignore[arg-type]
    FileWrapper(StringIO())  # type: ignore[arg-type]
    SimpleHandler(BytesIO(), StringIO(), StringIO(), environ)  # type: ignore[arg-type]
    SimpleHandler(BytesIO(), BytesIO(), BytesIO(), environ)  # type: ignore[arg-type]
    return shift_path_info(environ)  # type: ignore[return-value]


class Handler(SimpleHandler):
    error_body = "text"  # type: ignore[assignment]

    def get_scheme(self) -> bytes:  # type: ignore[override]
        return b"https"

    def run(self) -> None:  # type: ignore[override]
        self.environ = None  # type: ignore[assignment]


class Server(WSGIServer):
    def get_app(self) -> Any:
        return self.applications  # type: ignore[attr-defined]
