"""The access log: each format, protection against forged lines, rotation, and full disks."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fastwsgi._backend import Request, parse_head
from fastwsgi._http.environ import split_address
from fastwsgi._service import access_log
from fastwsgi._service.access_log import COMBINED, COMMON, AccessLog, LogFile

HEAD = (
    b"GET /a%20b?q=1&r HTTP/1.1\r\nHost: example.com\r\nuser-agent: curl/8\r\n"
    b"Referer: http://r/\r\nX-A: 1\r\nx-a: 2\r\n\r\n"
)
CLIENT = ("192.0.2.1", 54321)


def request_of(head: bytes = HEAD, client: Any = CLIENT) -> Request:
    """A parsed request, as a connection makes it."""
    request = parse_head(head)
    request.client = split_address(client)
    return request


def bad_request(line: bytes = b"\x16\x03\x01 what", client: Any = CLIENT) -> Request:
    """A request of which only the first line is known."""
    request = Request("", "", "HTTP/1.0", [], line)
    request.client = split_address(client)
    return request


def line_of(
    template: str,
    request: Request | None = None,
    status: str = "200",
    size: int = 5,
    seconds: float = 1.5,
    port: str = "8000",
) -> str:
    request = request_of() if request is None else request
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(access_log, "monotonic", lambda: request.began + seconds)
        line = AccessLog(template, io.StringIO()).line(request, status, size, port)
    assert line.endswith("\n")
    return line[:-1]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Set the clock to 10 October 2000, 20:55:36.9 UTC, and the time zone to -7 hours."""
    if not hasattr(time, "tzset"):
        pytest.skip("no time zones to choose from here")
    setting = SimpleNamespace(now=971211336.9, zone="MST7")

    def set_zone(zone: str) -> None:
        monkeypatch.setenv("TZ", zone)
        time.tzset()

    setting.set_zone = set_zone
    set_zone("MST7")
    with monkeypatch.context() as patch:
        patch.setattr(access_log.time, "time", lambda: setting.now)
        yield setting
    monkeypatch.undo()
    time.tzset()


# ---- the formats -------------------------------------------------------------------------------------


def test_common(clock: Any) -> None:
    expected = '192.0.2.1 - - [10/Oct/2000:13:55:36 -0700] "GET /a%20b?q=1&r HTTP/1.1" 200 5'
    assert line_of("common") == line_of(COMMON) == expected


def test_combined(clock: Any) -> None:
    expected = '192.0.2.1 - - [10/Oct/2000:13:55:36 -0700] "GET /a%20b?q=1&r HTTP/1.1" 200 5 "http://r/" "curl/8"'
    assert line_of("combined") == line_of(COMBINED) == expected
    assert line_of("combined", request_of(b"GET / HTTP/1.0\r\n\r\n")).endswith(' "GET / HTTP/1.0" 200 5 "-" "-"')


@pytest.mark.parametrize("template", ["common", "combined"])
def test_no_octets_are_a_number(template: str) -> None:
    assert ' HTTP/1.1" 304 0' in line_of(template, status="304", size=0)


def test_json(clock: Any) -> None:
    assert json.loads(line_of("json", seconds=0.00123456)) == {
        "time": "2000-10-10T13:55:36-07:00",
        "remote_address": "192.0.2.1",
        "method": "GET",
        "target": "/a%20b?q=1&r",
        "version": "HTTP/1.1",
        "status": 200,
        "bytes": 5,
        "seconds": 0.001235,
        "host": "example.com",
        "referer": "http://r/",
        "user_agent": "curl/8",
    }


def test_json_of_a_bad_request() -> None:
    entry = json.loads(line_of("json", bad_request(), "-", 0))
    assert entry["request_line"] == "\x16\x03\x01 what"
    assert {name for name, value in entry.items() if value is None} == {
        "method", "target", "version", "status", "host", "referer", "user_agent",
    }  # fmt: skip


DIRECTIVES = {
    "%h": "192.0.2.1",
    "%l %u": "- -",
    "%r": "GET /a%20b?q=1&r HTTP/1.1",
    "%m": "GET",
    "%U": "/a%20b",
    "%q": "?q=1&r",
    "%H": "HTTP/1.1",
    "%>s %s": "200 200",
    "%B %b": "5 5",
    "%D": "1500000",
    "%T": "1",
    "%{Host}i": "example.com",
    "%{USER-AGENT}i": "curl/8",
    "%{X-A}i": "1, 2",
    "%{X-B}i": "-",
    "%{ACCESS_LOG_TEST}e": "pod-7",
    "%{ACCESS_LOG_NONE}e": "-",
    "%p": "8000",
    "%%": "%",
    "a%%hb %m%m %%%%": "a%hb GETGET %%",
    "%s%%(x)s {0} %%s": "200%(x)s {0} %s",
}


@pytest.mark.parametrize(("template", "expected"), DIRECTIVES.items())
def test_directives(template: str, expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACCESS_LOG_TEST", "pod-7")
    assert line_of(template) == expected


REQUESTS = {
    "nothing sent": ("%b %B", request_of(), 0, "- 0"),
    "no query": ("%U%q", request_of(b"GET / HTTP/1.0\r\n\r\n"), 5, "/-"),
    "absolute-form": ("%U %q", request_of(b"GET http://h:1/p?q HTTP/1.1\r\nHost: h\r\n\r\n"), 5, "/p ?q"),
    "asterisk-form": ("%U", request_of(b"OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n"), 5, "*"),
    "two slashes": ("%r %U", request_of(b"GET //a HTTP/1.0\r\n\r\n"), 5, "GET //a HTTP/1.0 //a"),
    "IPv6": ("%h", request_of(client=("::1", 1, 0, 0)), 5, "::1"),
    "unix socket": ("%h", request_of(client=""), 5, "-"),
    "unix socket, octets": ("%h", request_of(client=b"\0abstract"), 5, "-"),
    "no client": ("%h", request_of(client=None), 5, "-"),
    "bad request": ("%m %U %q %H %{Host}i", bad_request(), 5, "- - - - -"),
    "empty request line": ('"%r"', bad_request(b""), 5, '"-"'),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_requests_of_all_kinds(name: str) -> None:
    template, request, size, expected = REQUESTS[name]
    assert line_of(template, request, size=size) == expected


@pytest.mark.parametrize(
    ("template", "part"),
    [
        ("%x", "'%x'"),
        ("%h %{Host}o", "'%{Host}o'"),
        ("%{Host}h", "'%{Host}h'"),
        ("%{}i", "'%{}i'"),
        ("%i", "'%i'"),
        ("%e", "'%e'"),
        ("%>b", "'%>b'"),
        ("%{x}%", "'%{x}%'"),
        ("%(h)s", "'%(h)s'"),
        ("%{Host", "'%{Host'"),
        ("100%", "'%'"),
        ("comon", "'comon'"),
        ("", "''"),
        ("%h\n%h", "'%h\\n%h'"),
    ],
)
def test_bad_formats_name_what_is_bad(template: str, part: str) -> None:
    with pytest.raises(ValueError, match=r"^format ") as caught:
        AccessLog(template, io.StringIO())
    assert part in str(caught.value)


@pytest.mark.parametrize(
    ("template", "expected"), [("common", True), (COMMON, True), ("combined", False), ("json", False), ("%h", False)]
)
def test_is_common(template: str, expected: bool) -> None:
    assert AccessLog(template, io.StringIO()).is_common is expected


def test_common_is_what_the_fast_lane_writes(clock: Any) -> None:
    log = AccessLog("common", io.StringIO())
    request = request_of()
    expected = f'{request.client[0]} - - [{log.stamp()}] "{request.line}" 200 0\n'
    assert log.line(request, "200", 0) == expected


def test_a_log_writes_a_line_for_each_request(clock: Any) -> None:
    stream = io.StringIO()
    log = AccessLog("combined", stream)
    for status in ("200", "404"):
        log.log(request_of(), status, 5)
    assert stream.getvalue() == "".join(line_of("combined", status=status) + "\n" for status in ("200", "404"))


# ---- forged lines ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "escaped"),
    [
        ('"', r"\""),
        ("\\", r"\\"),
        ('\\"', r"\\\""),
        ("\r\n", r"\r\n"),
        ("\t", r"\t"),
        ("\0", r"\x00"),
        ("\x1b[2J", r"\x1b[2J"),
        ("\x7f\x85\xa0", r"\x7f\x85\xa0"),
        ("\xe9", r"\xe9"),
        ("\u2028\U0001f600\ud800", r"\u2028\U0001f600\ud800"),
    ],
)
def test_escapes(value: str, escaped: str) -> None:
    request = bad_request()
    request.client = (value, "")
    request.fields = [("A", value)]
    assert line_of('"%h" "%{a}i"', request) == f'"{escaped}" "{escaped}"'


@pytest.mark.parametrize("directive", ["%h", "%r", "%m", "%U", "%q", "%H", "%>s", "%{A}i", "%p"])
def test_every_value_is_escaped(directive: str) -> None:
    bad = 'x?"\n\\'
    request = bad_request(b'x?"\r\\\n')
    request.client, request.method, request.target, request.version = (bad, "1"), bad, bad[1:] + bad, bad
    request.fields = [("a", bad)]
    line = line_of(directive, request, status=bad, port=bad)
    assert "\n" not in line
    assert re.search(r'(?<!\\)"', line) is None


QUOTED = r'"((?:[ !#-\[\]-~]|\\.)*)"'
COMBINED_LINE = re.compile(rf"(\S+) - - \[([^\]]+)\] {QUOTED} (\d\d\d) (\d+) {QUOTED} {QUOTED}", re.ASCII)


@given(st.binary(), st.text(), st.text())
def test_no_client_forges_a_line(octets: bytes, referer: str, agent: str) -> None:
    request = bad_request(octets)
    request_line = request.line
    request.fields = [("Referer", referer), ("User-Agent", agent)]
    match = COMBINED_LINE.fullmatch(line_of("combined", request, "400"))
    assert match is not None
    values = [match[3], match[6], match[7]]
    assert [value.encode("ascii").decode("unicode_escape") for value in values] == [
        request_line or "-", referer or "-", agent or "-",
    ]  # fmt: skip


@given(st.binary(), st.text())
def test_no_client_forges_an_object(octets: bytes, agent: str) -> None:
    request = bad_request(octets)
    request_line = request.line
    request.fields = [("User-Agent", agent)]
    line = line_of("json", request, "400")
    assert re.fullmatch(r"[ -~]+", line)
    entry = json.loads(line)
    assert (entry["request_line"], entry["user_agent"]) == (request_line, agent or None)


# ---- the time ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("zone", "stamp", "iso"),
    [
        ("UTC0", "10/Oct/2000:20:55:36 +0000", "2000-10-10T20:55:36+00:00"),
        ("MST7", "10/Oct/2000:13:55:36 -0700", "2000-10-10T13:55:36-07:00"),
        ("<+0530>-5:30", "11/Oct/2000:02:25:36 +0530", "2000-10-11T02:25:36+05:30"),
        ("<-0330>3:30", "10/Oct/2000:17:25:36 -0330", "2000-10-10T17:25:36-03:30"),
        ("CET-1CEST,M3.5.0,M10.5.0/3", "10/Oct/2000:22:55:36 +0200", "2000-10-10T22:55:36+02:00"),
    ],
)
def test_time_is_local_and_tells_its_zone(clock: Any, zone: str, stamp: str, iso: str) -> None:
    clock.set_zone(zone)
    assert AccessLog("common", io.StringIO()).stamp() == stamp
    assert line_of("%t") == f"[{stamp}]"
    assert json.loads(line_of("json"))["time"] == iso


def test_months_have_their_english_names(clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "strftime", lambda *args: "M\xe4rz")  # as in another locale
    log = AccessLog("common", io.StringIO())
    months = []
    for month in range(12):
        clock.now = 971211336 + (month - 9) * 30.4 * 86400
        months.append(log.stamp()[3:6])
    assert months == ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]


def test_time_is_made_once_a_second(clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    localtime = time.localtime
    monkeypatch.setattr(access_log.time, "localtime", lambda second: calls.append(second) or localtime(second))
    log = AccessLog("json", io.StringIO())
    stamps = []
    for now in (100.0, 100.5, 100.999, 101.0, 101.5, 100.5):  # back again, as when a clock is set
        clock.now = now
        log.line(request_of(), "200", 0, 0.0)
        stamps.append(log.stamp()[-8:-6])
    assert stamps == ["40", "40", "40", "41", "41", "40"]
    assert calls == [100, 101, 100]


# ---- files -------------------------------------------------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "access.log"


@pytest.fixture
def file(path: Path) -> Iterator[LogFile]:
    opened = LogFile(str(path))
    yield opened
    opened.close()


def read(path: Path) -> str:
    return path.read_bytes().decode("utf-8")


def test_a_file_is_appended_to(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.write_bytes(b"before\n")
    file = LogFile(str(path))
    file.write("a \xe9\u20ac\ud800\n")
    assert read(path) == "before\na \xe9\u20ac\\ud800\n"  # written immediately
    file.close()
    file.write("lost\n")
    file.reopen()
    file.close()
    assert read(path) == "before\na \xe9\u20ac\\ud800\n"
    assert caplog.records == []


def test_a_log_writes_reopens_and_closes_its_file(path: Path, file: LogFile) -> None:
    log = AccessLog("common", file)
    log.write("a\nb\n")
    path.unlink()
    log.reopen()
    log.write("c\n")
    log.close()
    log.write("d\n")
    assert read(path) == "c\n"


def test_a_stream_of_ones_own_stays_open() -> None:
    stream = io.StringIO()
    log = AccessLog("common", stream)
    log.reopen()
    log.close()
    log.write("a\n")
    assert stream.getvalue() == "a\n"


def test_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    file = LogFile("-")
    file.write("a\n")
    file.reopen()
    file.write("b\n")
    file.close()
    os.write(1, b"still open\n")
    assert capfd.readouterr().out == "a\nb\nstill open\n"


def test_no_standard_output_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "__stdout__", None)
    with pytest.raises(OSError, match="no standard output"):
        LogFile("-")


def test_what_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing"):
        LogFile(str(tmp_path / "missing" / "log"))
    with pytest.raises(ValueError, match=r"^path is empty"):
        LogFile("")


posix = pytest.mark.skipif(os.name == "nt", reason="an open file can't be renamed on this platform")


@posix
def test_reopen_goes_on_under_the_same_name(path: Path, file: LogFile, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write("1\n")
    moved = path.rename(path.with_suffix(".1"))
    file.write("2\n")
    file.reopen()
    file.write("3\n")
    file.reopen()  # the file wasn't renamed
    file.write("4\n")
    assert (read(moved), read(path)) == ("1\n2\n", "3\n4\n")


@posix
def test_reopen_finds_a_relative_path_from_another_directory(
    path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    file = LogFile(path.name)
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    path.unlink()
    file.reopen()
    file.write("a\n")
    file.close()
    assert read(path) == "a\n"


@posix
def test_reopen_that_fails_keeps_the_old_file(path: Path, file: LogFile, caplog: pytest.LogCaptureFixture) -> None:
    moved = path.rename(path.with_suffix(".1"))
    path.mkdir()
    file.reopen()
    file.write("a\n")
    assert read(moved) == "a\n"
    assert [(record.name, record.levelno) for record in caplog.records] == [("fastwsgi", logging.ERROR)]
    assert str(path) in caplog.text


@posix
def test_reopen_leaks_no_descriptor_and_hands_none_to_children(file: LogFile) -> None:
    number = file._file.fileno()
    free = os.dup(number)
    os.close(free)
    for _ in range(5):
        file.reopen()
    again = os.dup(number)
    os.close(again)
    assert (file._file.fileno(), again) == (number, free)
    assert not os.get_inheritable(number)


class Interrupting:
    """A file whose write() is interrupted by a signal handler that reopens the log."""

    def __init__(self, log: LogFile, inner: io.FileIO) -> None:
        self.log, self.inner = log, inner
        self.closed, self.fileno, self.close = False, inner.fileno, inner.close

    def write(self, data: bytes) -> int | None:
        self.log.reopen()
        return self.inner.write(data)


@posix
def test_a_signal_may_reopen_in_the_midst_of_a_write(path: Path, file: LogFile) -> None:
    path.unlink()
    file._file = Interrupting(file, file._file)  # type: ignore[assignment]
    file.write("in the old file\n")
    file.write("in the new one\n")
    assert read(path) == "in the new one\n"


@posix
def test_threads_lose_nothing_while_the_file_is_rotated(path: Path, file: LogFile) -> None:
    def fill(number: int) -> None:
        for each in range(500):
            file.write(f"{number}:{each}:{'x' * 200}\n")

    threads = [threading.Thread(target=fill, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    turns = 0
    while any(thread.is_alive() for thread in threads) or turns == 0:
        turns += 1
        path.rename(path.with_suffix(f".{turns}"))
        file.reopen()
    for thread in threads:
        thread.join(10)
    lines = [line for each in path.parent.iterdir() for line in read(each).splitlines()]
    assert sorted(lines) == sorted(f"{number}:{each}:{'x' * 200}" for number in range(4) for each in range(500))


WRITER = """
import sys
from fastwsgi._service.access_log import LogFile
file = LogFile(sys.argv[1])
sys.stdin.read(1)
for number in range(300):
    file.write(f"{sys.argv[2]}:{number}:" + "x" * 3000 + "\\n")
file.close()
"""


@posix
def test_processes_append_whole_lines_to_one_file(path: Path) -> None:
    root = Path(access_log.__file__).parents[2]
    processes = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), str(number)], stdin=subprocess.PIPE, cwd=root)
        for number in range(3)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write(b"x")
        process.stdin.close()
    assert [process.wait(30) for process in processes] == [0, 0, 0]
    expected = {f"{writer}:{number}:{'x' * 3000}" for writer in range(3) for number in range(300)}
    lines = read(path).splitlines()
    assert len(lines) == len(expected)
    assert set(lines) == expected


class Disk:
    """A file on a disk that accepts a few octets at a time, or fails."""

    closed = False

    def __init__(self, *answers: int | Exception | None) -> None:
        self.answers = list(answers)
        self.written = b""

    def write(self, data: bytes) -> int | None:
        answer = self.answers.pop(0) if self.answers else len(data)
        if isinstance(answer, Exception):
            raise answer
        self.written += data[: answer or 0]
        return answer

    def close(self) -> None:
        pass


def test_a_text_is_one_write(file: LogFile) -> None:
    file.close()
    file._file = Disk(2)  # type: ignore[assignment]
    file.write("a\n")
    assert file._file.answers == []  # type: ignore[attr-defined]
    file._file = Disk(*[None] * 3)  # type: ignore[assignment]
    file.write("a\nb\nc\n")
    assert len(file._file.answers) == 2  # type: ignore[attr-defined]


def test_a_write_that_was_cut_short_goes_on(file: LogFile, caplog: pytest.LogCaptureFixture) -> None:
    file.close()
    file._file = Disk(1, 2)  # type: ignore[assignment]
    file.write("abcdef\n")
    assert file._file.written == b"abcdef\n"  # type: ignore[attr-defined]
    assert caplog.records == []


@pytest.mark.parametrize("answer", [OSError(28, "No space left"), ValueError("closed"), None, 0])
def test_what_cannot_be_written_is_lost_and_said_once(
    answer: Any, file: LogFile, caplog: pytest.LogCaptureFixture
) -> None:
    file.close()
    file._file = disk = Disk(answer, answer, 5, answer)  # type: ignore[assignment]
    for _ in range(2):
        file.write("lost\n")
    assert [(record.name, record.levelno) for record in caplog.records] == [("fastwsgi", logging.ERROR)]
    file.write("good\n")
    file.write("lost\n")
    assert disk.written == b"good\n"  # type: ignore[attr-defined]
    assert len(caplog.records) == 2  # a new failure is reported again


def test_a_file_that_is_rotated_while_a_line_is_written(file: LogFile, tmp_path: Path) -> None:
    """By a signal handler, in the middle of a write: the line stays complete, and the next is in the new file."""
    path = Path(file.path)
    file.write("first\n")
    with file._writes:
        path.rename(tmp_path / "old")
        file.reopen()
        file.reopen()
        file._append(b"second\n")
    file.write("third\n")
    file.write("fourth\n")
    assert (tmp_path / "old").read_text() == "first\nsecond\nthird\n"
    assert path.read_text() == "fourth\n"


@pytest.fixture
def nearly_full() -> Iterator[Callable[[int | None], None]]:
    """Limit the size of each file of the process, as on a full disk; None for no limit."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def end_at(size: int | None) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, before if size is None else (size, before[1]))

    try:
        yield end_at
    finally:
        end_at(None)


def test_no_line_is_torn_by_a_disk_that_gets_full(
    nearly_full: Callable[[int | None], None], file: LogFile, tmp_path: Path
) -> None:
    file.write("first\n")
    for lost in ("lost\n" * 10, "whole\nlost\n"):
        nearly_full(Path(file.path).stat().st_size + 8)
        file.write(lost)
        nearly_full(None)
        file.write("written\n")
    assert Path(file.path).read_text() == "first\nlost\nwritten\nwhole\nwritten\n"


class HalfPipe(io.FileIO):
    """Accepts a part of the first text, and then nothing."""

    calls = 0

    def write(self, data: Any) -> int | None:
        self.calls += 1
        if self.calls == 1:
            return super().write(data[:4])
        return None if self.calls == 2 else super().write(data)


def test_a_line_torn_where_nothing_can_be_taken_back_ends_before_the_next(file: LogFile) -> None:
    """As on a pipe, a terminal, or a file that another process has written to meanwhile."""
    file.close()
    reader, writer = os.pipe()
    with open(reader, "rb") as pipe:
        file._file = HalfPipe(writer, "wb")  # type: ignore[assignment]
        file.write("torn line\n")
        file.write("written\n")
        file.write("written\n")
        file.close()
        assert pipe.read() == b"torn\nwritten\nwritten\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_no_error_of_the_server(caplog: pytest.LogCaptureFixture) -> None:
    file = LogFile("/dev/full")
    for _ in range(3):
        file.write("lost\n")
    file.close()
    assert len(caplog.records) == 1
    assert "/dev/full can't be written" in caplog.text
