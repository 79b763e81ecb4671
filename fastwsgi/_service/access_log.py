"""The access log: one line a request, in the formats that log tools read, and the file that the lines go to."""

from __future__ import annotations

import errno
import io
import json.encoder
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from time import monotonic
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from fastwsgi._backend import is_plain
from fastwsgi._http.grammar import split_target

from .error_log import report

if TYPE_CHECKING:
    from fastwsgi._backend import Request

# A size of 0 reads "0" in both, where Apache's own definitions have "%b" and so "-": the column is a number then, and
# it's what the fast lane writes, which makes common lines by itself.
COMMON: Final = '%h %l %u %t "%r" %>s %B'
COMBINED: Final = COMMON + ' "%{Referer}i" "%{User-Agent}i"'

_DIRECTIVE: Final = re.compile(r"%(?:\{([^{}]*)\})?(>?[A-Za-z%])|%")
# Everything but visible ASCII and the space, and the two characters by which a quoted value ends or goes on.
_UNSAFE: Final = re.compile(r"[^ !#-\[\]-~]")
_json_text: Final[Callable[[str], str]] = json.encoder.encode_basestring_ascii
# Not strftime's %b, which speaks the language of the process.
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Stream(Protocol):
    """What lines are written to."""

    def write(self, text: str, /) -> object: ...


class AccessLog:
    """Makes a line for each request, and writes lines to a stream.

    format: "common", "combined", "json", or a format string of Apache's directives; stream: what takes the lines,
    usually a ``LogFile``. Raises ValueError for another word, or a directive that isn't one of these:

    ======================  ===============================================================================
    ``%h``                  the client's address; "-" on a unix socket
    ``%l``, ``%u``          "-": nobody is asked who he is, and what a client calls itself proves nothing
    ``%t``                  when the line was made, local time: ``[10/Oct/2000:13:55:36 -0700]``
    ``%r``                  the request line, as it came
    ``%m %U %q %H``         its method, path, query ("?" and all) and version; "-" if it couldn't be read
    ``%>s``, ``%s``         the status code
    ``%B``, ``%b``          the octets of the body that were sent; the second has "-" for none
    ``%D``, ``%T``          the time it took, in microseconds and in whole seconds
    ``%{NAME}i``            the request's field of that name; several are joined by ", "
    ``%{NAME}e``            the process's environment variable, as it was when the log was made
    ``%p``                  the port of the server
    ``%%``                  a percent sign
    ======================  ===============================================================================

    What isn't there is "-". In every value control characters, quotes, backslashes and what isn't ASCII are escaped
    (``\\n``, ``\\"``, ``\\\\``, ``\\xe9``), so that no client can end a line, or a value in quotes: put the quotes
    around what may hold spaces. A line of "json" is an object with the members ``time`` (ISO 8601), ``remote_address``,
    ``method``, ``target``, ``version``, ``status`` (a number), ``bytes``, ``seconds``, ``host``, ``referer`` and
    ``user_agent``, null if there is none; and ``request_line``, only if that couldn't be read.

    Source: Apache's mod_log_config.
    """

    def __init__(self, format: str, stream: Stream) -> None:  # noqa: A002 - the word for it
        self.stream = stream
        template = {"common": COMMON, "combined": COMBINED}.get(format, format)
        #: Whether lines are ``address - - [stamp()] "request line" status size``.
        self.is_common = template == COMMON
        self._now = _Now(-1, "", "", "")
        self._make: _Maker = _json_line if format == "json" else _compiled(template)

    def line(self, request: Request, status: str, size: int, port: str = "") -> str:
        """The line for a request, with its end.

        request: a bad one, too; status: its answer's code, three digits, or "-" for none; size: octets of the body that
        were sent; port: of the server. The time that it took is from the request's head to now.
        """
        now = self._now
        if int(time.time()) != now.second:
            now = self._time()
        return self._make(request, status, size, port, now)

    def log(self, request: Request, status: str, size: int, port: str = "") -> None:
        """Write the line for a request; the arguments are those of ``line()``."""
        self.write(self.line(request, status, size, port))

    def stamp(self) -> str:
        """The local time as common lines have it, without the brackets."""
        return self._time().stamp

    def write(self, lines: str) -> None:
        """Write lines, each with its end."""
        self.stream.write(lines)

    def reopen(self) -> None:
        """Open the log's file anew, after it was moved away; a stream that isn't a LogFile has none."""
        if isinstance(self.stream, LogFile):
            self.stream.reopen()

    def close(self) -> None:
        """Close the log's file; a stream that isn't a LogFile belongs to who made it."""
        if isinstance(self.stream, LogFile):
            self.stream.close()

    def _time(self) -> _Now:
        """The time, made once a second: one tuple, replaced whole, so a thread sees the old or the new one."""
        second, now = int(time.time()), self._now
        if now.second != second:
            now = self._now = _moment(second)
        return now


class _Now(NamedTuple):
    """A second of local time, as the formats have it."""

    second: int
    stamp: str
    #: The stamp in brackets.
    bracketed: str
    iso: str


def _moment(second: int) -> _Now:
    local = time.localtime(second)
    offset = local.tm_gmtoff // 60
    hours, minutes = divmod(abs(offset), 60)
    sign = "-" if offset < 0 else "+"
    clock = f"{local.tm_hour:02}:{local.tm_min:02}:{local.tm_sec:02}"
    month = _MONTHS[local.tm_mon - 1]
    stamp = f"{local.tm_mday:02}/{month}/{local.tm_year:04}:{clock} {sign}{hours:02}{minutes:02}"
    iso = f"{local.tm_year:04}-{local.tm_mon:02}-{local.tm_mday:02}T{clock}{sign}{hours:02}:{minutes:02}"
    return _Now(second, stamp, f"[{stamp}]", iso)


# ---- what a line is made of --------------------------------------------------------------------------


#: What makes a line: (request, status, size, the server's port, now) -> the line with its end.
_Maker = Callable[["Request", str, int, str, _Now], str]


def _path(target: str) -> str:
    return (split_target(target)[1] or target).partition("?")[0]


def _query(target: str) -> str:
    _, mark, query = target.partition("?")
    return mark + query


# A directive's value as an expression over the arguments of a _Maker: what makes a line is one compiled expression, for
# a call of a function for each value takes several times the time. No text of a client or an operator gets in here.
_VALUES: Final = {
    "h": 'request.client[0] or "-"',
    "l": '"-"',
    "u": '"-"',
    "t": "now.bracketed",
    "r": 'request.line or "-"',
    "m": 'request.method or "-"',
    "U": 'path(request.target) or "-"',
    "q": 'query(request.target) or "-"',
    "H": 'request.version if request.method else "-"',
    "s": 'status or "-"',
    ">s": 'status or "-"',
    "B": "str(size)",
    "b": 'str(size or "-")',
    "D": "str(round((monotonic() - request.began) * 1_000_000))",
    "T": "str(int(monotonic() - request.began))",
    "p": 'port or "-"',
}


def _compiled(template: str) -> _Maker:
    """A function that makes lines by a format string."""
    if "%" not in template:
        raise ValueError(f'format is "common", "combined", "json" or has directives such as %h, and not {template!r}')
    if "\r" in template or "\n" in template:
        raise ValueError(f"format makes one line, and has a line end in it: {template!r}")
    names: list[str] = []
    expressions: list[str] = []

    def placeholder(match: re.Match[str]) -> str:
        if match[0] == "%%":
            return "%%"
        expressions.append(_expression(match, names))
        return "%s"

    pattern = _DIRECTIVE.sub(placeholder, template) + "\n"
    source = f"lambda request, status, size, port, now: ({''.join(f'{each}, ' for each in expressions)})"
    known = {"names": names, "path": _path, "query": _query, "monotonic": monotonic}
    make_values: Callable[..., tuple[str, ...]] = eval(source, known)

    def line(request: Request, status: str, size: int, port: str, now: _Now) -> str:
        values = make_values(request, status, size, port, now)
        if not is_plain("".join(values)):  # one look at all of them is faster than one at each
            values = tuple([_escaped(value) for value in values])
        return pattern % values

    return line


def _expression(match: re.Match[str], names: list[str]) -> str:
    """The expression for a directive; adds to names the name or text in it, if it has one."""
    name, directive = match.groups()
    if name is None and directive in _VALUES:
        return _VALUES[directive]
    if name and directive in ("i", "e"):
        names.append(name if directive == "i" else os.environ.get(name, ""))
        place = f"names[{len(names) - 1}]"
        return f'request.joined({place}) or "-"' if directive == "i" else f'{place} or "-"'
    unknown = match[0] if directive else match.string[match.start() :][:10]
    raise ValueError(f"format has an unknown directive {unknown!r}: {match.string!r}")


def _escaped(text: str) -> str:
    return _UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return r"\"" if match[0] == '"' else match[0].encode("unicode_escape").decode("ascii")


def _quoted(text: str) -> str:
    return _json_text(text) if text else "null"


def _json_line(request: Request, status: str, size: int, port: str, now: _Now) -> str:
    # The members by hand: json.dumps() takes several times the time.
    method = request.method
    line = (
        f'{{"time": "{now.iso}", "remote_address": {_quoted(request.client[0])}, "method": {_quoted(method)}, '
        f'"target": {_quoted(request.target)}, "version": {_quoted(request.version if method else "")}, '
        f'"status": {status if status.isascii() and status.isdigit() else "null"}, "bytes": {size}, '
        f'"seconds": {round(monotonic() - request.began, 6)}, "host": {_quoted(request.joined("host"))}, '
        f'"referer": {_quoted(request.joined("referer"))}, "user_agent": {_quoted(request.joined("user-agent"))}'
    )
    return line + "}\n" if method else f'{line}, "request_line": {_json_text(request.line)}}}\n'


# ---- where lines go ----------------------------------------------------------------------------------


class LogFile:
    """A file that several processes may append to, and that can be opened anew under the same name.

    path: str, where the file is or is to be; "-" for standard output. Raises ValueError for an empty path, OSError if
    the file can't be opened. Later on nothing is raised: what can't be written is lost, and the first time it is
    said so.

    Each text is one write() at the file's end, which POSIX keeps whole between processes. Threads wait for each other,
    because a disk that gets full takes a part. ``reopen()`` doesn't wait: a signal handler may call it in the middle of
    a write, where it would wait for ever. Then the write goes on in the old file, and the next is in the new one.
    """

    def __init__(self, path: str) -> None:
        if not path:
            raise ValueError(f"path is empty: {path!r}")
        if path == "-":
            if sys.__stdout__ is None:  # descriptor 1 was closed, and may be a socket by now
                raise OSError(errno.EBADF, "There is no standard output")
            self.path = path
            self._file = io.FileIO(1, "wb", closefd=False)
        else:
            self.path = os.path.abspath(path)  # a program may change its directory before reopen()
            self._file = io.FileIO(self.path, "ab")
        self._is_failing = False
        #: Whether what was written last isn't a whole line, so that the next has to begin with a line's end.
        self._is_torn = False
        self._writes = threading.Lock()
        #: The file that reopen() has opened, until nobody writes to the old one.
        self._next: io.FileIO | None = None

    def write(self, text: str) -> None:
        """Append a text, as UTF-8."""
        if not self._file.closed:
            with self._writes:
                self._append(text.encode("utf-8", "backslashreplace"))
            self._change_files()

    def _append(self, data: bytes) -> None:
        if self._is_torn:
            data = b"\n" + data
        written = 0
        try:
            while written < len(data):
                # It takes a part only where a disk is nearly full, and then the next call says so.
                size = self._file.write(data[written:])
                if not size:
                    raise BlockingIOError(errno.EAGAIN, "It takes no more now")
                written += size
        except (OSError, ValueError) as error:  # ValueError: closed meanwhile
            if written:
                self._mend(data[:written])
            if not self._is_failing:
                self._is_failing = True
                report(logging.ERROR, "The access log %s can't be written, and lines are lost: %s", self.path, error)
        else:
            self._is_failing = self._is_torn = False

    def _mend(self, written: bytes) -> None:
        """Take the beginning of a line back, after which nothing could be written."""
        torn = len(written) - (written.rfind(b"\n") + 1)
        self._is_torn = False
        if not torn:
            return
        try:
            fd = self._file.fileno()
            end = os.lseek(fd, 0, os.SEEK_CUR)
            if os.fstat(fd).st_size == end:  # else another process has written behind it
                os.ftruncate(fd, end - torn)
                return
        except (OSError, ValueError):  # of a pipe or a terminal nothing can be taken back
            pass
        self._is_torn = True

    def reopen(self) -> None:
        """Go on in the file that has the path now, or in a new one; in the old one if there can't be one."""
        if self.path == "-" or self._file.closed:
            return
        try:
            file, self._next = self._next, io.FileIO(self.path, "ab")
            if file is not None:
                file.close()
        except OSError as error:
            report(logging.ERROR, "The access log %s can't be opened anew: %s", self.path, error)
        self._change_files()

    def _change_files(self) -> None:
        """Go on in the file that was opened last, unless somebody is writing, who does this afterwards."""
        while self._next is not None and self._writes.acquire(blocking=False):
            try:
                file, self._next = self._next, None
                if file is not None:
                    with file:
                        os.dup2(file.fileno(), self._file.fileno(), inheritable=False)
                    self._is_torn = False
            except (OSError, ValueError) as error:
                report(logging.ERROR, "The access log %s can't be opened anew: %s", self.path, error)
            finally:
                self._writes.release()

    def close(self) -> None:
        """Write no more."""
        self._file.close()
