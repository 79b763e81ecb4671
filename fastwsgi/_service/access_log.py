"""The access log: one line a request, in the formats that log tools read, and the file that the lines go to."""

from __future__ import annotations

import errno
import io
import json
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple, Protocol

from fastwsgi._http.grammar import split_target

from .error_log import report

# A size of 0 reads "0" in both, where Apache's own definitions have "%b" and so "-": the column is a number then, and
# it's what the fast lane writes, which makes common lines by itself.
COMMON: Final = '%h %l %u %t "%r" %>s %B'
COMBINED: Final = COMMON + ' "%{Referer}i" "%{User-Agent}i"'

_DIRECTIVE: Final = re.compile(r"%(?:\{([^{}]*)\})?(>?[A-Za-z%])|%")
# Everything but visible ASCII and the space, and the two characters by which a quoted value ends or goes on.
_UNSAFE: Final = re.compile(r"[^ !#-\[\]-~]")
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
        self._now = _Now(-1, "", "")
        self._make = _json_line if format == "json" else _compiled(template)

    def line(self, request: Any, status: str, size: int, seconds: float) -> str:
        """The line for a request, without its end.

        request: the request handler, of a bad request, too; status: its answer's code, three digits; size: octets of
        the body that were sent; seconds: the time from the request's head to the answer's end.
        """
        return self._make(_Entry(request, status, size, seconds, self._time()))

    def log(self, request: Any, status: str, size: int, seconds: float) -> None:
        """Write the line for a request; the arguments are those of ``line()``."""
        self.write(self.line(request, status, size, seconds) + "\n")

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
    iso: str


def _moment(second: int) -> _Now:
    local = time.localtime(second)
    offset = local.tm_gmtoff // 60
    hours, minutes = divmod(abs(offset), 60)
    sign = "-" if offset < 0 else "+"
    clock = f"{local.tm_hour:02}:{local.tm_min:02}:{local.tm_sec:02}"
    return _Now(
        second,
        f"{local.tm_mday:02}/{_MONTHS[local.tm_mon - 1]}/{local.tm_year:04}:{clock} {sign}{hours:02}{minutes:02}",
        f"{local.tm_year:04}-{local.tm_mon:02}-{local.tm_mday:02}T{clock}{sign}{hours:02}:{minutes:02}",
    )


# ---- what a line is made of --------------------------------------------------------------------------


class _Entry(NamedTuple):
    """A request that was answered."""

    request: Any
    status: str
    size: int
    seconds: float
    now: _Now

    @property
    def address(self) -> str:
        address = self.request.client_address
        return str(address[0]) if isinstance(address, tuple | list) and address else ""

    @property
    def method(self) -> str:
        return str(self.request.command or "")

    @property
    def target(self) -> str:
        """As it was sent, if the request line could be read."""
        head = getattr(self.request, "_head", None)
        if head is not None:
            return str(head.target)
        return str(getattr(self.request, "path", "")) if self.method else ""

    @property
    def version(self) -> str:
        return str(self.request.request_version) if self.method else ""

    @property
    def path(self) -> str:
        target = self.target
        return (split_target(target)[1] or target).partition("?")[0]

    @property
    def query(self) -> str:
        _, mark, query = self.target.partition("?")
        return mark + query

    @property
    def port(self) -> str:
        server = getattr(self.request, "server", None)
        return str(getattr(server, "base_environ", {}).get("SERVER_PORT", ""))

    def field(self, name: str) -> str:
        """The values of the fields of a name in lower case, joined (RFC 9110 section 5.3)."""
        head = getattr(self.request, "_head", None)
        # The handler's Message is only made when it's looked at, and takes as long as the rest of the line.
        fields = head.fields if head is not None else getattr(self.request, "headers", {}).items()
        size = len(name)
        return ", ".join([value for each, value in fields if len(each) == size and each.lower() == name])


_VALUES: Final[dict[str, Callable[[_Entry], str]]] = {
    "h": lambda entry: entry.address,
    "l": lambda entry: "-",
    "u": lambda entry: "-",
    "t": lambda entry: f"[{entry.now.stamp}]",
    "r": lambda entry: entry.request.requestline,
    "m": lambda entry: entry.method,
    "U": lambda entry: entry.path,
    "q": lambda entry: entry.query,
    "H": lambda entry: entry.version,
    "s": lambda entry: entry.status,
    ">s": lambda entry: entry.status,
    "B": lambda entry: str(entry.size),
    "b": lambda entry: str(entry.size or "-"),
    "D": lambda entry: str(round(entry.seconds * 1_000_000)),
    "T": lambda entry: str(int(entry.seconds)),
    "p": lambda entry: entry.port,
}


def _compiled(template: str) -> Callable[[_Entry], str]:
    """A function that makes lines by a format string."""
    if "%" not in template:
        raise ValueError(f'format is "common", "combined", "json" or has directives such as %h, and not {template!r}')
    if "\r" in template or "\n" in template:
        raise ValueError(f"format makes one line, and has a line end in it: {template!r}")
    values: list[Callable[[_Entry], str]] = []

    def placeholder(match: re.Match[str]) -> str:
        name, directive = match.groups()
        if match[0] == "%%":
            return "%%"
        values.append(_value(match, name, directive))
        return "%s"

    pattern = _DIRECTIVE.sub(placeholder, template)

    def line(entry: _Entry) -> str:
        return pattern % tuple([_escaped(value(entry) or "-") for value in values])

    return line


def _value(match: re.Match[str], name: str | None, directive: str | None) -> Callable[[_Entry], str]:
    """The function for a directive."""
    if name is None and directive in _VALUES:
        return _VALUES[directive]
    if name and directive == "i":
        wanted = name.lower()
        return lambda entry: entry.field(wanted)
    if name and directive == "e":
        text = os.environ.get(name, "")
        return lambda entry: text
    unknown = match[0] if directive else match.string[match.start() :][:10]
    raise ValueError(f"format has an unknown directive {unknown!r}: {match.string!r}")


def _escaped(text: str) -> str:
    return _UNSAFE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    return r"\"" if match[0] == '"' else match[0].encode("unicode_escape").decode("ascii")


def _json_line(entry: _Entry) -> str:
    line: dict[str, str | int | float | None] = {
        "time": entry.now.iso,
        "remote_address": entry.address or None,
        "method": entry.method or None,
        "target": entry.target or None,
        "version": entry.version or None,
        "status": int(entry.status) if entry.status.isascii() and entry.status.isdigit() else None,
        "bytes": entry.size,
        "seconds": round(entry.seconds, 6),
        "host": entry.field("host") or None,
        "referer": entry.field("referer") or None,
        "user_agent": entry.field("user-agent") or None,
    }
    if not entry.method:
        line["request_line"] = entry.request.requestline
    return json.dumps(line, ensure_ascii=True)


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
