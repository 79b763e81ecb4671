"""The pure Python implementation of the hot paths, and the reference for its compiled twin, ``_speedups.pyx``.

Twins are two implementations of the same names, in the same order. The compiled twin has only the inner loops for
usual input, and calls this module for the rest. So a rare rule, and the exception that it raises, is written once.
Neither twin decides about limits, hooks or the handling of errors.
"""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, overload
from urllib.parse import unquote

from ._http.grammar import (
    FIELD_SECTION,
    HOP_BY_HOP,
    KNOWN_FIELDS,
    NAME_FORBIDDEN,
    REQUEST_LINE,
    TCHAR,
    TOLERANT_FIELD_SECTION,
    TOLERANT_REQUEST_LINE,
    VALUE_FORBIDDEN,
    BadRequest,
    check_target,
    environ_key,
    split_target,
)

if TYPE_CHECKING:
    import socket

    from .types import _Readable

_NAME_FORBIDDEN = re.compile(NAME_FORBIDDEN)
_VALUE_FORBIDDEN = re.compile(VALUE_FORBIDDEN)
_REQUEST_LINE = re.compile(REQUEST_LINE)
_TOLERANT_REQUEST_LINE = re.compile(TOLERANT_REQUEST_LINE)
_FIELD_SECTION = re.compile(FIELD_SECTION)
_TOLERANT_FIELD_SECTION = re.compile(TOLERANT_FIELD_SECTION)

# ---- response: dates, names, status, fields ---------------------------------------------------------

_WEEKDAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("", "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_TWO_DIGITS = tuple(f"{n:02d}" for n in range(62))  # a leap second is number 60, and C allows 61


def format_date_time(timestamp: float | None) -> str:
    """Format seconds since the epoch as an IMF-fixdate (RFC 9110 section 5.6.7); None means now.

    Raises what ``time.gmtime`` raises for a number it can't convert.
    """
    year, month, day, hour, minute, second, weekday, _, _ = time.gmtime(timestamp)
    two = _TWO_DIGITS
    return (
        f"{_WEEKDAYS[weekday]}, {two[day]} {_MONTHS[month]} {year:4d}"
        f" {two[hour]}:{two[minute]}:{two[second]} GMT"
    )


_date: tuple[int, str] = (-1, "")


def current_date() -> str:
    """The current time as a Date field's value, formatted once a second."""
    global _date  # noqa: PLW0603 - one tuple, replaced whole, so a thread sees the old or the new one
    now = int(time.time())
    second, text = _date
    if second != now:
        text = format_date_time(now)
        _date = now, text
    return text


def is_hop_by_hop(header_name: str) -> bool:
    """Whether a field, in any case, is meant for one connection only (RFC 2616 section 13.5.1)."""
    return header_name.lower() in HOP_BY_HOP


def check_status(status: str) -> None:
    """Check a WSGI status: three digits, a space, a reason (PEP 3333, "The start_response() Callable").

    Raises ValueError for control characters, AssertionError for the wrong form.
    """
    if len(status) >= 4 and status[3] == " " and status[:3].isdigit() and status.isprintable() and status.isascii():
        return
    if _NAME_FORBIDDEN.search(status):
        raise ValueError("Control characters are not allowed in status")
    if len(status) < 4:
        raise AssertionError("Status must be at least 4 characters")
    if not (status[:3].isdigit() and status[:3].isascii()):
        raise AssertionError("Status message must begin w/3-digit code")
    if status[3] != " ":
        raise AssertionError("Status message must have a space after code")


def check_fields(headers: Iterable[tuple[str, str]]) -> None:
    """Check the fields given to start_response: strings, and none that is hop-by-hop.

    Raises AssertionError. Control characters are the mapping's to refuse.
    """
    for name, value in headers:
        if type(name) is not str:
            raise AssertionError(f"Header name must be of type str (got {name!r})")
        if type(value) is not str:
            raise AssertionError(f"Header value must be of type str (got {value!r})")
        if name.lower() in HOP_BY_HOP:
            raise AssertionError(f"Hop-by-hop header, '{name}: {value}', not allowed")


def format_preamble(http_version: str, status: str, date: str | None, server: str | None) -> bytes:
    """Format a status line, and Date and Server lines where given, each with its CRLF.

    Raises ValueError for control characters and UnicodeEncodeError for what isn't Latin-1.
    """
    for text in (http_version, status, date, server):
        if text is not None and not text.isprintable() and _NAME_FORBIDDEN.search(text):
            raise ValueError("Control characters not allowed in headers")
    lines = f"HTTP/{http_version} {status}\r\n"
    if date is not None:
        lines += f"Date: {date}\r\n"
    if server is not None:
        lines += f"Server: {server}\r\n"
    return lines.encode("iso-8859-1")


# Names and values that passed the checks, and their field lines, because an application sends the same ones again and
# again. The tables are filled up to a limit and never emptied; two threads may add at the same time without harm.
_clean_names: set[str] = set()
_clean_values: set[str] = set()
_clean_lines: dict[tuple[str, str], bytes] = {}
_REMEMBERED = 512
_SHORT = 80  # longer text is rarely sent twice


def format_fields(headers: Iterable[tuple[str, str]]) -> bytes:
    """Format name/value pairs as field lines and the empty line that ends them.

    Raises ValueError for control characters and UnicodeEncodeError for what isn't Latin-1.
    """
    # Check again although the mapping has checked, because the application still has the list and may change it.
    known = _clean_lines.get
    try:
        return b"".join([known(pair) or _field_line(pair) for pair in headers]) + b"\r\n"
    except TypeError:  # a pair that is a list has no hash
        return b"".join(map(_field_line, headers)) + b"\r\n"


def _field_line(pair: tuple[str, str]) -> bytes:
    name, value = pair
    _check_pair(name, value)
    line = f"{name}: {value}\r\n".encode("iso-8859-1")
    if len(_clean_lines) < _REMEMBERED and len(line) <= _SHORT and type(pair) is tuple:
        _clean_lines[pair] = line
    return line


def _check_pair(name: str, value: str) -> None:
    _check_text(name, _NAME_FORBIDDEN)
    _check_text(value, _VALUE_FORBIDDEN)
    if len(_clean_names) < _REMEMBERED and len(name) <= _SHORT:
        _clean_names.add(name)
    if len(_clean_values) < _REMEMBERED and len(value) <= _SHORT:
        _clean_values.add(value)


def _check_text(text: str, forbidden: re.Pattern[str]) -> str:
    if type(text) is not str:
        raise AssertionError(f"Header names/values must be of type str (got {text!r})")
    if not text.isprintable() and forbidden.search(text):
        raise ValueError("Control characters not allowed in headers")
    return text


class Headers:
    """A mapping of case-insensitive field names over a list of WSGI header tuples.

    headers: list of (name, value) str tuples, wrapped, not copied; default a new list.

    A name may be in the list several times: a look-up returns the first value, and setting replaces them all. A missing
    name gives None, and deleting it does nothing. Raises TypeError if headers isn't a list,
    AssertionError for names and values that aren't str, ValueError for control characters in them
    (RFC 9110 section 5.5).
    """

    def __init__(self, headers: list[tuple[str, str]] | None = None) -> None:
        if headers is None:
            headers = []
        elif type(headers) is not list:
            raise TypeError("Headers must be a list of name/value tuples")
        else:
            names, values = _clean_names, _clean_values
            for name, value in headers:
                if not (type(name) is str is type(value) and name in names and value in values):
                    _check_pair(name, value)
        self._headers = headers

    def _convert_string_type(self, value: str, *, name: bool) -> str:
        return _check_text(value, _NAME_FORBIDDEN if name else _VALUE_FORBIDDEN)

    def __len__(self) -> int:
        return len(self._headers)

    def __setitem__(self, name: str, val: str) -> None:
        # Check both before deleting anything, so that a refused value leaves the old one.
        if not (type(name) is str is type(val) and name in _clean_names and val in _clean_values):
            _check_text(name.lower(), _NAME_FORBIDDEN)
            _check_pair(name, val)
        if type(self) is Headers:  # __delitem__ isn't overridden: save the call and its second check of the name
            lowered = name.lower()
            self._headers[:] = [field for field in self._headers if field[0].lower() != lowered]
        else:
            del self[name]
        self._headers.append((name, val))

    def __delitem__(self, name: str) -> None:
        lowered = name.lower()
        others = [field for field in self._headers if field[0].lower() != lowered]
        if len(others) == len(self._headers):
            _check_text(lowered, _NAME_FORBIDDEN)
        else:
            self._headers[:] = others

    def __getitem__(self, name: str) -> str | None:
        return self.get(name)

    def __contains__(self, name: str) -> bool:
        return self.get(name) is not None

    def get_all(self, name: str) -> list[str]:
        """All values of a field, in the order of the list; empty if there is none."""
        lowered = name.lower()
        found = [field[1] for field in self._headers if field[0].lower() == lowered]
        if not found:
            _check_text(lowered, _NAME_FORBIDDEN)
        return found

    @overload
    def get(self, name: str, default: str) -> str: ...
    @overload
    def get(self, name: str, default: str | None = None) -> str | None: ...
    def get(self, name: str, default: str | None = None) -> str | None:
        """The first value of a field, or default."""
        # A name in the list has been checked. So check only a name that isn't found.
        lowered = name.lower()
        for field_name, value in self._headers:
            if field_name.lower() == lowered:
                return value
        _check_text(lowered, _NAME_FORBIDDEN)
        return default

    def keys(self) -> list[str]:
        """All field names, in order and with repetitions."""
        return [name for name, _ in self._headers]

    def values(self) -> list[str]:
        """All field values, in order."""
        return [value for _, value in self._headers]

    def items(self) -> list[tuple[str, str]]:
        """A copy of the list of (name, value) tuples."""
        return self._headers[:]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._headers!r})"

    def __str__(self) -> str:
        for name, value in self._headers:
            _check_pair(name, value)
        return "".join([f"{name}: {value}\r\n" for name, value in self._headers]) + "\r\n"

    def __bytes__(self) -> bytes:
        if type(self) is Headers:
            return format_fields(self._headers)
        return str(self).encode("iso-8859-1")

    def setdefault(self, name: str, value: str) -> str:
        """The first value of a field; if there is none, add the field with this value."""
        found = self.get(name)
        if found is not None:
            return found
        self._headers.append((_check_text(name, _NAME_FORBIDDEN), _check_text(value, _VALUE_FORBIDDEN)))
        return value

    def add_header(self, _name: str, _value: str | None, **_params: str | None) -> None:
        """Add a field with MIME parameters; keep other fields of the same name.

        Each keyword is a parameter: underscores in its name become dashes, its value is quoted; None
        (or "") adds the name alone. A _value of None gives a field of parameters only.
        """
        parts = [] if _value is None else [_check_text(_value, _VALUE_FORBIDDEN)]
        for keyword, value in _params.items():
            if not (type(keyword) is str and keyword.isidentifier()):  # an identifier has no control character
                _check_text(keyword, _NAME_FORBIDDEN)
            name = keyword.replace("_", "-")
            if value is not None and _check_text(value, _VALUE_FORBIDDEN):
                if '"' in value or "\\" in value:
                    value = value.replace("\\", r"\\").replace('"', r"\"")  # noqa: PLW2901
                parts.append(f'{name}="{value}"')
            else:
                parts.append(name)
        if not (type(_name) is str and _name in _clean_names):
            _check_text(_name, _NAME_FORBIDDEN)
        self._headers.append((_name, "; ".join(parts)))


class FileWrapper:
    """An iterator over the blocks of a file-like object.

    filelike: an object with ``read(size)``; if it has ``close()``, so has the wrapper.
    blksize: what is passed to each ``read``, in bytes.

    PEP 3333, "Optional Platform-Specific File Handling".
    """

    close: Callable[[], None]

    def __init__(self, filelike: _Readable, blksize: int = 8192) -> None:
        self.filelike: Any = filelike
        self.blksize = blksize
        if hasattr(filelike, "close"):
            self.close = filelike.close  # pyright: ignore[reportAttributeAccessIssue]

    def __getitem__(self, key: Any) -> bytes:
        warnings.warn(
            "FileWrapper's __getitem__ method ignores 'key' parameter. Use iterator protocol instead.",
            DeprecationWarning,
            stacklevel=2,
        )
        data: bytes = self.filelike.read(self.blksize)
        if data:
            return data
        raise IndexError

    def __iter__(self) -> FileWrapper:
        return self

    def __next__(self) -> bytes:
        data: bytes = self.filelike.read(self.blksize)
        if data:
            return data
        raise StopIteration


_UNSAFE_IN_QUOTES = re.compile(r"[^ !#-\[\]-~]")


def is_plain(text: str) -> bool:
    """Whether a text has only visible ASCII and spaces, and neither a quote nor a backslash.

    Such a text needs no escapes between quotes in a log line.
    """
    return _UNSAFE_IN_QUOTES.search(text) is None


# ---- request: head, environ --------------------------------------------------------------------------

def find_head_end(data: bytes | bytearray, start: int = 0) -> int:
    """The index just past the first empty line in data, or -1.

    data: bytes that begin at the start of a line; start: how many of them were searched before, so that
    each octet of a head that arrives in pieces is searched once.
    """
    if start < 2:
        if data[:1] == b"\n":
            return 1
        if data[:2] == b"\r\n":
            return 2
        start = 2
    crlf = data.find(b"\n\r\n", start - 2)
    lf = data.find(b"\n\n", start - 2, crlf + 1 if crlf >= 0 else len(data))
    return lf + 2 if lf >= 0 else crlf + 3 if crlf >= 0 else -1


# The fields that say how a request is framed, by their places in what framing_fields() returns.
_FRAMING_PLACES = {"host": 0, "content-length": 1, "transfer-encoding": 2, "expect": 3, "connection": 4}


class Request:
    """A request: its head as received, the parsed parts of the head, and what the server knows of its client.

    method, target, version: str, the parts of the request line; the first two are "" if it couldn't be parsed.
    fields: list of (name, value) str tuples, in the order received. raw: bytes, the whole head with its empty line; of
    a head that couldn't be parsed, only the request line; b"" for a request that wasn't received.

    Text is Latin-1, one character an octet, as PEP 3333 requires ("Unicode Issues"). The parser sets these attributes.
    ``frame_request()`` sets ``length``, ``expects_continue`` and ``is_persistent``. The connection sets the rest.
    """

    __slots__ = (
        "_values", "adapter", "address", "began", "client", "environ", "expects_continue", "fields", "is_persistent",
        "is_tls", "length", "method", "raw", "sock", "target", "version",
    )  # fmt: skip

    def __init__(
        self, method: str, target: str, version: str, fields: list[tuple[str, str]], raw: bytes = b""
    ) -> None:
        self.method = method
        self.target = target
        self.version = version
        self.fields = fields
        self.raw = raw
        #: Octets of the body; None: it's chunked.
        self.length: int | None = 0
        #: Whether the client waits for 100 (Continue) before it sends the body.
        self.expects_continue = False
        #: Whether the client allows the connection to stay open after this request.
        self.is_persistent = False
        #: The client's address and port as an environ has them; a trusted proxy may have named them.
        self.client: tuple[str, str] = ("", "")
        #: When the head was complete, by ``time.monotonic()``; 0.0 if no log needs it.
        self.began = 0.0
        #: Whether it came over TLS.
        self.is_tls = False
        #: The client's socket, and its address in the socket's form.
        self.sock: socket.socket | None = None
        self.address: Any = None
        #: The environ that the application was called with; None before that.
        self.environ: dict[str, Any] | None = None
        #: A request handler that was made for this request, so that hooks share one object.
        self.adapter: Any = None
        self._values: dict[str, list[str]] | None = None

    @property
    def line(self) -> str:
        """The request line as it was received, without its end."""
        line, _, _ = self.raw.partition(b"\n")
        return line.decode("iso-8859-1").rstrip("\r")

    def get_all(self, name: str) -> list[str]:
        """All values of a field, in the order received."""
        values = self._values
        if values is None:  # built at the first look-up, because several follow: by name, in lower case
            values = {}
            for field_name, value in self.fields:
                values.setdefault(field_name.lower(), []).append(value)
            self._values = values  # assigned when complete, because another thread may read it
        return values.get(name.lower(), [])

    def joined(self, name: str) -> str:
        """The values of a field, joined by ", " (RFC 9110 section 5.3); "" if there are none."""
        return ", ".join(self.get_all(name))

    def framing_fields(self) -> tuple[Sequence[str], Sequence[str], Sequence[str], Sequence[str], Sequence[str]]:
        """All values of Host, Content-Length, Transfer-Encoding, Expect and Connection, in this order.

        Each is a list, or () for a field that isn't there.
        """
        found: dict[int, list[str]] = {}
        for name, value in self.fields:
            place = _FRAMING_PLACES.get(name.lower())
            if place is not None:
                found.setdefault(place, []).append(value)
        get = found.get
        return get(0, ()), get(1, ()), get(2, ()), get(3, ()), get(4, ())


def parse_request_line(data: bytes, max_line: int = 8190, tolerant: bool = False) -> tuple[str, str, str]:
    """Parse a request line with its end into method, target and version (RFC 9112 section 3).

    max_line: bytes it may have, its end not counted. tolerant: also take LF for CRLF, or no end, and
    octets above ASCII in the target. Raises BadRequest with the status to answer.
    """
    text = data.decode("iso-8859-1")
    line = (_TOLERANT_REQUEST_LINE if tolerant else _REQUEST_LINE).fullmatch(text)
    if line is None or line.end(3) > max_line:
        raise _bad_request_line(text.rstrip("\r\n"), max_line)
    method, target, version = line.groups()
    if not target.startswith("/") or method == "CONNECT":
        check_target(method, target)
    return method, target, version


def parse_head(data: bytes, max_line: int = 8190, max_fields: int = 100, tolerant: bool = False) -> Request:
    """Parse a whole request head: request line, field lines, empty line, and nothing behind it.

    max_line, tolerant: as for parse_request_line, and a tolerant head may end with its request line.
    max_fields: how many field lines there may be.

    Raises BadRequest with the status to answer: RFC 9112 sections 2 to 5.
    """
    line_end = data.find(b"\n") + 1 or len(data)
    method, target, version = parse_request_line(data[:line_end], max_line, tolerant)
    section = data[line_end:].decode("iso-8859-1")
    if not (_TOLERANT_FIELD_SECTION if tolerant else _FIELD_SECTION).fullmatch(section):
        raise BadRequest(400, _why_bad_field(section, tolerant))
    fields = []
    for field_line in section.split("\n")[:-2]:
        name, _, value = field_line.partition(":")
        fields.append((name, value.strip(" \t\r")))
    if len(fields) > max_fields:
        raise BadRequest(431, "Too many header fields")
    return Request(method, target, version, fields, data)


def _bad_request_line(line: str, max_line: int) -> BadRequest:
    """The error for a bad or too long request line."""
    if len(line) > max_line:
        return BadRequest(414, "URI Too Long")
    version = line[-9:]
    if re.fullmatch(r" HTTP/[0-9]\.[0-9]", version) and version[6] != "1":
        return BadRequest(505, "HTTP Version Not Supported")
    return BadRequest(400, "Bad request line")


def _why_bad_field(section: str, tolerant: bool) -> str:
    """Explain the first bad field line; the caller knows that the section has one."""
    position, end = 0, len(section)
    while position < end:
        line_end = section.find("\n", position) + 1
        if not line_end:
            break
        line = section[position : line_end - 1]
        if line.endswith("\r"):
            line = line[:-1]
        elif not tolerant:
            return "Bare LF in header section"
        if not line:
            return "Data after the header section"
        if line[0] in " \t":
            return "Folded or indented header field"
        name, colon, value = line.partition(":")
        if not colon or not re.fullmatch(f"[{TCHAR}]+", name):
            return "Bad header field name"
        if _VALUE_FORBIDDEN.search(value):
            return "Control character in header field"
        position = line_end
    return "Incomplete header section"


_ENVIRON_KEYS = {
    spelling: environ_key(name) for name in KNOWN_FIELDS for spelling in (name, name.lower(), name.title())
}


def build_environ(base: dict[str, Any], head: Request) -> dict[str, Any]:
    """Build the request's part of a WSGI environ (PEP 3333, "environ Variables") on a copy of base.

    Sets REQUEST_METHOD, SERVER_PROTOCOL, REQUEST_URI, PATH_INFO, QUERY_STRING, and CONTENT_TYPE,
    CONTENT_LENGTH and HTTP_* for the fields. Fields of the same name are joined with commas
    (RFC 9110 section 5.3), Cookie fields with semicolons (RFC 6265 section 5.4). An absolute-form target's
    authority replaces Host (RFC 9112 section 3.2.2).
    """
    environ = base.copy()
    target = path = head.target
    authority = None
    if not target.startswith("/"):
        authority, path = split_target(target)
    path, _, query = path.partition("?")
    if path.startswith("//"):
        # As http.server does: as a Location, a path with two leading slashes would name another host.
        path = "/" + path.lstrip("/")
    environ["REQUEST_METHOD"] = head.method
    environ["SERVER_PROTOCOL"] = head.version
    environ["REQUEST_URI"] = target
    environ["PATH_INFO"] = unquote(path, "iso-8859-1") if "%" in path else path
    environ["QUERY_STRING"] = query

    single: dict[str, str] = {}  # CONTENT_TYPE and CONTENT_LENGTH: the first field replaces a value in base
    repeated: dict[str, list[str]] = {}  # joined at the end, because appending to a growing text takes quadratic time
    for name, value in head.fields:
        key = _ENVIRON_KEYS.get(name) or environ_key(name)
        if key is None:
            continue
        if key == "CONTENT_TYPE" or key == "CONTENT_LENGTH":  # noqa: PLR1714 - twice as fast as a tuple
            single.setdefault(key, value)
        elif key in repeated:
            repeated[key].append(value)
        elif key in environ:
            repeated[key] = [environ[key], value]
        else:
            environ[key] = value
    environ.update(single)
    for key, values in repeated.items():
        environ[key] = ("; " if key == "HTTP_COOKIE" else ",").join(values)
    if authority is not None:
        environ["HTTP_HOST"] = authority
    return environ
