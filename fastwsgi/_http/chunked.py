"""The chunked coding of a request's body (RFC 9112 section 7.1), decoded: lines and sizes in, no sockets."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from .grammar import FIELD_VALUE, TCHAR, BadRequest

if TYPE_CHECKING:
    from .settings import Settings

# RFC 9112 section 7.1:  chunk = chunk-size [ chunk-ext ] CRLF chunk-data CRLF;  chunk-size = 1*HEXDIG
# Sixteen digits hold any size there is. Extensions are skipped (section 7.1.1); a CR or LF in one would end
# the line for another recipient.
_CHUNK_LINE = re.compile(rf"([0-9A-Fa-f]{{1,16}})(?:[ \t]*;[{FIELD_VALUE}]*)?\r\n")
_TRAILER_LINE = re.compile(rf"[{TCHAR}]+:[{FIELD_VALUE}]*\r\n")


class ChunkedBody:
    """The chunked coding of one body, fed line by line and block by block.

    Who reads the octets asks ``wanted`` what comes next: that many octets of data (positive), a line (0),
    or nothing, the body is complete (-1). Lines go to ``take_line``, with their end; of data, the number of
    octets goes to ``take_data``, whose content is none of our business.
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
        """How many octets the line that is wanted may have."""
        return self._room_for_trailers if self._next is ChunkedBody._trailer_line else self.settings.max_chunk_line

    def take_line(self, line: bytes) -> None:
        """Take a line that was wanted. Raises BadRequest: 400 for bad framing, 413 for a body over the limit."""
        if len(line) > self.longest_line:
            raise BadRequest(400, "Line too long in a chunked body")
        if not line.endswith(b"\n"):
            raise BadRequest(400, "Incomplete chunked body")
        self._next(self, line.decode("iso-8859-1"))

    def take_data(self, size: int) -> None:
        """Note that so many octets of what was wanted have come."""
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
        # RFC 9112 section 7.1.2: trailer fields may be dropped, and an environ has no place for them.
        self._room_for_trailers -= len(line)
        if line == "\r\n":
            self.wanted = -1
        elif _TRAILER_LINE.fullmatch(line) is None:
            raise BadRequest(400, "Bad trailer field")
