"""The grammar of HTTP/1.1 messages, and the sets of field names that the server knows.

Both twins use these character classes, so that each rule is written once. The comment above a rule has the sentence or
ABNF that it implements, and the reason for a deviation.
"""

from __future__ import annotations

import re
from typing import Final

# RFC 9110 section 5.6.2:  token = 1*tchar
#   tchar = "!" / "#" / "$" / "%" / "&" / "'" / "*" / "+" / "-" / "." / "^" / "_" / "`" / "|" / "~" / DIGIT / ALPHA
TCHAR: Final = r"!#$%&'*+\-.^_`|~0-9A-Za-z"

# RFC 9110 section 5.5:  field-value = *field-content, made of VCHAR, obs-text, SP and HTAB. All other
# control characters are refused; NUL, CR and LF could split messages.
FIELD_VALUE: Final = r"\t\x20-\x7e\x80-\xff"

# RFC 9112 section 3.2: the four forms of a request target have visible ASCII only, and no fragment. The tolerant class
# adds the octets above ASCII, which wsgiref passes on in PATH_INFO and its own tests send.
TARGET: Final = r"\x21\x22\x24-\x7e"
TOLERANT_TARGET: Final = TARGET + r"\x80-\xff"

# Characters that an application must not put into a response. A value may have HTAB, a name may not.
NAME_FORBIDDEN: Final = r"[\x00-\x1f\x7f]"
VALUE_FORBIDDEN: Final = r"[\x00-\x08\x0a-\x1f\x7f]"

# RFC 9112 section 3:  request-line = method SP request-target SP HTTP-version
# Exactly one SP each: section 3 lets a recipient be lenient, and warns that leniency lets requests be
# smuggled past a recipient that isn't.
REQUEST_LINE: Final = rf"([{TCHAR}]+) ([{TARGET}]+) (HTTP/1\.[0-9])\r\n"
TOLERANT_REQUEST_LINE: Final = rf"([{TCHAR}]+) ([{TOLERANT_TARGET}]+) (HTTP/1\.[0-9])(?:\r?\n)?"

# RFC 9112 section 5:  field-line = field-name ":" OWS field-value OWS
# White space around the value is removed afterwards: a pattern for white space on both sides of a value that may have
# spaces takes quadratic time on a run of spaces. obs-fold (section 5.2) is refused.
FIELD_SECTION: Final = rf"(?:[{TCHAR}]+:[{FIELD_VALUE}]*\r\n)*\r\n"

# RFC 9112 section 2.2 allows a recipient to accept a single LF as a line terminator. The classic path does, because
# callers of wsgiref pass such heads to handlers (and, in tests, a request line without a line end).
TOLERANT_FIELD_SECTION: Final = rf"(?:(?:[{TCHAR}]+:[{FIELD_VALUE}]*\r?\n)*\r?\n)?"

# RFC 9110 section 7.2 and RFC 3986 section 3.2:  Host = uri-host [ ":" port ]
# An authority never has userinfo here (RFC 9110 section 4.2.4). A look-ahead checks that each percent sign begins an
# encoded octet, because an alternative at every character takes a hundred times as long, and more memory.
_NAME = re.compile(r"(?!.*%(?![0-9A-Fa-f]{2}))[A-Za-z0-9\-._~!$&'()*+,;=%]+(?::[0-9]*)?")
_IP_LITERAL: Final = r"\[(?:[0-9A-Fa-f:.]+|v[0-9A-Fa-f]+\.[A-Za-z0-9\-._~!$&'()*+,;=:]+)\](?::[0-9]*)?"

# RFC 9112 section 3.2.2:  absolute-form = absolute-URI;  an origin server serves these schemes. Rare patterns are
# compiled when they are first used, so that an import costs less.
ABSOLUTE_FORM: Final = r"(?i:https?)://([^/?#]*)([^#]*)"

# The hop-by-hop fields of RFC 2616 section 13.5.1, including the name "trailers", because users of wsgiref rely on
# exactly this set in is_hop_by_hop().
HOP_BY_HOP: Final = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "te",
        "trailers",
        "transfer-encoding",
        "upgrade",
    }
)

# The request fields that real clients and proxies send. Their environ keys are made once, at import. The tables built
# from this list never change after that, so threads share them without a lock.
KNOWN_FIELDS: Final = (
    "Accept", "Accept-Charset", "Accept-Encoding", "Accept-Language", "Access-Control-Request-Headers",
    "Access-Control-Request-Method", "Authorization", "Cache-Control", "CF-Connecting-IP", "CF-IPCountry",
    "CF-Ray", "CF-Visitor", "Connection", "Content-Encoding", "Content-Language", "Content-Length",
    "Content-Type", "Cookie", "Date", "DNT", "Downlink", "ECT", "Expect", "Forwarded", "From", "Host",
    "HTTP2-Settings", "If-Match", "If-Modified-Since", "If-None-Match", "If-Range", "If-Unmodified-Since",
    "Keep-Alive", "Max-Forwards", "Origin", "Pragma", "Priority", "Proxy-Authorization", "Proxy-Connection",
    "Range", "Referer", "RTT", "Save-Data", "Sec-CH-UA", "Sec-CH-UA-Mobile", "Sec-CH-UA-Platform",
    "Sec-Fetch-Dest", "Sec-Fetch-Mode", "Sec-Fetch-Site", "Sec-Fetch-User", "Sec-GPC", "Sec-WebSocket-Key",
    "Sec-WebSocket-Version", "TE", "Traceparent", "Tracestate", "Trailer", "Transfer-Encoding", "True-Client-IP",
    "Upgrade", "Upgrade-Insecure-Requests", "User-Agent", "Via", "X-Amzn-Trace-Id", "X-CSRF-Token", "X-CSRFToken",
    "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Port", "X-Forwarded-Proto", "X-Real-IP", "X-Request-ID",
    "X-Requested-With", "X-Scheme",
)  # fmt: skip


class BadRequest(ValueError):  # noqa: N818 - named after the answer, RFC 9110 section 15.5.1
    """A request that violates the grammar or a limit, with the status code (int) for the answer.

    The reason is fixed text, so that the answer repeats nothing that the client sent.
    """

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(status, reason)
        self.status = status
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.status} {self.reason}"


def environ_key(name: str) -> str | None:
    """The environ key for a request field name, or None for a name with an underscore.

    ``X-Name`` and ``X_Name`` would share a key, so a client could bypass a proxy that filters only one of them.

    >>> environ_key("X-Name"), environ_key("Content-Type"), environ_key("X_Name")
    ('HTTP_X_NAME', 'CONTENT_TYPE', None)
    """
    if "_" in name:
        return None
    key = name.upper().replace("-", "_")
    return key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else "HTTP_" + key


def is_content_length(value: str) -> bool:
    """Whether a Content-Length is 1*DIGIT (RFC 9110 section 8.6), with no more digits than any length needs.

    int() alone would also accept signs, spaces, underscores and the digits of other scripts.

    >>> is_content_length("42"), is_content_length("+42"), is_content_length("٤٢")
    (True, False, False)
    """
    return len(value) <= 19 and value.isascii() and value.isdigit()


def is_authority(text: str) -> bool:
    """Whether a text is a host, perhaps with a port.

    >>> is_authority("example.com:80"), is_authority("[::1]"), is_authority("user@example.com")
    (True, True, False)
    """
    if text.startswith("["):
        return re.fullmatch(_IP_LITERAL, text) is not None
    return _NAME.fullmatch(text) is not None


def split_target(target: str) -> tuple[str | None, str]:
    """Split a request target into its authority, or None, and its path with query.

    The asterisk-form has no path (RFC 9110 section 7.1).
    """
    if target == "*":
        return None, ""
    absolute = re.fullmatch(ABSOLUTE_FORM, target)
    if absolute is None:
        return None, target
    authority, path = absolute.groups()
    return authority, path if path.startswith("/") else "/" + path


def check_target(method: str, target: str) -> None:
    """Raise BadRequest unless RFC 9112 section 3.2 allows the form of the target for this method."""
    if method == "CONNECT":
        raise BadRequest(501, "CONNECT is not supported")
    if target.startswith("/") or (target == "*" and method == "OPTIONS"):
        return
    absolute = re.fullmatch(ABSOLUTE_FORM, target)
    if absolute is None or not is_authority(absolute[1]):
        raise BadRequest(400, "Bad request target")
