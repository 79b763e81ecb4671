"""Header fields, files and URIs. Also a program for wsgiref, so it's checked with either import."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from typing_extensions import assert_type

from fastwsgi.headers import Headers, tspecials
from fastwsgi.types import StartResponse, WSGIEnvironment
from fastwsgi.util import (
    FileWrapper,
    application_uri,
    guess_scheme,
    is_hop_by_hop,
    request_uri,
    setup_testing_defaults,
    shift_path_info,
)


def fields() -> bytes:
    headers = Headers([("Content-Type", "text/html")])
    headers["Content-Length"] = "0"
    headers.add_header("Content-Disposition", "attachment", filename="a.txt", inline=None)
    headers.add_header("Set-Cookie", None, a="b")
    assert_type(headers["Content-Type"], str | None)
    assert_type(headers.get("Content-Type"), str | None)
    assert_type(headers.get("Content-Type", ""), str)
    assert_type(headers.get_all("Set-Cookie"), list[str])
    assert_type(headers.setdefault("Vary", "Accept"), str)
    assert_type(headers.items(), list[tuple[str, str]])
    assert_type(headers.keys() + headers.values(), list[str])
    assert_type("Vary" in headers, bool)
    assert_type(len(Headers()), int)
    del headers["Vary"]
    return bytes(headers) + str(headers).encode()


def file(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    name = shift_path_info(environ)
    assert_type(name, str | None)
    if name is None or tspecials.search(name):
        start_response("404 Not Found", [("Content-Type", "text/plain")])
        return [request_uri(environ, include_query=False).encode(), application_uri(environ).encode()]
    start_response("200 OK", [("Content-Type", "application/octet-stream")])
    wrapper = FileWrapper(open(name, "rb"), blksize=65536)  # noqa: SIM115
    assert_type(next(wrapper), bytes)
    assert_type(iter(wrapper), FileWrapper)
    assert_type(wrapper.blksize, int)
    return wrapper


def request() -> WSGIEnvironment:
    environ: dict[str, Any] = {"HTTPS": "on"}
    setup_testing_defaults(environ)
    environ["wsgi.url_scheme"] = guess_scheme(environ)
    assert_type(is_hop_by_hop("Connection"), bool)
    return environ
