"""System calls of a service that fail: each answer is complete or visibly broken, and each request is logged.

In each test, one system call fails with one error, or transfers less than requested, while clients of all kinds come.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import re
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from clients import Client, CutShortError, Reply
from system_call_faults import CONTENT, PATIENCE, ROOM, SHORT, Fault, FaultyService, compiled_library
from waiting import wait_until

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or sys.maxsize < 2**32, reason="the preloaded library is for 64-bit Linux"
)

#: The sizes of a request body that goes to a file, and of the others.
SPOOLED, HELD = 100_000, 1000
#: The number of calls that work first, then one in how many fails, the most that fail, and a shortened size.
ROUNDS = ((0, 1, 4, 7), (1, 2, 20, 1), (4, 3, 20, 100), (0, 7, 50, 1000))

LINE = re.compile(
    r"127\.0\.0\.1 - - \[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\]"
    r' "(?:GET|POST) (/[^ "]+) HTTP/1\.[01]" (\d{3}|-) (\d+)'
)
MARK = re.compile(rb"<[a-z]+ \d+>")  # which belongs to the answer to another request


def faults() -> Iterator[Fault]:
    transfer = "EINTR", "EAGAIN", SHORT
    shortage = "ENOBUFS", "ENOMEM"  # the kernel is short of memory for a moment
    for calls, kind, harmless, harmful in (
        (("RECV",), "SOCKET", (*transfer, *shortage), ("ECONNRESET",)),
        (("SEND", "SENDMSG"), "SOCKET", (*transfer, *shortage), ("EPIPE", "ECONNRESET")),
        (("SENDMSG",), "SOCKET", (*transfer, "ENOBUFS"), ("EPIPE",)),
        (("SENDFILE",), "SOCKET", (*transfer, *shortage, "EINVAL"), ("EIO",)),
        # A client that couldn't be accepted still waits.
        (("ACCEPT",), "SOCKET", ("EMFILE", "ENFILE", "ECONNABORTED", "EINTR", "ENOMEM"), ()),
        (("EPOLL_ADD",), "SOCKET", (), ("ENOMEM", "ENOSPC")),
        (("EPOLL_MOD",), "SOCKET", (), ("ENOMEM", "ENOSPC")),
        (("OPEN",), "SPOOLED", (), ("EMFILE", "ENOSPC", "EROFS")),
        (("READ",), "SPOOLED", ("EINTR", SHORT), ("EIO",)),
        (("WRITE",), "SPOOLED", ("EINTR", SHORT), ("ENOSPC", "EIO")),
        (("DUP",), "NAMED", ("EMFILE",), ()),  # of sendfile(); the file can be read instead
        # The file is closed in spite of the error, and everything was sent.
        (("CLOSE",), "SOCKET", ("EIO", "EINTR"), ()),
        (("CLOSE",), "SPOOLED", ("EIO", "EINTR"), ()),
        (("CLOSE",), "NAMED", ("EIO", "EINTR"), ()),
        # Faults of the access log, which clients must not notice.
        (("WRITE",), "NAMED", ("EINTR", SHORT), ()),
    ):
        for error in (*harmless, *harmful):
            yield Fault(calls, kind, error, error in harmless)
    yield Fault(("WRITE",), "SPOOLED", "ENOSPC", is_harmless=False, is_shortened_first=True)
    yield Fault(("WRITE",), "NAMED", "ENOSPC", is_harmless=True, loses_lines=True)
    yield Fault(("WRITE",), "NAMED", "EIO", is_harmless=True, loses_lines=True)
    yield Fault(("WRITE",), "NAMED", "ENOSPC", is_harmless=True, loses_lines=True, is_shortened_first=True)


# ---- clients -----------------------------------------------------------------------------------------


class Request(NamedTuple):
    kind: str
    target: str
    data: bytes
    expected: bytes  # the body of its answer


class BrokenOffError(Exception):
    """The service has visibly broken the connection."""


class Visit:
    """One client, its requests and its answers."""

    def __init__(self, address: Any, fault: Fault | None, first: int) -> None:
        self.address = address
        self.fault = fault
        self.numbers = itertools.count(first)
        #: The answer to each request, or None.
        self.replies: dict[str, Reply | None] = {}
        #: Requests whose head the service has certainly received.
        self.received: set[str] = set()
        #: How many answers weren't the application's or weren't complete; a broken connection counts as one.
        self.troubles = 0

    def request(
        self, kind: str, copies: int = 1, *, size: int = -1, chunked: bool = False, fields: str = "", version: int = 1
    ) -> Request:
        """A request for an answer of a kind; with a size, a body is sent."""
        number = next(self.numbers)
        target = f"/{kind}/{number}/{copies}"
        coded = body = (b"%d;" % number * size)[: max(size, 0)]
        if chunked:
            pieces = [body[start : start + 3000] for start in range(0, size, 3000)]
            coded = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (*pieces, b""))
            fields += "Transfer-Encoding: chunked\r\n"
        elif size >= 0:
            fields += f"Content-Length: {size}\r\n"
        head = f"{'GET' if size < 0 else 'POST'} {target} HTTP/1.{version}\r\nHost: h\r\n{fields}\r\n"
        expected = f"<{kind} {number}>".encode() * copies
        if kind == "echo":
            expected += hashlib.sha256(body).hexdigest().encode()
        elif kind == "file":
            expected = CONTENT[number % 1000 :]
        return Request(kind, target, head.encode() + coded, expected)

    @contextlib.contextmanager
    def connected(self) -> Iterator[Client]:
        """A connection, on which only the answers to its requests may arrive."""
        client = Client(self.address, room=ROOM)
        client.sock.settimeout(PATIENCE)
        with contextlib.suppress(BrokenOffError), contextlib.closing(client):
            yield client
            with self.reading("the end"):
                client.sock.shutdown(socket.SHUT_WR)
                assert client.rest() == b""

    @contextlib.contextmanager
    def left(self, request: Request) -> Iterator[Client]:
        """A connection for a request, which is reset at the end."""
        self.replies[request.target] = None
        client = Client(self.address, room=ROOM)
        client.sock.settimeout(PATIENCE)
        with contextlib.suppress(BrokenOffError), self.reading(request.target):
            try:
                yield client
            finally:
                client.reset()

    @contextlib.contextmanager
    def reading(self, what: str) -> Iterator[None]:
        """A block in which the connection may break, unless the fault is harmless."""
        try:
            yield
        except (CutShortError, ConnectionError) as error:
            self.note_trouble(f"{what}: {error!r}")
            raise BrokenOffError from error
        except TimeoutError:
            raise AssertionError(f"{what} doesn't come") from None

    def note_trouble(self, what: Any) -> None:
        assert self.fault is not None, what
        assert not self.fault.is_harmless, what
        self.troubles += 1

    def ask(self, client: Client, *requests: Request) -> None:
        """Send requests, all at once, and read the answers."""
        self.replies.update((each.target, None) for each in requests)
        with contextlib.suppress(ConnectionError):  # there may still be an answer
            client.send(b"".join(each.data for each in requests))
        for each in requests:
            if each.kind == "late":
                self.read_half(client)
            else:
                self.read_whole(client, each)

    def read_half(self, client: Client) -> None:
        """Read an answer whose application fails in the middle."""
        with contextlib.suppress(CutShortError, ConnectionError):
            reply = client.reply()
            raise AssertionError(f"half an answer looks whole: {reply}")
        raise BrokenOffError

    def read_whole(self, client: Client, request: Request) -> None:
        # An upload that can't be stored is refused.
        is_refused = request.kind == "echo" and self.fault is not None and self.fault.calls in (("OPEN",), ("WRITE",))
        try:
            with self.reading(request.target):
                if client.file.peek(1):
                    self.received.add(request.target)
                reply = client.reply()
        except BrokenOffError:
            assert not is_refused, request.target
            raise
        self.replies[request.target] = reply
        if reply.status == 200:
            assert reply.body == request.expected, (request.target, len(reply.body), MARK.findall(reply.body)[:3])
            return
        assert not MARK.search(reply.body), reply
        if request.kind != "early" or reply.status != 500:
            self.note_trouble(reply)
            assert reply.status in ((503, 507) if is_refused else (500, 503, 507)), reply
        if reply.fields.get("Connection") == "close":
            raise BrokenOffError

    # The kinds of clients.

    def keep_alive(self) -> None:
        with self.connected() as client:
            for _ in range(4):
                self.ask(client, self.request("memory"))

    def pipeline(self) -> None:
        with self.connected() as client:
            request = self.request
            self.ask(client, request("memory"), request("echo", size=HELD), request("stream", 10), request("memory"),
                     request("early"), request("memory", 20_000), request("write", 5), request("file"),
                     request("echo", size=HELD, chunked=True), request("memory"))  # fmt: skip

    def upload(self) -> None:
        with self.connected() as client:
            for size in (HELD, SPOOLED):
                self.ask(client, self.request("echo", size=size))
                self.ask(client, self.request("echo", size=size, chunked=True))

    def get_stream(self) -> None:
        with self.connected() as client:
            self.ask(client, self.request("stream", 20_000))
            self.ask(client, self.request("late"))

    def get_old_stream(self) -> None:
        with self.connected() as client:
            self.ask(client, self.request("stream", 20_000, version=0))

    def get_large(self) -> None:
        with self.connected() as client:
            for copies in (5_000, 30_000, 150_000, 10_000):
                self.ask(client, self.request("memory", copies))

    def get_files(self) -> None:
        with self.connected() as client:
            self.ask(client, self.request("file"))
            self.ask(client, self.request("file"), self.request("memory"))
        with self.connected() as client:
            self.ask(client, self.request("file", version=0))

    def get_written(self) -> None:
        """Get an answer that has to wait on disk."""
        with self.connected() as client:
            self.ask(client, self.request("write", 40_000), self.request("memory"))

    def get_failure(self) -> None:
        with self.connected() as client:
            self.ask(client, self.request("early"))
            self.ask(client, self.request("memory"))

    def leave(self) -> None:
        """Leave early: without a request, in a long answer, and in request bodies."""
        with self.left(request := self.request("memory")) as client:
            client.send(request.data)
        with self.left(request := self.request("stream", 400_000)) as client:
            client.send(request.data)
            client.head()
            self.received.add(request.target)
        for size in (HELD, SPOOLED):
            with self.left(request := self.request("echo", size=size, fields="Expect: 100-continue\r\n")) as client:
                head, body = request.data.split(b"\r\n\r\n")
                client.send(head + b"\r\n\r\n")
                client.head()
                self.received.add(request.target)
                client.send(body[: size // 2])


VISITS: tuple[Callable[[Visit], None], ...] = (
    Visit.get_written, Visit.get_large, Visit.leave, Visit.get_files, Visit.upload, Visit.keep_alive, Visit.pipeline,
    Visit.get_stream, Visit.get_old_stream, Visit.get_failure,
)  # fmt: skip
EASY_VISITS = (Visit.keep_alive, Visit.upload, Visit.get_files) * 2


class Traffic:
    """Clients of all kinds at once, again and again; their answers, and the log."""

    _firsts = itertools.count(1000, 100)

    def __init__(self, site: FaultyService) -> None:
        self.site = site
        self.visits: list[Visit] = []
        self._log = site.place / "access.log"
        self._log_start = self._log.stat().st_size

    def run(self, fault: Fault | None, kinds: tuple[Callable[[Visit], None], ...] = VISITS) -> None:
        visits = [Visit(self.site.address, fault, next(self._firsts)) for _ in kinds]
        with ThreadPoolExecutor(6) as pool:
            for each in [pool.submit(kind, visit) for kind, visit in zip(kinds, visits, strict=True)]:
                each.result()
        self.visits += visits

    def run_with(self, fault: Fault, rounds: tuple[tuple[int, int, int, int], ...] = ROUNDS) -> None:
        """Run the clients with the fault. Each failed call may spoil one answer."""
        applied = 0
        for numbers in rounds:
            self.site.rules.begin(fault.rules(*numbers))
            try:
                self.run(fault)
            finally:
                applied += self.site.rules.end()
        assert applied, "no call has failed"
        assert sum(visit.troubles for visit in self.visits) <= applied

    def check_log(self, may_lose_lines: bool = False) -> None:
        """Each received request has one line, and there are no other lines."""
        called = Counter(self.site.called())
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not self._wrong_lines(called, may_lose_lines), 3)
        wrong = self._wrong_lines(called, may_lose_lines)
        assert not wrong, "\n".join(wrong)

    def _wrong_lines(self, called: Counter[str], may_lose_lines: bool) -> list[str]:
        text = self._log.read_bytes()[self._log_start :].decode("ascii")
        wrong = [] if text.endswith("\n") else ["the last line has no end"]
        found: dict[str, list[tuple[str, ...]]] = {}
        for line in text.splitlines():
            if match := LINE.fullmatch(line):
                found.setdefault(match[1], []).append(match.groups()[1:])
            else:
                wrong.append(f"no line: {line!r}")
        received = {target for visit in self.visits for target in visit.received}
        for target, reply in [item for visit in self.visits for item in visit.replies.items()]:
            lines, calls = found.pop(target, []), called[target]
            is_due = (calls > 0 or target in received) and not may_lose_lines
            if calls > 1 or len(lines) > 1 or (is_due and not lines):
                wrong.append(f"{target}: {calls} calls, {len(lines)} lines, answer {reply and reply.status}")
            if reply is not None and lines:
                # A refusal is made by send_error(), which logs no size.
                size = 0 if reply.status in (503, 507) else len(reply.body)
                if lines[0] != (f"{reply.status}", f"{size}"):
                    wrong.append(f"{target}: {lines[0]} logged, {reply.status} and {size} octets received")
        return wrong + [f"unasked: {target}" for target in found if target != "/called"]


# ---- tests -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled_library(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def site(request: pytest.FixtureRequest, library: Path) -> Iterator[FaultyService]:
    _, threads = request.param
    site = FaultyService(library, threads)
    yield site
    site.end()


def cases() -> Iterator[Any]:
    for fault, threads in itertools.product(faults(), (1, 4)):
        if fault.calls == ("DUP",) and threads == 1:
            continue  # only in several threads files have a second descriptor
        marks = [pytest.mark.compiled] if fault.calls == ("SENDMSG",) else []  # the pure twin doesn't call it
        yield pytest.param((fault.group, threads), fault, marks=marks, id=f"{fault}, {threads} threads")


@pytest.mark.parametrize(("site", "fault"), list(cases()), indirect=["site"])
def test_every_answer_is_whole_or_visibly_broken(site: FaultyService, fault: Fault) -> None:
    with site.in_use():
        if fault.kind != "SOCKET":
            Traffic(site).run(None, (Visit.upload,))  # so that it knows where temporary files can be
        traffic, said_before = Traffic(site), len(site.errors())
        traffic.run_with(fault)
        site.check_that_nothing_is_left()
        traffic.run(None, EASY_VISITS)
        traffic.check_log(fault.loses_lines)
        said = site.errors()[said_before:]
        assert fault.said in said
        if not fault.is_told and fault.calls != ("CLOSE",):  # only the application's own files
            assert said.count("Traceback") == len(re.findall("^ValueError: (?:early|midway)$", said, re.MULTILINE))


@pytest.mark.parametrize("site", [("none", 1), ("none", 4)], indirect=True, ids=["1 thread", "4 threads"])
def test_without_faults_every_answer_is_whole(site: FaultyService) -> None:
    """The other tests rely on this."""
    with site.in_use():
        traffic = Traffic(site)
        traffic.run(None)
        site.check_that_nothing_is_left()
        traffic.check_log()


@pytest.mark.parametrize("site", [("first", 1), ("first", 4)], indirect=True, ids=["1 thread", "4 threads"])
def test_disk_that_is_full_from_the_start(site: FaultyService) -> None:
    """For the first temporary file Python searches for a directory, by writing to each candidate."""
    with site.in_use():
        traffic = Traffic(site)
        full = Fault(("WRITE",), "NAMED", "ENOSPC", is_harmless=False, loses_lines=True)
        traffic.run_with(full, ((0, 1, 1000, 1),))
        site.check_that_nothing_is_left()
        traffic.run(None, EASY_VISITS)
        traffic.check_log(may_lose_lines=True)
