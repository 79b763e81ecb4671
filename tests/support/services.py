"""Run ``python -m fastwsgi`` with a site that shows what it receives."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from clients import Address, Answer, Client, Place, Reply, connect, fetch
from programs import Program, program_environment, run_python, running
from waiting import wait_until

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
LINE = r"\Afastwsgi (\S+) \(([^)]*)\) serving on (.*)\n\Z"


@contextlib.contextmanager
def site_directory() -> Iterator[Path]:
    """Make a directory with the site in ``site_app.py``; its path is short enough for unix sockets."""
    with tempfile.TemporaryDirectory(prefix="fw") as name:
        place = Path(name)
        (place / "site_app.py").write_text(SITE, encoding="utf-8")
        yield place


class Service(Program):
    """A running service, with the data from its announcement line."""

    def __init__(self, process: subprocess.Popen[str], announced: re.Match[str], said_before: str) -> None:
        super().__init__(process, announced, said_before)
        assert said_before == "", "the line comes first"
        self.version, what, where = announced.groups()
        self.what = what.split(", ")
        self.urls = where.split(", ")

    @property
    def address(self) -> Address:
        """The address of its first TCP socket."""
        host, port = re.findall(r"https?://([0-9.]+):(\d+)/", self.line)[0]
        return Address(host, int(port))

    def wait_until_nobody_listens(self) -> None:
        """Wait until the service accepts no more clients."""
        wait_until(lambda: not self.listens())

    def listens(self) -> bool:
        try:
            connect(self.address).close()
        except ConnectionRefusedError:
            return False
        except ConnectionError:  # the connection was in the queue when the socket was closed
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
) -> Iterator[Service]:
    """Run a service and wait for its announcement; at the end stop it, and check its exit status and standard error.

    If the arguments have no address, it uses a free port. launcher: a program that runs the command in its arguments.
    """
    if not any("--bind" in each for each in arguments) and "FASTWSGI_BIND" not in environ:
        arguments = (*arguments, "--bind", "127.0.0.1:0")
    if module[0] != "-m":
        arguments = ()
    with running(
        ["-W", "error", *module, *arguments], LINE, environment=program_environment(**environ), cwd=place,
        launcher=launcher, pass_fds=pass_fds, kind=Service,
    ) as service:  # fmt: skip
        yield service
    assert status is None or service.status == status, service.stderr
    assert stderr is None or re.fullmatch(stderr, service.stderr), service.stderr


def fails(place: Path, *arguments: str, module: Sequence[str] = ("-m", "fastwsgi"), **environ: str) -> tuple[int, str]:
    """Run a command that must fail to serve; return its exit status and standard error."""
    finished = run_python("-W", "error", *module, *arguments, environment=program_environment(**environ), cwd=place)
    assert finished.stdout == ""
    return finished.returncode, finished.stderr


def answer(place: Place, target: str = "/", **headers: str) -> str:
    """Send a GET request by http.client to a TCP socket; return the body of the answer, which must be good."""
    reply: Answer | Reply
    if isinstance(place, Address):
        reply = fetch(place, target, headers={name.replace("_", "-"): value for name, value in headers.items()})
    else:
        with Client(place) as client:
            reply = client.get(target)
    assert reply.status == 200
    return reply.body.decode()


def environ_of(client: Client, *fields: str) -> dict[str, Any]:
    """The environ that the site gets for a request with these field lines."""
    client.send(ENVIRON + "".join(f"{each}\r\n" for each in fields).encode("latin-1") + b"\r\n")
    environ: dict[str, Any] = json.loads(client.reply().body)
    return environ
