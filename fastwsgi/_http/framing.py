"""Decide the framing of a request: where its body ends; refuse a head that contradicts itself about it.

A head that parses may still contradict itself. Two recipients that resolve a contradiction differently read different
requests, so every contradiction is refused (RFC 9112 sections 6 and 11.2). The stages of a request:

    parse_head() -> frame_request() -> the body: none, a number of octets, or a ChunkedBody
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .grammar import TCHAR, BadRequest, is_authority, is_content_length

if TYPE_CHECKING:
    from fastwsgi._backend import Request

    from .settings import Settings

# RFC 9112 section 6.1:  Transfer-Encoding = #transfer-coding;  RFC 9110 section 10.1.4 defines transfer-coding. One
# pattern for the whole list would search for white space before a comma in many places, and take quadratic time.
# Compiled when it's first used, so that an import costs less.
_CODING = rf"[ \t]*[{TCHAR}]+[ \t]*(?:;.*)?"


def frame_request(request: Request, settings: Settings, needs_host: bool = True) -> None:
    """Set the framing of a parsed request: ``length``, ``expects_continue``, ``is_persistent``.

    needs_host: False for a request made by hand: no proxy can have read it in another way.

    Raises BadRequest with the status to answer; then no attribute was set, except perhaps ``is_persistent``.
    """
    hosts, lengths, codings, expectations, options = request.framing_fields()
    modern = request.version != "HTTP/1.0"
    request.is_persistent = _is_persistent(options, modern) if options else modern
    # RFC 9112 section 3.2: exactly one Host in HTTP/1.1, never two in any version, and a valid value or an empty one.
    if len(hosts) > 1:
        raise BadRequest(400, "More than one Host")
    if not hosts:
        if modern and needs_host:
            raise BadRequest(400, "No Host")
    elif hosts[0] and not is_authority(hosts[0]):
        raise BadRequest(400, "Bad Host")
    length = _body_length(lengths, codings, modern) if lengths or codings else 0
    if length is not None and length > settings.max_body:
        raise BadRequest(413, "Body too large")
    if expectations and modern:
        if any(value.lower() != "100-continue" for value in expectations):
            raise BadRequest(417, "Unknown expectation")
        request.expects_continue = length != 0
    request.length = length


def _is_persistent(options: Sequence[str], modern: bool) -> bool:
    """Whether the client allows the connection to stay open after this request (RFC 9112 section 9.3)."""
    if options == ["keep-alive"]:
        return True
    names = ",".join(options).lower().replace(" ", "").replace("\t", "").split(",")
    return "close" not in names and (modern or "keep-alive" in names)


def _body_length(lengths: Sequence[str], codings: Sequence[str], modern: bool) -> int | None:
    """The length of the body by RFC 9112 section 6.3, or None for a chunked body. Every contradiction is an error."""
    if codings:
        if lengths:
            raise BadRequest(400, "Content-Length with Transfer-Encoding")
        if not modern:
            raise BadRequest(400, "Transfer-Encoding in HTTP/1.0")
        _check_codings(codings)
        return None
    if len(lengths) > 1:
        raise BadRequest(400, "More than one Content-Length")
    if not is_content_length(lengths[0]):
        raise BadRequest(400, "Bad Content-Length")
    return int(lengths[0])


def _check_codings(codings: Sequence[str]) -> None:
    """Check the transfer codings (RFC 9112 section 6.1): only chunked is supported, and only once."""
    if len(codings) == 1 and codings[0].lower() == "chunked":
        return
    value = ",".join(codings).lower()
    is_good = all(re.fullmatch(_CODING, coding) for coding in value.split(","))
    if len(codings) > 1 or value.count("chunked") > 1 or not is_good:
        raise BadRequest(400, "Bad Transfer-Encoding")
    raise BadRequest(501, "Unknown transfer coding")
