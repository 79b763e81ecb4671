"""The files in examples/deploy: their programs accept them, they are consistent, and they work."""

from __future__ import annotations

import contextlib
import json
import re
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from clients import CERTIFICATE, Address, Answer, Client, connect, fetch
from documents import ROOT, accepted, text_of
from fastwsgi._service import options
from nginx import nginx
from programs import Program, handed_over, program_environment, program_path, run, running
from waiting import TIMEOUT

DEPLOY = ROOT / "examples" / "deploy"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in options.OPTIONS:
        monkeypatch.delenv(options.variable(name), raising=False)


# ---- the contents of the files -------------------------------------------------------------------------


def directive(path: Path, name: str) -> str:
    """The value of a line NAME=VALUE, or of nginx's NAME VALUE;, which must occur once."""
    (value,) = re.findall(rf"^\s*{name}(?:=| +)([^{{]*?);?$", text_of(path), re.MULTILINE)
    return str(value)


def service_arguments() -> list[str]:
    words = shlex.split(directive(DEPLOY / "fastwsgi.service", "ExecStart"))
    assert words[1:3] == ["-m", "fastwsgi"]
    return words[3:]


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def test_systemds_command_and_times(capsys: pytest.CaptureFixture[str]) -> None:
    values = accepted(service_arguments(), capsys)
    assert values["bind"] == (), "the socket is systemd's"
    assert values["forwarded_allow_ips"] == ("unix",)
    assert seconds(directive(DEPLOY / "fastwsgi.service", "TimeoutStopSec")) > values["graceful_timeout"]
    assert int(directive(DEPLOY / "fastwsgi.service", "LimitNOFILE")) > values["max_connections"]
    nginx = DEPLOY / "nginx.conf"
    assert seconds(directive(nginx, "keepalive_timeout")) < values["keep_alive_timeout"]
    assert directive(nginx, "client_max_body_size") == "100m"
    assert values["max_body"] == 100 << 20
    assert directive(nginx, "server") == "unix:" + directive(DEPLOY / "fastwsgi.socket", "ListenStream")
    for name in values["forwarded_fields"]:
        assert f"proxy_set_header {name} " in text_of(nginx), "nginx must set what is believed"


def test_dockers_command(capsys: pytest.CaptureFixture[str]) -> None:
    entry_point, command = (json.loads(directive(DEPLOY / "Dockerfile", name)) for name in ("ENTRYPOINT", "CMD"))
    assert entry_point[1:3] == ["-m", "fastwsgi"]
    values = accepted([*entry_point[3:], *command], capsys)
    assert values["bind"] == (f"0.0.0.0:{directive(DEPLOY / 'Dockerfile', 'EXPOSE')}",)


def test_kubernetes_command_and_times(capsys: pytest.CaptureFixture[str]) -> None:
    yaml = pytest.importorskip("yaml", exc_type=ImportError)
    deployment, service = yaml.safe_load_all(text_of(DEPLOY / "kubernetes.yaml"))
    template = deployment["spec"]["template"]
    pod = template["spec"]
    (container,) = pod["containers"]
    values = accepted(["shop.wsgi", *container["args"]], capsys)
    (port,) = container["ports"]
    assert values["bind"] == (f"0.0.0.0:{port['containerPort']}",)
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]
    assert {container[probe]["httpGet"]["port"] for probe in ("readinessProbe", "livenessProbe")} == {port["name"]}
    labels = template["metadata"]["labels"]
    assert labels == deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"]
    program, pause = container["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    assert pod["terminationGracePeriodSeconds"] > int(pause) + values["graceful_timeout"]
    assert directive(DEPLOY / "Dockerfile", "USER") == str(container["securityContext"]["runAsUser"])


def test_systemd_understands_the_units(tmp_path: Path) -> None:
    analyze = program_path("systemd-analyze")
    units = {suffix: tmp_path / f"shop.{suffix}" for suffix in ("service", "socket")}
    for suffix, unit in units.items():
        text = text_of(DEPLOY / f"fastwsgi.{suffix}")
        unit.write_text(text.replace("/srv/shop/venv/bin/python", sys.executable), encoding="utf-8")
    finished = run(analyze, "verify", "--man=no", *units.values())
    # systemd only warns about an unknown key. Ignore its messages about other units of the machine.
    assert "shop." not in finished.stderr
    assert finished.returncode == 0, finished.stderr


# ---- the files in use ----------------------------------------------------------------------------------

SHOP = """
import json, os, threading

def application(environ, start_response):
    if environ["PATH_INFO"] == "/slow":
        print("called", flush=True)
        os.read(0, 1)  # until the test says so
    start_response("200 OK", [("Content-Type", "application/json")])
    shown = {key: value for key, value in environ.items() if isinstance(value, str | bool)}
    return [json.dumps({**shown, "pid": os.getpid()}).encode()]
"""


class Socket:
    """A listening unix socket, as a systemd socket unit makes it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.bind(str(path))
        self.sock.listen(100)


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Socket]:
    """The socket of shop, in a directory with the package."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "wsgi.py").write_text(SHOP, encoding="utf-8")
    made = Socket(tmp_path / "shop.sock")
    with made.sock:
        yield made


@contextlib.contextmanager
def service(shop: Socket, arguments: Sequence[str]) -> Iterator[Program]:
    """Run fastwsgi as systemd does with Type=notify: wait until it reports that it is ready; end it by SIGTERM."""
    notices = shop.path.with_name("notify")
    notices.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(notices))
        notified.settimeout(TIMEOUT)
        environment = program_environment(NOTIFY_SOCKET=str(notices))
        options = {"cwd": shop.path.parent, "stdin": subprocess.PIPE, "environment": environment}
        options |= handed_over(shop.sock)
        with running(["-m", "fastwsgi", *arguments], " serving on unix:", **options) as program:
            assert notified.recv(1000).startswith(b"READY=1")
            yield program
        assert program.status == 0


def ask(shop: Socket) -> Any:
    """Send a request on a new connection, and return the application's answer."""
    with Client(shop.path) as client:
        reply = client.get()
    assert reply.status == 200
    return json.loads(reply.body)


def example_for_nginx(directory: Path, http_port: int, https_port: int) -> str:
    """The example's configuration with free ports, and with a certificate and a socket that exist."""
    text = text_of(DEPLOY / "nginx.conf")
    for old, new in {
        "/run/shop.sock": str(directory / "shop.sock"),
        "listen [::]:80;": "",
        "listen [::]:443 ssl;": "",
        "listen 80;": f"listen 127.0.0.1:{http_port};",
        "listen 443 ssl;": f"listen 127.0.0.1:{https_port} ssl;",
        "/etc/ssl/shop.pem": str(CERTIFICATE),
        "/etc/ssl/shop.key": str(CERTIFICATE),
    }.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


def ask_nginx(address: Address, headers: dict[str, str]) -> Answer:
    """Send a request to the example's TLS port. The certificate is for another name."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return fetch(address, "/a%20path?q", headers={"Host": "shop.example:8443", **headers}, tls=context)


@pytest.fixture
def in_front(shop: Socket) -> Iterator[list[Address]]:
    """A real nginx with the example's configuration in front of shop: its addresses, plain and TLS."""
    directory = shop.path.parent
    with nginx(directory, partial(example_for_nginx, directory), ports=2, may_complain=True) as addresses:
        yield addresses


def test_service_behind_nginx(shop: Socket, in_front: list[Address]) -> None:
    plain, secure = in_front
    lies = {
        "X-Forwarded-For": "6.6.6.6",
        "X-Forwarded-Proto": "http",
        "X-Forwarded-Host": "evil.example",
        "Forwarded": "for=6.6.6.6",
    }
    with service(shop, service_arguments()) as first:
        answer = ask_nginx(secure, lies)
        environ = json.loads(answer.body)
        moved = fetch(plain, "/path", headers={"Host": "shop.example"})
    # While no process runs, clients wait; the next process serves them.
    waiting: list[Answer] = []
    client = threading.Thread(target=lambda: waiting.append(ask_nginx(secure, {})))
    client.start()
    with service(shop, service_arguments()) as second:
        client.join(TIMEOUT)
    assert answer.status == 200
    assert environ["REMOTE_ADDR"] == "127.0.0.1"
    assert (environ["wsgi.url_scheme"], environ["HTTP_HOST"]) == ("https", "shop.example:8443")
    assert (environ["PATH_INFO"], environ["QUERY_STRING"]) == ("/a path", "q")
    assert environ["HTTP_X_FORWARDED_FOR"] == "127.0.0.1"
    assert "HTTP_X_FORWARDED_HOST" not in environ
    assert "HTTP_FORWARDED" not in environ
    assert "HTTP_CONNECTION" not in environ, "nginx keeps the connection"
    assert environ["wsgi.multithread"] is True
    assert environ["pid"] == first.process.pid
    assert (moved.status, moved.one("Location")) == (301, "https://shop.example/path")
    assert [json.loads(each.body)["pid"] for each in waiting] == [second.process.pid]


@pytest.mark.parametrize("threads", [1, 4])
def test_stopping(shop: Socket, threads: int) -> None:
    """As docs/serve.md describes it; the graceful timeout is longer than the test waits."""
    arguments = ["--threads", str(threads), "--graceful-timeout", "600", "shop.wsgi"]
    with contextlib.ExitStack() as stack:
        program = stack.enter_context(service(shop, arguments))
        slow, idle = stack.enter_context(Client(shop.path)), stack.enter_context(Client(shop.path))
        process = program.process
        assert process.stdin is not None
        assert process.stdout is not None
        slow.send(b"GET /slow HTTP/1.1\r\nHost: h\r\n\r\n")
        assert process.stdout.readline() == "called\n"
        program.signal(signal.SIGTERM)
        if threads > 1:
            assert idle.rest() == b"", "an idle connection is closed while others are answered"
        process.stdin.write("x")
        process.stdin.flush()
        reply = slow.reply()
        assert reply.status == 200
        assert json.loads(reply.body)["pid"] == process.pid
        assert slow.rest() == b"", "closed after it was answered, though the client keeps it"
        assert idle.rest() == b""
        assert process.wait(TIMEOUT) == 0
    assert shop.path.exists(), "an inherited socket is another's to remove"


def test_workers_on_systemds_socket(shop: Socket) -> None:
    """--workers works on an inherited socket, which stays when they end; each worker's log can be rotated."""
    pytest.importorskip("gunicorn")
    log = shop.path.with_name("access.log")
    moved = shop.path.with_name("access.log.1")
    with service(shop, ["--workers", "2", "--access-log", str(log), *service_arguments()]) as program:
        pids = set()
        while len(pids) < 2:  # the kernel chooses the process; the time limit of the test ends the loop
            pids.add(ask(shop)["pid"])
        log.rename(moved)
        program.signal(signal.SIGUSR1)
        rotated = set()
        while len(rotated) < 2:
            before = log.stat().st_size if log.exists() else 0
            pid = ask(shop)["pid"]
            if log.exists() and log.stat().st_size > before:
                rotated.add(pid)
    assert program.process.pid not in pids
    assert rotated == pids
    assert shop.path.exists(), "an inherited socket is systemd's to remove"
    connect(shop.path).close()  # it still listens, for the next process
