"""Decode the chunked coding of a request's body (RFC 9112 section 7.1), without sockets."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from .grammar import FIELD_VALUE, TCHAR, BadRequest

if TYPE_CHECKING:
    from .settings import Settings

# RFC 9112 section 7.1:  chunk = chunk-size [ chunk-ext ] CRLF chunk-data CRLF;  chunk-size = 1*HEXDIG
# Sixteen digits are enough for any size. Extensions are skipped (section 7.1.1). They must not have a CR or LF, because
# another recipient might end the line there.
_CHUNK_LINE = re.compile(rf"([0-9A-Fa-f]{{1,16}})(?:[ \t]*;[{FIELD_VALUE}]*)?\r\n")
_TRAILER_LINE = re.compile(rf"[{TCHAR}]+:[{FIELD_VALUE}]*\r\n")


class ChunkedBody:
    """Decodes the chunked coding of one body, line by line and block by block.

    ``wanted`` tells the caller what to read next: a positive number of octets of data, a line (0), or nothing, because
    the body is complete (-1). The caller passes lines with their line end to ``take_line``. It stores data itself, and
    passes only the number of octets to ``take_data``.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.wanted = 0
        #: Octets of data so far.
        self.size = 0
        self._room_for_trailers = settings.max_field_section
        self._next: Callable[[ChunkedBody, str], None] = ChunkedBody._chunk_line

    @property
    def longest_line(self) -> int:
        """The longest line allowed next, in octets with its line end."""
        return self._room_for_trailers if self._next is ChunkedBody._trailer_line else self.settings.max_chunk_line

    def take_line(self, line: bytes) -> None:
        """Take a line. Raises BadRequest: 400 for bad framing, 413 for a body over the limit."""
        if len(line) > self.longest_line:
            raise BadRequest(400, "Line too long in a chunked body")
        if not line.endswith(b"\n"):
            raise BadRequest(400, "Incomplete chunked body")
        self._next(self, line.decode("iso-8859-1"))

    def take_data(self, size: int) -> None:
        """Count octets of data that the caller has read."""
        self.wanted -= size
        self.size += size

    def _chunk_line(self, line: str) -> None:
        match = _CHUNK_LINE.fullmatch(line)
        if match is None:
            raise BadRequest(400, "Bad chunk size")
        self.wanted = int(match[1], 16)
        if self.size + self.wanted > self.settings.max_body:
            raise BadRequest(413, "Body too large")
        self._next = ChunkedBody._data_end if self.wanted else ChunkedBody._trailer_line

    def _data_end(self, line: str) -> None:
        if line != "\r\n":
            raise BadRequest(400, "Chunk longer than its size")
        self._next = ChunkedBody._chunk_line

    def _trailer_line(self, line: str) -> None:
        # RFC 9112 section 7.1.2: trailer fields may be dropped. An environ has no place for them.
        self._room_for_trailers -= len(line)
        if line == "\r\n":
            self.wanted = -1
        elif _TRAILER_LINE.fullmatch(line) is None:
            raise BadRequest(400, "Bad trailer field")
