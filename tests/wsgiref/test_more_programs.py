"""Unmodified programs that use wsgiref's classes and override its hooks, run with our classes."""

from __future__ import annotations

import http.client
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clients import CERTIFICATE, Address, connect, exchange, fetch, trusting
from programs import Program, running
from waiting import TIMEOUT

INSTALL = "import fastwsgi; fastwsgi.install()\n"


@pytest.fixture
def run(wsgi: SimpleNamespace, tmp_path: Path) -> Any:
    """Run a program that prints its port in a new folder: with fastwsgi, or unchanged with wsgiref."""

    @contextmanager
    def run(text: str, *args: str, announcement: str = r"port (?P<port>\d+)") -> Iterator[Program]:
        script = tmp_path / "program.py"
        script.write_text((INSTALL if wsgi.package == "fastwsgi" else "") + text, encoding="utf-8")
        with running([str(script), *args], announcement, cwd=tmp_path) as program:
            yield program
        assert "Traceback" not in program.stderr, program.stderr
        assert f"wsgiref is {wsgi.package}\n" in program.stdout

    return run


# The program prints which implementation it uses.
SAY = """
import wsgiref.simple_server
print("wsgiref is", wsgiref.simple_server.WSGIServer.__module__.partition(".")[0])
"""


# ---- prometheus_client -------------------------------------------------------------------------------

PROMETHEUS = SAY + """
import sys
from prometheus_client import Counter, start_http_server
Counter("served", "What was served").inc(7)
certificate = sys.argv[1] if sys.argv[1:] else None
server, thread = start_http_server(0, "127.0.0.1", certfile=certificate, keyfile=certificate)
print("port", server.server_port)
thread.join()
"""


@pytest.mark.shared
def test_prometheus_client(run: Any) -> None:
    with run(PROMETHEUS) as program, connect(program.address):
        for _ in range(3):
            answer = fetch(program.address, "/metrics", headers={"Accept-Encoding": "gzip"})
            assert (answer.status, answer.one("Content-Encoding")) == (200, "gzip")
            answer = fetch(program.address, "/metrics?name[]=served_total")
            assert answer.one("Content-Type").startswith("text/plain; version=")
            assert b"\nserved_total 7.0\n" in answer.body
        assert fetch(program.address, "/favicon.ico").body == b""
        assert fetch(program.address, "/", "HEAD").body == b""
        assert fetch(program.address, "/", "POST", b"x").status == 405
    assert program.stderr == ""  # its handler logs nothing


@pytest.mark.shared
def test_prometheus_client_over_tls(run: Any) -> None:
    with run(PROMETHEUS, str(CERTIFICATE)) as program:
        for _ in range(3):
            assert b"\nserved_total 7.0\n" in fetch(program.address, "/metrics", tls=trusting()).body
    assert program.stderr == ""


# ---- Django ------------------------------------------------------------------------------------------

DJANGO = SAY + """
import sys, threading
from django.conf import settings
from django.core.management import execute_from_command_line
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path

def tell(request):
    environ = request.META
    return HttpResponse(f"{environ['wsgi.multithread']} {threading.current_thread() is threading.main_thread()}")

def echo(request):
    return HttpResponse(request.body)

def streamed(request):
    return StreamingHttpResponse(iter([b"one ", b"two"]))

class Urls:
    urlpatterns = [path("tell", tell), path("echo", echo), path("streamed", streamed)]

settings.configure(
    ALLOWED_HOSTS=["*"], DEBUG=True, ROOT_URLCONF=Urls, SECRET_KEY="for tests", USE_TZ=True,
    MIDDLEWARE=["django.middleware.common.CommonMiddleware"],  # which sets the Content-Length
)
execute_from_command_line([sys.argv[0], "runserver", "--noreload", *sys.argv[1:], "127.0.0.1:0"])
"""
DJANGO_PORT = r"server at http://127\.0\.0\.1:(?P<port>[1-9]\d*)/"


@pytest.mark.shared
@pytest.mark.parametrize(("args", "told"), [((), b"True False"), (("--nothreading",), b"True True")])
def test_djangos_runserver(run: Any, args: tuple[str, ...], told: bytes) -> None:
    """With threads it keeps connections, an idle one blocks no other, and bodies aren't mistaken for requests."""
    with run(DJANGO, *args, announcement=DJANGO_PORT) as program:
        idle = [connect(program.address) for _ in range(2 if not args else 0)]
        connection = http.client.HTTPConnection(*program.address, timeout=TIMEOUT)
        sockets = set()
        for method, target, body, expected in (
            ("GET", "/tell", None, told),
            ("POST", "/echo", b"x" * 100_000, b"x" * 100_000),
            ("HEAD", "/tell", None, b""),
            ("POST", "/missing", b"unread", None),
            ("GET", "/tell", None, told),
        ):
            connection.request(method, target, body)
            sockets.add(connection.sock)
            answer = connection.getresponse()
            assert answer.status == (200 if expected is not None else 404)
            assert answer.read() == expected or expected is None
        connection.close()
        assert len(sockets) == (1 if not args else 5)
        assert fetch(program.address, "/streamed").body == b"one two"
        for each in idle:
            each.close()
    assert '"HEAD /tell HTTP/1.1" 200' in program.stderr


DJANGO_TESTS = SAY + """
import unittest, urllib.request
import django
from django.conf import settings
from django.http import HttpResponse
from django.urls import path

class Urls:
    urlpatterns = [path("name/<name>", lambda request, name: HttpResponse(f"Hello {name}!"))]

settings.configure(
    ALLOWED_HOSTS=["*"], ROOT_URLCONF=Urls, SECRET_KEY="for tests", USE_TZ=True, STATIC_URL="static/",
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
)
django.setup()
from django.test import LiveServerTestCase
from django.test.utils import setup_databases, setup_test_environment

class Live(LiveServerTestCase):
    def test_one(self):
        for number in range(3):
            with urllib.request.urlopen(f"{self.live_server_url}/name/{number}") as answer:
                self.assertEqual(answer.read().decode(), f"Hello {number}!")

    def test_two(self):
        self.test_one()

setup_test_environment()
setup_databases(verbosity=0, interactive=False)
suite = unittest.defaultTestLoader.loadTestsFromTestCase(Live)
result = unittest.TextTestRunner().run(suite)
print("port 1: ran", result.testsRun, result.wasSuccessful())
"""


@pytest.mark.shared
def test_djangos_live_server_for_tests(run: Any) -> None:
    with run(DJANGO_TESTS) as program:
        program.process.wait(TIMEOUT)
    assert (program.status, "ran 2 True\n" in program.stdout) == (0, True), program.stderr


# ---- Bottle ------------------------------------------------------------------------------------------

# The programs are unchanged, except that they print their port.
ANNOUNCE = SAY + """
bind = wsgiref.simple_server.make_server

def make_server(*args, **kwargs):
    server = bind(*args, **kwargs)
    print("port", server.server_port)
    return server

wsgiref.simple_server.make_server = make_server
"""

BOTTLE = ANNOUNCE + """
import signal, sys
import bottle

signal.signal(signal.SIGINT, signal.default_int_handler)

@bottle.post("/echo")
def echo():
    return bottle.request.body.read()

bottle.run(host=sys.argv[1], port=0, quiet=sys.argv[2] == "quiet")
print("stopped")
"""


@pytest.mark.shared
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("noise", ["quiet", "loud"])
def test_bottles_default_server(run: Any, host: str, noise: str) -> None:
    with run(BOTTLE, host, noise) as program:
        address = Address(host, program.address.port)
        assert fetch(address, "/echo", "POST", b"x" * 100_000).body == b"x" * 100_000
        # Read to the end, because wsgiref treats an interrupt in the middle of a request as the application's error.
        assert b" 404 Not Found\r\n" in exchange(address, b"GET /missing HTTP/1.0\r\n\r\n")
        program.process.send_signal(signal.SIGINT)
        program.process.wait(TIMEOUT)
    assert program.status == 0
    assert program.stdout.endswith("stopped\n")
    assert ('"POST /echo HTTP/1.1" 200 100000' in program.stderr) is (noise == "loud")
    assert program.stderr == "" or noise == "loud"


# ---- google-auth-oauthlib ----------------------------------------------------------------------------

OAUTH = ANNOUNCE + """
import socket, sys, threading, urllib.parse, urllib.request, webbrowser
from google_auth_oauthlib.flow import InstalledAppFlow

class Browser:
    name = "fake"
    got = []
    threads = []
    idle = []

    def open(self, url, new=0, autoraise=True):
        query = urllib.parse.parse_qs(urllib.parse.urlsplit(url).query)
        back, state = query["redirect_uri"][0], query["state"][0]
        if sys.argv[1] == "idle first":  # as browsers do: a connection that may be of use later
            self.idle.append(socket.create_connection((urllib.parse.urlsplit(back).hostname,
                                                       urllib.parse.urlsplit(back).port)))
        if sys.argv[1] != "nobody":
            self.threads.append(threading.Thread(target=self.fetch, args=(f"{back}?state={state}&code=4%2Fabc",)))
            self.threads[-1].start()
        return True

    def fetch(self, url):
        with urllib.request.urlopen(url, timeout=30) as answer:
            self.got = ["browser:", answer.status, answer.headers["Content-Type"], answer.read().decode()]

browser = Browser()
webbrowser.register("fake", None, browser, preferred=True)
config = {"installed": {"client_id": "id", "client_secret": "secret", "auth_uri": "https://auth.example/auth",
                        "token_uri": "https://auth.example/token"}}
flow = InstalledAppFlow.from_client_config(config, scopes=["one"])

def fetch_token(**kwargs):
    print("token:", kwargs["authorization_response"].partition("?")[2].partition("&")[2])
    flow.oauth2session.token = {"access_token": "granted", "expires_at": 0}

flow.fetch_token = fetch_token
try:
    credentials = flow.run_local_server(port=0, timeout_seconds=0.2 if sys.argv[1] == "nobody" else 30)
    print("credentials:", credentials.token)
except AttributeError as error:
    print("error:", error)
for thread in Browser.threads:
    thread.join()
print(*browser.got)
print("port 1: done")
"""


@pytest.mark.skipif(sys.implementation.name != "cpython", reason="its dependencies aren't built for PyPy")
@pytest.mark.shared
@pytest.mark.parametrize("browser", ["at once", "nobody", "idle first"])
def test_google_auth_oauthlib(run: Any, browser: str, wsgi: SimpleNamespace) -> None:
    """It answers one request by handle_request() with a timeout; an idle connection doesn't delay it."""
    if (wsgi.package, browser) == ("wsgiref", "idle first"):
        pytest.skip("it would wait for the first connection for ever")
    with run(OAUTH, browser, announcement=r"port (?P<port>1): done") as program:
        program.process.wait(TIMEOUT)
    said = program.stdout.splitlines()
    if browser == "nobody":
        assert "error: Timed out waiting for response from authorization server" in said
    else:
        assert "token: code=4%2Fabc" in said
        assert "credentials: granted" in said
        assert any(re.match("browser: 200 text/plain; ?charset=utf-8 The authentication flow", line) for line in said)
    assert program.status == 0


# ---- MkDocs ------------------------------------------------------------------------------------------

MKDOCS = ANNOUNCE + """
import pathlib, signal
from mkdocs.livereload import LiveReloadServer

signal.signal(signal.SIGINT, signal.default_int_handler)
root = pathlib.Path("site")
root.mkdir()
(root / "sub").mkdir()
(root / "index.html").write_text("<body>first</body>")
(root / "sub" / "index.html").write_text("<body>sub</body>")
(root / "large.bin").write_bytes(b"x" * 3_000_001)
source = pathlib.Path("source.md")
source.write_text("first")

def build():
    (root / "index.html").write_text(f"<body>{source.read_text()}</body>")

class Announcing(LiveReloadServer):
    def server_activate(self):
        super().server_activate()
        print("port", self.server_port)

server = Announcing(build, "127.0.0.1", 0, "site", "/docs/", polling_interval=0.05, shutdown_delay=0.05)
server.error_handler = lambda code: b"custom %d" % code
server.watch(".", recursive=False)

try:
    server.serve()
except KeyboardInterrupt:
    server.shutdown(wait=True)
print("stopped")
"""


@pytest.mark.shared
def test_mkdocs_live_reload(run: Any, tmp_path: Path) -> None:
    """Each connection has a thread: browsers wait in a long poll for the next build, and other clients are served."""
    with run(MKDOCS) as program:
        address = program.address
        page = fetch(address, "/docs/").body.decode()
        epoch = re.search(r"livereload\((\d+), (\d+)\);", page)
        assert page.startswith("<body>first<script>")
        assert epoch
        poll = http.client.HTTPConnection(*address, timeout=TIMEOUT)
        poll.request("GET", f"/livereload/{epoch[1]}/{epoch[2]}")
        with connect(address):
            assert fetch(address, "/docs/large.bin").body == b"x" * 3_000_001
            assert fetch(address, "/docs/sub").one("Location") == "/docs/sub/"
            assert fetch(address, "/").one("Location") == "/docs/"
            missing = fetch(address, "/docs/missing")
        assert (missing.status, missing.body) == (404, b"custom 404")
        (tmp_path / "source.md").write_text("second", encoding="utf-8")
        assert int(poll.getresponse().read()) > int(epoch[1])
        poll.close()
        assert fetch(address, "/docs/").body.startswith(b"<body>second<script>")
        program.process.send_signal(signal.SIGINT)
        program.process.wait(TIMEOUT)
    assert (program.status, program.stdout.splitlines()[-1]) == (0, "stopped")
