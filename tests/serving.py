"""Servers for the tests: in a thread or as a program, on a free port, ready when handed over, gone after.

Readiness is never slept for: a server in a thread listens before its thread starts, and a program says
its port on stdout. Everything has a bound, after which the test fails.
"""

from __future__ import annotations

import http.client
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest

TIMEOUT = 30.0


class Address(NamedTuple):
    host: str
    port: int

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"


class Answer(NamedTuple):
    status: int
    reason: str
    headers: list[tuple[str, str]]
    body: bytes

    def all(self, name: str) -> list[str]:
        return [value for field, value in self.headers if field.lower() == name.lower()]

    def one(self, name: str) -> str:
        (value,) = self.all(name)
        return value


def fetch(
    address: Address,
    target: str,
    method: str = "GET",
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """One request on a connection of its own, read to its end."""
    connection = http.client.HTTPConnection(address.host, address.port, timeout=TIMEOUT)
    try:
        connection.request(method, target, body, dict(headers or {}))
        response = connection.getresponse()
        return Answer(response.status, response.reason, response.getheaders(), response.read())
    finally:
        connection.close()


def exchange(address: Address, request: bytes) -> bytes:
    """Send raw octets and read until the server closes, after which it has logged the request, too.

    Nothing more is sent, and said so: a server that would wait for another request closes, too.
    """
    with socket.create_connection(address, timeout=TIMEOUT) as connection:
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        while received := connection.recv(65536):
            answer += received
    return answer


def wait_until(condition: Callable[[], object], timeout: float = TIMEOUT) -> None:
    """Wait, for so many seconds at most, for what no octet on a socket tells of."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "it doesn't come"
        time.sleep(0.001)


def handles(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


@contextmanager
def serving(server: Any) -> Iterator[Address]:
    """Run *server*'s ``serve_forever`` in a thread; shut it down and close it at the block's end.

    What ``serve_forever`` raises is raised here; a thread that doesn't stop in time is a failure.
    """
    failures: list[BaseException] = []

    def serve() -> None:
        try:
            server.serve_forever(poll_interval=0.02)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield Address(*server.server_address[:2])
    finally:
        # In a thread, because shutdown() waits for the one above, and that one may hang.
        stopper = threading.Thread(target=server.shutdown, daemon=True)
        stopper.start()
        thread.join(TIMEOUT)
        stopper.join(TIMEOUT)
        server.server_close()
    assert not thread.is_alive(), f"serve_forever() didn't return within {TIMEOUT} s of shutdown()"
    assert not stopper.is_alive(), "shutdown() didn't return although serve_forever() has"
    if failures:
        raise failures[0]


def program_environment(**extra: str) -> dict[str, str]:
    """The environment for a program that must find the same fastwsgi, on the same twin, as the tests."""
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONIOENCODING": "utf-8", **extra}
    found = sys.modules.get("fastwsgi")
    if found is not None:
        environment["PYTHONPATH"] = str(Path(str(found.__file__)).parents[1])
    return environment


def program_path(name: str) -> str:
    """Where a program is. Without it the test is skipped, or fails if FASTWSGI_REQUIRE_PROGRAMS is 1."""
    path = shutil.which(name)
    if path is None:
        missing = f"{name} isn't on PATH"
        if os.environ.get("FASTWSGI_REQUIRE_PROGRAMS") == "1":
            pytest.fail(missing)
        pytest.skip(missing)
    return path


class Program:
    """A running program; its output and exit status are there once the ``running`` block has ended."""

    def __init__(self, process: subprocess.Popen[str], address: Address) -> None:
        self.process = process
        self.address = address
        self.stdout = self.stderr = ""
        self.status: int | None = None


@contextmanager
def running(
    args: Sequence[str], announcement: str, *, environment: Mapping[str, str], cwd: Path | None = None
) -> Iterator[Program]:
    """Run this interpreter with *args*, up to the stdout line in which *announcement* finds the port.

    *announcement* is a regular expression with a group ``port``. At the block's end the program is
    terminated, unless the block has ended it.
    """
    with tempfile.TemporaryFile("w+", encoding="utf-8") as stderr, subprocess.Popen(
        [sys.executable, *args],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=dict(environment),
        cwd=cwd,
        encoding="utf-8",
    ) as process:
        assert process.stdout is not None
        watchdog = threading.Timer(2 * TIMEOUT, process.kill)
        watchdog.start()
        said: list[str] = []
        program = None
        try:
            for line in process.stdout:
                said.append(line)
                match = re.search(announcement, line)
                if match:
                    program = Program(process, Address("127.0.0.1", int(match["port"])))
                    yield program
                    break
        finally:
            if process.poll() is None:
                process.terminate()
            said.append(process.stdout.read())
            status = process.wait(TIMEOUT)
            watchdog.cancel()
            stderr.seek(0)
            errors = stderr.read()
            if program is not None:
                program.stdout, program.stderr, program.status = "".join(said), errors, status
        assert program is not None, f"no {announcement!r} in stdout: {''.join(said)}\nstderr: {errors}"
