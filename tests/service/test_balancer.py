"""nginx in front of a service and of workers: forwarded requests, and restarts that lose no request."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from clients import Address, Client, CutShortError, fetch
from nginx import in_front_of, nginx
from programs import handed_over, running
from waiting import TIMEOUT, wait_until
from worker_site import BLOCK
from workers import Workers, gunicorn, site_environment

if not hasattr(os, "fork"):
    pytest.skip("sockets are handed over as on systems that fork", allow_module_level=True)

RESTARTS = 20 if os.environ.get("FASTWSGI_LONG") == "1" else 5
#: How many requests of each client are answered between two restarts.
MEANWHILE = 20


# ---- forwarded requests ------------------------------------------------------------------------------


@pytest.fixture(params=["1", "4"], ids=["one thread", "threads"])
def behind(request: pytest.FixtureRequest, leg: str, tmp_path: Path) -> Iterator[Workers]:
    """A program of ours behind nginx, with nginx's address."""
    os.mkfifo(tmp_path / "gate")
    args = ["-m", "fastwsgi", "--bind", f"unix:{tmp_path}/socket", "--threads", request.param]
    args += ["--forwarded-allow-ips", "unix", "worker_site:site"]
    with (
        running(args, r"(?P<port>\d).* serving on unix:", environment=site_environment(tmp_path)) as program,
        nginx(tmp_path, in_front_of(f"unix:{tmp_path}/socket")) as (address,),
    ):
        yield Workers(program, tmp_path, address)
    assert program.status == 0
    assert "Traceback" not in program.stderr


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="reads /proc")
def test_connections_to_the_socket_are_kept(behind: Workers) -> None:
    """Only the first of many clients' requests opens a connection; nginx reuses it for the others."""
    before = len(_sockets(behind.program.process.pid))
    for _ in range(20):
        assert fetch(behind.address, "/pid").status == 200
    assert len(_sockets(behind.program.process.pid)) == before + 1


def _sockets(pid: int) -> list[str]:
    """The sockets of a process."""
    folder = f"/proc/{pid}/fd"
    links = [os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)]
    return [link for link in links if link.startswith("socket:")]


def test_head(behind: Workers) -> None:
    answer = fetch(behind.address, "/pid", "HEAD")
    assert (answer.status, answer.body) == (200, b"")
    assert answer.one("Content-Length") == str(len(str(behind.program.process.pid)))


@pytest.mark.parametrize("prefix", ["", "/at-once"], ids=["buffered", "at once"])
def test_uploads(behind: Workers, prefix: str) -> None:
    body = os.urandom(100_000) * 50
    digest = hashlib.sha256(body).hexdigest().encode()
    assert fetch(behind.address, prefix + "/upload", "POST", body).body == digest
    with Client(behind.address) as client:
        client.send(f"POST {prefix}/upload HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for start in range(0, len(body), 300_000):
            block = body[start : start + 300_000]
            client.send(b"%x\r\n%b\r\n" % (len(block), block))
        client.send(b"0\r\n\r\n")
        assert client.reply().body == digest
        assert client.get(prefix + "/pid").status == 200


def test_a_stream_comes_as_it_is_made(behind: Workers) -> None:
    with Client(behind.address) as client:
        client.send(b"GET /at-once/gate HTTP/1.1\r\nHost: h\r\n\r\n")
        client.head()
        assert client.chunk() == b"%d\n" % behind.program.process.pid
        behind.open_gate("the end")
        assert client.chunk() == b"the end"
        assert client.chunk() == b""


@pytest.mark.parametrize("prefix", ["", "/at-once"], ids=["buffered", "at once"])
def test_a_large_file(behind: Workers, prefix: str) -> None:
    content = os.urandom(100_000) * 200
    (behind.directory / "file").write_bytes(content)
    assert hashlib.sha256(fetch(behind.address, prefix + "/file").body).digest() == hashlib.sha256(content).digest()
    assert fetch(behind.address, prefix + "/file", "HEAD").one("Content-Length") == str(len(content))


def test_what_nginx_says_is_believed_and_what_its_client_says_is_not(behind: Workers) -> None:
    claims = {
        "X-Forwarded-For": "192.0.2.1",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "elsewhere",
        "Forwarded": "for=192.0.2.1;proto=https",
        "X-Forwarded_For": "192.0.2.1",
    }
    environ: dict[str, Any] = json.loads(fetch(behind.address, "/environ", headers=claims).body)
    assert environ["REMOTE_ADDR"] == "127.0.0.1"
    assert environ["wsgi.url_scheme"] == "http"
    assert environ["HTTP_HOST"] == f"127.0.0.1:{behind.address.port}"
    assert environ["HTTP_X_FORWARDED_FOR"] == "192.0.2.1, 127.0.0.1"
    assert environ["HTTP_X_FORWARDED_PROTO"] == "http"
    assert not {"HTTP_FORWARDED", "HTTP_X_FORWARDED_HOST"} & set(environ)


# ---- restarts under load -----------------------------------------------------------------------------


class Load:
    """Clients that send requests until they are stopped, each in a thread, and count the results.

    Some keep their connections, others open one for each request; some send GET, others POST. A kept connection that is
    closed before the first octet of an answer isn't a failure: by RFC 9112 section 9.3.1 the client sends the request
    again, which is counted as ``resent``.
    """

    def __init__(self, address: Address) -> None:
        self.address = address
        self.counts: Counter[str] = Counter()
        self.failures: list[str] = []
        self._ends = False
        kinds = [(method, keeps) for method in ("GET", "POST") for keeps in (True, False)] * 2
        self._answered = [0] * len(kinds)
        self._threads = [
            threading.Thread(target=self._run, args=(number, *kind), daemon=True) for number, kind in enumerate(kinds)
        ]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._ends = True
        for thread in self._threads:
            thread.join(TIMEOUT)
            assert not thread.is_alive()
        self.counts["answered"] = sum(self._answered)

    def wait_for_more(self) -> None:
        """Wait until each client has received some more answers."""
        wanted = [number + MEANWHILE for number in self._answered]
        wait_until(lambda: all(map(int.__ge__, self._answered, wanted)))

    def _run(self, number: int, method: str, keeps: bool) -> None:
        client: Client | None = None
        while not self._ends:
            is_reused = client is not None
            what = f"{method}, {'kept' if is_reused else 'new'} connection"
            try:
                if client is None:
                    client = Client(self.address)
                outcome, goes_on = self._ask(client, method, keeps, self._answered[number] % 2 == 0)
            except Exception as error:
                outcome, goes_on = repr(error), False
            if not goes_on and client is not None:
                client.close()
                client = None
            if outcome == "answered":
                self._answered[number] += 1
            elif outcome == "closed" and is_reused:
                self.counts["resent"] += 1
            else:
                self.failures.append(f"{what}: {outcome}")
        if client is not None:
            client.close()

    @staticmethod
    def _ask(client: Client, method: str, keeps: bool, is_long: bool) -> tuple[str, bool]:
        """Send one request; return its result, and whether the connection can be used again."""
        body = b"a body" * 100 if method == "POST" else b""
        fields = f"Content-Length: {len(body)}\r\n" * bool(body) + "Connection: close\r\n" * (not keeps)
        target = "/blocks" if is_long else "/pid"
        try:
            client.send(f"{method} {target} HTTP/1.1\r\nHost: h\r\n{fields}\r\n".encode() + body)
            if not client.file.peek(1):
                return "closed", False
        except (ConnectionResetError, BrokenPipeError):
            return "closed", False
        try:
            reply = client.reply()
        except (CutShortError, ConnectionError) as error:
            return f"cut off: {error!r}", False
        if reply.status != 200 or (reply.body != BLOCK * 10 if is_long else not reply.body.isdigit()):
            return f"{reply.status} {reply.body[:200]!r}", False
        return "answered", keeps and reply.fields.get("Connection") != "close"


@contextlib.contextmanager
def restarted_by_systemd(directory: Path, through_nginx: bool, threads: str) -> Iterator[tuple[Address, Any]]:
    """The address of a service with one process, and a function to restart it. Its socket stays, as with systemd."""
    arguments = ["-m", "fastwsgi", "--threads", threads, "worker_site:site"]
    environment = site_environment(directory)

    @contextlib.contextmanager
    def process() -> Iterator[None]:
        with running(arguments, " serving on ", environment=environment, **handed_over(listener)) as program:
            yield
        assert (program.status, program.stderr) == (0, "")

    def restart() -> None:
        processes.close()
        processes.enter_context(process())

    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX if through_nginx else socket.AF_INET))
        listener.bind(str(directory / "socket") if through_nginx else ("127.0.0.1", 0))
        listener.listen(256)
        where = Address(*listener.getsockname()) if not through_nginx else stack.enter_context(before(directory))
        processes = stack.enter_context(contextlib.ExitStack())
        processes.enter_context(process())
        yield where, restart


@contextlib.contextmanager
def before(directory: Path) -> Iterator[Address]:
    """The address of nginx in front of the socket in a directory, on which nobody listens between two processes."""
    with nginx(directory, in_front_of(f"unix:{directory}/socket"), may_complain=True) as (address,):
        yield address


@contextlib.contextmanager
def restarted_by_gunicorn(directory: Path, through_nginx: bool, threads: str) -> Iterator[tuple[Address, Any]]:
    bind = f"unix:{directory}/socket" if through_nginx else "127.0.0.1:0"
    with gunicorn(directory, "--threads", threads, workers=2, bind=bind) as workers, contextlib.ExitStack() as stack:
        where = stack.enter_context(before(directory)) if through_nginx else workers.address

        def restart() -> None:
            gone = len(workers.notes("worker_exit")) + 2
            workers.signal(signal.SIGHUP)
            workers.wait_for("worker_exit", count=gone)

        yield where, restart
    assert "Traceback" not in workers.program.stderr


@pytest.mark.parametrize("threads", ["1", "4"], ids=["one thread", "threads"])
@pytest.mark.parametrize("through_nginx", [True, False], ids=["nginx", "direct"])
@pytest.mark.parametrize("restarted", [restarted_by_gunicorn, restarted_by_systemd])
@pytest.mark.timeout(TIMEOUT * RESTARTS)
def test_a_restart_under_load_loses_no_request(
    leg: str, tmp_path: Path, restarted: Callable[..., Any], through_nginx: bool, threads: str
) -> None:
    with restarted(tmp_path, through_nginx, threads) as (where, restart), Load(where) as load:
        load.wait_for_more()
        for _ in range(RESTARTS):
            restart()
            load.wait_for_more()
    print(f"{load.counts['answered']} requests answered, {load.counts['resent']} sent again, {RESTARTS} restarts")
    assert load.failures == []
    if through_nginx:
        assert load.counts["resent"] == 0
