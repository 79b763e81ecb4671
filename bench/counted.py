"""The program whose instructions ``bench.instructions`` counts under callgrind: it runs each row several times.

    python -m bench.counted LIBRARY TWIN PACKAGES ROW ...

LIBRARY is callgrind.c, compiled; TWIN is "compiled" or "pure"; PACKAGES is a directory of packages that rows need, or
"". Callgrind writes a file for each round, with the
row's name in it. The program prints, as JSON, the number to divide each count by, or why a row has no counts.

A server and its clients share one thread here, so that the result doesn't depend on scheduling. After each turn of the
loop the clients read their answers and send new requests, which isn't counted. So each turn has the same number of
requests.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import gc
import importlib
import json
import os
import socket
import sys
import tempfile
import timeit
from collections.abc import Callable, Sequence
from types import SimpleNamespace

from bench.counted_servers import Setup, gunicorn_worker, logging_handler, script, service, silent
from fastwsgi.bench.hot_paths import WORKS, Work, imported, ours_set_aside
from fastwsgi.bench.workloads import ADDRESS, APPS, CONNECTIONS, COOKIE, HELLO, POST, Workload

#: How many rounds are counted. In one, the second of the clock may change, or a cache may be filled. WARM_UP rounds
#: before them aren't counted.
ROUNDS, WARM_UP = 3, 2
# If not all answers have arrived after one turn, the round begins again; this often at most.
_DISTURBED = 50
# How often a round calls a hot path.
_CALLS = 64
# The size of a file, which the kernel sends in one turn.
_FILE = b"0123456789abcdef" * 4096
_SCRIPT = script()


@dataclasses.dataclass(frozen=True)
class Chunked(Workload):
    """A workload whose body is sent as one chunk."""

    def request(self, port: int, number: int | None = None) -> bytes:
        head, _, body = super().request(port, number).partition(b"\r\n\r\n")
        length = b"Content-Length: %d" % len(body)
        head = head.replace(length, b"Transfer-Encoding: chunked")
        return head + b"\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)


@dataclasses.dataclass(frozen=True)
class Requests:
    """The requests to a server in a round: in each turn, one on each connection."""

    workload: Workload
    #: The last octets of an answer.
    end: bytes = HELLO.answer
    connections: int = 8
    turns: int = 8
    #: The groups of rows that it belongs to.
    groups: tuple[str, ...] = ("lane", "general", "pure")
    #: The server that gets the requests.
    setup: Setup = _SCRIPT
    #: The modules that it needs, to import them before callgrind slows everything down.
    imports: tuple[str, ...] = ()

    @property
    def closes(self) -> bool:
        return self.workload is CONNECTIONS


REQUESTS = {
    "hello": Requests(HELLO),
    "hello, one a turn": Requests(HELLO, connections=1, groups=("lane",)),
    # The general path remembers no heads.
    "mixed": Requests(dataclasses.replace(HELLO, varies=COOKIE), groups=("lane",)),
    "connections": Requests(CONNECTIONS),
    "post": Requests(POST, end=b"\r\n\r\n" + POST.answer),
    "stream": Requests(dataclasses.replace(HELLO, app="stream"), end=b"x\r\n0\r\n\r\n", turns=1),
    "file": Requests(dataclasses.replace(HELLO, app="file"), end=_FILE[-64:], turns=4),
}


def _with_address(field: str) -> Workload:
    """hello with a field that has an address, a different one in each request."""
    return dataclasses.replace(HELLO, fields={field: ADDRESS.place}, varies=ADDRESS)


def _production(workload: Workload, setup: Setup, *imports: str, end: bytes = HELLO.answer) -> Requests:
    return Requests(workload, end, turns=4, setup=setup, imports=imports)


_SERVICE = "fastwsgi._service.service"
_POST_CHUNK = Chunked("a chunk of 13 bytes sent, their number back", "post", b"13", body="Hello, world!")
#: The additions of production to a request: logs, a proxy, gunicorn.
PRODUCTION = {
    "silent log_message": _production(HELLO, script(silent)),
    "log_message that logs": _production(HELLO, script(logging_handler), "logging"),
    "chunked POST": _production(_POST_CHUNK, _SCRIPT, end=b"\r\n\r\n13"),
    "access log, common": _production(HELLO, service("common"), _SERVICE),
    "access log, combined": _production(HELLO, service("combined"), _SERVICE),
    "access log, json": _production(HELLO, service("json"), _SERVICE),
    "no X-Forwarded-For": _production(_with_address("X-Request-ID"), service(), _SERVICE),
    "untrusted X-Forwarded-For": _production(_with_address("X-Forwarded-For"), service(), _SERVICE),
    "trusted X-Forwarded-For": _production(
        _with_address("X-Forwarded-For"), service(forwarded_allow_ips="127.0.0.1"), _SERVICE
    ),
    # In one group only, because its imports take longer than everything that is counted.
    "gunicorn's worker": dataclasses.replace(
        _production(HELLO, gunicorn_worker, "gunicorn.glogging", "fastwsgi.gunicorn"), groups=("lane",)
    ),
}


@dataclasses.dataclass(frozen=True)
class Job:
    """A row: requests to a server, or a hot path, on one twin."""

    twin: str
    work: Requests | Work
    fast_lane: bool = False
    #: Rows with the same number are counted in one process: the imports of one change the memory layout of others.
    process: int = 0

    @property
    def imports(self) -> tuple[str, ...]:
        return self.work.imports if isinstance(self.work, Requests) else ()

    @property
    def packages(self) -> set[str]:
        """The packages that a row needs besides ours."""
        return {name.partition(".")[0] for name in self.imports} - sys.stdlib_module_names - {"fastwsgi"}


def jobs() -> dict[str, Job]:
    """Every row, by its name."""
    rows: dict[str, Job] = {}
    for group, twin in (("lane", "compiled"), ("general", "compiled"), ("pure", "pure")):
        for process, several in enumerate((REQUESTS, PRODUCTION)):
            for name, requests in several.items():
                if group not in requests.groups:
                    continue
                is_lane = group == "lane"
                turns = requests.turns if is_lane else min(requests.turns, 3)  # which take longer
                asked = dataclasses.replace(requests, turns=turns)
                rows[f"{group}: {name}"] = Job(twin, asked, is_lane, process)
    for twin in ("compiled", "pure"):
        rows |= {f"{twin}: {name}": Job(twin, work) for name, work in WORKS.items()}
    return rows


JOBS = jobs()


@dataclasses.dataclass(frozen=True)
class Round:
    """The size of a round: how many calls it had, and how often the costs of the rows "toggle" or "loop" are in it."""

    calls: int
    blank: str
    blanks: int


class Callgrind:
    """Tells callgrind what to count. library: the path of the compiled callgrind.c."""

    def __init__(self, library: str) -> None:
        functions = ctypes.CDLL(library)
        if not functions.is_counted():
            raise SystemExit("bench.counted runs under valgrind: python -m bench.instructions")
        functions.dump.argtypes = [ctypes.c_char_p]
        self._dump: Callable[[bytes], None] = functions.dump
        self.zero: Callable[[], None] = functions.zero
        #: Start or stop counting.
        self.toggle: Callable[[], None] = functions.toggle
        functions.instrument()

    def dump(self, name: str) -> None:
        """Write the counts since zero()."""
        self._dump(name.encode())

    def count(self, name: str, work: Callable[[], object]) -> None:
        """Count some work as a row."""
        for number in range(WARM_UP + ROUNDS):
            self.zero()
            self.toggle()
            work()
            self.toggle()
            if number >= WARM_UP:
                self.dump(name)


class DoneError(Exception):
    """All rounds have been counted."""


class Clients:
    """The clients of one server, which act between two turns of its loop."""

    def __init__(self, callgrind: Callgrind, name: str, requests: Requests, address: tuple[str, int]) -> None:
        self.callgrind, self.name, self.requests, self.address = callgrind, name, requests, address
        self.sockets: list[socket.socket] = []
        #: The received parts of incomplete answers.
        self.waiting: dict[socket.socket, bytes] = {}
        self.number = self.turns = self.rounds = self.disturbed = 0
        self.is_disturbed = True  # the first turn accepts

    def take_turn(self) -> None:
        """Read the answers; when all are complete, record the turn and send again. Raises DoneError at the end."""
        for client in list(self.waiting):
            self._take(client)
        if self.waiting:
            self.is_disturbed = True
            return
        self.turns += 1
        if self.is_disturbed or self.turns == self.requests.turns:
            self._end_round()
        self._ask()

    def _take(self, client: socket.socket) -> None:
        is_closed = False
        with contextlib.suppress(BlockingIOError):
            while data := client.recv(1 << 20):
                self.waiting[client] += data
            is_closed = True
        answer = self.waiting[client]
        if is_closed == self.requests.closes and answer.endswith(self.requests.end):
            if not answer.startswith(b"HTTP/1.1 200 OK\r\n"):
                raise ValueError(f"wrong answer: {answer[:200]!r}")
            del self.waiting[client]
        elif is_closed:
            raise ConnectionAbortedError(f"the answer ends with {answer[-200:]!r}")

    def _end_round(self) -> None:
        if self.is_disturbed:
            self.disturbed += 1
            if self.disturbed > _DISTURBED:
                raise TimeoutError("answers don't come at once")
        else:
            self.rounds += 1
            if self.rounds > WARM_UP:
                self.callgrind.dump(self.name)
            if self.rounds == WARM_UP + ROUNDS:
                raise DoneError
        self.callgrind.zero()
        self.turns, self.is_disturbed = 0, False

    def _ask(self) -> None:
        if self.requests.closes:
            self.close()
        if not self.sockets:
            self.sockets = [socket.create_connection(self.address) for _ in range(self.requests.connections)]
            for client in self.sockets:
                client.setblocking(False)
        for client in self.sockets:
            self.number += 1
            client.send(self.requests.workload.request(8000, self.number))
            self.waiting[client] = b""

    def close(self) -> None:
        for client in self.sockets:
            client.close()
        self.sockets = []


def count_requests(
    callgrind: Callgrind, wsgi: SimpleNamespace, name: str, requests: Requests, fast_lane: bool
) -> Round:
    toggle = callgrind.toggle

    def actions(*server: object) -> None:
        toggle()
        clients.take_turn()
        toggle()

    with requests.setup(wsgi, APPS[requests.workload.app], fast_lane, actions) as started:
        clients = Clients(callgrind, name, requests, started.address)
        toggle()
        try:
            started.serve()
        except DoneError:
            pass  # raised between turns, when nothing is counted
        finally:
            clients.close()
        if started.log is not None:
            lines = len(started.log.read_bytes().splitlines())
            if lines != clients.number:
                raise ValueError(f"{lines} lines in the log for {clients.number} requests")
    return Round(requests.turns * requests.connections, "toggle", requests.turns)


def count_calls(callgrind: Callgrind, wsgi: SimpleNamespace, name: str, work: Work) -> Round:
    statement, names, _ = work(wsgi)
    timer = timeit.Timer(statement, globals=names)
    callgrind.count(name, lambda: timer.timeit(_CALLS))
    return Round(_CALLS, "loop", 1)


def count_row(callgrind: Callgrind, wsgi: SimpleNamespace, name: str) -> Round:
    job = JOBS[name]
    if isinstance(job.work, Requests):
        return count_requests(callgrind, wsgi, name, job.work, job.fast_lane)
    return count_calls(callgrind, wsgi, name, job.work)


def main(library: str, twin: str, packages: str, *names: str) -> None:
    if packages:
        sys.path.append(packages)
    # Each seed also gives another memory layout, as long as this object exists.
    padding = [bytes(size) for size in range(0, 500, 16) for _ in range(50 * int(os.environ["PYTHONHASHSEED"]))]
    with ours_set_aside():
        wsgi = imported(twin)
        if wsgi is None:
            raise SystemExit(f"the {twin} twin isn't here")
        for name in names:
            with contextlib.suppress(ImportError):  # reported when the row is counted
                for module in JOBS[name].imports:
                    importlib.import_module(module)
        count(library, wsgi, names)
    del padding


def count(library: str, wsgi: SimpleNamespace, names: Sequence[str]) -> None:
    """Count some rows, and print what bench.instructions needs to know of them."""
    callgrind = Callgrind(library)
    told: dict[str, dict[str, object]] = {}
    with tempfile.NamedTemporaryFile() as file, open(os.devnull, "w", buffering=1) as nowhere:
        file.write(_FILE)
        file.flush()
        os.environ["BENCH_FILE"] = file.name
        gc.collect()
        gc.freeze()
        gc.disable()  # the cost of a collection depends on all other objects
        callgrind.count("toggle", lambda: None)
        nothing = timeit.Timer("pass")
        callgrind.count("loop", lambda: nothing.timeit(_CALLS))
        with contextlib.redirect_stderr(nowhere):  # log lines are part of a request
            for name in names:
                try:
                    told[name] = dataclasses.asdict(count_row(callgrind, wsgi, name))
                except Exception as error:
                    told[name] = {"error": f"{type(error).__name__}: {error}"}
    json.dump(told, sys.stdout)


if __name__ == "__main__":
    main(*sys.argv[1:])
