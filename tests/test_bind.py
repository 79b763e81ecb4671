"""Listening sockets from text: what it means, who owns the place, what is left behind, and systemd's protocol."""

from __future__ import annotations

import contextlib
import errno
import json
import multiprocessing
import os
import re
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fastwsgi._serve import bind
from fastwsgi._serve.bind import (
    Address,
    Inherited,
    Listener,
    TcpAddress,
    UnixAddress,
    notify_systemd,
    open_listeners,
    parse_bind,
)

needs_unix = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="unix sockets")
needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes that share sockets")
TIMEOUT = 10.0

try:
    with socket.socket(socket.AF_INET6) as _probe:
        _probe.bind(("::1", 0))
    HAS_IPV6 = True
except OSError:
    HAS_IPV6 = False
needs_ipv6 = pytest.mark.skipif(not HAS_IPV6, reason="IPv6")


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory to be in, for unix sockets."""
    path = tmp_path_factory.mktemp("s")
    monkeypatch.chdir(path)
    return path


@contextlib.contextmanager
def opened(*binds: str, **options: Any) -> Iterator[list[Listener]]:
    listeners = open_listeners(binds, **{"environ": {}, **options})
    try:
        yield listeners
    finally:
        for listener in listeners:
            listener.close()


def answers(listener: Listener, address: Any = None) -> bool:
    """Whether a client that connects to an address is accepted by a listener."""
    with socket.socket(listener.sock.family) as client:
        client.settimeout(TIMEOUT)
        try:
            client.connect(listener.sock.getsockname() if address is None else address)
        except OSError:
            return False
        listener.sock.settimeout(TIMEOUT)
        accepted, _ = listener.sock.accept()
        with accepted:
            accepted.sendall(b"x")
            return client.recv(1) == b"x"


def left_over(path: Path) -> None:
    """What a process leaves that died."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
        sock.listen()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:8000", TcpAddress("127.0.0.1", 8000)),
        ("0.0.0.0:80", TcpAddress("0.0.0.0", 80)),
        ("localhost:0", TcpAddress("localhost", 0)),
        ("my_host.example-1.org.:65535", TcpAddress("my_host.example-1.org.", 65535)),
        ("1a.0xyz:1", TcpAddress("1a.0xyz", 1)),
        (":8000", TcpAddress("0.0.0.0", 8000)),
        ("[::1]:80", TcpAddress("::1", 80)),
        ("[::]:0", TcpAddress("::", 0)),
        ("[::ffff:1.2.3.4]:1", TcpAddress("::ffff:1.2.3.4", 1)),
        ("[fe80::1%eth0.1]:1", TcpAddress("fe80::1%eth0.1", 1)),
        ("unix:/run/app.sock", UnixAddress("/run/app.sock", None)),
        ("unix:app", UnixAddress("app", None)),
        ("unix:8000", UnixAddress("8000", None)),
        ("unix:/a b/:[]=&?mode=660", UnixAddress("/a b/:[]=&", 0o660)),
        ("unix:/a?mode=0600", UnixAddress("/a", 0o600)),
        ("unix:/a?mode=000", UnixAddress("/a", 0)),
        ("fd:0", Inherited(0)),
        ("fd:12", Inherited(12)),
    ],
)
def test_what_text_means(text: str, address: Address) -> None:
    assert parse_bind(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "", " ", ":", "8000", "localhost", "127.0.0.1", "::1", "[::1]", "[::1]80", "::1:80", "[]:80", "[::1:80",
        "::1]:80", "[127.0.0.1]:80", "[localhost]:80", "[1:2]:80", "[::1%]:80", "[::1%a b]:80", "[[::1]]:80",
        "[::1%\xe9]:80", "h:", "h:-1", "h:+1", "h:080", "h:00", "h:1_0", "h:0x50", "h: 80", "h:80 ", " h:80", "h:80\n",
        "h:65536", "h:100000", "h:9999999999", "h:http", "h:\u0661", "h:1:2", "*:80", "a b:80", "a/b:80", "http://h:80",
        "u@h:80", "b\xfccher.example:80", "a..b:80", ".a:80", f"{'a' * 64}:80", "h\0:80", "256.1.1.1:80", "1.2.3:80",
        "127.1:80", "01.2.3.4:80", "0x7f000001:80", "0x7f.1:80", "a.0x:80", "8000:8000", "1.2.3.4.:80",
        "unix:", "unix", "unix:?mode=660", "unix:/a?", "unix:/a?mode=", "unix:/a?mode=66", "unix:/a?mode=680",
        "unix:/a?mode=1777", "unix:/a?mode=rw", "unix:/a?mode=660&x=1", "unix:/a?x=1", "unix:/a?b?mode=660",
        "unix:/a\0b", "unix:@a", "fd:", "fd:-1", "fd:01", "fd:x", "fd:3 ", "fd:9999999999",
    ],
)  # fmt: skip
def test_what_text_means_nothing(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"bind {text!r} ")) as caught:
        parse_bind(text)
    assert type(caught.value) is ValueError
    with pytest.raises(ValueError, match=re.escape(f"bind {text!r} ")):
        open_listeners([text], environ={})


def test_tcp() -> None:
    with opened("127.0.0.1:0") as (listener,):
        host, port = listener.sock.getsockname()
        assert (listener.sock.family, listener.sock.type) == (socket.AF_INET, socket.SOCK_STREAM)
        assert host == "127.0.0.1"
        assert listener.url == f"http://127.0.0.1:{port}/"
        assert not listener.is_inherited
        assert not listener.sock.get_inheritable()
        assert answers(listener)
    assert listener.sock.fileno() == -1
    listener.close()


def test_all_interfaces() -> None:
    with opened(":0") as (listener,):
        host, port = listener.sock.getsockname()
        assert (listener.sock.family, host) == (socket.AF_INET, "0.0.0.0")
        assert answers(listener, ("127.0.0.1", port))


@needs_ipv6
def test_ipv6() -> None:
    with opened("[::1]:0", scheme="https") as (listener,):
        assert listener.sock.family == socket.AF_INET6
        assert listener.url == f"https://[::1]:{listener.sock.getsockname()[1]}/"
        assert answers(listener)


def test_a_name_is_resolved() -> None:
    with opened("localhost:0") as (listener,):
        assert listener.sock.getsockname()[0] in ("127.0.0.1", "::1")
        assert answers(listener)


def test_scheme() -> None:
    with opened("127.0.0.1:0", scheme="https") as (listener,):
        port = listener.sock.getsockname()[1]
        assert listener.url == f"https://127.0.0.1:{port}/"
        listener.scheme = "http"
        assert listener.url == f"http://127.0.0.1:{port}/"


def test_several() -> None:
    with opened("127.0.0.1:0", "127.0.0.1:0") as listeners:
        assert [answers(listener) for listener in listeners] == [True, True]
        assert len({listener.url for listener in listeners}) == 2


def test_the_port_is_free_again_at_once() -> None:
    with opened("127.0.0.1:0") as (listener,):
        port = listener.sock.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as client:
            accepted, _ = listener.sock.accept()
            accepted.close()  # first: so its end stays in TIME-WAIT
            assert client.recv(1) == b""
    with opened(f"127.0.0.1:{port}") as (listener,):
        assert answers(listener)


def test_a_port_has_one_owner() -> None:
    with opened("127.0.0.1:0") as (listener,):
        text = f"127.0.0.1:{listener.sock.getsockname()[1]}"
        with pytest.raises(OSError, match=re.escape(f"can't bind to {text}: ")) as caught:
            open_listeners([text], environ={})
        assert caught.value.errno == errno.EADDRINUSE
        assert answers(listener)


@pytest.mark.skipif(not hasattr(socket, "SO_REUSEPORT"), reason="SO_REUSEPORT")
def test_reuse_port() -> None:
    with opened("127.0.0.1:0", reuse_port=True) as (first,):
        text = f"127.0.0.1:{first.sock.getsockname()[1]}"
        with opened(text, reuse_port=True) as (second,):
            assert second.url == first.url
        with pytest.raises(OSError, match="can't bind"):
            open_listeners([text], environ={})


def test_reuse_port_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "SO_REUSEPORT", raising=False)
    with pytest.raises(ValueError, match="reuse_port"):
        open_listeners(["127.0.0.1:0"], reuse_port=True, environ={})


def test_reuse_address(monkeypatch: pytest.MonkeyPatch) -> None:
    # Windows' option has another meaning there, and one of its own for what we mean.
    with opened("127.0.0.1:0") as (listener,):
        is_windows = hasattr(socket, "SO_EXCLUSIVEADDRUSE")
        assert bool(listener.sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)) != is_windows
    monkeypatch.setattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_KEEPALIVE, raising=False)
    with opened("127.0.0.1:0") as (listener,):
        assert listener.sock.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR) == 0
        assert listener.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) != 0


@pytest.mark.parametrize("backlog", [0, -1])
def test_backlog(backlog: int) -> None:
    with pytest.raises(ValueError, match=f"backlog must be at least 1, not {backlog}"):
        open_listeners(["127.0.0.1:0"], backlog=backlog, environ={})


def test_backlog_is_listened_with(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    class Socket(socket.socket):
        def listen(self, size: int = -1) -> None:
            sizes.append(size)
            super().listen(size)

    monkeypatch.setattr(socket, "socket", Socket)
    with opened("127.0.0.1:0", backlog=7):
        assert sizes == [7]


def test_an_address_that_is_not_ours() -> None:
    with pytest.raises(OSError, match=r"can't bind to 192\.0\.2\.1:0: .") as caught:
        open_listeners(["192.0.2.1:0"], environ={})
    assert caught.value.errno == errno.EADDRNOTAVAIL


def test_a_name_that_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    def getaddrinfo(*args: Any, **keywords: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Nobody knows it")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    with pytest.raises(OSError, match=r"\Acan't bind to h\.example:80: Nobody knows it\Z") as caught:
        open_listeners(["h.example:80"], environ={})
    assert caught.value.errno is None  # the number would mean something else


def test_after_a_failure_nothing_is_open(place: Path) -> None:
    with opened("127.0.0.1:0") as (taken,):
        with opened("127.0.0.1:0") as (listener,):
            free = f"127.0.0.1:{listener.sock.getsockname()[1]}"
        binds = [free, taken.url[len("http://") : -1]]
        if hasattr(socket, "AF_UNIX"):
            binds.insert(0, "unix:s")
        with pytest.raises(OSError, match="can't bind"):
            open_listeners(binds, environ={})
        assert os.listdir(place) == []
        with opened(free) as (listener,):
            assert answers(listener)


def test_bad_text_opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bind, "_open", lambda *args: pytest.fail("opened"))
    with pytest.raises(ValueError, match="bind 'x' "):
        open_listeners(["127.0.0.1:0", "x"], environ={})


def test_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bind, "_open", lambda address, *args: pytest.fail(repr(address)))
    with pytest.raises(pytest.fail.Exception, match=re.escape(repr(TcpAddress("127.0.0.1", 8000)))):
        open_listeners([], environ={})


@needs_unix
def test_unix(place: Path) -> None:
    with opened("unix:app.sock") as (listener,):
        path = place / "app.sock"
        assert listener.sock.family == socket.AF_UNIX
        assert listener.sock.getsockname() == str(path)
        assert listener.url == f"unix:{path}"
        assert not listener.is_inherited
        assert not listener.sock.get_inheritable()
        assert os.listdir(place) == ["app.sock"]
        assert answers(listener, str(path))
    assert os.listdir(place) == []
    listener.close()


@needs_unix
@pytest.mark.parametrize(
    ("suffix", "umask", "mode"),
    [("", 0o027, 0o750), ("", 0o077, 0o700), ("?mode=600", 0, 0o600), ("?mode=666", 0o777, 0o666)],
)
def test_mode(place: Path, suffix: str, umask: int, mode: int, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []

    class Socket(socket.socket):
        def listen(self, size: int = -1) -> None:
            modes.append(stat.S_IMODE(os.stat("s").st_mode))
            super().listen(size)

    monkeypatch.setattr(socket, "socket", Socket)
    before = os.umask(umask)
    try:
        with opened(f"unix:s{suffix}"):
            assert stat.S_IMODE(os.stat("s").st_mode) == mode
    finally:
        assert os.umask(before) == umask
    assert modes == [mode]  # before anybody can connect


@needs_unix
def test_what_a_dead_process_left_is_replaced(place: Path) -> None:
    left_over(place / "s")
    with opened("unix:s?mode=600") as (listener,):
        assert answers(listener, "s")
        assert stat.S_IMODE(os.stat("s").st_mode) == 0o600
    assert os.listdir(place) == []


@needs_unix
@pytest.mark.parametrize("state", ["idle", "backlog full"])
def test_a_live_socket_is_not_replaced(place: Path, state: str) -> None:
    with opened("unix:s", backlog=1) as (listener,), contextlib.ExitStack() as clients:
        if state == "backlog full":
            for _ in range(10):
                client = clients.enter_context(socket.socket(socket.AF_UNIX))
                client.setblocking(False)
                if client.connect_ex("s"):
                    break
            else:
                pytest.skip("it never is")
        status = os.stat("s")
        with pytest.raises(OSError, match="can't bind to unix:s: a process listens there already") as caught:
            open_listeners(["unix:s"], environ={})
        assert caught.value.errno == errno.EADDRINUSE
        assert os.stat("s").st_ino == status.st_ino
        assert os.listdir(place) == ["s"]
        clients.close()
        if state == "idle":
            listener.sock.accept()[0].close()  # the other's look at it
            assert answers(listener, "s")


@needs_unix
@pytest.mark.parametrize("kind", ["file", "directory", "link to nothing", "link to a socket", "datagram socket"])
def test_what_is_no_stream_socket_is_left_alone(place: Path, kind: str) -> None:
    with contextlib.ExitStack() as stack:
        if kind == "file":
            Path("s").write_text("mine")
        elif kind == "directory":
            Path("s").mkdir()
        elif kind == "link to nothing":
            Path("s").symlink_to("nothing")
        elif kind == "link to a socket":
            left_over(place / "t")
            Path("s").symlink_to("t")
        else:
            stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)).bind("s")
        before = os.lstat("s")
        with pytest.raises(OSError, match="can't bind to unix:s: ") as caught:
            open_listeners(["unix:s"], environ={})
        if kind != "datagram socket":
            assert caught.value.errno == errno.EEXIST
        assert (os.lstat("s").st_ino, os.lstat("s").st_mode) == (before.st_ino, before.st_mode)
        assert sorted(os.listdir(place)) == (["s", "t"] if kind == "link to a socket" else ["s"])


@needs_unix
def test_a_path_that_is_too_long(place: Path) -> None:
    text = "unix:/" + "x" * 200
    with pytest.raises(
        OSError, match=r"can't bind to unix:/x+: /x+ is too long for a socket with 201 octets"
    ) as caught:
        open_listeners([text], environ={})
    assert caught.value.errno == errno.ENAMETOOLONG


@needs_unix
def test_the_longest_path(place: Path) -> None:
    longest = 107 if sys.platform == "linux" else 103
    name = "x" * (longest - len(str(place)) - 1)
    if not name:
        pytest.skip("the directory's name is too long")
    with opened(f"unix:{name}") as (listener,):
        assert answers(listener, str(place / name))
    with pytest.raises(OSError, match=f"too long for a socket with {longest + 1} octets"):
        open_listeners([f"unix:{name}x"], environ={})
    assert os.listdir(place) == []


@needs_unix
def test_no_directory(place: Path) -> None:
    with pytest.raises(FileNotFoundError, match="can't bind to unix:no/s: "):
        open_listeners(["unix:no/s"], environ={})


@needs_unix
@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="a user who may not do everything")
def test_no_permission(place: Path) -> None:
    place.chmod(0o500)
    with pytest.raises(PermissionError, match="can't bind to unix:s: "):
        open_listeners(["unix:s"], environ={})


@needs_unix
def test_a_failure_after_bind_removes_the_file(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def chmod(path: str, mode: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", path)

    monkeypatch.setattr(os, "chmod", chmod)
    with pytest.raises(PermissionError, match=r"can't bind to unix:s\?mode=600: Operation not permitted: "):
        open_listeners(["unix:s?mode=600"], environ={})
    assert os.listdir(place) == []


@needs_unix
def test_without_unix_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_UNIX")
    with pytest.raises(ValueError, match="bind 'unix:/s' "):
        open_listeners(["unix:/s"], environ={})


@needs_unix
def test_close_leaves_what_another_made(place: Path) -> None:
    with opened("unix:s") as (listener,):
        os.unlink("s")
        left_over(place / "s")
    assert os.listdir(place) == ["s"]
    os.unlink("s")
    with opened("unix:s") as (listener,):
        listener.close()
        with opened("unix:s") as (second,):
            listener.close()
            assert answers(second, "s")


@needs_unix
@needs_fork
def test_a_child_that_closes_leaves_the_file(place: Path) -> None:
    with opened("unix:s") as (listener,):
        pid = os.fork()
        if not pid:
            try:
                listener.close()
            finally:
                os._exit(0 if listener.sock.fileno() == -1 else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert answers(listener, "s")
    assert os.listdir(place) == []


ROUNDS = 40


def _start_at_once(barrier: Any, owners: Any) -> None:
    """Open unix:s together with others, several times; nobody closes before all have tried."""
    for number in range(ROUNDS):
        barrier.wait(TIMEOUT)
        try:
            listener = open_listeners(["unix:s"], environ={})[0]
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            barrier.wait(TIMEOUT)
        else:
            owners[number] += 1
            barrier.wait(TIMEOUT)
            if number % 2:
                listener.close()
            else:
                listener.sock.close()  # and leave the file


@needs_unix
@needs_fork
def test_one_of_several_that_start_at_once_owns_the_path(place: Path) -> None:
    context = multiprocessing.get_context("spawn")
    count = 4
    barrier, owners = context.Barrier(count), context.Array("i", ROUNDS)
    processes = [context.Process(target=_start_at_once, args=(barrier, owners)) for _ in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
        process.kill()
        process.join()
    assert [process.exitcode for process in processes] == [0] * count
    assert list(owners) == [1] * ROUNDS
    assert os.listdir(place) == []


@needs_unix
@needs_fork
@pytest.mark.parametrize("sequel", ["nothing", "another lock"])
def test_a_lock_that_was_removed_is_none(place: Path, sequel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    lock, taken, real = ".s.fastwsgi-lock", [], fcntl.flock

    def flock(fd: int, operation: int) -> None:
        real(fd, operation)
        taken.append(os.fstat(fd).st_ino)
        if len(taken) == 1:  # whom it waited for, was done and removed it
            os.rename(lock, "old")
            if sequel != "nothing":
                Path(lock).touch()

    class Socket(socket.socket):
        def bind(self, address: Any) -> None:
            assert os.stat(lock).st_ino == taken[-1]
            with open(lock) as file, pytest.raises(BlockingIOError):
                real(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            super().bind(address)

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(socket, "socket", Socket)
    with opened("unix:s"):
        assert len(taken) == 2
        assert sorted(os.listdir(place)) == ["old", "s"]


@pytest.fixture
def inherited() -> Iterator[socket.socket]:
    """A listening socket, as another program would hand it over."""
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
def test_fd_of_a_unix_socket(place: Path, name: str) -> None:
    if name != "s" and sys.platform != "linux":
        pytest.skip("the abstract namespace")
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(name)
    sock.listen()
    with opened(f"fd:{sock.detach()}") as (listener,):
        assert listener.url == "unix:" + name.replace("\0", "@")
        assert answers(listener)
    assert os.listdir(place) == (["s"] if name == "s" else [])  # who made it, removes it


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
            os.fstat(fd)  # it isn't ours to close


@needs_fork
def test_fd_twice(inherited: socket.socket) -> None:
    text = f"fd:{inherited.fileno()}"
    with pytest.raises(ValueError, match=f"bind '{text}' is there twice"):
        open_listeners([text, text], environ={})
    assert inherited.getsockname()


# What systemd does: descriptors from 3 on, and the number of the process that they are for.
UNDER_SYSTEMD = """
import fcntl, json, os, sys
import fastwsgi._serve.bind as bind

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
    result = subprocess.run(
        [sys.executable, "-c", UNDER_SYSTEMD, json.dumps(variables), json.dumps(binds), json.dumps(fds)],
        pass_fds=fds,
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert result.stderr == ""
    assert result.returncode == 0
    return result.stdout.splitlines()


@needs_fork
@needs_unix
def test_systemd(inherited: socket.socket, place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(place / "s"))
        unix.listen()
        lines = under_systemd({"LISTEN_FDS": "2"}, [], inherited, unix)
    assert lines == [
        f"3 True False http://127.0.0.1:{inherited.getsockname()[1]}/",
        f"4 True False unix:{place / 's'}",
        "KEPT",
    ]


OWN = r"\d+ False False http://127\.0\.0\.1:\d+/"
ALL = "KEPT LISTEN_FDNAMES LISTEN_FDS LISTEN_PID"


@needs_fork
@pytest.mark.parametrize(
    ("variables", "binds", "lines"),
    [
        ({"LISTEN_FDS": "1", "LISTEN_PID": "1"}, [], [OWN, ALL]),  # meant for another process, the variables, too
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
def test_notify_systemd(place: Path, address: str) -> None:
    if address == "path":
        address = str(place / "notify")
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
def test_a_relative_path_means_nothing(place: Path, caplog: pytest.LogCaptureFixture) -> None:
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
