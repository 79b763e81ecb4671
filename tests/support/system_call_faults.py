"""Run a service whose system calls can be made to fail, with ``system_call_faults.c``."""

from __future__ import annotations

import contextlib
import errno
import json
import mmap
import os
import socket
import struct
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from clients import Client
from programs import program_path, run
from services import Service, service
from waiting import wait_until

SOURCE = Path(__file__).with_name("system_call_faults.c")
#: The library's numbers: calls are numbered from 1, kinds of descriptors from 0.
CALLS = (
    "RECV", "SEND", "SENDMSG", "SENDFILE", "ACCEPT", "EPOLL_ADD", "EPOLL_MOD", "OPEN", "READ", "WRITE", "DUP", "CLOSE",
)  # fmt: skip
KINDS = ("ANY", "SOCKET", "SPOOLED", "NAMED")
SHORT = "SHORT"

#: Seconds within which the work must end.
PATIENCE = 8.0
#: The approximate size of the kernel's buffers between service and client, so small that answers must wait.
ROOM = 32768
SETTINGS = {
    "max_body_in_memory": "16k", "max_output": "64k", "linger_timeout": "0.4", "graceful_timeout": "2",
    "keep_alive_timeout": "60", "progress_timeout": "60", "access_log": "access.log",
}  # fmt: skip

# A target is /KIND/NUMBER/COPIES. The answer repeats it COPIES times, so that it can't be mistaken for another answer.
SITE = """
import hashlib, json

called = []

def blocks(text, copies):
    for start in range(0, copies, 1000):
        yield text * min(copies - start, 1000)

def fail_midway(text):
    yield text
    raise ValueError("midway")

def application(environ, start_response):
    target = environ["PATH_INFO"]
    if target == "/called":
        start_response("200 OK", [])
        return [json.dumps(called).encode()]
    called.append(target)
    kind, number, copies = target[1:].split("/")
    text = f"<{kind} {number}>".encode()
    if kind == "early":
        raise ValueError("early")
    if kind == "echo":
        text += hashlib.sha256(environ["wsgi.input"].read()).hexdigest().encode()
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    if kind == "file":
        file = open("content", "rb")
        file.seek(int(number) % 1000)
        return environ["wsgi.file_wrapper"](file)
    if kind == "late":
        return fail_midway(text)
    if kind == "stream":
        return blocks(text, int(copies))
    if kind == "write":
        for block in blocks(text, int(copies)):
            write(block)
        return []
    return [text * int(copies)]
"""
CONTENT = b"".join(b"%07d\n" % i for i in range(40_000))


def compiled_library(place: Path) -> Path:
    """Compile the library."""
    library = place / "faults.so"
    command = [program_path("gcc"), "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(library), str(SOURCE)]
    run(*command, check=True)
    return library


class Fault(NamedTuple):
    """An error of calls on one kind of descriptor, or a transfer that is shorter than requested."""

    calls: tuple[str, ...]
    kind: str
    error: str
    #: Whether every answer must be complete in spite of the fault.
    is_harmless: bool
    #: Whether lines of the access log may be missing.
    loses_lines: bool = False
    #: Whether a shortened transfer comes before each error.
    is_shortened_first: bool = False

    @property
    def group(self) -> str:
        return f"{'+'.join(self.calls).lower()} {self.kind.lower()}"

    def __str__(self) -> str:
        return f"{self.group} {'SHORT ' if self.is_shortened_first else ''}{self.error}"

    @property
    def said(self) -> str:
        """The message on standard error, or nothing if the fault isn't the server's."""
        is_of_file = self.kind != "SOCKET" or self.error == "EIO"
        return os.strerror(getattr(errno, self.error)) if self.is_told and is_of_file else ""

    @property
    def is_told(self) -> bool:
        return self.loses_lines or not self.is_harmless

    def rules(self, skipped: int, every: int, most: int, octets: int) -> Iterator[tuple[int, ...]]:
        """The fault as rules for the library, whose source explains the numbers."""
        code = -1 if self.error == SHORT else getattr(errno, self.error)
        for call in self.calls:
            about = CALLS.index(call) + 1, KINDS.index(self.kind)
            if self.is_shortened_first:
                yield *about, code, octets, skipped + 1, 2, most, 0, 0
                yield *about, -1, octets, skipped, 1, most, 0, 0
            else:
                yield *about, code, octets, skipped, every, most, 0, 0


class Rules:
    """The rules of a preloaded library, in a file that the library shares with the tests."""

    RULE = struct.Struct("4i5I")
    ROOMS = 8

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(self.RULE.size * self.ROOMS))
        with path.open("r+b") as file:
            self._shared = mmap.mmap(file.fileno(), 0)

    def begin(self, rules: Iterable[tuple[int, ...]]) -> None:
        for start, (call, *rest) in zip(self._starts(), rules, strict=False):
            self.RULE.pack_into(self._shared, start, 0, *rest)
            self._shared[start : start + 4] = struct.pack("i", call)

    def end(self) -> int:
        """Stop the faults; return how many calls have failed."""
        applied = 0
        for start in self._starts():
            self._shared[start : start + 4] = bytes(4)
            applied += self.RULE.unpack_from(self._shared, start)[-1]
            self._shared[start : start + self.RULE.size] = bytes(self.RULE.size)
        return applied

    def close(self) -> None:
        self._shared.close()

    def _starts(self) -> range:
        return range(0, len(self._shared), self.RULE.size)


class FaultyService:
    """A service with the library in it. The tests share it; after a failed test a new one is started."""

    def __init__(self, library: Path, threads: int) -> None:
        self.library = library
        self.threads = threads
        self._stack: contextlib.ExitStack | None = None

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        if self._stack is None:
            self._start()
        try:
            yield
        except BaseException:
            print(self._stop().stderr[-4000:])  # pytest shows it
            raise

    def _start(self) -> None:
        with contextlib.ExitStack() as stack:
            self.place = place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fw")))
            (place / "temporary").mkdir()
            (place / "faulty_site.py").write_text(SITE, encoding="utf-8")
            (place / "content").write_bytes(CONTENT)
            self.rules = stack.enter_context(contextlib.closing(Rules(place / "rules")))
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=100))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, ROOM)
            preloaded = ":".join(filter(None, (os.environ.get("LD_PRELOAD"), str(self.library))))
            environ = {
                "LD_PRELOAD": preloaded, "SYSTEM_CALL_FAULTS": str(place / "rules"), "TMPDIR": f"{place}/temporary",
                "FASTWSGI_THREADS": str(self.threads), "FASTWSGI_BIND": f"fd:{listener.fileno()}",
                **{f"FASTWSGI_{name.upper()}": value for name, value in SETTINGS.items()},
            }  # fmt: skip
            self.running = stack.enter_context(
                service(
                    place, "faulty_site:application", status=None, stderr=None, pass_fds=[listener.fileno()], **environ
                )
            )
            self.address = self.running.address
            self.proc = Path(f"/proc/{self.running.process.pid}")
            self.descriptors = self.open_files()
            self._stack = stack.pop_all()

    def _stop(self) -> Service:
        assert self._stack is not None
        stack, self._stack = self._stack, None
        stack.close()
        return self.running

    def end(self) -> None:
        """Stop the service, if it runs; it must stop normally."""
        if self._stack is not None:
            ended = self._stop()
            assert ended.status == 0, ended.stderr

    # ---- the resources and the CPU time of the service

    def open_files(self) -> list[str]:
        names = []
        for each in os.listdir(self.proc / "fd"):
            with contextlib.suppress(OSError):  # closed meanwhile
                names.append(os.readlink(self.proc / "fd" / each).partition(":[")[0])
        return sorted(names)

    def errors(self) -> str:
        """Its standard error so far."""
        return (self.proc / "fd" / "2").read_text(encoding="utf-8")

    def _ticks(self) -> int:
        """The CPU time that it has used."""
        fields = (self.proc / "stat").read_text(encoding="ascii").rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    def _is_idle(self) -> bool:
        before = self._ticks()
        time.sleep(0.1)
        return self._ticks() - before <= 1

    def check_that_nothing_is_left(self) -> None:
        """Check that it has only the descriptors and threads of the beginning, and uses no CPU time."""
        with contextlib.suppress(AssertionError):
            wait_until(lambda: self.open_files() == self.descriptors, PATIENCE)
        assert self.open_files() == self.descriptors
        assert len(os.listdir(self.proc / "task")) == 1 + (self.threads if self.threads > 1 else 0)
        wait_until(self._is_idle, PATIENCE)

    def called(self) -> list[str]:
        """The targets of the requests that reached the application."""
        with Client(self.address) as client:
            targets: list[str] = json.loads(client.get("/called").body)
        return targets
