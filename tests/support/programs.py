"""Run programs to their end; or start them, wait until they are ready, and terminate them."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

import pytest

from clients import Address
from waiting import TIMEOUT


def program_environment(*paths: Path | str, **extra: str) -> dict[str, str]:
    """The environment for a program that must import the same fastwsgi, with the same twin, as the tests.

    paths: further directories to import from.
    """
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8", **extra}
    found = sys.modules.get("fastwsgi")
    ours = [] if found is None else [str(Path(str(found.__file__)).parents[1])]
    if ours or paths:
        environment["PYTHONPATH"] = os.pathsep.join([*ours, *map(str, paths)])
    return environment


def program_path(name: str) -> str:
    """The path of a program. If it is missing, skip the test, or fail if FASTWSGI_REQUIRE_PROGRAMS is 1."""
    path = shutil.which(name)
    if path is None:
        missing = f"{name} isn't on PATH"
        if os.environ.get("FASTWSGI_REQUIRE_PROGRAMS") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    return path


def handles(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


# ---- run a program to its end ------------------------------------------------------------------------


def run(
    *command: str | Path,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: bytes = b"",
    text: bool = True,
    timeout: float = TIMEOUT,
    check: bool = False,
    pass_fds: Sequence[int] = (),
) -> subprocess.CompletedProcess[Any]:
    """Run a program to its end; return its exit status and its output, as text or octets.

    environment: by default program_environment(); check: whether a status other than 0 fails the test.
    """
    finished = subprocess.run(
        list(map(str, command)),
        env=program_environment() if environment is None else dict(environment),
        cwd=cwd,
        input=stdin.decode() if text else stdin,
        capture_output=True,
        encoding="utf-8" if text else None,
        timeout=timeout,
        check=False,
        pass_fds=pass_fds,
    )
    if check:
        assert finished.returncode == 0, f"{finished.stdout}\n{finished.stderr}"
    return finished


def run_python(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[Any]:
    """Like run(), for this interpreter with arguments."""
    return run(sys.executable, *arguments, **options)


def run_curl(*arguments: str) -> subprocess.CompletedProcess[bytes]:
    """Run curl, which must be on PATH, without the user's settings and proxies."""
    path = shutil.which("curl")
    assert path is not None, "these tests need curl on PATH"
    options = ("--disable", "--silent", "--show-error", "--noproxy", "*", "--max-time", str(int(TIMEOUT)))
    return run(path, *options, *arguments, text=False, timeout=2 * TIMEOUT)


def curl(*arguments: str) -> bytes:
    """The standard output of curl, which must succeed."""
    finished = run_curl(*arguments)
    assert finished.returncode == 0, finished.stderr
    return finished.stdout


# ---- start a program and end it ----------------------------------------------------------------------


class Program:
    """A running program. Its output and exit status are available after the ``running`` block."""

    def __init__(self, process: subprocess.Popen[str], announced: re.Match[str], said_before: str) -> None:
        self.process = process
        self.announced = announced
        #: Standard output up to and including the announcement.
        self.line = announced.string
        self.said_before = said_before
        self.stdout = self.stderr = ""
        self.status: int | None = None
        self._is_told_to_stop = False

    @property
    def address(self) -> Address:
        """The address with the port that the program announced."""
        return Address("127.0.0.1", int(self.announced["port"]))

    def signal(self, number: int) -> None:
        """Send a signal. After a signal that stops the program, the end of the block sends no other."""
        self._is_told_to_stop |= number in (signal.SIGTERM, signal.SIGINT)
        self.process.send_signal(number)


AnyProgram = TypeVar("AnyProgram", bound=Program)


@contextmanager
def running(
    arguments: Sequence[str],
    announcement: str,
    *,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: int | IO[Any] = subprocess.DEVNULL,
    launcher: Sequence[str] = (),
    pass_fds: Sequence[int] = (),
    kind: type[AnyProgram] = Program,  # type: ignore[assignment]
) -> Iterator[AnyProgram]:
    """Run this interpreter with *arguments*, and wait until *announcement* matches a line of its standard output.

    announcement: a regular expression, whose group ``port`` is the port for Program.address; environment: by default
    program_environment(); launcher: a program that runs the command in its arguments; kind: the class of the yielded
    object. The program is terminated when the block ends, unless the block has stopped it.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as stderr, subprocess.Popen(
        [*launcher, sys.executable, *arguments],
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=program_environment() if environment is None else dict(environment),
        cwd=cwd,
        encoding="utf-8",
        pass_fds=pass_fds,
    ) as process:
        assert process.stdout is not None
        watchdog = threading.Timer(2 * TIMEOUT, process.kill)
        watchdog.start()
        said: list[str] = []
        program = None
        try:
            for line in process.stdout:
                match = re.search(announcement, line)
                if match:
                    program = kind(process, match, "".join(said))
                said.append(line)
                if program is not None:
                    yield program
                    break
        finally:
            if process.poll() is None and not (program is not None and program._is_told_to_stop):
                process.terminate()
            said.append(process.stdout.read())
            status = process.wait(TIMEOUT)
            watchdog.cancel()
            stderr.seek(0)
            errors = stderr.read()
            if program is not None:
                program.stdout, program.stderr, program.status = "".join(said), errors, status
        assert program is not None, f"no {announcement!r} in stdout: {''.join(said)}\nstderr: {errors}"


# As systemd does: the socket is descriptor 3, and the variables name this process.
_ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.argv[2], sys.argv[2:])
"""


def handed_over(listener: socket.socket) -> dict[str, Any]:
    """Options of running() that pass a listening socket to the program as systemd does."""
    launcher = [sys.executable, "-c", _ACTIVATE, str(listener.fileno())]
    return {"launcher": launcher, "pass_fds": [listener.fileno()]}
