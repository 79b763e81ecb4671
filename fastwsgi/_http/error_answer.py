"""Make the answer to a request that is refused, for a server without hooks."""

from __future__ import annotations

import html
from http.server import BaseHTTPRequestHandler as _Stdlib
from typing import TYPE_CHECKING

from fastwsgi._backend import Headers, current_date, format_preamble

if TYPE_CHECKING:
    from .grammar import BadRequest


def error_answer(error: BadRequest, software: str, *, is_head: bool) -> tuple[bytes, str]:
    """Return the whole answer, as http.server makes it, and the phrase of its status. It closes the connection.

    software: the value of Server; is_head: whether the request's method is HEAD, so that the answer has no body.
    """
    phrase, _ = _Stdlib.responses.get(error.status, ("???", "???"))
    parts = {"code": error.status, "message": html.escape(phrase, quote=False)}
    body = (_Stdlib.error_message_format % {**parts, "explain": html.escape(error.reason, quote=False)}).encode()
    fields = [
        ("Server", software),
        ("Date", current_date()),
        ("Connection", "close"),
        ("Content-Type", _Stdlib.error_content_type),
        ("Content-Length", str(len(body))),
    ]
    head = format_preamble("1.1", f"{error.status} {phrase}", None, None) + bytes(Headers(fields))
    return head if is_head else head + body, phrase
