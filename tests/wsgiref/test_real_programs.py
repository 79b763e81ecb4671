"""Real programs over real sockets: documented examples, four frameworks, CGI, development servers."""

from __future__ import annotations

import hashlib
import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import quote, urlencode

import pytest

from apps import SITES, STREAM
from clients import Address, exchange, fetch
from programs import Program, curl, program_environment, run_python, running
from servers import serving
from waiting import TIMEOUT

EXAMPLES = Path(__file__).parents[2] / "examples"


# ---- the documentation's two programs ------------------------------------------------------------------

# Runs an unchanged program, except for the package that it imports and the address that it binds.
RUN_EXAMPLE = """
import importlib, signal, sys
package, script, *args = sys.argv[1:]
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever the shell that runs the tests has set
simple_server = importlib.import_module(f"{package}.simple_server")
bind = simple_server.make_server

def make_server(host, port, app):
    server = bind("127.0.0.1", 0, app)
    print(f"bound {port} to {server.server_port}")
    return server

simple_server.make_server = make_server
with open(script, encoding="utf-8") as file:
    text = file.read()
assert text.count("from fastwsgi") == 1
sys.argv[:] = [script, *args]
exec(compile(text.replace("from fastwsgi", f"from {package}"), script, "exec"), {"__name__": "__main__"})
"""


def example(package: str, name: str, *args: str) -> list[str]:
    return ["-W", "error", "-c", RUN_EXAMPLE, package, str(EXAMPLES / name), *args]


@pytest.mark.shared
def test_documentations_hello_world(wsgi: SimpleNamespace) -> None:
    args = example(wsgi.package, "hello.py")
    with running(args, r"bound 8000 to (?P<port>\d+)") as program:
        answer = fetch(program.address, "/")
        fetched = curl(program.address.url + "/any/path?query")
        with_head = curl("--include", program.address.url)
        raw = exchange(program.address, b"GET /last HTTP/1.0\r\n\r\n")
    assert (answer.status, answer.reason, answer.body) == (200, "OK", b"Hello World")
    assert answer.one("Content-Type") == "text/plain; charset=utf-8"
    assert answer.one("Content-Length") == "11"
    assert fetched == b"Hello World"
    for text in (with_head, raw):
        assert re.match(rb"HTTP/1\.[01] 200 OK\r\n", text)
        assert text.endswith(b"\r\n\r\nHello World")
    assert "Serving on port 8000..." in program.stdout
    log = program.stderr.splitlines()
    assert [line.partition('"')[2] for line in log] == [
        'GET / HTTP/1.1" 200 11',
        'GET /any/path?query HTTP/1.1" 200 11',
        'GET / HTTP/1.1" 200 11',
        'GET /last HTTP/1.0" 200 11',
    ]
    assert all(line.startswith("127.0.0.1 - - [") for line in log)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small static site, with a file larger than all buffers."""
    (tmp_path / "index.html").write_text("<p>index</p>", encoding="utf-8")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "index.html").write_text("<p>sub</p>", encoding="utf-8")
    (tmp_path / "plain.txt").write_bytes("grüße\n".encode())
    (tmp_path / "empty.css").write_bytes(b"")
    (tmp_path / "large.json").write_bytes(os.urandom(3_000_001))
    (tmp_path / "grüße.txt").write_bytes(b"unicode name\n")
    return tmp_path


@pytest.mark.shared
def test_documentations_file_server(wsgi: SimpleNamespace, folder: Path) -> None:
    args = example(wsgi.package, "files.py", str(folder), "8123")
    expected = {
        "/": ("index.html", "text/html"),
        "/sub": ("sub/index.html", "text/html"),
        "/plain.txt": ("plain.txt", "text/plain"),
        "/empty.css": ("empty.css", "text/css"),
        "/large.json": ("large.json", "application/json"),
    }
    with running(args, r"bound 8123 to (?P<port>\d+)") as program:
        for target, (name, media_type) in expected.items():
            content = (folder / name).read_bytes()
            answer = fetch(program.address, target)
            assert (answer.status, answer.body) == (200, content), target
            assert answer.one("Content-Type") == media_type
            assert curl(program.address.url + target) == content, target
        missing = fetch(program.address, "/missing.txt")
        report = curl("--write-out", " %{http_code} %{content_type}", program.address.url + "/missing.txt")
        assert exchange(program.address, b"GET / HTTP/1.0\r\n\r\n").endswith(b"<p>index</p>")
        program.process.send_signal(signal.SIGINT)
        program.process.wait(TIMEOUT)
    assert (missing.status, missing.reason, missing.body) == (404, "Not Found", b"not found")
    assert report == b"not found 404 text/plain"
    assert f"Serving {folder} on port 8123, control-C to stop\n" in program.stdout
    assert program.stdout.endswith("Shutting down.\n")
    assert program.status == 0
    assert len(program.stderr.splitlines()) == 2 * len(expected) + 3  # only log lines
    assert "Traceback" not in program.stderr


# ---- frameworks ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["plain", "validated"])
def validated(request: pytest.FixtureRequest) -> bool:
    return request.param == "validated"


@pytest.fixture(scope="module", params=SITES)
def site(request: pytest.FixtureRequest, wsgi: SimpleNamespace, validated: bool) -> Iterator[Address]:
    """A framework's site, served by make_server, directly or through the validator."""
    app = SITES[request.param]()
    if validated:
        app = wsgi.validate.validator(app)

    class Quiet(wsgi.simple_server.WSGIRequestHandler):  # type: ignore[misc, name-defined]
        def log_message(self, *args: object) -> None:
            """Log nothing, because between two tests no test could read it."""

    with serving(wsgi.simple_server.make_server("127.0.0.1", 0, app, handler_class=Quiet)) as address:
        yield address


@pytest.mark.shared
def test_site_get_with_query(site: Address) -> None:
    answer = fetch(site, f"/hello?name={quote('Jürgen & Ko')}")
    assert (answer.status, answer.reason) == (200, "OK")
    assert answer.body.decode() == "Hello Jürgen & Ko!"
    assert answer.one("Content-Type").replace(" ", "") == "text/plain;charset=utf-8"


@pytest.mark.shared
def test_site_post_form(site: Address) -> None:
    body = urlencode({"name": "Ünï", "b": "2 & 3", "a": "1"}).encode()
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = fetch(site, "/form", "POST", body, headers)
    assert answer.status == 200
    assert answer.body.decode() == "a=1\nb=2 & 3\nname=Ünï\n"


@pytest.mark.shared
@pytest.mark.parametrize("size", [0, 1, 100_000])
def test_site_post_upload(site: Address, size: int) -> None:
    body = os.urandom(size)
    answer = fetch(site, "/upload", "POST", body, {"Content-Type": "application/octet-stream"})
    assert answer.status == 200
    assert answer.body.decode() == f"{size} {hashlib.sha256(body).hexdigest()}"


@pytest.mark.shared
def test_site_not_found(site: Address) -> None:
    answer = fetch(site, "/missing")
    assert (answer.status, answer.reason.title()) == (404, "Not Found")


@pytest.mark.shared
@pytest.mark.parametrize("segment", ["grüße", "日本語", "a b", "50%", "a;b=c,d"])
def test_site_unicode_path(site: Address, segment: str) -> None:
    answer = fetch(site, f"/path/{quote(segment)}")
    assert (answer.status, answer.body.decode()) == (200, segment)


@pytest.mark.shared
def test_site_streaming(site: Address) -> None:
    answer = fetch(site, "/stream")
    assert (answer.status, answer.body) == (200, b"".join(STREAM))
    assert answer.all("Content-Length") == []
    assert curl(site.url + "/stream") == b"".join(STREAM)


@pytest.mark.shared
def test_site_cookies(site: Address) -> None:
    answer = fetch(site, "/cookies")
    assert answer.status == 200
    assert [cookie.partition(";")[0] for cookie in answer.all("Set-Cookie")] == ["a=1", "b=2"]


# ---- CGI -----------------------------------------------------------------------------------------------

CGI_SCRIPT = """
import sys
from importlib import import_module

def app(environ, start_response):
    body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    shown = ("REQUEST_METHOD", "SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "HTTP_X_NAME", "wsgi.run_once",
             "wsgi.multithread", "wsgi.multiprocess", "wsgi.url_scheme")
    lines = [f"{name}={environ.get(name)!r}" for name in shown]
    environ["wsgi.errors"].write("logged\\n")
    start_response("201 Created", [("Content-Type", "text/plain"), ("X-Body", body.decode("latin-1"))])
    return ["\\n".join(lines).encode("latin-1")]

package, handler = sys.argv[1:]
getattr(import_module(f"{package}.handlers"), handler)().run(app)
"""


def run_cgi(package: str, handler: str, body: bytes, request: dict[str, str]) -> tuple[bytes, dict[str, str]]:
    """Run the script as a web server would; return the response head, and the data that the application got."""
    base = {name: value for name, value in program_environment().items() if not name.startswith("HTTP")}
    environment = {**base, "GATEWAY_INTERFACE": "CGI/1.1", "SERVER_PROTOCOL": "HTTP/1.1", **request}
    arguments = ("-W", "error", "-c", CGI_SCRIPT, package, handler)
    finished = run_python(*arguments, environment=environment, stdin=body, text=False)
    assert finished.returncode == 0, finished.stderr
    assert finished.stderr.decode().splitlines() == ["logged"]
    head, _, content = finished.stdout.partition(b"\r\n\r\n")
    return head, dict(line.split("=", 1) for line in content.decode("latin-1").split("\n"))


@pytest.mark.shared
def test_cgi_handler_answers_a_request_of_environment_and_stdin(wsgi: SimpleNamespace) -> None:
    request = {
        "REQUEST_METHOD": "POST",
        "SCRIPT_NAME": "/cgi-bin/script",
        "PATH_INFO": "/grüße",
        "QUERY_STRING": "a=1&b=2",
        "CONTENT_TYPE": "text/plain",
        "CONTENT_LENGTH": "9",
        "HTTP_X_NAME": "value",
        "HTTPS": "on",
    }
    head, seen = run_cgi(wsgi.package, "CGIHandler", b"some body and what isn't of it", request)
    assert head.split(b"\r\n")[0] == b"Status: 201 Created"
    assert b"X-Body: some body" in head.split(b"\r\n")
    assert seen == {
        "REQUEST_METHOD": "'POST'",
        "SCRIPT_NAME": "'/cgi-bin/script'",
        "PATH_INFO": repr("/grüße".encode().decode("latin-1")),
        "QUERY_STRING": "'a=1&b=2'",
        "HTTP_X_NAME": "'value'",
        "wsgi.run_once": "True",
        "wsgi.multithread": "False",
        "wsgi.multiprocess": "True",
        "wsgi.url_scheme": "'https'",
    }


@pytest.mark.shared
@pytest.mark.parametrize(
    ("script_name", "path_info", "wanted"),
    [
        ("/app", "/app/page", "/page"),
        ("/app", "/app", ""),
        ("/app", "/application", "/application"),
        ("/app", "/page", "/page"),
        ("", "/page", "/page"),
        ("/a/b", "/a/b/a/b/c", "/a/b/c"),
    ],
)
def test_iis_handler_strips_a_duplicated_path(
    wsgi: SimpleNamespace, script_name: str, path_info: str, wanted: str
) -> None:
    request = {"REQUEST_METHOD": "GET", "SCRIPT_NAME": script_name, "PATH_INFO": path_info}
    head, seen = run_cgi(wsgi.package, "IISCGIHandler", b"", request)
    assert head.startswith(b"Status: 201 Created\r\n")
    assert (seen["SCRIPT_NAME"], seen["PATH_INFO"]) == (repr(script_name), repr(wanted))
    # The plain handler trusts the server.
    assert run_cgi(wsgi.package, "CGIHandler", b"", request)[1]["PATH_INFO"] == repr(path_info)


# ---- programs that import wsgiref, with our modules ------------------------------------------------------

BOTTLE_PROGRAM = """
import sys
from wsgiref.simple_server import WSGIServer

import bottle


class Announcing(WSGIServer):
    def server_activate(self):
        super().server_activate()
        print(f"bound to {self.server_port}, {WSGIServer.__module__}")


@bottle.get("/hello/<name>")
def hello(name):
    return f"Hello {name}!"


bottle.run(server="wsgiref", host="127.0.0.1", port=0, server_class=Announcing)
"""

DJANGO_PROGRAM = """
import sys

from django.conf import settings
from django.core.management import execute_from_command_line
from django.core.servers import basehttp
from django.http import HttpResponse
from django.urls import path


class Urls:
    urlpatterns = [path("hello/<name>", lambda request, name: HttpResponse(f"Hello {name}!"))]


settings.configure(ALLOWED_HOSTS=["*"], DEBUG=True, ROOT_URLCONF=Urls, SECRET_KEY="for tests", USE_TZ=True)
print([base.__module__ for base in basehttp.WSGIServer.__mro__[1:2]])
execute_from_command_line([sys.argv[0], "runserver", "--noreload", "127.0.0.1:0"])
"""

INSTALL = "import fastwsgi; fastwsgi.install()\n"


@pytest.fixture(params=["swap", "install"])
def how(request: pytest.FixtureRequest, leg: str) -> str:
    return str(request.param)


def swapped(how: str, script: Path, text: str) -> list[str]:
    """The arguments that run the program with our modules: unchanged, or with one line added at the start."""
    script.write_text(INSTALL + text if how == "install" else text, encoding="utf-8")
    return ["-m", "fastwsgi.swap", str(script)] if how == "swap" else [str(script)]


def check_hello(program: Program) -> None:
    for _ in range(2):
        answer = fetch(program.address, "/hello/W%C3%B6rld")
        assert (answer.status, answer.body.decode()) == (200, "Hello Wörld!")
    assert fetch(program.address, "/missing").status == 404
    assert curl(program.address.url + "/hello/curl") == b"Hello curl!"
    answer = exchange(program.address, b"GET /hello/raw HTTP/1.0\r\nHost: localhost\r\n\r\n")
    assert answer.endswith(b"\r\n\r\nHello raw!")


def test_bottles_own_server(how: str, tmp_path: Path) -> None:
    args = swapped(how, tmp_path / "site.py", BOTTLE_PROGRAM)
    with running(args, r"bound to (?P<port>\d+)") as program:
        check_hello(program)
    assert "fastwsgi.simple_server" in program.stdout
    assert [line.partition('"')[2] for line in program.stderr.splitlines() if "GET /hello" in line] == [
        'GET /hello/W%C3%B6rld HTTP/1.1" 200 13',
        'GET /hello/W%C3%B6rld HTTP/1.1" 200 13',
        'GET /hello/curl HTTP/1.1" 200 11',
        'GET /hello/raw HTTP/1.0" 200 10',
    ]
    assert "Traceback" not in program.stderr


def test_djangos_runserver(how: str, tmp_path: Path) -> None:
    args = swapped(how, tmp_path / "manage.py", DJANGO_PROGRAM)
    announcement = r"server at http://127\.0\.0\.1:(?P<port>[1-9]\d*)/"
    with running(args, announcement) as program:
        check_hello(program)
    assert "['fastwsgi.simple_server']" in program.stdout
    assert '"GET /hello/raw HTTP/1.0" 200 10' in program.stderr
    assert "Traceback" not in program.stderr
