"""Unix sockets by path: their owner, which files are replaced, and which are left behind."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import socket
import stat
import sys
from pathlib import Path
from typing import Any

import pytest

from fastwsgi._service.bind import open_listeners
from listening import TIMEOUT, answers, left_over, may_fork_beside_threads, needs_fork, needs_unix, opened

pytestmark = needs_unix


def test_unix(empty_place: Path) -> None:
    with opened("unix:app.sock") as (listener,):
        path = empty_place / "app.sock"
        assert listener.sock.family == socket.AF_UNIX
        assert listener.sock.getsockname() == str(path)
        assert listener.url == f"unix:{path}"
        assert not listener.is_inherited
        assert not listener.sock.get_inheritable()
        assert os.listdir(empty_place) == ["app.sock"]
        assert answers(listener, str(path))
    assert os.listdir(empty_place) == []
    listener.close()


@pytest.mark.parametrize(
    ("suffix", "umask", "mode"),
    [("", 0o027, 0o750), ("", 0o077, 0o700), ("?mode=600", 0, 0o600), ("?mode=666", 0o777, 0o666)],
)
def test_mode(empty_place: Path, suffix: str, umask: int, mode: int, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert modes == [mode]  # before a client can connect


def test_what_a_dead_process_left_is_replaced(empty_place: Path) -> None:
    left_over(empty_place / "s")
    with opened("unix:s?mode=600") as (listener,):
        assert answers(listener, "s")
        assert stat.S_IMODE(os.stat("s").st_mode) == 0o600
    assert os.listdir(empty_place) == []


@pytest.mark.parametrize("state", ["idle", "backlog full"])
def test_a_live_socket_is_not_replaced(empty_place: Path, state: str) -> None:
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
        with pytest.raises(OSError, match="can't bind to unix:s: another process is already listening there") as caught:
            open_listeners(["unix:s"], environ={})
        assert caught.value.errno == errno.EADDRINUSE
        assert os.stat("s").st_ino == status.st_ino
        assert os.listdir(empty_place) == ["s"]
        clients.close()
        if state == "idle":
            listener.sock.accept()[0].close()  # the other process checks whether it is in use
            assert answers(listener, "s")


@pytest.mark.parametrize("kind", ["file", "directory", "link to nothing", "link to a socket", "datagram socket"])
def test_what_is_no_stream_socket_is_left_alone(empty_place: Path, kind: str) -> None:
    with contextlib.ExitStack() as stack:
        if kind == "file":
            Path("s").write_text("mine")
        elif kind == "directory":
            Path("s").mkdir()
        elif kind == "link to nothing":
            Path("s").symlink_to("nothing")
        elif kind == "link to a socket":
            left_over(empty_place / "t")
            Path("s").symlink_to("t")
        else:
            stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)).bind("s")
        before = os.lstat("s")
        with pytest.raises(OSError, match="can't bind to unix:s: ") as caught:
            open_listeners(["unix:s"], environ={})
        if kind != "datagram socket":
            assert caught.value.errno == errno.EEXIST
        assert (os.lstat("s").st_ino, os.lstat("s").st_mode) == (before.st_ino, before.st_mode)
        assert sorted(os.listdir(empty_place)) == (["s", "t"] if kind == "link to a socket" else ["s"])


def test_a_path_that_is_too_long(empty_place: Path) -> None:
    text = "unix:/" + "x" * 200
    with pytest.raises(
        OSError, match=r"can't bind to unix:/x+: /x+ is too long for a unix socket: 201 bytes"
    ) as caught:
        open_listeners([text], environ={})
    assert caught.value.errno == errno.ENAMETOOLONG


def test_the_longest_path(empty_place: Path) -> None:
    longest = 107 if sys.platform == "linux" else 103
    name = "x" * (longest - len(str(empty_place)) - 1)
    if not name:
        pytest.skip("the directory's name is too long")
    with opened(f"unix:{name}") as (listener,):
        assert answers(listener, str(empty_place / name))
    with pytest.raises(OSError, match=f"too long for a unix socket: {longest + 1} bytes"):
        open_listeners([f"unix:{name}x"], environ={})
    assert os.listdir(empty_place) == []


def test_no_directory(empty_place: Path) -> None:
    with pytest.raises(FileNotFoundError, match="can't bind to unix:no/s: "):
        open_listeners(["unix:no/s"], environ={})


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="needs a user other than root")
def test_no_permission(empty_place: Path) -> None:
    empty_place.chmod(0o500)
    with pytest.raises(PermissionError, match="can't bind to unix:s: "):
        open_listeners(["unix:s"], environ={})


def test_a_failure_after_bind_removes_the_file(empty_place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def chmod(path: str, mode: int) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", path)

    monkeypatch.setattr(os, "chmod", chmod)
    with pytest.raises(PermissionError, match=r"can't bind to unix:s\?mode=600: Operation not permitted: "):
        open_listeners(["unix:s?mode=600"], environ={})
    assert os.listdir(empty_place) == []


def test_without_unix_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(socket, "AF_UNIX")
    with pytest.raises(ValueError, match="bind 'unix:/s' "):
        open_listeners(["unix:/s"], environ={})


def test_close_leaves_what_another_made(empty_place: Path) -> None:
    with opened("unix:s") as (listener,):
        os.unlink("s")
        left_over(empty_place / "s")
    assert os.listdir(empty_place) == ["s"]
    os.unlink("s")
    with opened("unix:s") as (listener,):
        listener.close()
        with opened("unix:s") as (second,):
            listener.close()
            assert answers(second, "s")


@needs_fork
@may_fork_beside_threads
def test_a_child_that_closes_leaves_the_file(empty_place: Path) -> None:
    with opened("unix:s") as (listener,):
        pid = os.fork()
        if not pid:
            try:
                listener.close()
            finally:
                os._exit(0 if listener.sock.fileno() == -1 else 1)
        assert os.waitpid(pid, 0)[1] == 0
        assert answers(listener, "s")
    assert os.listdir(empty_place) == []


ROUNDS = 40


def _start_at_once(barrier: Any, owners: Any) -> None:
    """Open unix:s at the same time as other threads, several times; each closes after all have tried."""
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


@needs_fork
def test_one_of_several_that_start_at_once_owns_the_path(empty_place: Path) -> None:
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
    assert os.listdir(empty_place) == []


@needs_fork
@pytest.mark.parametrize("sequel", ["nothing", "another lock"])
def test_a_lock_that_was_removed_is_none(empty_place: Path, sequel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import fcntl

    lock, taken, real = ".s.fastwsgi-lock", [], fcntl.flock

    def flock(fd: int, operation: int) -> None:
        real(fd, operation)
        taken.append(os.fstat(fd).st_ino)
        if len(taken) == 1:  # the process it waited for has ended and removed it
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
        assert sorted(os.listdir(empty_place)) == ["old", "s"]
