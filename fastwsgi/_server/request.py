"""The framing of one request: where its body ends, and what its head must say about that.

Bytes in, no sockets and no clock. A head that parses may still contradict itself; two recipients that
resolve a contradiction differently read different requests, so every one is refused (RFC 9112 sections 6
and 11.2). The stages of a request:

    parse_head() -> check_head() -> Framing -> the body: nothing, so many octets, or a ChunkedBody
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from fastwsgi._backend import RequestHead
from fastwsgi._grammar import AUTHORITY, FIELD_VALUE, TCHAR, BadRequest

from .settings import Settings


class Framing(NamedTuple):
    """How the body of a request is delimited."""

    #: Octets of the body; None: it's chunked.
    length: int | None
    #: Whether the client waits for 100 (Continue) before it sends the body.
    expects_continue: bool


# RFC 9110 section 8.6:  Content-Length = 1*DIGIT. Nineteen digits hold any length there is; no sign,
# space, underscore, and no digit of another script, all of which int() takes.
_LENGTH = re.compile(r"[0-9]{1,19}", re.ASCII)

# RFC 9112 section 6.1:  Transfer-Encoding = #transfer-coding, of which RFC 9110 section 10.1.4 has the form. One
# pattern for the whole list would look for white space before a comma in many places, and take quadratic time.
_CODING = re.compile(rf"[ \t]*[{TCHAR}]+[ \t]*(?:;.*)?")


def check_head(head: RequestHead, settings: Settings, needs_host: bool = True) -> Framing:
    """Return the framing of a parsed head, or raise BadRequest with the status to answer.

    needs_host: False for a head that was made by hand, to which nobody else can have given another meaning.
    """
    modern = head.version != "HTTP/1.0"
    _check_host(head.get_all("Host"), modern and needs_host)
    length = _body_length(head, modern)
    if length is not None and length > settings.max_body:
        raise BadRequest(413, "Body too large")
    expectations = [value.lower() for value in head.get_all("Expect")] if modern else []
    if any(value != "100-continue" for value in expectations):
        raise BadRequest(417, "Unknown expectation")
    return Framing(length, bool(expectations) and length != 0)


def is_persistent(head: RequestHead) -> bool:
    """Whether the client lets the connection stay open after this request (RFC 9112 section 9.3)."""
    values = head.get_all("Connection")
    if not values:
        return head.version != "HTTP/1.0"
    options = ",".join(values).lower().replace(" ", "").replace("\t", "").split(",")
    return "close" not in options and (head.version != "HTTP/1.0" or "keep-alive" in options)


def _check_host(hosts: list[str], needed: bool) -> None:
    """RFC 9112 section 3.2: one Host in HTTP/1.1, never two, and in its form if it isn't empty."""
    if len(hosts) > 1:
        raise BadRequest(400, "More than one Host")
    if hosts and hosts[0] and AUTHORITY.fullmatch(hosts[0]) is None:
        raise BadRequest(400, "Bad Host")
    if needed and not hosts:
        raise BadRequest(400, "No Host")


def _body_length(head: RequestHead, modern: bool) -> int | None:
    """RFC 9112 section 6.3, of whose choices none is taken: a contradiction is an error."""
    lengths = head.get_all("Content-Length")
    codings = head.get_all("Transfer-Encoding")
    if codings:
        if lengths:
            raise BadRequest(400, "Content-Length with Transfer-Encoding")
        if not modern:
            raise BadRequest(400, "Transfer-Encoding in HTTP/1.0")
        _check_codings(codings)
        return None
    if not lengths:
        return 0
    if len(lengths) > 1:
        raise BadRequest(400, "More than one Content-Length")
    if _LENGTH.fullmatch(lengths[0]) is None:
        raise BadRequest(400, "Bad Content-Length")
    return int(lengths[0])


def _check_codings(codings: list[str]) -> None:
    """RFC 9112 section 6.1: we know the chunked coding and no other, and that once."""
    if len(codings) == 1 and codings[0].lower() == "chunked":
        return
    value = ",".join(codings).lower()
    if len(codings) > 1 or value.count("chunked") > 1 or not all(map(_CODING.fullmatch, value.split(","))):
        raise BadRequest(400, "Bad Transfer-Encoding")
    raise BadRequest(501, "Unknown transfer coding")


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
