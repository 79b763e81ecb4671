"""Several processes: gunicorn with our worker class, and our command line with ``--workers``."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clients import CERTIFICATE, Address, Client, CutShortError, connect, exchange, fetch
from fastwsgi._service.options import Options
from fastwsgi.simple_server import demo_app
from programs import handed_over, handles, running
from services import fails
from waiting import TIMEOUT, wait_until
from workers import Workers, gunicorn, has_ended, our_workers, site_environment, wait_for_end

if not hasattr(os, "fork"):
    pytest.skip("gunicorn is for systems that fork", allow_module_level=True)

Starter = Callable[..., AbstractContextManager[Workers]]


@pytest.fixture(params=["gunicorn", "python -m fastwsgi"])
def two_workers(request: pytest.FixtureRequest, leg: str) -> Starter:
    """Starts two workers, by either command line."""
    if request.param == "gunicorn":
        return partial(gunicorn, workers=2)
    return our_workers


def pid_of(address: Address) -> int:
    """The id of the process that answers a request on a new connection."""
    answer = fetch(address, "/pid")
    assert answer.status == 200
    return int(answer.body)


def environ_of(address: Address, **headers: str) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(fetch(address, "/environ", headers=headers).body)
    return values


class LateAnswer:
    """A request whose answer a worker has begun, and continues when the gate opens."""

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self.client = Client(workers.address)
        self.client.send(b"GET /gate HTTP/1.1\r\nHost: h\r\n\r\n")
        self.client.head()
        self.pid = int(self.client.chunk())

    def __enter__(self) -> LateAnswer:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.client.close()

    def end(self) -> None:
        """Let the answer continue, and check that all of it arrives."""
        self._workers.open_gate("the end")
        assert self.client.chunk() == b"the end"
        assert self.client.chunk() == b""


# ---- serving -----------------------------------------------------------------------------------------


def test_each_worker_serves(two_workers: Starter, tmp_path: Path) -> None:
    with two_workers(tmp_path) as workers:
        with LateAnswer(workers) as late:  # one is busy, so the other answers
            other = pid_of(workers.address)
            assert other not in (late.pid, workers.program.process.pid)
            late.end()
        environ = environ_of(workers.address)
        assert environ["wsgi.multiprocess"] is True
        assert environ["wsgi.multithread"] is False
        assert environ["wsgi.url_scheme"] == "http"
        body = bytes(3_000_000)
        assert fetch(workers.address, "/upload", "POST", body).body.decode() == hashlib.sha256(body).hexdigest()
    assert workers.program.status == 0
    assert "Traceback" not in workers.program.stderr


def test_one_worker_in_threads(tmp_path: Path) -> None:
    with gunicorn(tmp_path, "--threads", "2") as workers:
        with LateAnswer(workers) as late:
            assert pid_of(workers.address) == late.pid
            late.end()
        environ = environ_of(workers.address)
        assert environ["wsgi.multiprocess"] is False
        assert environ["wsgi.multithread"] is True


def test_a_unix_socket_of_gunicorn(tmp_path: Path) -> None:
    with gunicorn(tmp_path, bind=f"unix:{tmp_path}/socket"), Client(tmp_path / "socket") as client:
        client.send(b"GET /environ HTTP/1.0\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n")
        environ = json.loads(client.reply().body)
    # gunicorn's own workers also trust every peer on a unix socket.
    assert environ["REMOTE_ADDR"] == "192.0.2.1"


def test_tls_of_gunicorn(tmp_path: Path) -> None:
    with (
        gunicorn(tmp_path, "--certfile", str(CERTIFICATE), "--keyfile", str(CERTIFICATE)) as workers,
        Client(workers.address, tls=True, strict=True) as client,
    ):
        environ = json.loads(client.get("/environ").body)
        assert environ["wsgi.url_scheme"] == "https"
        assert environ["HTTPS"] == "on"


def test_tls_is_not_offered_for_a_version_of_http_that_is_not_spoken(tmp_path: Path) -> None:
    config = tmp_path / "settings.py"
    config.write_text(
        "from worker_site import post_worker_init, when_ready\n\n"
        "def ssl_context(conf, default):\n"
        "    context = default()\n"
        "    context.set_alpn_protocols(['h2', 'http/1.1'])\n"
        "    return context\n"
    )
    flags = ["--certfile", str(CERTIFICATE), "--keyfile", str(CERTIFICATE), "--config", str(config)]
    with gunicorn(tmp_path, *flags) as workers:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.set_alpn_protocols(["h2", "http/1.1"])
        with connect(workers.address) as plain, context.wrap_socket(plain) as client:
            assert client.selected_alpn_protocol() == "http/1.1"


@pytest.mark.parametrize(("allowed", "client"), [("127.0.0.1", "192.0.2.1"), ("10.0.0.1, 10.1.0.0/16", "127.0.0.1")])
def test_forwarded_allow_ips_of_gunicorn(tmp_path: Path, allowed: str, client: str) -> None:
    with gunicorn(tmp_path, "--forwarded-allow-ips", allowed) as workers:
        fields = {"X-Forwarded-For": "192.0.2.1", "X-Forwarded-Proto": "https"}
        environ = environ_of(workers.address, **fields)
    assert environ["REMOTE_ADDR"] == client
    assert ("HTTP_X_FORWARDED_FOR" in environ) == (client == "192.0.2.1")
    assert environ["wsgi.url_scheme"] == ("https" if client == "192.0.2.1" else "http")


@pytest.mark.parametrize("more", [(), ("--threads", "2")], ids=["one thread", "two threads"])
def test_the_access_log_of_gunicorn(tmp_path: Path, more: tuple[str, ...]) -> None:
    log = tmp_path / "access.log"
    form = "%(h)s|%(r)s|%(s)s|%(b)s|%(B)s|%(m)s|%(U)s|%(q)s|%(H)s|%({x-name}i)s|%(a)s|%(f)s|%({server_port}e)s|%(p)s"
    with gunicorn(tmp_path, "--access-logfile", str(log), "--access-logformat", form, *more) as workers:
        fields = {"X-Name": "a value", "User-Agent": "tests", "Referer": "http://there/"}
        pid = fetch(workers.address, "/pid?a=1", headers=fields).body.decode()
        wait_until(lambda: log.exists() and log.read_text().count("\n") == 1)  # the log may be written after the answer
        assert exchange(workers.address, b"GET / HTTP/1.1\r\n\r\n").startswith(b"HTTP/1.1 400 ")
        wait_until(lambda: log.read_text().count("\n") == 2)
        size, port = len(pid), workers.address.port
        good, bad = log.read_text().splitlines()
    assert good == (
        f"127.0.0.1|GET /pid?a=1 HTTP/1.1|200|{size}|{size}|GET|/pid|a=1|HTTP/1.1"
        f"|a value|tests|http://there/|{port}|<{pid}>"
    )
    assert bad.split("|")[2] == "400"


# ---- timeouts, restarts and stops --------------------------------------------------------------------


@pytest.mark.parametrize("more", [(), ("--threads", "2")], ids=["one thread", "two threads"])
def test_max_requests_replaces_a_worker_and_no_request_fails(tmp_path: Path, more: tuple[str, ...]) -> None:
    with gunicorn(tmp_path, "--max-requests", "3", *more) as workers:
        pids: list[int] = []
        while len(set(pids)) < 3:
            pids.append(pid_of(workers.address))
            assert len(pids) < 10_000, "it isn't replaced"
    assert "Traceback" not in workers.program.stderr


def test_hup_puts_new_workers_in_the_old_ones_place(two_workers: Starter, tmp_path: Path) -> None:
    with two_workers(tmp_path) as workers, LateAnswer(workers) as late:
        before = {late.pid, pid_of(workers.address)}
        assert len(before) == 2
        workers.signal(signal.SIGHUP)
        for pid in before - {late.pid}:
            wait_for_end(pid)
        after = {pid_of(workers.address) for _ in range(10)}
        assert not after & before
        late.end()
        wait_for_end(late.pid)
    assert workers.program.status == 0
    assert "Traceback" not in workers.program.stderr


def test_a_worker_that_hangs_is_replaced(tmp_path: Path) -> None:
    with gunicorn(tmp_path, "--timeout", "1") as workers:
        first = pid_of(workers.address)
        with Client(workers.address) as client:
            client.send(b"GET /hang HTTP/1.1\r\nHost: h\r\n\r\n")
            wait_for_end(first)
            assert client.reply().status == 500
        assert pid_of(workers.address) != first
        assert workers.notes("worker_abort") == [first]
    assert f"WORKER TIMEOUT (pid:{first})" in workers.program.stderr
    assert "time.sleep(" in workers.program.stderr  # the log tells what hung


def test_a_worker_with_many_slow_requests_does_not_hang(tmp_path: Path) -> None:
    """All requests arrive in one turn of the loop, and together they take longer than the timeout."""
    with gunicorn(tmp_path, "--timeout", "1") as workers, contextlib.ExitStack() as stack:
        late = stack.enter_context(LateAnswer(workers))
        clients = [stack.enter_context(Client(workers.address)) for _ in range(6)]
        for client in clients:
            client.send(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")
        late.end()
        assert [int(client.reply().body) for client in clients] == [late.pid] * 6


@pytest.mark.parametrize("more", [(), ("--threads", "2")], ids=["one thread", "two threads"])
def test_term_lets_an_answer_in_progress_be_finished(tmp_path: Path, more: tuple[str, ...]) -> None:
    with gunicorn(tmp_path, *more) as workers, LateAnswer(workers) as late:
        workers.signal(signal.SIGTERM)
        workers.wait_for("terminated", late.pid)
        late.end()
        # The answer promised to keep the connection before the worker was told to stop.
        assert late.client.get("/pid").fields["Connection"] == "close"
        assert workers.program.process.wait(TIMEOUT) == 0
    assert workers.notes("worker_exit") == [late.pid]
    assert "Traceback" not in workers.program.stderr


@pytest.mark.parametrize("more", [(), ("--threads", "2")], ids=["one thread", "two threads"])
def test_quit_waits_for_nobody(tmp_path: Path, more: tuple[str, ...]) -> None:
    """If it waited, it would wait twice as long as the time limit of the test."""
    patience = str(int(2 * TIMEOUT))
    with gunicorn(tmp_path, "--graceful-timeout", patience, *more) as workers, LateAnswer(workers) as late:
        workers.signal(signal.SIGQUIT)
        assert workers.program.process.wait(TIMEOUT) == 0
        with pytest.raises((CutShortError, ConnectionError)):
            late.client.chunk()
    assert workers.notes("worker_int") == [late.pid]


def test_a_worker_ends_with_its_arbiter(tmp_path: Path) -> None:
    with gunicorn(tmp_path) as workers:
        pid = pid_of(workers.address)
        workers.program.process.kill()
        wait_for_end(pid)
    assert "Parent changed" in workers.program.stderr


def test_a_changed_module_restarts_the_worker(tmp_path: Path) -> None:
    module = tmp_path / "changing.py"
    module.write_text("from worker_site import site\n")
    with gunicorn(tmp_path, "--reload", "--reload-engine", "poll", app="changing:site") as workers:
        first = pid_of(workers.address)
        times = itertools.count(2**32)  # even if the file system's clock is coarse

        def has_seen_a_change() -> bool:
            # Again and again, because the first state that gunicorn's reloader sees doesn't count as a change.
            time = next(times)
            os.utime(module, (time, time))
            return has_ended(first)

        wait_until(has_seen_a_change)
        assert pid_of(workers.address) != first


def test_which_hooks_are_called(tmp_path: Path) -> None:
    with gunicorn(tmp_path) as workers:
        pid = pid_of(workers.address)
    for hook in ("post_fork", "post_worker_init", "worker_exit"):
        assert workers.notes(hook) == [pid], hook


# ---- our command line --------------------------------------------------------------------------------


def test_a_unix_socket_of_ours_is_removed_at_the_end(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with our_workers(tmp_path, bind=f"unix:{path}"), connect(path):
        pass
    assert not path.exists()


def test_a_unix_socket_that_was_handed_over_is_left_there(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        args = ["-m", "fastwsgi", "--workers", "2", "worker_site:create()"]
        options = {"environment": site_environment(tmp_path), **handed_over(listener)}
        with running(args, " serving on unix:", **options) as program:
            Workers(program, tmp_path, path).wait_for("created", count=3)
            assert exchange(path, b"GET /pid HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 ")
        assert (program.status, program.stdout.count("\n")) == (0, 1), program.stderr
    assert path.exists()


def test_our_access_log_can_be_rotated_under_workers(tmp_path: Path) -> None:
    log, old = tmp_path / "access.log", tmp_path / "access.log.1"
    with our_workers(tmp_path, "--access-log", str(log)) as workers:
        pid_of(workers.address)
        wait_until(lambda: log.exists() and "GET /pid" in log.read_text())
        log.rename(old)
        workers.signal(signal.SIGUSR1)
        wait_until(log.exists)
        # One process may get the signal before the other; in each round both write a line.
        for _ in range(1000):
            before = [_lines(old), _lines(log)]
            with LateAnswer(workers) as late:
                assert pid_of(workers.address) != late.pid
                late.end()
            wait_until(lambda before=before: _lines(old) + _lines(log) == sum(before) + 2)
            if _lines(log) == before[1] + 2:
                return
    pytest.fail("the old file is still written to")


def test_an_access_log_that_is_rotated_while_a_worker_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = pytest.importorskip("fastwsgi.gunicorn")
    log = tmp_path / "access.log"

    class Rotated(module.Service):  # type: ignore[misc]
        def __init__(self, *args: Any, **keywords: Any) -> None:
            super().__init__(*args, **keywords)
            log.rename(tmp_path / "access.log.1")
            worker.handle_usr1(signal.SIGUSR1, None)

    monkeypatch.setattr(module, "Service", Rotated)
    worker = module.Worker.__new__(module.Worker)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        worker.sockets = [SimpleNamespace(sock=listener)]
        worker.app = SimpleNamespace(options=Options(access_log=str(log)))
        worker.cfg = SimpleNamespace(is_ssl=False, workers=2, keepalive=2)
        worker.log = SimpleNamespace(reopen_files=lambda: None)
        worker.wsgi, worker.notify = demo_app, lambda: None
        worker.timeout, worker.max_requests = 30, sys.maxsize
        worker.alive, worker._is_quick = False, True  # so it begins, and ends
        worker.run()
    assert log.exists()


def _lines(path: Path) -> int:
    return path.read_text().count("\n")


def test_usr2_is_refused_and_harms_nobody(tmp_path: Path) -> None:
    with our_workers(tmp_path) as workers:
        workers.signal(signal.SIGUSR2)
        workers.signal(signal.SIGHUP)  # handled after it
        workers.wait_for("created", count=5)
        pid_of(workers.address)
    assert "USR2" in workers.program.stderr
    assert "Traceback" not in workers.program.stderr


HANGING = """
import worker_site, time
worker_site.note("hanging")
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["TERM", "INT"])
def test_a_signal_while_the_application_is_loaded_ends_every_process(tmp_path: Path, number: signal.Signals) -> None:
    (tmp_path / "hanging.py").write_text(HANGING)
    args = [sys.executable, "-m", "fastwsgi", "--workers", "2", "--bind", "127.0.0.1:0", "hanging"]
    environment = site_environment(tmp_path)
    with subprocess.Popen(args, stderr=subprocess.PIPE, env=environment, cwd=tmp_path, text=True) as process:
        notes = tmp_path / "notes"
        wait_until(lambda: notes.exists() and notes.read_text().endswith("\n") and handles(process.pid, signal.SIGTERM))
        process.send_signal(number)
        stderr = process.communicate(timeout=TIMEOUT)[1]
    wait_for_end(int(notes.read_text().split()[1]))
    assert process.returncode == 1
    assert stderr.splitlines()[-1] == f"fastwsgi: the application was not loaded: {signal.strsignal(number)}"


WITHOUT_GUNICORN = """
import sys
from importlib.machinery import PathFinder

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, *args):
        return None if name == "gunicorn" else super().find_spec(name, *args)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
from fastwsgi._service.cli import main
sys.exit(main())
"""


def test_without_gunicorn_one_line_says_what_to_install(tmp_path: Path, leg: str) -> None:
    said = fails(tmp_path, "--workers", "2", "--bind", "127.0.0.1:0", module=("-c", WITHOUT_GUNICORN))
    assert said == (1, "fastwsgi: --workers needs gunicorn: pip install 'fastwsgi-toolkit[workers]'\n")


@pytest.mark.parametrize(
    "flags",
    [("--keep-alive", "0"), ("--limit-request-line", "0"), ("--limit-request-fields", "0")],
    ids=lambda flags: flags[0],
)
def test_gunicorns_zero_is_no_reason_to_fail(tmp_path: Path, flags: tuple[str, ...]) -> None:
    with gunicorn(tmp_path, *flags) as workers:
        pid_of(workers.address)
        if flags[0] == "--keep-alive":
            with Client(workers.address) as client:
                assert client.get("/pid").fields["Connection"] == "close"
