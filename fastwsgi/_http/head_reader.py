"""Read a request's field section from a buffered stream, up to its empty line and no further."""

from __future__ import annotations

from typing import Any

from fastwsgi._backend import find_head_end

from .grammar import BadRequest


def read_field_section(stream: Any, limit: int) -> bytes:
    """Return the bytes up to and including the empty line, or to the end of the stream.

    stream: readable, with ``readline(size)``; with ``peek()``, the section is read in one piece if possible. limit: the
    most bytes that the section may have. Raises BadRequest(431) for more.
    """
    peek = getattr(stream, "peek", None)
    if peek is not None:
        size = find_head_end(peek())
        if 0 < size <= limit:
            return stream.read(size)  # type: ignore[no-any-return]
    lines = []
    room = limit
    while room > 0:
        line = stream.readline(room + 1)
        lines.append(line)
        room -= len(line)
        if line in (b"\r\n", b"\n", b""):
            return b"".join(lines)
    raise BadRequest(431, "Request Header Fields Too Large")
