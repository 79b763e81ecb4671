"""The access log: one line for each request, in formats that log tools read, and the file with the lines."""

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

# Apache's own definitions have "%b", which writes "-" for a size of 0. With "%B" the column is always a number, as in
# the lines of the fast lane, which makes common lines by itself.
COMMON: Final = '%h %l %u %t "%r" %>s %B'
COMBINED: Final = COMMON + ' "%{Referer}i" "%{User-Agent}i"'

_DIRECTIVE: Final = re.compile(r"%(?:\{([^{}]*)\})?(>?[A-Za-z%])|%")
# All characters except visible ASCII and the space, and the two that end or escape in a quoted value.
_UNSAFE: Final = re.compile(r"[^ !#-\[\]-~]")
_json_text: Final[Callable[[str], str]] = json.encoder.encode_basestring_ascii
# Not strftime's %b, which depends on the locale.
_MONTHS: Final = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


class Stream(Protocol):
    """An object that log lines are written to."""

    def write(self, text: str, /) -> object: ...


class AccessLog:
    """Makes a line for each request, and writes lines to a stream.

    format: "common", "combined", "json", or a format string of Apache's directives; stream: where to write the lines,
    usually a ``LogFile``. Raises ValueError for any other format, and for a directive that isn't one of these:

    ======================  ===============================================================================
    ``%h``                  the client's address; "-" on a unix socket
    ``%l``, ``%u``          "-": the server knows no user; a name that a client sends proves nothing
    ``%t``                  when the line was made, local time: ``[10/Oct/2000:13:55:36 -0700]``
    ``%r``                  the request line, as received
    ``%m %U %q %H``         its method, path, query with its "?" and version; "-" if it couldn't be read
    ``%>s``, ``%s``         the status code
    ``%B``, ``%b``          how many octets of the body were sent; ``%b`` has "-" for none
    ``%D``, ``%T``          the time it took, in microseconds and in whole seconds
    ``%{NAME}i``            the request's field with that name; several are joined by ", "
    ``%{NAME}e``            the environment variable, as it was when the log was created
    ``%p``                  the port of the server
    ``%%``                  a percent sign
    ======================  ===============================================================================

    A missing value is "-". In every value, control characters, quotes, backslashes and characters outside of ASCII are
    escaped (``\\n``, ``\\"``, ``\\\\``, ``\\xe9``), so that no client can end a line or a quoted value. Put quotes
    around values that may have spaces. A line of "json" is an object with the members ``time`` (ISO 8601),
    ``remote_address``, ``method``, ``target``, ``version``, ``status`` (a number), ``bytes``, ``seconds``, ``host``,
    ``referer`` and ``user_agent``; a missing one is null. It has ``request_line`` only if that line couldn't be parsed.

    Source: Apache's mod_log_config.
    """

    def __init__(self, format: str, stream: Stream) -> None:  # noqa: A002 - the usual word
        self.stream = stream
        template = {"common": COMMON, "combined": COMBINED}.get(format, format)
        #: Whether lines are ``address - - [stamp()] "request line" status size``.
        self.is_common = template == COMMON
        self._now = _Now(-1, "", "", "")
        self._make: _Maker = _json_line if format == "json" else _compiled(template)

    def line(self, request: Request, status: str, size: int, port: str = "") -> str:
        """The log line of a request, with its line end.

        request: may be a bad one; status: the code of the answer, three digits, or "-" without an answer; size: how
        many octets of the body were sent; port: the server's. The duration is from the request's head to now.
        """
        now = self._now
        if int(time.time()) != now.second:
            now = self._time()
        return self._make(request, status, size, port, now)

    def log(self, request: Request, status: str, size: int, port: str = "") -> None:
        """Write the line of a request; the arguments are those of ``line()``."""
        self.write(self.line(request, status, size, port))

    def stamp(self) -> str:
        """The local time as common lines have it, without the brackets."""
        return self._time().stamp

    def write(self, lines: str) -> None:
        """Write lines; each includes its line end."""
        self.stream.write(lines)

    def reopen(self) -> None:
        """Open the log file again after it was renamed. Does nothing if the stream isn't a LogFile."""
        if isinstance(self.stream, LogFile):
            self.stream.reopen()

    def close(self) -> None:
        """Close the log file. Another kind of stream belongs to the caller and stays open."""
        if isinstance(self.stream, LogFile):
            self.stream.close()

    def _time(self) -> _Now:
        """The time, formatted once a second: one tuple, replaced whole, so a thread sees the old or the new one."""
        second, now = int(time.time()), self._now
        if now.second != second:
            now = self._now = _moment(second)
        return now


class _Now(NamedTuple):
    """A second of local time, as text for the formats."""

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


# ---- how a line is made ------------------------------------------------------------------------------


#: Makes a line: (request, status, size, the server's port, now) -> the line with its line end.
_Maker = Callable[["Request", str, int, str, _Now], str]


def _path(target: str) -> str:
    return (split_target(target)[1] or target).partition("?")[0]


def _query(target: str) -> str:
    _, mark, query = target.partition("?")
    return mark + query


# The value of each directive, as an expression over the arguments of a _Maker. All values of a line are compiled into
# one expression, because a function call for each value takes several times as long. No text of a client or an operator
# gets into the expression.
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
    """Compile a format string into a function that makes lines."""
    if "%" not in template:
        raise ValueError(f'format must be "common", "combined", "json" or have directives such as %h, not {template!r}')
    if "\r" in template or "\n" in template:
        raise ValueError(f"format must not contain a line end: {template!r}")
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
        if not is_plain("".join(values)):  # one check of all values is faster than one of each
            values = tuple([_escaped(value) for value in values])
        return pattern % values

    return line


def _expression(match: re.Match[str], names: list[str]) -> str:
    """The expression for a directive. A field name or environment value that it needs is appended to names."""
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
    # The members are formatted by hand, because json.dumps() takes several times as long.
    method = request.method
    line = (
        f'{{"time": "{now.iso}", "remote_address": {_quoted(request.client[0])}, "method": {_quoted(method)}, '
        f'"target": {_quoted(request.target)}, "version": {_quoted(request.version if method else "")}, '
        f'"status": {int(status) if status.isascii() and status.isdigit() else "null"}, "bytes": {size}, '
        f'"seconds": {round(monotonic() - request.began, 6)}, "host": {_quoted(request.joined("host"))}, '
        f'"referer": {_quoted(request.joined("referer"))}, "user_agent": {_quoted(request.joined("user-agent"))}'
    )
    return line + "}\n" if method else f'{line}, "request_line": {_json_text(request.line)}}}\n'


# ---- the log file ------------------------------------------------------------------------------------


class LogFile:
    """A log file that several processes may append to, and that can be reopened after it was renamed.

    path: str, the file to append to or create; "-" for standard output. Raises ValueError for an empty path, OSError if
    the file can't be opened. After that nothing is raised: a line that can't be written is lost, and the first loss is
    reported to the error log.

    Each text is one write() at the end of the file, which is atomic between processes (POSIX). Threads take a lock,
    because a nearly full disk may write only a part. ``reopen()`` doesn't wait for the lock: a signal handler may call
    it during a write, and would wait forever. That write continues in the old file, and the next one uses the new file.
    """

    def __init__(self, path: str) -> None:
        if not path:
            raise ValueError(f"path is empty: {path!r}")
        if path == "-":
            if sys.__stdout__ is None:  # descriptor 1 was closed, and may belong to a socket by now
                raise OSError(errno.EBADF, "There is no standard output")
            self.path = path
            self._file = io.FileIO(1, "wb", closefd=False)
        else:
            self.path = os.path.abspath(path)  # a program may change its directory before reopen()
            self._file = io.FileIO(self.path, "ab")
        self._is_failing = False
        #: Whether the file ends with an incomplete line, so that the next write must begin with a line end.
        self._is_torn = False
        self._writes = threading.Lock()
        #: The file that reopen() has opened, until no thread writes to the old one.
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
                # A partial write means that the disk is nearly full; then the next call raises the error.
                size = self._file.write(data[written:])
                if not size:
                    raise BlockingIOError(errno.EAGAIN, "The file takes no more octets now")
                written += size
        except (OSError, ValueError) as error:  # ValueError: closed meanwhile
            if written:
                self._mend(data[:written])
            if not self._is_failing:
                self._is_failing = True
                report(logging.ERROR, "The access log %s can't be written; lines are lost: %s", self.path, error)
        else:
            self._is_failing = self._is_torn = False

    def _mend(self, written: bytes) -> None:
        """Remove the beginning of a line whose rest couldn't be written."""
        torn = len(written) - (written.rfind(b"\n") + 1)
        self._is_torn = False
        if not torn:
            return
        try:
            fd = self._file.fileno()
            end = os.lseek(fd, 0, os.SEEK_CUR)
            if os.fstat(fd).st_size == end:  # unless another process has appended meanwhile
                os.ftruncate(fd, end - torn)
                return
        except (OSError, ValueError):  # nothing can be removed from a pipe or a terminal
            pass
        self._is_torn = True

    def reopen(self) -> None:
        """Open the path again and write to that file from now on. If it can't be opened, keep the old one."""
        if self.path == "-" or self._file.closed:
            return
        try:
            file, self._next = self._next, io.FileIO(self.path, "ab")
            if file is not None:
                file.close()
        except OSError as error:
            report(logging.ERROR, "The access log %s can't be reopened: %s", self.path, error)
        self._change_files()

    def _change_files(self) -> None:
        """Switch to the file that reopen() has opened. If a thread is writing, it does this after its write."""
        while self._next is not None and self._writes.acquire(blocking=False):
            try:
                file, self._next = self._next, None
                if file is not None:
                    with file:
                        os.dup2(file.fileno(), self._file.fileno(), inheritable=False)
                    self._is_torn = False
            except (OSError, ValueError) as error:
                report(logging.ERROR, "The access log %s can't be reopened: %s", self.path, error)
            finally:
                self._writes.release()

    def close(self) -> None:
        """Close the file; later lines are dropped."""
        self._file.close()
