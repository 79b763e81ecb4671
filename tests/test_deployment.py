"""The files for deployment: accepted by the programs they are for, in keeping with each other, and at work."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from documents import ROOT, accepted, text_of
from event_servers import CERTIFICATE
from fastwsgi._service import options
from serving import TIMEOUT, Address, Answer, fetch, program_environment, program_path

DEPLOY = ROOT / "examples" / "deploy"


@pytest.fixture(autouse=True)
def _no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in options.OPTIONS:
        monkeypatch.delenv(options.variable(name), raising=False)


# ---- what the files for deployment say -----------------------------------------------------------------


def directive(path: Path, name: str) -> str:
    """The value of a line NAME=VALUE, or of nginx's NAME VALUE;, which is there once."""
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
    command = [analyze, "verify", "--man=no", *map(str, units.values())]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    # An unknown key is only a warning, and what it says of the machine's other units is not ours.
    assert "shop." not in finished.stderr
    assert finished.returncode == 0, finished.stderr


# ---- the files for deployment at work ------------------------------------------------------------------

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

# What systemd does: the socket as descriptor 3, and variables for this process.
ACTIVATE = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.set_inheritable(3, True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
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
    """The socket of shop, in a directory that has the package."""
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / "wsgi.py").write_text(SHOP, encoding="utf-8")
    made = Socket(tmp_path / "shop.sock")
    with made.sock:
        yield made


@contextlib.contextmanager
def service(shop: Socket, arguments: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    """Run fastwsgi as systemd does with Type=notify, once it has said that it's ready; it's ended by SIGTERM."""
    notices = shop.path.with_name("notify")
    notices.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        notified.bind(str(notices))
        notified.settimeout(TIMEOUT)
        with subprocess.Popen(
            [sys.executable, "-c", ACTIVATE, str(shop.sock.fileno()), "-m", "fastwsgi", *arguments],
            pass_fds=[shop.sock.fileno()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=program_environment(NOTIFY_SOCKET=str(notices)),
            cwd=shop.path.parent,
            encoding="utf-8",
        ) as process:
            watchdog = threading.Timer(2 * TIMEOUT, process.kill)
            watchdog.start()
            try:
                assert notified.recv(1000).startswith(b"READY=1")
                yield process
                process.send_signal(signal.SIGTERM)
                assert process.wait(TIMEOUT) == 0
            finally:
                process.kill()
                watchdog.cancel()


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=TIMEOUT)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(TIMEOUT)
        self.sock.connect(str(self.path))


def ask(connection: http.client.HTTPConnection, target: str = "/") -> Any:
    connection.request("GET", target)
    response = connection.getresponse()
    assert response.status == 200
    return json.loads(response.read())


def nginx_configuration(directory: Path, http_port: int, https_port: int) -> str:
    """The example in a configuration of its own, on free ports, and with a certificate that is there."""
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
    kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    places = "".join(f"{kind}_temp_path {directory}/{kind};\n" for kind in kinds)
    user = "user root;" if os.geteuid() == 0 else ""  # or its worker couldn't enter the test's directory
    return (
        f"daemon off; {user} worker_processes 1; pid {directory}/nginx.pid; error_log stderr;\n"
        f"events {{}}\nhttp {{ access_log off;\n{places}{text}}}\n"
    )


@pytest.fixture
def nginx(shop: Socket) -> Iterator[tuple[Address, Address]]:
    """A real nginx with the example's configuration in front of shop: its addresses, plain and TLS.

    Its listening sockets are made here and handed over, so that the ports are ours and nobody waits for it.
    """
    program = program_path("nginx")
    directory = shop.path.parent
    with socket.socket() as plain, socket.socket() as secure:
        for sock in (plain, secure):
            sock.bind(("127.0.0.1", 0))
            sock.listen(100)
            sock.setblocking(False)  # as nginx would make it itself
        addresses = Address(*plain.getsockname()), Address(*secure.getsockname())
        configuration = directory / "nginx.conf"
        configuration.write_text(nginx_configuration(directory, *(address.port for address in addresses)), "utf-8")
        command = [program, "-p", str(directory), "-e", "stderr", "-c", str(configuration)]
        checked = subprocess.run([*command, "-t"], capture_output=True, text=True, timeout=TIMEOUT, check=False)
        assert checked.returncode == 0, checked.stderr
        assert "[warn]" not in checked.stderr
        descriptors = [plain.fileno(), secure.fileno()]
        environment = program_environment(NGINX="".join(f"{fd};" for fd in descriptors))
        with subprocess.Popen(command, pass_fds=descriptors, env=environment) as process:
            try:
                yield addresses
            finally:
                process.terminate()
                process.wait(TIMEOUT)


def ask_nginx(address: Address, headers: dict[str, str]) -> Answer:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection(address.host, address.port, timeout=TIMEOUT, context=context)
    with contextlib.closing(connection):
        connection.request("GET", "/a%20path?q", headers={"Host": "shop.example:8443", **headers})
        response = connection.getresponse()
        return Answer(response.status, response.reason, response.getheaders(), response.read())


def test_service_behind_nginx(shop: Socket, nginx: tuple[Address, Address]) -> None:
    plain, secure = nginx
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
    # Without a process clients wait, and the next one serves them.
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
    assert environ["pid"] == first.pid
    assert (moved.status, moved.one("Location")) == (301, "https://shop.example/path")
    assert [json.loads(each.body)["pid"] for each in waiting] == [second.pid]


@pytest.mark.parametrize("threads", [1, 4])
def test_stopping(shop: Socket, threads: int) -> None:
    """As docs/serve.md has it; the graceful timeout is longer than what the test waits for."""
    arguments = ["--threads", str(threads), "--graceful-timeout", "600", "shop.wsgi"]
    slow, idle = UnixConnection(shop.path), UnixConnection(shop.path)
    with contextlib.closing(slow), contextlib.closing(idle), service(shop, arguments) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert "serving on unix:" in process.stdout.readline()
        idle.connect()
        slow.request("GET", "/slow")
        assert process.stdout.readline() == "called\n"
        process.send_signal(signal.SIGTERM)
        if threads > 1:
            assert idle.sock.recv(1) == b"", "an idle connection is closed while others are answered"
        process.stdin.write("x")
        process.stdin.flush()
        response = slow.getresponse()
        assert response.status == 200
        assert json.loads(response.read())["pid"] == process.pid
        if slow.sock is not None:
            assert slow.sock.recv(1) == b"", "closed after it was answered, though the client keeps it"
        assert idle.sock.recv(1) == b""
        assert process.wait(TIMEOUT) == 0
    assert shop.path.exists(), "an inherited socket is another's to remove"


def test_workers_on_systemds_socket(shop: Socket) -> None:
    """--workers works on an inherited socket, which stays when they end; each worker's log can be rotated."""
    pytest.importorskip("gunicorn")
    log = shop.path.with_name("access.log")
    moved = shop.path.with_name("access.log.1")
    with service(shop, ["--workers", "2", "--access-log", str(log), *service_arguments()]) as process:
        pids = set()
        while len(pids) < 2:  # the kernel chooses; the test's own bound ends it
            with contextlib.closing(UnixConnection(shop.path)) as connection:
                pids.add(ask(connection)["pid"])
        log.rename(moved)
        process.send_signal(signal.SIGUSR1)
        rotated = set()
        while len(rotated) < 2:
            before = log.stat().st_size if log.exists() else 0
            with contextlib.closing(UnixConnection(shop.path)) as connection:
                pid = ask(connection)["pid"]
                if log.exists() and log.stat().st_size > before:
                    rotated.add(pid)
    assert process.pid not in pids
    assert rotated == pids
    assert shop.path.exists(), "an inherited socket is systemd's to remove"
    with contextlib.closing(UnixConnection(shop.path)) as connection:
        connection.connect()  # it still listens, for the next process
