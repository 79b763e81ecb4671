"""``python -m fastwsgi`` and ``serve()`` as programs: their applications, addresses and messages."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import ssl
import sys
from pathlib import Path

import pytest

import fastwsgi
from clients import CERTIFICATE, GET, Address, Client, connect, fetch
from programs import program_environment, run_python
from services import ENVIRON, SITE, Service, answer, environ_of, fails, service
from waiting import TIMEOUT

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="the tests speak over unix sockets")


def test_without_app_the_demo_is_served(place: Path) -> None:
    with service(place) as running:
        assert answer(running.address).startswith("Hello world!\n")
    assert (running.version, running.what) == (fastwsgi.__version__, [fastwsgi.implementation])
    assert running.urls == [f"{running.address.url}/"]
    assert running.stdout == running.line


@pytest.mark.parametrize(
    ("spec", "body"),
    [
        ("site_app:application", "site"),
        ("site_app", "site"),
        ("site_app:make()", "made"),
        ("site_app.py:application", "site"),
        ("{place}/site_app.py:make()", "made"),
    ],
)
def test_app(place: Path, spec: str, body: str) -> None:
    with service(place, spec.format(place=place)) as running:
        assert answer(running.address) == body


def test_line_has_threads(place: Path) -> None:
    with service(place, "--threads", "3") as running:
        assert answer(running.address).startswith("Hello world!\n")
    assert running.what == [fastwsgi.implementation, "3 threads"]
    assert running.stdout == running.line


def test_several_addresses(place: Path) -> None:
    path = place / "socket"
    binds = [f"--bind={each}" for each in ("127.0.0.1:0", "[::1]:0", f"unix:{path}?mode=600")]
    with service(place, "site_app", *binds) as running:
        tcp, tcp6, unix = running.urls
        assert path.stat().st_mode & 0o7777 == 0o600
        assert unix == f"unix:{path}"
        assert answer(running.address) == "site"
        assert answer(Address("::1", int(tcp6.rpartition(":")[2].rstrip("/")))) == "site"
        assert answer(path) == "site"
        assert tcp == f"{running.address.url}/"
    assert not path.exists()


def test_inherited_socket(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        url = f"http://127.0.0.1:{sock.getsockname()[1]}/"
        bind = f"--bind=fd:{sock.fileno()}"
        with service(place, "site_app", bind, pass_fds=[sock.fileno()]) as running:
            assert running.urls == [url]
            assert answer(running.address) == "site"
        with Client(running.address) as client:  # it still listens, for the next process
            client.send(GET)
            with service(place, "site_app", bind, pass_fds=[sock.fileno()]):
                assert client.reply().body == b"site"


LAUNCHER = """
import os, sys
source, *command = sys.argv[1:]
os.dup2(int(source), 3)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="1")
os.execv(command[0], command)
"""


def test_systemd_activation(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock, contextlib.ExitStack() as stack:
        fd = os.dup(sock.fileno())
        stack.callback(os.close, fd)
        client = stack.enter_context(Client(Address(*sock.getsockname())))
        client.send(ENVIRON + b"\r\n")  # before the server accepts clients
        with service(
            place, "site_app", "--threads=1", pass_fds=[fd], launcher=[sys.executable, "-c", LAUNCHER, str(fd)],
            FASTWSGI_BIND="",
        ) as running:  # fmt: skip
            environ = json.loads(client.reply().body)
            assert running.address.port == sock.getsockname()[1]
    assert environ["SERVER_PORT"] == str(sock_port(running))


def sock_port(running: Service) -> int:
    return running.address.port


def test_tls(place: Path) -> None:
    with service(place, "site_app", f"--certfile={CERTIFICATE}") as running:
        assert running.urls == [f"https://127.0.0.1:{running.address.port}/"]
        with Client(running.address, tls=True, strict=True) as client:
            environ = environ_of(client)
            assert client.get().body == b"site"
        assert (environ["wsgi.url_scheme"], environ["HTTPS"]) == ("https", "on")
        plain = Client(running.address)
        plain.send(GET)
        with contextlib.suppress(ConnectionError):
            assert not plain.rest().startswith(b"HTTP")
        plain.close()


def test_client_certificates(place: Path) -> None:
    with service(place, "site_app", f"--certfile={CERTIFICATE}", f"--ca-certs={CERTIFICATE}") as running:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with pytest.raises((ssl.SSLError, ConnectionError, http.client.HTTPException)):
            _get_over_tls(running.address, context)
        context.load_cert_chain(CERTIFICATE)
        assert _get_over_tls(running.address, context) == b"site"


def _get_over_tls(address: Address, context: ssl.SSLContext) -> bytes:
    connection = http.client.HTTPSConnection(*address, timeout=TIMEOUT, context=context)
    try:
        connection.request("GET", "/")
        return connection.getresponse().read()
    finally:
        connection.close()


SERVE = """
import fastwsgi, site_app
fastwsgi.serve(site_app.application, "127.0.0.1:0", {keywords})
"""


def test_serve(place: Path) -> None:
    (place / "program.py").write_text(SERVE.format(keywords="threads=2"), encoding="utf-8")
    with service(place, module=["program.py"]) as running:
        assert answer(running.address) == "site"
    assert running.what == [fastwsgi.implementation, "2 threads"]


def test_a_keyword_wins_over_a_variable(place: Path) -> None:
    (place / "program.py").write_text(SERVE.format(keywords="threads=2"), encoding="utf-8")
    variables = {"FASTWSGI_THREADS": "5", "FASTWSGI_BIND": "127.0.0.1:1", "FASTWSGI_ACCESS_LOG": "-"}
    with service(place, module=["program.py"], **variables) as running:
        assert answer(running.address) == "site"
    assert running.what == [fastwsgi.implementation, "2 threads"]
    assert '"GET / HTTP/1.1" 200 4' in running.stdout


@pytest.mark.parametrize(
    ("keywords", "problem"),
    [
        ("thread=2", "TypeError: serve() got an unexpected keyword argument 'thread'; did you mean 'threads'?"),
        ("threads=0", "ValueError: threads must be between 1 and 1024, not 0"),
        ("reload=True", "ValueError: reload works on the command line"),
        ("certfile='missing.pem'", "FileNotFoundError: "),
    ],
)
def test_serve_raises(place: Path, keywords: str, problem: str) -> None:
    (place / "program.py").write_text(SERVE.format(keywords=keywords), encoding="utf-8")
    status, stderr = fails(place, module=["program.py"])
    assert status == 1
    assert stderr.splitlines()[-1].startswith(problem), stderr


def test_a_flag_wins_over_a_variable(place: Path) -> None:
    with service(place, "site_app", "--threads=2", FASTWSGI_THREADS="5", FASTWSGI_BIND="127.0.0.1:0") as running:
        assert answer(running.address) == "site"
    assert running.what == [fastwsgi.implementation, "2 threads"]
    with service(place, "site_app", FASTWSGI_THREADS="5") as running:
        assert answer(running.address) == "site"
    assert running.what == [fastwsgi.implementation, "5 threads"]


def test_print_config_and_version(place: Path) -> None:
    def says(*arguments: str, **environ: str) -> str:
        environment = program_environment(**environ)
        command = ("-W", "error", "-m", "fastwsgi", *arguments)
        return str(run_python(*command, cwd=place, environment=environment, check=True).stdout)

    assert says("--version") == f"fastwsgi {fastwsgi.__version__} ({fastwsgi.implementation})\n"
    config = says("no_such_module", "--threads=2", "--print-config", FASTWSGI_MAX_BODY="4k", FASTWSGI_THREADS="3")
    lines = dict(line.split(" = ", 1) for line in config.splitlines())
    assert re.fullmatch(r"2 +# --threads", lines["threads"])
    assert re.fullmatch(r"4096 +# FASTWSGI_MAX_BODY", lines["max_body"])
    assert re.fullmatch(r"30\.0 +# default", lines["graceful_timeout"])
    help_text = says("--help")
    assert "--forwarded-allow-ips" in help_text
    assert "default: 1024m" in help_text or "default: 1g" in help_text


def test_validate(place: Path) -> None:
    with service(place, "site_app", "--validate", stderr=None) as running:
        assert answer(running.address) == "site"
        assert fetch(running.address, "/wrong").status == 500
    assert "AssertionError" in running.stderr


# ---- unix sockets --------------------------------------------------------------------------------------


def test_a_dead_process_leaves_a_socket_that_is_replaced(place: Path) -> None:
    path = place / "socket"
    with service(place, "site_app", "--bind=unix:socket", status=-signal.SIGKILL) as running:
        running.process.kill()
        running.process.wait(TIMEOUT)
    assert path.is_socket()
    with service(place, "site_app", "--bind=unix:socket"):
        assert answer(path) == "site"
        status, stderr = fails(place, "--bind=unix:socket")
        assert answer(path) == "site"
    assert (status, stderr) == (1, "fastwsgi: can't bind to unix:socket: another process is already listening there\n")
    assert not path.exists()


# ---- starting again ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_reload(place: Path, how: str) -> None:
    pytest.importorskip("watchfiles")
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as sock:  # no other program can get the port
        bind = f"127.0.0.1:{sock.getsockname()[1]}"
        arguments = ["site_app", "--reuse-port", "--bind", bind, *(["--reload"] if how == "flag" else [])]
        variables = {"FASTWSGI_RELOAD": "1"} if how == "variable" else {}
        sock.close()
        with service(place, *arguments, stderr=None, status=None, **variables) as running:
            assert answer(running.address) == "site"
            (place / "site_app.py").write_text(SITE.replace('b"site"', 'b"changed"'), encoding="utf-8")
            assert running.process.stdout is not None
            said = [running.process.stdout.readline() for _ in range(2)]
            assert answer(running.address) == "changed"
            running.signal(signal.SIGINT)
            running.process.wait(TIMEOUT)
    assert said == ["fastwsgi: files changed, restarting\n", running.line]
    assert "Traceback" not in running.stderr
    assert running.status == 0
    with pytest.raises(ConnectionRefusedError):
        connect(running.address)
