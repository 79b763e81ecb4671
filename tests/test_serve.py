"""``python -m fastwsgi`` and ``serve()`` as programs: what they say, what they serve, and how they end."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import fastwsgi
from event_servers import CERTIFICATE, GET, Client
from services import SITE, Running, UnixClient, answer, fails, over_unix, service, site_directory
from serving import TIMEOUT, Address, fetch, program_environment, wait_until

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="the tests speak over unix sockets")

ENVIRON = b"GET /environ HTTP/1.1\r\nHost: h\r\n"


@pytest.fixture
def place(leg: str) -> Iterator[Path]:
    with site_directory() as place:
        yield place


def environ_of(client: Client, *fields: str) -> dict[str, Any]:
    """What the site sees of a request with these field lines."""
    client.send(ENVIRON + "".join(f"{each}\r\n" for each in fields).encode("latin-1") + b"\r\n")
    environ: dict[str, Any] = json.loads(client.reply().body)
    return environ


#: The lane and the general path; the pure twin has only the second.
@pytest.fixture(params=["lane", "no lane"])
def path_flag(request: pytest.FixtureRequest, leg: str) -> str:
    return "--fast-lane" if request.param == "lane" else "--no-fast-lane"


# ---- what is served ------------------------------------------------------------------------------------


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
        assert over_unix(path).body == b"site"
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
        client.send(ENVIRON + b"\r\n")  # before there is anybody to answer
        with service(
            place, "site_app", "--threads=1", pass_fds=[fd], launcher=[sys.executable, "-c", LAUNCHER, str(fd)],
            FASTWSGI_BIND="",
        ) as running:  # fmt: skip
            environ = json.loads(client.reply().body)
            assert running.address.port == sock.getsockname()[1]
    assert environ["SERVER_PORT"] == str(sock_port(running))


def sock_port(running: Running) -> int:
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
        ("reload=True", "ValueError: reload is for the command line"),
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
        return subprocess.run(
            [sys.executable, "-W", "error", "-m", "fastwsgi", *arguments], env=program_environment(**environ),
            cwd=place, capture_output=True, encoding="utf-8", timeout=TIMEOUT, check=True,
        ).stdout  # fmt: skip

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


# ---- what can't be served ------------------------------------------------------------------------------


def test_port_in_use(place: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        status, stderr = fails(place, "--bind", f"127.0.0.1:{port}")
    assert (status, stderr) == (1, f"fastwsgi: can't bind to 127.0.0.1:{port}: {os.strerror(98)}\n")


@pytest.mark.parametrize(
    ("arguments", "status", "problem"),
    [
        (["no_such_module"], 1, "fastwsgi: there is no module 'no_such_module'"),
        (["missing.py"], 1, "fastwsgi: can't read '.*missing.py': No such file or directory"),
        (["site_app:missing"], 1, "fastwsgi: module 'site_app' has no missing, but application"),
        (["site_app:nothing"], 1, "fastwsgi: nothing of 'site_app' is not callable, but None"),
        (["site_app:a-b"], 1, "fastwsgi: 'site_app:a-b': 'a-b' is not a name, .*"),
        (["--bind", "nowhere"], 2, "fastwsgi: bind 'nowhere' isn't HOST:PORT, .*"),
        (["--bind", "unix:/no/such/directory/socket"], 1, "fastwsgi: can't bind to unix:/no/.*: No such file .*"),
        (["--certfile", "missing.pem"], 1, "fastwsgi: can't read certfile 'missing.pem'.*: No such file or directory"),
        (["--certfile", "site_app.py"], 1, "fastwsgi: can't read certfile 'site_app.py'.*: .*"),
        (
            ["--certfile", str(CERTIFICATE), "--ca-certs", "missing.pem"],
            1,
            "fastwsgi: can't read ca_certs 'missing.pem': No such file or directory",
        ),
        (
            ["--certfile", str(CERTIFICATE), "--ca-certs", "site_app.py"],
            1,
            "fastwsgi: can't read ca_certs 'site_app.py': .*",
        ),
        (["--access-log", "missing/log"], 1, "fastwsgi: can't write access_log 'missing/log': No such file .*"),
        (["--access-log", "log", "--access-log-format", "%Z"], 2, "fastwsgi: access_log_format has .*'%Z'.*"),
        (["--access-log-format", "%Z"], 2, "fastwsgi: access_log_format has .*'%Z'.*"),
        (["--forwarded-allow-ips", "here"], 2, "fastwsgi: forwarded_allow_ips has 'here', .*"),
        (["--forwarded-fields", "X-Real-IP"], 2, "fastwsgi: forwarded_fields has 'X-Real-IP', .*"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("workers", ["1", "2"])
def test_one_line_says_what_is_wrong(
    place: Path, arguments: list[str], status: int, problem: str, workers: str
) -> None:
    if not any("--bind" in each for each in arguments):
        arguments = [*arguments, "--bind", "127.0.0.1:0"]
    ended, stderr = fails(place, *arguments, "--workers", workers)
    assert re.fullmatch(problem + r"\n", stderr), stderr
    assert ended == status
    assert not (place / "log").exists()


@pytest.mark.parametrize(
    ("arguments", "environ", "problem"),
    [
        (["--threads", "0"], {}, "argument --threads: must be between 1 and 1024, not 0"),
        (["--no-such-flag"], {}, "unrecognized arguments: --no-such-flag"),
        (["a", "b"], {}, "unrecognized arguments: b"),
        ([], {"FASTWSGI_THREADS": "many"}, "FASTWSGI_THREADS must be a whole number, not 'many'"),
        (["--keyfile", "key.pem"], {}, "keyfile 'key.pem' is of no use without certfile"),
        (["--reload", "--workers=2"], {}, "--reload is for one process, and not for --workers"),
    ],
)
def test_wrong_arguments(place: Path, arguments: list[str], environ: dict[str, str], problem: str) -> None:
    status, stderr = fails(place, *arguments, **environ)
    assert status == 2
    assert stderr.startswith("usage: fastwsgi ")
    assert stderr.splitlines()[-1] == f"fastwsgi: error: {problem}"


HIDING = """
import sys

class Hiding:
    def find_spec(self, name, path=None, target=None):
        if name == {name!r}:
            raise ModuleNotFoundError("No module named " + repr(name), name=name)

sys.meta_path.insert(0, Hiding())
from fastwsgi._serve.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize(
    ("flag", "package", "extra"), [("--workers=2", "gunicorn", "workers"), ("--reload", "watchfiles", "reload")]
)
def test_what_must_be_installed(place: Path, flag: str, package: str, extra: str) -> None:
    status, stderr = fails(place, flag, module=["-c", HIDING.format(name=package)])
    assert status == 1
    name = flag.partition("=")[0]
    assert stderr == f"fastwsgi: {name} needs {package}: pip install 'fastwsgi-toolkit[{extra}]'\n"


@pytest.mark.parametrize(
    "line", ["raise ValueError('wrong')", "raise OSError(5, 'wrong')", "import no_such_module", "1 +", "raise KeyError"]
)
@pytest.mark.parametrize("where", ["module", "factory"])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_errors_of_the_program_are_its_own(place: Path, line: str, where: str, workers: str) -> None:
    if where == "module":
        (place / "broken.py").write_text(f"{line}\n", encoding="utf-8")
    else:
        (place / "broken.py").write_text(f"def make():\n    {line}\n", encoding="utf-8")
    status, stderr = fails(place, "broken:make()", "--workers", workers)
    assert status == 1
    assert stderr.startswith("Traceback (most recent call last):\n")
    assert stderr.count("most recent call") == 1
    assert "broken.py" in stderr
    assert "fastwsgi:" not in stderr


@pytest.mark.parametrize(("argument", "status", "says"), [("'wrong'", 1, "wrong\n"), ("7", 7, "")])
@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_program_may_exit(place: Path, argument: str, status: int, says: str, workers: str) -> None:
    (place / "ending.py").write_text(f"import sys\nsys.exit({argument})\n", encoding="utf-8")
    assert fails(place, "ending", "--workers", workers) == (status, says)


# ---- the environ, and what proxies say -----------------------------------------------------------------

USUAL_KEYS = {
    "REQUEST_METHOD", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "REQUEST_URI", "SERVER_NAME", "SERVER_PORT",
    "SERVER_PROTOCOL", "SERVER_SOFTWARE", "GATEWAY_INTERFACE", "REMOTE_ADDR", "REMOTE_PORT", "HTTP_HOST",
    "wsgi.url_scheme", "wsgi.multithread", "wsgi.multiprocess", "wsgi.run_once", "wsgi.input_terminated",
}  # fmt: skip


@pytest.mark.parametrize("threads", ["1", "2"])
def test_environ_has_the_request_and_nothing_else(place: Path, path_flag: str, threads: str) -> None:
    with (
        service(place, "site_app", path_flag, "--threads", threads, OWN="variable", HTTP_OWN="variable") as running,
        Client(running.address) as client,
    ):
        port = client.sock.getsockname()[1]
        for _ in range(3):  # of which the last is made of what is remembered
            environ = environ_of(client)
            assert set(environ) == USUAL_KEYS
        assert environ["REMOTE_PORT"] == str(port)
        assert set(environ_of(client, "Content-Length: 0", "Content-Type: a/b")) == USUAL_KEYS | {
            "CONTENT_LENGTH", "CONTENT_TYPE",
        }  # fmt: skip
    assert environ["SERVER_SOFTWARE"] == f"fastwsgi/{fastwsgi.__version__}"
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("127.0.0.1", str(running.address.port))
    assert (environ["REMOTE_ADDR"], environ["SCRIPT_NAME"]) == ("127.0.0.1", "")
    assert environ["wsgi.multithread"] is (threads == "2")
    assert environ["wsgi.multiprocess"] is environ["wsgi.run_once"] is False
    assert environ["wsgi.input_terminated"] is True


def test_environ_over_a_unix_socket(place: Path, path_flag: str) -> None:
    with service(place, "site_app", path_flag, "--bind", "unix:socket"), UnixClient(place / "socket") as client:
        environ = environ_of(client)
    assert set(environ) == USUAL_KEYS
    assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == ("", "")
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("localhost", "80")


CLAIMS = (
    "X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: evil.example",
    "X-Forwarded-Port: 443", "X-Forwarded-Prefix: /evil", "X-Real-IP: 192.0.2.1",
    "Forwarded: for=192.0.2.1;proto=https;host=evil.example",
)  # fmt: skip


@pytest.mark.parametrize("allow", ["", "192.0.2.0/24", "unix"])
def test_untrusted_claims_never_reach_the_application(place: Path, path_flag: str, allow: str) -> None:
    with (
        service(place, "site_app", path_flag, f"--forwarded-allow-ips={allow}") as running,
        Client(running.address) as client,
    ):
        for fields in [CLAIMS] * 3 + [(each,) for each in CLAIMS]:
            environ = environ_of(client, *fields)
            assert set(environ) == USUAL_KEYS
            assert environ["REMOTE_ADDR"] == "127.0.0.1"
            assert (environ["wsgi.url_scheme"], environ["HTTP_HOST"]) == ("http", "h")


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_trusted_claims_are_applied(place: Path, path_flag: str, kind: str) -> None:
    bind = "127.0.0.1:0" if kind == "tcp" else "unix:socket"
    allow = "127.0.0.1" if kind == "tcp" else "unix"
    arguments = [path_flag, f"--bind={bind}", f"--forwarded-allow-ips={allow}", "--access-log=-"]
    with (
        service(place, "site_app", *arguments) as running,
        Client(running.address) if kind == "tcp" else UnixClient(place / "socket") as client,
    ):
        said = "X-Forwarded-For: 192.0.2.9, 192.0.2.1", "X-Forwarded-Proto: https"
        for _ in range(3):  # of which the last is made of what is remembered
            environ = environ_of(client, *said)
            assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == ("192.0.2.1", "")
            assert (environ["wsgi.url_scheme"], environ["SERVER_PORT"]) == ("https", "443")
            assert environ["HTTP_X_FORWARDED_FOR"] == "192.0.2.9, 192.0.2.1"
        for number in range(5):  # a keep-alive connection of a proxy has many clients
            environ = environ_of(client, f"X-Forwarded-For: 192.0.2.{number}")
            assert (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"]) == (f"192.0.2.{number}", "http")
        environ = environ_of(client)
        assert environ["REMOTE_ADDR"] == ("127.0.0.1" if kind == "tcp" else "")
        unused = environ_of(client, "X-Forwarded-Host: evil.example", "Forwarded: host=evil.example")
        assert set(unused) == USUAL_KEYS
        assert unused["HTTP_HOST"] == "h"
    logged = [line.split()[0] for line in running.stdout.splitlines()[1:]]
    nobody = "127.0.0.1" if kind == "tcp" else "-"
    assert logged == ["192.0.2.1"] * 3 + [f"192.0.2.{number}" for number in range(5)] + [nobody] * 2


def proxy_line(address: str = "192.0.2.7", port: int = 1234) -> bytes:
    return f"PROXY TCP4 {address} 127.0.0.1 {port} 80\r\n".encode()


def proxy_octets(address: str = "192.0.2.7", port: int = 1234) -> bytes:
    addresses = socket.inet_aton(address) + socket.inet_aton("127.0.0.1") + struct.pack("!HH", port, 80)
    return b"\r\n\r\n\0\r\nQUIT\n" + struct.pack("!BBH", 0x21, 0x11, len(addresses)) + addresses


@pytest.mark.parametrize("header", [proxy_line, proxy_octets])
@pytest.mark.parametrize("arrival", ["whole", "byte by byte"])
@pytest.mark.parametrize("threads", ["1", "2"])
def test_proxy_protocol(
    place: Path, path_flag: str, header: Callable[[], bytes], arrival: str, threads: str
) -> None:
    arguments = [path_flag, "--proxy-protocol", "--access-log=-", "--threads", threads]
    with service(place, "site_app", *arguments) as running, Client(running.address) as client:
        client.send(header() + ENVIRON + b"\r\n", arrival)
        environ = json.loads(client.reply().body)
        assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == ("192.0.2.7", "1234")
        for _ in range(3):
            assert environ_of(client)["REMOTE_ADDR"] == "192.0.2.7"
    assert [line.split()[0] for line in running.stdout.splitlines()[1:]] == ["192.0.2.7"] * 4


@pytest.mark.parametrize("header", [proxy_line, proxy_octets])
def test_proxy_protocol_before_tls(place: Path, header: Callable[[], bytes]) -> None:
    with service(place, "site_app", "--proxy-protocol", f"--certfile={CERTIFICATE}") as running:
        client = Client(running.address)
        client.send(header())
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        client.file.close()
        client.sock = context.wrap_socket(client.sock)
        client.file = client.sock.makefile("rb")
        with client:
            environ = environ_of(client)
    assert (environ["REMOTE_ADDR"], environ["wsgi.url_scheme"]) == ("192.0.2.7", "https")


@pytest.mark.parametrize("threads", ["1", "2"])
@pytest.mark.parametrize("arrival", ["whole", "byte by byte"])
@pytest.mark.parametrize(
    "data", [GET, b"PROXY TCP4 192.0.2.1 127.0.0.1 1 x\r\n" + GET, b"PROXY " + b"x" * 200, b"\r\n\r\n\0\r\nQUIT\r"]
)
def test_who_is_no_proxy_gets_no_answer(place: Path, data: bytes, arrival: str, threads: str) -> None:
    with service(place, "site_app", "--proxy-protocol", "--threads", threads) as running:
        client = Client(running.address)
        said = b""
        with contextlib.suppress(ConnectionError):
            client.send(data, arrival)
        with contextlib.suppress(ConnectionError):
            said = client.rest()
        client.close()
        assert said == b""
        with Client(running.address) as other:
            other.send(proxy_line() + GET)
            assert other.reply().body == b"site"


# ---- the access log ------------------------------------------------------------------------------------

STAMP = r"\[\d\d/[A-Z][a-z]{2}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\]"


@pytest.mark.parametrize("threads", ["1", "2"])
@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("format_", ["common", "combined", "json"])
def test_access_log(place: Path, path_flag: str, kind: str, format_: str, threads: str) -> None:
    bind = "127.0.0.1:0" if kind == "tcp" else "unix:socket"
    arguments = [path_flag, "--access-log=log", "--access-log-format", format_, f"--bind={bind}", "--threads", threads]
    with (
        service(place, "site_app", *arguments, stderr=r".* INFO \S+: code 400, message .*\n") as running,
        Client(running.address) if kind == "tcp" else UnixClient(place / "socket") as client,
    ):
        client.send(b'GET /a?b="c" HTTP/1.1\r\nHost: h\r\nReferer: r\r\nUser-Agent: \\ "u"\r\n\r\n')
        assert client.reply().status == 200
        assert client.get("/b").status == 200
        client.send(b"HEAD /c HTTP/1.1\r\nHost: h\r\n\r\n")
        assert client.reply("HEAD").status == 200
        client.send(b"nonsense\r\n\r\n")
        assert client.reply().status == 400
    assert running.stdout == running.line
    lines = (place / "log").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 4
    address = "127.0.0.1" if kind == "tcp" else "-"
    if format_ == "json":
        entries = [json.loads(line) for line in lines]
        assert [each["status"] for each in entries] == [200, 200, 200, 400]
        assert [each["bytes"] for each in entries[:3]] == [4, 4, 0]
        assert [each["target"] for each in entries] == ['/a?b="c"', "/b", "/c", None]
        assert [each["user_agent"] for each in entries] == ['\\ "u"', None, None, None]
        assert {each["remote_address"] for each in entries} == {None if kind == "unix" else address}
        assert all(0 <= each["seconds"] < TIMEOUT for each in entries)
    else:
        more = ["", "", "", ""] if format_ == "common" else [r' "r" "\\\\ \\"u\\""', *[' "-" "-"'] * 3]
        said = [r'"GET /a\?b=\\"c\\" HTTP/1.1" 200 4', '"GET /b HTTP/1.1" 200 4', '"HEAD /c HTTP/1.1" 200 0',
                r'"nonsense" 400 \d+']  # fmt: skip
        for line, request, rest in zip(lines, said, more, strict=True):
            assert re.fullmatch(f"{address} - - {STAMP} {request}{rest}", line), line


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="it's by a signal that the platform hasn't")
@pytest.mark.parametrize("threads", ["1", "2"])
def test_log_that_was_moved_away_is_opened_anew(place: Path, threads: str) -> None:
    log, old = place / "log", place / "old"
    with (
        service(place, "site_app", "--access-log=log", "--threads", threads) as running,
        Client(running.address) as client,
    ):
        # A line is written when the thread is done with what it has, which the client's answer doesn't wait for.
        assert client.get("/before").status == 200
        wait_until(lambda: "/before" in log.read_text(encoding="utf-8"))
        log.rename(old)
        assert client.get("/between").status == 200
        wait_until(lambda: "/between" in old.read_text(encoding="utf-8"))
        running.signal(signal.SIGUSR1)
        wait_until(lambda: client.get("/after").status == 200 and log.exists() and log.stat().st_size)
    targets = [re.findall(r'"GET (\S+)', each.read_text(encoding="utf-8")) for each in (old, log)]
    assert targets[0][:2] == ["/before", "/between"]
    assert set(targets[0][2:] + targets[1]) == set(targets[1]) == {"/after"}


# ---- unix sockets --------------------------------------------------------------------------------------


def test_a_dead_process_leaves_a_socket_that_is_replaced(place: Path) -> None:
    path = place / "socket"
    with service(place, "site_app", "--bind=unix:socket", status=-signal.SIGKILL) as running:
        running.process.kill()
        running.process.wait(TIMEOUT)
    assert path.is_socket()
    with service(place, "site_app", "--bind=unix:socket"):
        assert over_unix(path).body == b"site"
        status, stderr = fails(place, "--bind=unix:socket")
        assert over_unix(path).body == b"site"
    assert (status, stderr) == (1, "fastwsgi: can't bind to unix:socket: a process listens there already\n")
    assert not path.exists()


# ---- starting again ------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_reload(place: Path, how: str) -> None:
    pytest.importorskip("watchfiles")
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as sock:  # nobody else gets the port
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
    assert said == ["fastwsgi: files changed, starting again\n", running.line]
    assert "Traceback" not in running.stderr
    assert running.status == 0
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(running.address, TIMEOUT)
