"""How an answer is framed: where its body ends, and whether the connection can be used again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .grammar import is_content_length


class AnswerFraming(NamedTuple):
    """What ``frame_answer()`` has decided."""

    #: Whether no octet of the body is sent.
    is_bodiless: bool
    #: Octets of the body that may be sent: what Content-Length says. None: there is no such limit.
    room: int | None
    #: The value of Content-Length: None as the application has it, "" to be removed, else to be set.
    content_length: str | None
    is_chunked: bool
    #: Whether nothing but the connection's end tells where the body ends.
    ends_with_connection: bool
    #: Whether the connection can be used for another request after this one.
    is_persistent: bool
    #: The value of Connection; None for none.
    connection: str | None


def frame_answer(
    status: str,
    lengths: Sequence[str],
    size: int | None,
    *,
    is_head: bool,
    modern: bool,
    persistent: bool,
    version: str,
) -> AnswerFraming:
    """Decide how an answer is framed.

    status: str, with its three digits; lengths: the values of Content-Length that the application has set; size: octets
    of the body, None if that isn't known; is_head: whether the request's method is HEAD; modern: whether the client
    speaks HTTP/1.1; persistent: whether client and server would use the connection again; version: ours, "1.1" or
    "1.0". Raises ValueError for a Content-Length that isn't one decimal number.

    Sources: RFC 9110 sections 6.4.1 and 8.6, RFC 9112 sections 6.1, 6.3 and 9.3.
    """
    lengthless = status.startswith(("204", "1"))
    is_bodiless = is_head or lengthless or status.startswith("304")
    content_length = room = None
    is_chunked = ends_with_connection = False
    if lengthless:
        content_length = ""
    elif lengths:
        if len(lengths) > 1 or not is_content_length(lengths[0]):
            raise ValueError(f"Content-Length must be one decimal number (got {', '.join(lengths)!r})")
        room = int(lengths[0])
    elif not status.startswith("304"):
        if size is not None:
            room, content_length = size, str(size)
        elif not is_head:
            is_chunked = modern and version != "1.0"
            ends_with_connection = not is_chunked
    is_persistent = persistent and not ends_with_connection and version != "1.0"
    connection = None
    if version != "1.0":  # whose answers say nothing about it
        if not is_persistent:
            connection = "close"
        elif not modern:
            connection = "keep-alive"
    return AnswerFraming(
        is_bodiless,
        None if is_bodiless else room,
        content_length,
        is_chunked,
        ends_with_connection,
        is_persistent,
        connection,
    )
