"""The environ and the access log of a service's requests, also behind proxies."""

from __future__ import annotations

import contextlib
import json
import re
import signal
import socket
import ssl
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

import fastwsgi
from clients import CERTIFICATE, GET, Client
from services import ENVIRON, environ_of, service
from waiting import TIMEOUT, wait_until

pytestmark = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="the tests speak over unix sockets")


#: The fast lane and the general path; the pure twin has only the latter.
@pytest.fixture(params=["lane", "no lane"])
def path_flag(request: pytest.FixtureRequest, leg: str) -> str:
    return "--fast-lane" if request.param == "lane" else "--no-fast-lane"


# ---- the environ, and the fields of proxies ------------------------------------------------------------

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
        for _ in range(3):  # the lane makes the last one from its memo
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
    with service(place, "site_app", path_flag, "--bind", "unix:socket"), Client(place / "socket") as client:
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
        Client(running.address) if kind == "tcp" else Client(place / "socket") as client,
    ):
        said = "X-Forwarded-For: 192.0.2.9, 192.0.2.1", "X-Forwarded-Proto: https"
        for _ in range(3):  # the lane makes the last one from its memo
            environ = environ_of(client, *said)
            assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == ("192.0.2.1", "")
            assert (environ["wsgi.url_scheme"], environ["SERVER_PORT"]) == ("https", "443")
            assert environ["HTTP_X_FORWARDED_FOR"] == "192.0.2.9, 192.0.2.1"
        for number in range(5):  # a proxy's connection carries requests of many clients
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
    log = place / "log"

    def wait_for_line(number: int) -> None:
        """Wait for a log line: its thread writes it after its work, perhaps after another thread's next answer."""
        wait_until(lambda: log.read_text(encoding="utf-8").count("\n") == number)

    with (
        service(place, "site_app", *arguments, stderr=r".* INFO \S+: code 400, message .*\n") as running,
        Client(running.address) if kind == "tcp" else Client(place / "socket") as client,
    ):
        client.send(b'GET /a?b="c" HTTP/1.1\r\nHost: h\r\nReferer: r\r\nUser-Agent: \\ "u"\r\n\r\n')
        assert client.reply().status == 200
        wait_for_line(1)
        assert client.get("/b").status == 200
        wait_for_line(2)
        client.send(b"HEAD /c HTTP/1.1\r\nHost: h\r\n\r\n")
        assert client.reply("HEAD").status == 200
        wait_for_line(3)
        client.send(b"nonsense\r\n\r\n")
        assert client.reply().status == 400
    assert running.stdout == running.line
    lines = log.read_text(encoding="utf-8").splitlines()
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


@pytest.mark.skipif(not hasattr(signal, "SIGUSR1"), reason="this platform lacks the signal")
@pytest.mark.parametrize("threads", ["1", "2"])
def test_log_that_was_moved_away_is_opened_anew(place: Path, threads: str) -> None:
    log, old = place / "log", place / "old"
    with (
        service(place, "site_app", "--access-log=log", "--threads", threads) as running,
        Client(running.address) as client,
    ):
        # A thread writes its lines after its work, so a client may have its answer before the line is written.
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
