"""Decide the framing of an answer: where its body ends, and whether the connection can be used again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from .grammar import is_content_length

#: The framing of an answer:
#: - whether no octet of the body is sent;
#: - how many octets of the body may be sent by Content-Length, or None for no limit;
#: - the value of Content-Length: None to keep the application's, "" if there must be none;
#: - whether the body is chunked;
#: - whether the body ends only when the connection is closed;
#: - whether the connection can be used for another request;
#: - the value of Connection, or None if the field isn't needed.
AnswerFraming: TypeAlias = "tuple[bool, int | None, str | None, bool, bool, bool, str | None]"


def frame_answer(
    status: str,
    lengths: Sequence[str],
    size: Callable[[], int | None],
    *,
    is_head: bool,
    modern: bool,
    persistent: bool,
    version: str,
) -> AnswerFraming:
    """Decide how an answer is framed.

    status: str, begins with three digits; lengths: the values of Content-Length that the application has set; size:
    called for the number of octets in the body, None if it's unknown; is_head: whether the request's method is HEAD;
    modern: whether the client uses HTTP/1.1; persistent: whether client and server want to keep the connection;
    version: the server's, "1.1" or "1.0". Raises ValueError for a Content-Length that isn't one decimal number.

    Sources: RFC 9110 sections 6.4.1 and 8.6, RFC 9112 sections 6.1, 6.3 and 9.3.
    """
    code = status[:3]
    lengthless = code == "204" or code[0] == "1"
    is_bodiless = is_head or lengthless or code == "304"
    content_length = room = None
    is_chunked = ends_with_connection = False
    if lengthless:
        content_length = ""
    elif lengths:
        if len(lengths) > 1 or not is_content_length(lengths[0]):
            raise ValueError(f"Content-Length must be one decimal number (got {', '.join(lengths)!r})")
        room = int(lengths[0])
    elif code != "304":
        room = size()
        if room is not None:
            content_length = str(room)
        elif not is_head:
            is_chunked = modern and version != "1.0"
            ends_with_connection = not is_chunked
    is_persistent = persistent and not ends_with_connection and version != "1.0"
    connection = None
    if version != "1.0":  # answers of HTTP/1.0 have no such field
        if not is_persistent:
            connection = "close"
        elif not modern:
            connection = "keep-alive"
    if is_bodiless:
        room = None
    return is_bodiless, room, content_length, is_chunked, ends_with_connection, is_persistent, connection
