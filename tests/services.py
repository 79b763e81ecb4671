"""Services for the tests: ``python -m fastwsgi`` as a program, and a site for it that tells what it sees."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from event_servers import GET, Client, Reply
from serving import TIMEOUT, Address, fetch, program_environment, wait_until

SITE = '''
import json, os, socket

def show(environ):
    return {name: value for name, value in environ.items() if isinstance(value, (str, bool))}

def pass_gate():
    """Tell the test that a request is here, and wait until it lets us go on."""
    with socket.socket(socket.AF_UNIX) as gate:
        gate.connect(os.environ["GATE"])
        gate.recv(1)

def stream():
    yield b"begun"
    pass_gate()
    yield b"ended"

def application(environ, start_response):
    path = environ["PATH_INFO"]
    start_response("200 OK", [("Content-Type", "text/plain")])
    if path == "/environ":
        return [json.dumps(show(environ)).encode()]
    if path == "/hold":
        pass_gate()
        return [b"held"]
    if path == "/stream":
        return stream()
    if path == "/upload":
        return [b"%d" % len(environ["wsgi.input"].read())]
    if path == "/wrong":
        return "no bytes"
    return [b"site"]

def make():
    def made(environ, start_response):
        start_response("200 OK", [])
        return [b"made"]
    return made

nothing = None
'''
ENVIRON = b"GET /environ HTTP/1.1\r\nHost: h\r\n"
LINE = re.compile(r"fastwsgi (\S+) \(([^)]*)\) serving on (.*)\n")


@contextlib.contextmanager
def site_directory() -> Iterator[Path]:
    """A directory with the site in ``site_app.py``, whose path is short enough for unix sockets."""
    with tempfile.TemporaryDirectory(prefix="fw") as name:
        place = Path(name)
        (place / "site_app.py").write_text(SITE, encoding="utf-8")
        yield place


class Running:
    """A service that runs; its output and exit status are there once the block has ended."""

    def __init__(self, process: subprocess.Popen[str], line: str, place: Path) -> None:
        self.process = process
        self.line = line
        self.place = place
        match = LINE.fullmatch(line)
        assert match is not None, line
        self.version, what, where = match.groups()
        self.what = what.split(", ")
        self.urls = where.split(", ")
        self.stdout = self.stderr = ""
        self.status: int | None = None
        self.was_told_to_stop = False

    @property
    def address(self) -> Address:
        """Where the first of its TCP sockets is."""
        host, port = re.findall(r"https?://([0-9.]+):(\d+)/", self.line)[0]
        return Address(host, int(port))

    def signal(self, number: int) -> None:
        self.was_told_to_stop |= number in (signal.SIGTERM, signal.SIGINT)
        self.process.send_signal(number)

    def wait_until_nobody_listens(self) -> None:
        """Wait until it accepts no more."""
        wait_until(lambda: not self.listens())

    def listens(self) -> bool:
        try:
            socket.create_connection(self.address, TIMEOUT).close()
        except ConnectionRefusedError:
            return False
        except ConnectionError:  # in its queue when it was closed
            pass
        return True


@contextlib.contextmanager
def service(
    place: Path,
    *arguments: str,
    module: Sequence[str] = ("-m", "fastwsgi"),
    status: int | None = 0,
    stderr: str | None = "",
    pass_fds: Sequence[int] = (),
    launcher: Sequence[str] = (),
    **environ: str,
) -> Iterator[Running]:
    """Run a service up to its line; then end it, and hold it to a status and, as a pattern, to what it says.

    Where arguments name no address, it's any port. launcher: a program that runs the command behind it.
    """
    if not any("--bind" in each for each in arguments) and "FASTWSGI_BIND" not in environ:
        arguments = (*arguments, "--bind", "127.0.0.1:0")
    if module[0] != "-m":
        arguments = ()
    command = [*launcher, sys.executable, "-W", "error", *module, *arguments]
    environment = program_environment(**environ)
    with tempfile.TemporaryFile("w+", encoding="utf-8") as errors, subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, env=environment, cwd=place,
        encoding="utf-8", pass_fds=pass_fds,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        watchdog = threading.Timer(TIMEOUT, process.kill)
        watchdog.start()
        running = None
        try:
            line = process.stdout.readline()
            if line:
                running = Running(process, line, place)
                yield running
        finally:
            if process.poll() is None and not (running is not None and running.was_told_to_stop):
                process.terminate()
            rest = process.stdout.read()
            ended = process.wait(TIMEOUT)
            watchdog.cancel()
            errors.seek(0)
            said = errors.read()
            if running is not None:
                running.stdout, running.stderr, running.status = line + rest, said, ended
        assert running is not None, said
        assert status is None or ended == status, said
        assert stderr is None or re.fullmatch(stderr, said), said


def fails(place: Path, *arguments: str, module: Sequence[str] = ("-m", "fastwsgi"), **environ: str) -> tuple[int, str]:
    """The status and standard error of a command that doesn't serve."""
    finished = subprocess.run(
        [sys.executable, "-W", "error", *module, *arguments],
        stdin=subprocess.DEVNULL, capture_output=True, env=program_environment(**environ), cwd=place,
        encoding="utf-8", timeout=TIMEOUT, check=False,
    )  # fmt: skip
    assert finished.stdout == ""
    return finished.returncode, finished.stderr


def answer(address: Address, target: str = "/", **headers: str) -> str:
    reply = fetch(address, target, headers={name.replace("_", "-"): value for name, value in headers.items()})
    assert reply.status == 200
    return reply.body.decode()


def environ_of(client: Client, *fields: str) -> dict[str, Any]:
    """What the site sees of a request with these field lines."""
    client.send(ENVIRON + "".join(f"{each}\r\n" for each in fields).encode("latin-1") + b"\r\n")
    environ: dict[str, Any] = json.loads(client.reply().body)
    return environ


def over_unix(path: Path | str, request: bytes = GET) -> Reply:
    with UnixClient(path) as client:
        client.send(request)
        return client.reply()


class UnixClient(Client):
    """The same, over a unix socket."""

    def __init__(self, path: Path | str) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(str(path))
        self.file = self.sock.makefile("rb")
        self._is_answered = False
