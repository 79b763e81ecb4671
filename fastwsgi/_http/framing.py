"""The framing of one request: where its body ends, and what its head must say about that.

Bytes in, no sockets and no clock. A head that parses may still contradict itself; two recipients that
resolve a contradiction differently read different requests, so every one is refused (RFC 9112 sections 6
and 11.2). The stages of a request:

    parse_head() -> check_head() -> Framing -> the body: nothing, so many octets, or a ChunkedBody
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from fastwsgi._backend import RequestHead

from .grammar import AUTHORITY, TCHAR, BadRequest, is_content_length

if TYPE_CHECKING:
    from .settings import Settings


class Framing(NamedTuple):
    """How the body of a request is delimited."""

    #: Octets of the body; None: it's chunked.
    length: int | None
    #: Whether the client waits for 100 (Continue) before it sends the body.
    expects_continue: bool


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
    if not is_content_length(lengths[0]):
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
