"""Sending responses on the event-driven path: when iterables are closed, slow readers, and files."""

from __future__ import annotations

import errno
import functools
import gzip
import io
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clients import GET, OLD, Client
from fastwsgi._events.poller import WRITE, wait_for
from servers import ALL_KINDS, BLOCK, returning, starting

start = pytest.fixture(params=ALL_KINDS)(starting)


# ---- close() ----------------------------------------------------------------------------------------


class Closing:
    """An iterable that records when it is closed, and may fail at any point."""

    def __init__(self, *blocks: Any) -> None:
        self.blocks = blocks
        self.closed = 0
        self.fails_to_close = False

    def __iter__(self) -> Iterator[Any]:
        for block in self.blocks:
            if isinstance(block, Exception):
                raise block
            yield block

    def close(self) -> None:
        self.closed += 1
        if self.fails_to_close:
            raise ZeroDivisionError("on purpose")


class ClosingList(list):  # type: ignore[type-arg]
    closed = 0

    def close(self) -> None:
        self.closed += 1


class ClosingAndFailing(Closing):
    def __init__(self, *blocks: Any) -> None:
        super().__init__(*blocks)
        self.fails_to_close = True


# PEP 3333, "Specification Details": close() is called however the answer ends. name: the iterable, headers, the answer
WAYS: dict[str, tuple[Callable[[], Any], list[tuple[str, str]], int]] = {
    "list subclass": (lambda: ClosingList([b"abc"]), [], 200),
    "empty list subclass": (ClosingList, [], 200),
    "iterable": (lambda: Closing(b"abc", b"def"), [], 200),
    "empty": (Closing, [], 200),
    "fails at once": (lambda: Closing(ValueError()), [], 500),
    "bad block": (lambda: Closing("abc"), [], 500),
    "bad headers": (lambda: Closing(b"abc"), [("X", "\u20ac")], 500),
    "bad length": (lambda: Closing(b"abc"), [("Content-Length", "x")], 500),
    "close() fails": (lambda: ClosingAndFailing(b"abc"), [], 200),
    "everything fails": (lambda: ClosingAndFailing(ValueError()), [], 500),
}


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("way", WAYS)
def test_close_is_called_once(start: Any, way: str, method: str, capsys: Any) -> None:
    make, headers, status = WAYS[way]
    made: list[Any] = []

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", list(headers))
        made.append(make())
        return made[-1]

    running = start(application)
    with Client(running.address) as client:
        for _ in range(2):  # the connection still works
            client.send(GET.replace(b"GET", method.encode()))
            assert client.reply(method).status == status
            assert made[0].closed == 1 or len(made) == 1  # after the last octet, and before the next request
    running.wait_until_all_are_gone()
    assert [each.closed for each in made] == [1, 1]
    assert ("ZeroDivisionError" in capsys.readouterr().err) == (way in ("close() fails", "everything fails"))


def test_close_of_a_generator(start: Any) -> None:
    ended: list[str] = []

    def application(environ: dict[str, Any], start_response: Any) -> Iterator[bytes]:
        start_response("200 OK", [])
        try:
            yield b"abc"
            yield b"def"
        finally:
            ended.append(environ["PATH_INFO"])

    with Client(start(application).address) as client:
        assert client.get("/a").body == b"abcdef"
        client.get("/b")
        assert ended[:1] == ["/a"]


@pytest.mark.parametrize("how", ["raise", "a str"])
def test_close_after_a_failure_in_the_middle(start: Any, how: str) -> None:
    result = Closing(b"abc", ValueError() if how == "raise" else "def")
    running = start(returning(lambda: result))
    with Client(running.address) as client:
        client.send(GET)
        client.head()
        assert client.rest() == b"3\r\nabc\r\n"
    assert result.closed == 1


class Endless(Closing):
    """Blocks without end; counts them."""

    def __init__(self) -> None:
        super().__init__()
        self.taken = 0

    def __iter__(self) -> Iterator[bytes]:
        while True:
            self.taken += 1
            yield BLOCK


@pytest.mark.parametrize("how", ["client resets", "client closes", "too slow", "shutdown"])
def test_close_of_an_answer_that_nobody_reads_to_its_end(start: Any, how: str, capsys: Any) -> None:
    result = Endless()
    running = start(returning(lambda: result), progress_timeout=0.2 if how == "too slow" else 30.0)
    client = Client(running.address, room=4096)
    client.send(GET)
    client.head()
    running.wait_until(lambda: running.connections and running.connections[0].is_full())
    assert result.closed == 0
    if how == "shutdown":
        running.server.shutdown()
    elif how != "too slow":
        getattr(client, "reset" if how == "client resets" else "close")()
    if how != "shutdown":
        running.wait_until_all_are_gone()
    assert result.closed == 1
    assert "Traceback" not in capsys.readouterr().err
    client.close()


@pytest.mark.parametrize("how", ["too slow", "shutdown"])
@pytest.mark.parametrize("kind_of_body", ["endless", "in the output"])
def test_an_answer_that_is_broken_off_never_looks_whole(start: Any, how: str, kind_of_body: str) -> None:
    """RFC 9112 section 8: the body for an HTTP/1.0 client ends with the connection, so the end must be a reset."""
    blocks = Endless() if kind_of_body == "endless" else Closing(*[BLOCK] * 200)
    running = start(returning(lambda: blocks), progress_timeout=0.2 if how == "too slow" else 30.0, max_output=1 << 24)
    with Client(running.address, room=4096) as client:
        client.send(OLD)
        client.head()
        running.wait_until(lambda: running.connections and running.connections[0].output)
        if how == "shutdown":
            running.server.shutdown()
        else:
            running.wait_until_all_are_gone()
        with pytest.raises(ConnectionResetError):
            client.rest()


# ---- clients that read slowly -----------------------------------------------------------------------


def test_a_slow_reader_suspends_the_iterator_and_blocks_nobody(start: Any) -> None:
    result = Endless()

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        return result if environ["PATH_INFO"] == "/endless" else [b"abc"]

    running = start(application)
    with Client(running.address, room=4096) as slow, Client(running.address) as other:
        slow.send(b"GET /endless HTTP/1.1\r\nHost: h\r\n\r\n")
        slow.head()
        running.wait_until(
            lambda: any(each.is_full() and not wait_for(each.sock, WRITE, 0.05) for each in running.connections)
        )
        taken = result.taken
        assert taken * len(BLOCK) < 1 << 25  # the output's limit, and the kernel's buffers
        for _ in range(20):
            assert other.get().body == b"abc"
        assert result.taken == taken
        for _ in range(100):
            assert slow.chunk() == BLOCK
        assert result.closed == 0


def test_a_slow_reader_of_chunks_needs_no_disk(start: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chunk that is too long to copy is sent in pieces, which are all kept in memory."""

    def no_file(*args: Any, **keywords: Any) -> Any:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    block = BLOCK * 2
    with Client(start(returning(lambda: iter([block] * 100))).address, room=4096) as slow:
        monkeypatch.setattr(tempfile, "TemporaryFile", no_file)
        slow.send(GET)
        slow.head()
        for _ in range(100):
            assert slow.chunk() == block
        assert slow.chunk() == b""


@pytest.mark.parametrize("size", [10, 1000, 1 << 16, 1 << 22])
def test_write_to_a_slow_reader_goes_to_disk(start: Any, size: int) -> None:
    """write() can't pause: output over the limit goes to a file, and other clients are served."""
    count = (1 << 25) // size if size > 1000 else 20_000
    held: list[int] = []

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [])
        if environ["PATH_INFO"] == "/large":
            for i in range(count):
                write(b"%010d" % i * (size // 10))
                held.append(max((each.output.size for each in running.connections if each.output), default=0))
        return [b"end"]

    running = start(application, max_output=100_000)
    with Client(running.address, room=4096) as slow, Client(running.address) as other:
        slow.send(b"GET /large HTTP/1.1\r\nHost: h\r\n\r\n")
        slow.head()
        assert other.get().body == b"end"
        for i in range(count):
            assert slow.chunk() == b"%010d" % i * (size // 10)
        assert slow.chunk() == b"end"
        assert slow.chunk() == b""
        assert slow.get().body == b"end"
    assert len(held) == count
    assert max(held) < 100_000 + size + 1000
    if size > 1000:
        assert max(held) > 100_000  # otherwise nothing would be tested


def test_what_went_to_disk_is_gone_with_the_client(start: Any) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [])
        for _ in range(400):
            write(BLOCK)
        return []

    running = start(application, max_output=100_000)
    client = Client(running.address, room=4096)
    client.send(GET)
    client.head()
    running.wait_until(lambda: running.connections and running.connections[0].output)
    client.reset()
    running.wait_until_all_are_gone()  # an unclosed file would be a warning, and so an error


def test_a_client_that_is_gone_is_told_to_write(start: Any, capsys: Any) -> None:
    """write() raises ConnectionError, which the application may handle; nothing is answered or logged."""
    told: list[BaseException] = []
    gone = threading.Event()

    def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
        write = start_response("200 OK", [])
        write(b"abc")
        assert gone.wait(20)
        try:
            for _ in range(1000):
                write(BLOCK)
        except OSError as error:
            told.append(error)
        return [b"def"]

    running = start(application)
    client = Client(running.address)
    client.send(GET)
    client.head()
    client.reset()
    gone.set()
    running.wait_until(lambda: told and not running.connections)
    assert isinstance(told[0], ConnectionError)
    assert "Traceback" not in capsys.readouterr().err


# ---- files ------------------------------------------------------------------------------------------

CONTENT = bytes(range(256)) * 4096


class File:
    """An application that answers with one file, and records what happens to it."""

    def __init__(self, make: Callable[[], Any], headers: Any = (), skip: int = 0) -> None:
        self.make, self.headers, self.skip = make, list(headers), skip
        self.files: list[Any] = []
        self.closed = 0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", self.headers)
        file = self.make()
        file.read(self.skip)
        self.files.append(file)
        wrapper = environ["wsgi.file_wrapper"](file)

        def close() -> None:
            self.closed += 1
            file.close()

        wrapper.close = close
        return wrapper


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files") / "content"
    path.write_bytes(CONTENT)
    path.with_name("content.gz").write_bytes(gzip.compress(CONTENT, 1))
    return path


def temporary(cls: Any) -> Callable[[Path], Any]:
    def make(path: Path) -> Any:
        file = cls()
        file.write(CONTENT)
        file.seek(0)
        return file

    return make


# name: how it is opened, and whether its length is known, because it is a plain file
FILES: dict[str, tuple[Callable[[Path], Any], bool]] = {
    "buffered": (lambda path: path.open("rb"), True),
    "unbuffered": (lambda path: path.open("rb", buffering=0), True),
    "for update": (lambda path: path.open("r+b"), True),
    "temporary": (temporary(tempfile.TemporaryFile), True),
    "named temporary": (temporary(tempfile.NamedTemporaryFile), True),
    "spooled": (temporary(tempfile.SpooledTemporaryFile), False),
    "BytesIO": (lambda path: io.BytesIO(CONTENT), False),
    "gzip": (lambda path: gzip.GzipFile(f"{path}.gz"), False),
}


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
@pytest.mark.parametrize("skip", [0, 1000])
@pytest.mark.parametrize("length", [None, 10, 300_000])
@pytest.mark.parametrize("case", FILES)
def test_a_file(start: Any, path: Path, case: str, length: int | None, skip: int, tls: bool) -> None:
    """PEP 3333, "Optional Platform-Specific File Handling": it is sent from its position on, up to Content-Length."""
    make, sized = FILES[case]
    application = File(lambda: make(path), [] if length is None else [("Content-Length", str(length))], skip)
    expected = CONTENT[skip:] if length is None else CONTENT[skip : skip + length]
    with Client(start(application, tls=tls).address, tls=tls) as client:
        for _ in range(2):
            reply = client.get()
            assert reply.body == expected
            assert reply.framing == ("length" if sized or length else "chunked")
            client.send(GET.replace(b"GET", b"HEAD"))
            fields = {"Content-Length": str(len(expected))} if sized or length else {}
            assert client.reply("HEAD").fields == fields
        assert application.closed >= 3
        assert all(file.closed for file in application.files[:3])


def test_a_file_to_an_old_client(start: Any, path: Path) -> None:
    application = File(functools.partial(open, path, "rb"))
    with Client(start(application).address) as client:
        client.send(OLD)
        assert client.reply()[1:] == (CONTENT, "length")
        assert client.rest() == b""
    assert application.closed == 1


@pytest.mark.skipif(not hasattr(os, "sendfile"), reason="no sendfile() here")
def test_a_file_that_must_be_read(start: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Some file systems don't support sendfile()."""

    def refuse(*args: Any) -> int:
        raise OSError(errno.EINVAL, "Invalid argument")

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])
        return environ["wsgi.file_wrapper"](path.open("rb"))

    monkeypatch.setattr(os, "sendfile", refuse)
    with Client(start(application).address) as client:
        assert client.get().body == path.read_bytes()


def test_a_file_behind_write(start: Any, path: Path) -> None:
    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response("200 OK", [])(b"first")
        return environ["wsgi.file_wrapper"](open(path, "rb"))

    with Client(start(application).address) as client:
        for _ in range(2):
            assert client.get()[1:] == (b"first" + CONTENT, "chunked")


@pytest.mark.parametrize("make", [io.BytesIO, functools.partial(open, os.devnull, "rb")], ids=["BytesIO", "devnull"])
def test_an_empty_file(start: Any, make: Any) -> None:
    application = File(make)
    with Client(start(application).address) as client:
        for _ in range(2):
            assert client.get()[1:] == (b"", "length")


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="no /proc here")
def test_a_file_that_has_no_size(start: Any) -> None:
    with Client(start(File(functools.partial(open, "/proc/self/status", "rb"))).address) as client:
        assert b"VmRSS" in client.get().body


def test_a_file_that_is_shorter_than_its_content_length(start: Any, path: Path, capsys: Any) -> None:
    application = File(functools.partial(open, path, "rb"), [("Content-Length", str(len(CONTENT) + 1))])
    with Client(start(application).address) as client:
        client.send(GET * 2)
        client.head()
        assert client.rest() == CONTENT
    assert "fewer bytes than its Content-Length" in capsys.readouterr().err
    assert application.closed == 1


LARGE = 1 << 25


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file larger than the buffers of a socket."""
    path = tmp_path / "large"
    with path.open("wb") as file:
        for i in range(LARGE // 65536):
            file.write(b"%04x" % i * 16384)
    return path


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_a_large_file_is_open_until_it_is_sent(start: Any, large: Path, tls: bool) -> None:
    application = File(functools.partial(open, large, "rb"))
    running = start(application, tls=tls)
    with Client(running.address, tls=tls, room=65536) as client:
        client.send(GET)
        head = client.head()
        assert b"\r\nContent-Length: %d\r\n" % LARGE in head
        if start.is_threaded:
            # The server sends it from its own descriptor, because the iterable must be closed in its thread.
            running.wait_until(lambda: (application.closed, application.files[0].closed) == (1, True))
        else:
            assert (application.closed, application.files[0].closed) == (0, False)
        with Client(running.address, tls=tls) as other:
            other.send(GET.replace(b"GET", b"HEAD"))
            other.reply("HEAD")  # other clients are served
        for i in range(LARGE // 65536):
            assert client.exactly(65536) == b"%04x" % i * 16384
        client.send(GET.replace(b"GET", b"HEAD"))
        client.reply("HEAD")
    assert application.closed >= 2


@pytest.mark.parametrize("tls", [False, True], ids=["plain", "TLS"])
def test_a_file_that_is_truncated_while_it_is_sent(start: Any, large: Path, tls: bool) -> None:
    """The client gets less than Content-Length and then a reset; nothing hangs."""
    application = File(functools.partial(open, large, "rb"))
    running = start(application, tls=tls)
    with Client(running.address, tls=tls, room=4096) as client:
        client.send(GET + GET)
        client.head()
        os.truncate(large, 100_000)
        try:
            rest = client.rest()
        except OSError:  # a reset, or an end without TLS's closure alert
            rest = b""
        assert len(rest) < LARGE
        running.wait_until_all_are_gone()
    assert application.closed == 1


def test_a_client_that_goes_while_a_file_is_sent(start: Any, large: Path) -> None:
    application = File(functools.partial(open, large, "rb"))
    running = start(application)
    client = Client(running.address, room=4096)
    client.send(GET)
    client.head()
    client.reset()
    running.wait_until_all_are_gone()
    assert application.closed == 1
    assert application.files[0].closed


# ---- TLS --------------------------------------------------------------------------------------------


def test_large_answers_over_tls(start: Any) -> None:
    blocks = [bytes([i]) * 70_000 for i in range(100)]
    running = start(returning(lambda: iter(blocks)), tls=True)
    with Client(running.address, tls=True, room=4096) as client:
        for _ in range(2):
            assert client.get()[1:] == (b"".join(blocks), "chunked")
