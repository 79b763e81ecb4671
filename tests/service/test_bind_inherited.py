"""Sockets that another program opened: by descriptor or from systemd, and messages to systemd."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastwsgi._service.bind import notify_systemd, open_listeners
from listening import TIMEOUT, answers, needs_fork, needs_unix, opened
from programs import run_python


@pytest.fixture
def inherited() -> Iterator[socket.socket]:
    """A listening socket, as another program would pass it."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen()
    sock.set_inheritable(True)
    yield sock
    sock.close()


@needs_fork
def test_fd(inherited: socket.socket) -> None:
    port = inherited.getsockname()[1]
    fd = inherited.detach()
    with opened(f"fd:{fd}") as (listener,):
        assert listener.sock.fileno() == fd
        assert listener.is_inherited
        assert not listener.sock.get_inheritable()
        assert listener.url == f"http://127.0.0.1:{port}/"
        assert answers(listener)
    with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
        os.fstat(fd)


@needs_unix
@pytest.mark.parametrize("name", ["s", "\0fastwsgi-test"])
def test_fd_of_a_unix_socket(empty_place: Path, name: str) -> None:
    if name != "s" and sys.platform != "linux":
        pytest.skip("the abstract namespace")
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(name)
    sock.listen()
    with opened(f"fd:{sock.detach()}") as (listener,):
        assert listener.url == "unix:" + name.replace("\0", "@")
        assert answers(listener)
    assert os.listdir(empty_place) == (["s"] if name == "s" else [])  # the program that made it removes it


@needs_fork
@pytest.mark.parametrize("kind", ["bound", "connected", "datagram", "file", "closed", "pair", "sequenced packets"])
def test_fd_of_something_else(kind: str, tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        sock = stack.enter_context(socket.socket(type=socket.SOCK_DGRAM if kind == "datagram" else socket.SOCK_STREAM))
        fd = sock.fileno()
        if kind in ("bound", "datagram"):
            sock.bind(("127.0.0.1", 0))
        elif kind == "connected":
            sock.connect(stack.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname())
        elif kind == "file":
            fd = stack.enter_context(open(tmp_path / "f", "w")).fileno()
        elif kind == "pair":
            pair = socket.socketpair()
            fd = stack.enter_context(pair[0]).fileno()
            stack.enter_context(pair[1])
        elif kind == "sequenced packets":
            if sys.platform != "linux":
                pytest.skip("a socket that listens and is no stream")
            other = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET))
            other.bind("")
            other.listen()
            fd = other.fileno()
        else:
            sock.close()
        with pytest.raises(ValueError, match=f"bind 'fd:{fd}' must be a listening"):
            open_listeners([f"fd:{fd}"], environ={})
        if kind != "closed":
            os.fstat(fd)  # the descriptor belongs to the other program


@needs_fork
def test_fd_twice(inherited: socket.socket) -> None:
    text = f"fd:{inherited.fileno()}"
    with pytest.raises(ValueError, match=f"bind '{text}' is given twice"):
        open_listeners([text, text], environ={})
    assert inherited.getsockname()


# As systemd does: descriptors from 3 on, and the id of the process that they are for.
UNDER_SYSTEMD = """
import fcntl, json, os, sys
import fastwsgi._service.bind as bind

variables, binds, fds = map(json.loads, sys.argv[1:])
copies = [fcntl.fcntl(fd, fcntl.F_DUPFD, 50) for fd in fds]
for fd in fds:
    os.close(fd)
for number, fd in enumerate(copies, 3):
    os.dup2(fd, number)
environ = os.environ
environ.update({"LISTEN_PID": str(os.getpid()), "LISTEN_FDNAMES": "a:b", "KEPT": "1", **variables})
bind._DEFAULT = "127.0.0.1:0"
try:
    found = bind.open_listeners(binds)
except ValueError as error:
    found = []
    print(error)
for each in found:
    print(each.sock.fileno(), each.is_inherited, each.sock.get_inheritable(), each.url)
print(*sorted(name for name in environ if name.startswith("LISTEN_") or name == "KEPT"))
"""


def under_systemd(variables: dict[str, str], binds: list[str], *sockets: socket.socket) -> list[str]:
    """Run the program with sockets for its descriptors 3, 4, ... and return its lines."""
    fds = [sock.fileno() for sock in sockets]
    arguments = (json.dumps(variables), json.dumps(binds), json.dumps(fds))
    result = run_python("-c", UNDER_SYSTEMD, *arguments, pass_fds=fds)
    assert result.stderr == ""
    assert result.returncode == 0
    return result.stdout.splitlines()


@needs_fork
@needs_unix
def test_systemd(inherited: socket.socket, empty_place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(empty_place / "s"))
        unix.listen()
        lines = under_systemd({"LISTEN_FDS": "2"}, [], inherited, unix)
    assert lines == [
        f"3 True False http://127.0.0.1:{inherited.getsockname()[1]}/",
        f"4 True False unix:{empty_place / 's'}",
        "KEPT",
    ]


OWN = r"\d+ False False http://127\.0\.0\.1:\d+/"
ALL = "KEPT LISTEN_FDNAMES LISTEN_FDS LISTEN_PID"


@needs_fork
@pytest.mark.parametrize(
    ("variables", "binds", "lines"),
    [
        ({"LISTEN_FDS": "1", "LISTEN_PID": "1"}, [], [OWN, ALL]),  # the variables are for another process
        ({"LISTEN_FDS": "1"}, ["127.0.0.1:0"], [OWN, ALL]),
        ({"LISTEN_FDS": "1"}, ["fd:3"], ["3 True False http://.*", ALL]),
        ({"LISTEN_FDS": "0"}, [], [OWN, "KEPT"]),
        ({"LISTEN_FDS": "x"}, [], ["LISTEN_FDS must be .* not 'x'", "KEPT"]),
        ({"LISTEN_FDS": "-1"}, [], ["LISTEN_FDS must be .* not '-1'", "KEPT"]),
        ({}, [], ["LISTEN_FDS must be .* not ''", "KEPT"]),
        ({"LISTEN_FDS": "2"}, [], ["bind 'fd:4' must be a listening .*", "KEPT"]),
    ],
)
def test_systemd_variables(
    inherited: socket.socket, variables: dict[str, str], binds: list[str], lines: list[str]
) -> None:
    found = under_systemd(variables, binds, inherited)
    assert len(found) == len(lines), found
    for line, pattern in zip(found, lines, strict=True):
        assert re.fullmatch(pattern, line), found


@needs_unix
@pytest.mark.parametrize("address", ["path", "@fastwsgi-notify-test"])
def test_notify_systemd(empty_place: Path, address: str) -> None:
    if address == "path":
        address = str(empty_place / "notify")
    elif sys.platform != "linux":
        pytest.skip("the abstract namespace")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(address.replace("@", "\0"))
        sock.settimeout(TIMEOUT)
        environ = {"NOTIFY_SOCKET": address}
        notify_systemd("READY=1", environ)
        notify_systemd("STOPPING=1\nSTATUS=\u2026", environ)
        assert sock.recv(100) == b"READY=1"
        assert sock.recv(100) == "STOPPING=1\nSTATUS=\u2026".encode()
        assert environ == {"NOTIFY_SOCKET": address}


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}])
def test_nobody_asks(environ: dict[str, str], caplog: pytest.LogCaptureFixture) -> None:
    notify_systemd("READY=1", environ)
    assert caplog.records == []


@needs_unix
def test_a_relative_path_means_nothing(empty_place: Path, caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind("relative")
        sock.setblocking(False)
        notify_systemd("READY=1", {"NOTIFY_SOCKET": "relative"})
        with pytest.raises(BlockingIOError):
            sock.recv(100)
    assert len(caplog.records) == 1


@pytest.mark.parametrize("address", ["/no/such/socket", "vsock:2:1234", "relative", "/" + "x" * 200])
def test_nobody_hears(address: str, caplog: pytest.LogCaptureFixture) -> None:
    notify_systemd("READY=1", {"NOTIFY_SOCKET": address})
    (record,) = caplog.records
    assert record.levelname == "WARNING"
    assert f"Can't send READY=1 to NOTIFY_SOCKET {address}: " in record.getMessage()
