"""Run gunicorn with our worker class, or our command line with workers, and observe the processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clients import Place
from programs import Program, program_environment, running
from waiting import wait_until


class Workers:
    """A program with worker processes. address: where clients connect, if not to the announced port."""

    def __init__(self, program: Program, directory: Path, address: Place | None = None) -> None:
        self.program = program
        self.address: Any = program.address if address is None else address
        self.directory = directory
        self._notes = directory / "notes"
        self._gate = directory / "gate"

    def signal(self, number: signal.Signals) -> None:
        """Signal the arbiter."""
        self.program.process.send_signal(number)

    def notes(self, what: str) -> list[int]:
        """The processes that have recorded an event."""
        if not self._notes.exists():
            return []
        lines = [line.split() for line in self._notes.read_text().splitlines()]
        return [int(pid) for word, pid in lines if word == what]

    def wait_for(self, what: str, pid: int | None = None, count: int = 1) -> None:
        """Wait until an event has been recorded, in a given process or in a number of processes."""
        wait_until(lambda: pid in self.notes(what) if pid is not None else len(self.notes(what)) >= count)

    def open_gate(self, text: str = "open") -> None:
        """Let an answer of /gate continue and end with a text."""
        self._gate.write_text(text)  # blocks until the other side reads it


def has_ended(pid: int) -> bool:
    """Whether a process has ended with all its threads, even if its parent hasn't collected its status."""
    try:
        os.kill(pid, 0)
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
        return fields[0] == "Z" and fields[17] == "1"
    except ProcessLookupError:
        return True
    except FileNotFoundError:
        return os.path.isdir("/proc/self")  # False on systems without /proc


def wait_for_end(pid: int) -> None:
    """Wait until a process has ended."""
    wait_until(lambda: has_ended(pid))


def site_environment(directory: Path) -> dict[str, str]:
    """The environment of a program that serves worker_site."""
    files = {name.upper(): str(directory / name) for name in ("notes", "gate", "file")}
    return program_environment(Path(__file__).parent, **files)


@contextmanager
def _program(directory: Path, args: list[str], announcement: str) -> Iterator[Workers]:
    os.mkfifo(directory / "gate")
    with running(args, announcement, environment=site_environment(directory), cwd=directory) as program:
        yield Workers(program, directory)
    assert "Exception ignored" not in program.stderr, program.stderr


@contextmanager
def gunicorn(
    directory: Path, *flags: str, workers: int = 1, bind: str = "127.0.0.1:0", app: str = "worker_site:site"
) -> Iterator[Workers]:
    """Run gunicorn with our workers, and wait until they serve, because earlier they would miss signals."""
    usual = ["--config", "python:worker_site", "--worker-class", "fastwsgi.gunicorn.Worker", "--bind", bind]
    args = ["-m", "gunicorn", *usual, "--workers", str(workers), "--no-control-socket", *flags, app]
    with _program(directory, args, r"listening on (?P<port>\d+)") as program:
        program.wait_for("post_worker_init", count=workers)
        yield program


@contextmanager
def our_workers(
    directory: Path, *flags: str, workers: int = 2, bind: str = "127.0.0.1:0"
) -> Iterator[Workers]:
    """Like gunicorn(), but with our own command line, which has no hooks."""
    args = ["-m", "fastwsgi", "--workers", str(workers), "--bind", bind, *flags, "worker_site:create()"]
    announcement = r"(?P<port>\d+) workers.* serving on unix:" if "unix:" in bind else r"://127\.0\.0\.1:(?P<port>\d+)/"
    with _program(directory, args, announcement) as program:
        program.wait_for("created", count=1 + workers)  # the main process creates it once, as a check
        yield program
