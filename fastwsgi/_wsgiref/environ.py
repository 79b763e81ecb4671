"""The request's part of an environ as wsgiref has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fastwsgi._http.environ import request_environ

if TYPE_CHECKING:
    from fastwsgi._backend import Request
    from fastwsgi.types import WSGIEnvironment


def handler_environ(base: WSGIEnvironment, request: Request, software: str) -> WSGIEnvironment:
    """``request_environ()``, with a type for a body that has none."""
    environ = request_environ(base, request, software)
    environ.setdefault("CONTENT_TYPE", "text/plain")
    return environ
