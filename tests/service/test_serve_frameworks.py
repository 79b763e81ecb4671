"""Flask, Django and Falcon under the command line, in threads and processes, and under gunicorn."""

from __future__ import annotations

import hashlib
import http.client
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlencode

import pytest

import apps
from apps import PARTIES, STREAM
from clients import Address, fetch
from programs import Program, program_environment, running
from waiting import TIMEOUT

FRAMEWORKS = ("flask", "django", "falcon")
#: The command that runs APP, by the name of the server.
SERVERS = {
    "threads": "fastwsgi APP --threads 4",
    "threads, validated": "fastwsgi APP --threads 4 --validate",
    "workers, validated": "fastwsgi APP --workers 2 --threads 2 --validate",
    "gunicorn": "gunicorn APP --workers 2 --worker-class fastwsgi.gunicorn.Worker --config announce.py",
}
GUNICORN_CONFIG = """
control_socket_disable = True  # all of a user's gunicorns would have it in the same place

def when_ready(server):
    print(f"serving on http://127.0.0.1:{server.LISTENERS[0].sock.getsockname()[1]}/", flush=True)
"""
FILE = os.urandom(3_000_001)
TEXT = {"Content-Type": "text/plain"}


class Site(NamedTuple):
    """A served application."""

    framework: str
    server: str
    address: Address


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    (folder / "announce.py").write_text(GUNICORN_CONFIG, encoding="utf-8")
    (folder / "file.bin").write_bytes(FILE)
    return folder


@contextmanager
def serving_site(command: str, framework: str, folder: Path) -> Iterator[Program]:
    """Run a command with a framework's application for APP."""
    environment = program_environment(Path(apps.__file__).parent, SITE_FOLDER=str(folder))
    # gunicorn doesn't close all its sockets, which causes warnings.
    warnings = ["-W", "error", "-W", "ignore::ResourceWarning"]
    args = [*warnings, "-m", *command.replace("APP", f"apps:{framework}_app()").split(), "--bind", "127.0.0.1:0"]
    announcement = r"serving on http://127\.0\.0\.1:(?P<port>\d+)/"
    with running(args, announcement, environment=environment, cwd=folder) as program:
        yield program


@pytest.fixture(scope="module", params=FRAMEWORKS)
def framework(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=SERVERS)
def site(request: pytest.FixtureRequest, framework: str, folder: Path, leg: str) -> Iterator[Site]:
    with serving_site(SERVERS[request.param], framework, folder) as program:
        yield Site(framework, request.param, program.address)
    assert "AssertionError" not in program.stderr, program.stderr  # the validator's
    assert program.status == 0, program.stderr


def multipart(fields: dict[str, str], files: dict[str, tuple[str, bytes]]) -> tuple[bytes, dict[str, str]]:
    """The body and header fields of a form (RFC 7578)."""
    boundary = "boundary"
    body = b""
    for name, value in fields.items():
        body += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
    for name, (filename, content) in files.items():
        disposition = f'Content-Disposition: form-data; name="{name}"; filename="{filename}"'
        body += f"--{boundary}\r\n{disposition}\r\nContent-Type: application/octet-stream\r\n\r\n".encode()
        body += content + b"\r\n"
    return body + f"--{boundary}--\r\n".encode(), {"Content-Type": f"multipart/form-data; boundary={boundary}"}


def digest(content: bytes) -> str:
    return f"{len(content)} {hashlib.sha256(content).hexdigest()}"


# ---- one request after the other -------------------------------------------------------------------------


def test_text_in_queries_paths_and_forms(site: Site) -> None:
    answer = fetch(site.address, f"/hello?name={quote('Jürgen & Ko')}")
    assert (answer.status, answer.body.decode()) == (200, "Hello Jürgen & Ko!")
    answer = fetch(site.address, f"/path/{quote('grüße; a=b')}")
    assert (answer.status, answer.body.decode()) == (200, "grüße; a=b")
    form = urlencode({"name": "Ünï", "b": "2 & 3"}).encode()
    answer = fetch(site.address, "/form", "POST", form, {"Content-Type": "application/x-www-form-urlencoded"})
    assert (answer.status, answer.body.decode()) == (200, "b=2 & 3\nname=Ünï\n")
    assert fetch(site.address, "/missing").status == 404


def test_streaming(site: Site) -> None:
    with closing(http.client.HTTPConnection(*site.address, timeout=TIMEOUT)) as connection:
        for _ in range(3):  # all on the same connection, so that the end of a body isn't the end of the connection
            connection.request("GET", "/stream")
            sock = connection.sock
            response = connection.getresponse()
            assert response.read() == b"".join(STREAM)
            assert response.getheader("Transfer-Encoding") == "chunked"
            assert response.getheader("Content-Length") is None
            assert connection.sock is sock


def test_streaming_that_fails_does_not_look_whole(site: Site) -> None:
    with closing(http.client.HTTPConnection(*site.address, timeout=TIMEOUT)) as connection:
        connection.request("GET", "/broken")
        response = connection.getresponse()
        assert response.status == 200
        with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
            response.read()
    assert fetch(site.address, "/hello?name=you").body == b"Hello you!"


@pytest.mark.parametrize("size", [0, 1000, 5_000_001])
def test_uploaded_files(site: Site, size: int) -> None:
    files = {"small": ("a.txt", b"content\r\n--bound\r\n"), "large": ("b.bin", os.urandom(size))}
    body, fields = multipart({"name": "value", "other": "ä"}, files)
    answer = fetch(site.address, "/multipart", "POST", body, fields)
    expected = {"name": "value", "other": "ä"}
    expected |= {name: f"{filename} {digest(content)}" for name, (filename, content) in files.items()}
    assert answer.status == 200
    assert answer.body.decode().splitlines() == sorted(f"{name}={value}" for name, value in expected.items())


def test_upload_in_chunks(site: Site) -> None:
    pieces = [os.urandom(size) for size in (1, 70_000, 700_000, 3)]
    with closing(http.client.HTTPConnection(*site.address, timeout=TIMEOUT)) as connection:
        for _ in range(2):
            connection.request("POST", "/upload", iter(pieces), {"Content-Type": "application/octet-stream"})
            response = connection.getresponse()
            assert (response.status, response.read().decode()) == (200, digest(b"".join(pieces)))


def test_upload_that_nobody_reads(site: Site) -> None:
    with closing(http.client.HTTPConnection(*site.address, timeout=TIMEOUT)) as connection:
        for _ in range(2):
            connection.request("POST", "/missing", b"GET / HTTP/1.1\r\n\r\n" * 10_000, TEXT)
            response = connection.getresponse()
            assert response.status == 404
            response.read()


def test_sessions(site: Site) -> None:
    cookies: dict[str, str] = {}
    for visit in range(1, 4):
        fields = {"Cookie": "; ".join(f"{name}={value}" for name, value in cookies.items())} if cookies else {}
        answer = fetch(site.address, "/session", headers=fields)
        assert (answer.status, answer.body) == (200, str(visit).encode())
        for cookie in answer.all("Set-Cookie"):
            name, _, value = cookie.partition(";")[0].partition("=")
            cookies[name] = value
    assert fetch(site.address, "/session").body == b"1"


def test_several_cookies(site: Site) -> None:
    answer = fetch(site.address, "/cookies")
    assert [cookie.partition(";")[0] for cookie in answer.all("Set-Cookie")] == ["a=1", "b=2"]


def test_redirect_to_the_host_that_was_asked(site: Site) -> None:
    for host in ("example.com", f"localhost:{site.address.port}", "[::1]:8000"):
        answer = fetch(site.address, "/redirect", headers={"Host": host})
        assert (answer.status, answer.one("Location")) == (302, f"http://{host}/hello?name=you")


def test_head(site: Site) -> None:
    """The answer has the fields of GET and no body, and the connection can be used again."""
    with closing(http.client.HTTPConnection(*site.address, timeout=TIMEOUT)) as connection:
        for target in ("/hello?name=you", "/stream", "/files/file.bin"):
            answers = []
            for method in ("HEAD", "GET"):
                connection.request(method, target)
                sock = connection.sock
                response = connection.getresponse()
                body = response.read()
                assert (response.status, connection.sock) == (200, sock)
                assert bool(body) == (method == "GET"), target
                # RFC 9110 section 9.3.2: fields that depend on the body may be missing.
                left_out = ("date", "content-length", "transfer-encoding", "connection")
                answers.append([item for item in response.getheaders() if item[0].lower() not in left_out])
                if target == "/files/file.bin":
                    assert response.getheader("Content-Length") == str(len(FILE))
            assert answers[0] == answers[1]


def test_file(site: Site) -> None:
    for _ in range(2):
        answer = fetch(site.address, "/files/file.bin")
        assert (answer.status, answer.body == FILE) == (200, True)
        assert answer.one("Content-Length") == str(len(FILE))
    assert fetch(site.address, "/files/file.bin", headers={"Connection": "close"}).body == FILE


def test_file_that_the_client_has(site: Site) -> None:
    answer = fetch(site.address, "/files/file.bin")
    with closing(http.client.HTTPConnection(*site.address, timeout=TIMEOUT)) as connection:
        for modified, status in ((answer.one("Last-Modified"), 304), ("Thu, 01 Jan 1970 00:00:00 GMT", 200)):
            for _ in range(2):
                connection.request("GET", "/files/file.bin", headers={"If-Modified-Since": modified})
                sock = connection.sock
                response = connection.getresponse()
                assert (response.status, response.read()) == (status, FILE if status == 200 else b"")
                assert connection.sock is sock


@pytest.mark.parametrize(
    ("asked", "first", "end"),
    [("0-99", 0, 100), ("1000000-", 1_000_000, len(FILE)), ("-100000", len(FILE) - 100_000, len(FILE))],
)
def test_range_of_a_file(site: Site, asked: str, first: int, end: int) -> None:
    answer = fetch(site.address, "/files/file.bin", headers={"Range": f"bytes={asked}"})
    if site.framework == "django":  # it knows nothing of ranges
        assert (answer.status, answer.body == FILE) == (200, True)
        return
    assert (answer.status, answer.body == FILE[first:end]) == (206, True)
    assert answer.one("Content-Range") == f"bytes {first}-{end - 1}/{len(FILE)}"
    assert answer.one("Content-Length") == str(end - first)


def test_range_outside_of_a_file(site: Site) -> None:
    answer = fetch(site.address, "/files/file.bin", headers={"Range": f"bytes={len(FILE)}-"})
    assert answer.status == (200 if site.framework == "django" else 416)


def test_exception(site: Site) -> None:
    with closing(http.client.HTTPConnection(*site.address, timeout=TIMEOUT)) as connection:
        for target, status in (("/raise", 500), ("/hello?name=you", 200)) * 2:
            connection.request("GET", target)
            response = connection.getresponse()
            assert response.status == status
            assert b"on purpose" not in response.read()


@pytest.mark.parametrize("server", SERVERS)
def test_exceptions_are_logged(server: str, framework: str, folder: Path, leg: str) -> None:
    with serving_site(SERVERS[server], framework, folder) as program:
        assert fetch(program.address, "/raise").status == 500
        with closing(http.client.HTTPConnection(*program.address, timeout=TIMEOUT)) as connection:
            connection.request("GET", "/broken")
            with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
                connection.getresponse().read()
    assert program.stderr.count("\nRuntimeError: raised on purpose\n") == 1, program.stderr
    assert program.stderr.count("\nRuntimeError: broken on purpose\n") == 1, program.stderr


# ---- several at once -------------------------------------------------------------------------------------


def in_threads(task: Callable[[int], None]) -> None:
    """Call a function in several threads at once, each with its number."""
    with ThreadPoolExecutor(PARTIES) as pool:
        list(pool.map(task, range(PARTIES), timeout=TIMEOUT))


def names(body: bytes) -> set[str]:
    return set(body.decode().split())


def test_requests_at_once_do_not_mix(site: Site) -> None:
    """All PARTIES requests are in the application at the same time, if the server has as many threads."""
    together = "&together=yes" if site.server.startswith("threads") else ""

    def ask(number: int) -> None:
        with closing(http.client.HTTPConnection(*site.address, timeout=TIMEOUT)) as connection:
            for turn in range(5):
                name = f"{10 * number + turn:04}"
                connection.request("GET", f"/context?name={name}&pieces=50&size=10000{together}")
                response = connection.getresponse()
                assert response.status == 200
                body = response.read()
                assert (len(body), names(body)) == (500_000, {name})

    in_threads(ask)


def test_uploads_at_once(site: Site) -> None:
    def upload(number: int) -> None:
        with closing(http.client.HTTPConnection(*site.address, timeout=TIMEOUT)) as connection:
            for _ in range(3):
                content = os.urandom(300_000 * (number + 1))
                body, fields = multipart({}, {"file": ("name", content)})
                connection.request("POST", "/multipart", body, fields)
                assert connection.getresponse().read().decode() == f"file=name {digest(content)}\n"

    in_threads(upload)


@pytest.mark.parametrize("options", ["", "--no-fast-lane"])
def test_answers_that_take_turns_do_not_mix(options: str, framework: str, folder: Path, leg: str) -> None:
    """In one thread, an answer waits for a slow client while others continue; each has its own context variables."""
    query = "pieces=300&size=100000"  # many times the size of the sockets' buffers
    with serving_site(f"fastwsgi APP {options}", framework, folder) as program, ExitStack() as stack:
        slow = []
        for name in ("0001", "0002"):
            connection = stack.enter_context(closing(http.client.HTTPConnection(*program.address, timeout=TIMEOUT)))
            connection.request("GET", f"/context?name={name}&{query}")
            slow.append((name, connection.getresponse()))
            assert names_but_threads(fetch(program.address, "/context?name=0003").body) == {"0003"}
        for name, response in slow:
            assert names_but_threads(response.read()) == {name}
    assert "Traceback" not in program.stderr, program.stderr


def names_but_threads(body: bytes) -> set[str]:
    """The names found outside of thread locals, which all answers share because there is only one thread."""
    return {name for line in body.decode().splitlines() for name in line.split()[1:]}
