"""curl, a browser and nginx as clients of make_server scripts and of the command line."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import apps
import clients
from clients import Address, connect, fetch
from nginx import in_front_of, nginx
from programs import Program, curl, program_path, run, run_curl, running
from waiting import TIMEOUT

CERTIFICATE = str(clients.CERTIFICATE)
TLS = ("--certfile", CERTIFICATE)
HTTP = r"serving on http://127\.0\.0\.1:(?P<port>\d+)/"
HTTPS = r"serving on https://127\.0\.0\.1:(?P<port>\d+)/"

#: A site with a page and its resources, a view of the request, and a stream; and the script of the documentation.
SITE = r'''
import base64, hashlib, json

PAGE = b"""<!DOCTYPE html>
<title>Page</title>
<link rel="stylesheet" href="style.css">
<p id="told">nothing</p>
<img id="image" src="image.png">
<script src="script.js"></script>
"""
SCRIPT = b"""
addEventListener("load", async () => {
  const told = document.getElementById("told"), image = document.getElementById("image");
  const answer = await fetch("tell?by=fetch", {method: "POST", body: "12345"});
  const {method, query, body} = await answer.json();
  const seen = [method, query, body, image.naturalWidth, getComputedStyle(told).color, document.cookie];
  told.textContent = seen.join(" ");
  await fetch("report", {method: "POST", body: told.textContent});
});
"""
IMAGE = "iVBORw0KGgoAAAANSUhEUgAAAAMAAAACCAIAAAASFvFNAAAAEUlEQVR4nGP4z8AARAwQCgAf7gP9i18U1AAAAABJRU5ErkJggg=="
FILES = {
    "/": ("text/html", PAGE),
    "/style.css": ("text/css", b"p { color: rgb(1, 2, 3) }"),
    "/script.js": ("text/javascript", SCRIPT),
    "/image.png": ("image/png", base64.b64decode(IMAGE)),
}
TOLD = {
    "method": "REQUEST_METHOD", "query": "QUERY_STRING", "protocol": "SERVER_PROTOCOL", "scheme": "wsgi.url_scheme",
    "host": "HTTP_HOST", "length": "CONTENT_LENGTH", "coding": "HTTP_TRANSFER_ENCODING", "expect": "HTTP_EXPECT",
    "address": "REMOTE_ADDR", "port": "REMOTE_PORT", "forwarded": "HTTP_X_FORWARDED_FOR",
}


def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path in FILES:
        kind, body = FILES[path]
        start_response("200 OK", [("Content-Type", kind), ("Set-Cookie", "a=b")])
        return [body]
    if path == "/tell":
        told = {name: environ.get(key) for name, key in TOLD.items()}
        digest, size, input = hashlib.sha256(), 0, environ["wsgi.input"]
        while block := input.read(65536):
            digest.update(block)
            size += len(block)
        told.update(body=size, digest=digest.hexdigest())
        start_response("200 OK", [("Content-Type", "application/json")])
        return [json.dumps(told).encode()]
    if path == "/stream":
        start_response("200 OK", [("Content-Type", "text/plain")])
        return (b"piece %d\n" % number for number in range(1000))
    if path == "/report":
        print("reported:", environ["wsgi.input"].read().decode(), flush=True)
        start_response("204 No Content", [])
        return []
    start_response("404 Not Found", [("Content-Type", "text/plain")])
    return [b"not found"]


if __name__ == "__main__":
    from fastwsgi.simple_server import make_server

    with make_server("127.0.0.1", 0, app) as server:
        print(f"serving on http://127.0.0.1:{server.server_port}/", flush=True)
        server.serve_forever()
'''
STREAM = b"".join(b"piece %d\n" % number for number in range(1000))

SERVERS = {
    "script": ("page.py",),
    "one thread": ("-m", "fastwsgi", "page.py:app", "--bind", "127.0.0.1:0"),
    "threads": ("-m", "fastwsgi", "page.py:app", "--bind", "127.0.0.1:0", "--threads", "4"),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clients")
    (folder / "page.py").write_text(SITE, encoding="utf-8")
    return folder


@contextmanager
def serving_site(folder: Path, *args: str, announcement: str = HTTP) -> Iterator[Program]:
    """Run the site by one of SERVERS."""
    with running(["-W", "error", *args], announcement, cwd=folder) as program:
        yield program
    assert "Traceback" not in program.stderr, program.stderr
    assert program.status in (0, -15), program.stderr


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest, folder: Path, leg: str) -> Iterator[Address]:
    with serving_site(folder, *SERVERS[request.param]) as program:
        yield program.address


@pytest.fixture(params=[1, 4], ids=["one thread", "threads"])
def serve(request: pytest.FixtureRequest, folder: Path, leg: str) -> Any:
    """Serve by our command line with options."""

    def serve(*options: str, application: str = "page.py:app", announcement: str = HTTP) -> Any:
        args = ["-m", "fastwsgi", application, "--threads", str(request.param), *options]
        return serving_site(folder, *args, announcement=announcement)

    return serve


# ---- curl --------------------------------------------------------------------------------------------


def curl_told(*args: str) -> dict[str, Any]:
    """The site's view of curl's request."""
    return dict(json.loads(curl(*args)))


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_curl_http_1_0(server: Address) -> None:
    told = curl_told("--http1.0", f"{server.url}/tell?a=b")
    assert (told["method"], told["query"], told["protocol"]) == ("GET", "a=b", "HTTP/1.0")
    head, _, body = curl("--http1.0", "--include", f"{server.url}/stream").partition(b"\r\n\r\n")
    assert body == STREAM
    assert b"transfer-encoding" not in head.lower()
    assert b"\r\nConnection: close" in head


def test_curl_http_1_0_that_wants_to_stay(server: Address) -> None:
    url, out = f"{server.url}/tell", ("--output", os.devnull)
    asking = ("--http1.0", "--header", "Connection: keep-alive")
    assert b"\r\nConnection: keep-alive\r\n" in curl(*asking, "--include", url)
    assert curl(*asking, "--write-out", "%{num_connects}", *out, url, *out, url) == b"10"
    assert curl("--http1.0", "--write-out", "%{num_connects}", *out, url, *out, url) == b"11"


def test_curl_http_1_1_on_one_connection(server: Address) -> None:
    args = []
    for target in ("/tell", "/stream", "/missing", "/", "/tell"):
        args += ["--output", os.devnull, server.url + target]
    assert curl("--http1.1", "--write-out", "%{http_code} %{num_connects}\n", *args).splitlines() == [
        b"200 1",
        b"200 0",
        b"404 0",
        b"200 0",
        b"200 0",
    ]
    head, _, body = curl("--http1.1", "--include", f"{server.url}/stream").partition(b"\r\n\r\n")
    assert body == STREAM
    assert b"\r\nTransfer-Encoding: chunked" in head


def test_curl_several_at_once(server: Address) -> None:
    urls = [f"{server.url}/stream"] * 20
    assert curl("--parallel", "--parallel-immediate", *urls).count(b"piece 999\n") == len(urls)


def test_curl_http_2_that_is_not_spoken(server: Address) -> None:
    """A request with Upgrade is answered in HTTP/1.1 (RFC 9113 section 3.1); without it, HTTP/2 is a bad request."""
    assert curl_told("--http2", f"{server.url}/tell")["protocol"] == "HTTP/1.1"
    assert run_curl("--http2-prior-knowledge", f"{server.url}/tell").returncode != 0
    assert curl_told(f"{server.url}/tell")["method"] == "GET"


def test_curl_head(server: Address) -> None:
    with_body = curl("--include", f"{server.url}/style.css").partition(b"\r\n\r\n")
    head = curl("--head", f"{server.url}/style.css")
    assert re.sub(rb"\r\nDate: [^\r]*", b"", head) == re.sub(rb"\r\nDate: [^\r]*", b"", with_body[0]) + b"\r\n\r\n"
    counts = curl("--head", "--output", os.devnull, "--output", os.devnull, "--write-out", "%{num_connects}",
                  f"{server.url}/stream", f"{server.url}/")  # fmt: skip
    assert counts == b"10"


@pytest.fixture
def upload(tmp_path: Path) -> Path:
    path = tmp_path / "upload.bin"
    path.write_bytes(os.urandom(2_000_000))
    return path


def test_curl_upload_that_waits_to_be_asked(server: Address, upload: Path) -> None:
    finished = run_curl(
        "--verbose", "--expect100-timeout", str(TIMEOUT), "--upload-file", str(upload), f"{server.url}/tell"
    )
    assert finished.returncode == 0, finished.stderr
    assert re.search(rb"> Expect: 100-continue\r\n.*\n< HTTP/1\.1 100 Continue\r\n", finished.stderr, re.DOTALL)
    told = json.loads(finished.stdout)
    assert (told["method"], told["body"], told["digest"]) == ("PUT", 2_000_000, digest(upload.read_bytes()))


def test_curl_upload_of_unknown_length(server: Address, upload: Path) -> None:
    for args in (["--header", "Expect:"], []):
        told = curl_told(
            "--header", "Transfer-Encoding: chunked", *args, "--upload-file", str(upload), f"{server.url}/tell"
        )
        assert (told["body"], told["digest"]) == (2_000_000, digest(upload.read_bytes()))
        assert (told["length"], told["coding"]) == ("2000000", None)


def test_curl_uploads_on_one_connection(server: Address, upload: Path) -> None:
    url = f"{server.url}/missing"  # nothing reads these
    args = ["--data-binary", f"@{upload}", "--write-out", "%{http_code} %{num_connects}\n"]
    out = ["--output", os.devnull]
    assert curl(*args, *out, url, *out, url, *out, url) == b"404 1\n404 0\n404 0\n"


def test_curl_over_tls(serve: Any) -> None:
    with serve("--bind", "127.0.0.1:0", *TLS, announcement=HTTPS) as program:
        port = program.address.port
        names = ("--resolve", f"localhost:{port}:127.0.0.1")
        for host in ("127.0.0.1", "localhost"):
            for version in ("1.2", "1.3"):
                tls = (f"--tlsv{version}", "--tls-max", version, "--cacert", CERTIFICATE, *names)
                told = curl_told(*tls, f"https://{host}:{port}/tell")
                assert (told["scheme"], told["host"]) == ("https", f"{host}:{port}")
        url = f"https://127.0.0.1:{port}"
        assert curl_told("--insecure", f"{url}/tell")["protocol"] == "HTTP/1.1"
        assert curl("--insecure", "--http1.0", f"{url}/stream") == STREAM
        counts = curl("--insecure", "--write-out", "%{num_connects}", "--output", os.devnull, f"{url}/stream",
                      "--output", os.devnull, f"{url}/tell")  # fmt: skip
        assert counts == b"10"
        assert run_curl(f"{url}/tell").returncode == 60  # curl doesn't know the certificate
        assert run_curl(f"http://127.0.0.1:{port}/tell").returncode != 0
        assert curl_told("--insecure", f"{url}/tell")["method"] == "GET"


def test_curl_with_a_certificate_of_its_own(serve: Any) -> None:
    with serve("--bind", "127.0.0.1:0", *TLS, "--ca-certs", CERTIFICATE, announcement=HTTPS) as program:
        url = f"https://127.0.0.1:{program.address.port}/tell"
        assert curl_told("--cacert", CERTIFICATE, "--cert", CERTIFICATE, url)["scheme"] == "https"
        assert run_curl("--cacert", CERTIFICATE, url).returncode != 0


def test_curl_uploads_over_tls(serve: Any, upload: Path) -> None:
    with serve("--bind", "127.0.0.1:0", *TLS, announcement=HTTPS) as program:
        url = f"https://127.0.0.1:{program.address.port}/tell"
        for args in (["--expect100-timeout", str(TIMEOUT)], ["--header", "Transfer-Encoding: chunked"]):
            told = curl_told("--cacert", CERTIFICATE, *args, "--upload-file", str(upload), url)
            assert (told["body"], told["digest"]) == (2_000_000, digest(upload.read_bytes()))


def test_curl_ipv6(serve: Any) -> None:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        pytest.skip("there is no IPv6")
    with serve("--bind", "[::1]:0", announcement=r"serving on http://\[::1\]:(?P<port>\d+)/") as program:
        host = f"[::1]:{program.address.port}"
        told = curl_told(f"http://{host}/tell")
    assert (told["address"], told["host"], told["protocol"]) == ("::1", host, "HTTP/1.1")


def test_curl_unix_socket(serve: Any, folder: Path, upload: Path) -> None:
    with serve("--bind", "127.0.0.1:0", "--bind", "unix:socket") as program:
        unix = ("--unix-socket", str(folder / "socket"))
        told = curl_told(*unix, "--upload-file", str(upload), "http://any.name/tell")
        assert (told["host"], told["address"], told["body"]) == ("any.name", "", 2_000_000)
        assert curl(*unix, "--http1.0", "http://any.name/stream") == STREAM
        assert curl_told(f"{program.address.url}/tell")["address"] == "127.0.0.1"
    assert not (folder / "socket").exists()


def test_curl_proxy_protocol(serve: Any, folder: Path) -> None:
    with serve("--bind", "127.0.0.1:0", "--bind", "unix:socket", "--proxy-protocol") as program:
        url = f"{program.address.url}/tell"
        unix = ("--unix-socket", str(folder / "socket"))
        for where in ((), unix):
            assert curl_told("--haproxy-protocol", *where, url)["method"] == "GET"
            assert run_curl(*where, url).returncode != 0  # without the header, no client is served


def test_curl_proxy_protocol_before_tls(serve: Any) -> None:
    with serve("--bind", "127.0.0.1:0", "--proxy-protocol", *TLS, announcement=HTTPS) as program:
        url = f"https://127.0.0.1:{program.address.port}/tell"
        told = curl_told("--haproxy-protocol", "--cacert", CERTIFICATE, url)
        assert (told["address"], told["scheme"]) == ("127.0.0.1", "https")


def test_curl_resumes_a_download(serve: Any, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = os.urandom(1_000_000)
    (folder / "large.bin").write_bytes(content)
    monkeypatch.setenv("SITE_FOLDER", str(folder))
    application = apps.__file__ + ":flask_app()"
    with serve("--bind", "127.0.0.1:0", application=application) as program:
        url = f"{program.address.url}/files/large.bin"
        assert curl("--range", "1000-1999", url) == content[1000:2000]
        part = tmp_path / "part"
        part.write_bytes(content[:300_000])
        status = curl("--continue-at", "-", "--output", str(part), "--write-out", "%{http_code}", url)
        assert (status, part.read_bytes() == content) == (b"206", True)
        stamp = curl("--head", url).partition(b"Last-Modified: ")[2].partition(b"\r\n")[0].decode()
        assert curl("--time-cond", stamp, "--write-out", "%{http_code}", url) == b"304"


# ---- a browser ---------------------------------------------------------------------------------------


CHROMIUM_OPTIONS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--ignore-certificate-errors",
)  # fmt: skip
#: The page's report when everything was loaded.
SEEN = "POST by=fetch 5 3 rgb(1, 2, 3) a=b"


def chromium(profile: Path, *args: str) -> list[str]:
    """The arguments to run it with a new profile."""
    return [program_path("chromium"), *CHROMIUM_OPTIONS, f"--user-data-dir={profile}", *args]


def rendered(profile: Path, url: str) -> str:
    """A page's DOM, after its script has run."""
    # The browser's virtual clock stops during a request, so this isn't a time limit.
    args = chromium(profile, "--virtual-time-budget=5000", "--dump-dom", url)
    return str(run(*args, check=True).stdout)


def requested(log: str) -> list[str]:
    """The request lines in an access log, except those that a browser sends or not."""
    return sorted(line for line in re.findall('"([^"]*)"', log) if "favicon" not in line)


PAGE_REQUESTS = [
    "GET / HTTP/1.1",
    "GET /image.png HTTP/1.1",
    "GET /script.js HTTP/1.1",
    "GET /style.css HTTP/1.1",
    "POST /report HTTP/1.1",
    "POST /tell?by=fetch HTTP/1.1",
]


@pytest.fixture(params=SERVERS)
def server_name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_page_in_a_browser(server_name: str, folder: Path, tmp_path: Path, leg: str) -> None:
    logging = () if server_name == "script" else ("--access-log", str(tmp_path / "log"))
    with serving_site(folder, *SERVERS[server_name], *logging) as program:
        assert f">{SEEN}</p>" in rendered(tmp_path / "profile", f"{program.address.url}/")
    log = program.stderr if server_name == "script" else (tmp_path / "log").read_text()
    assert requested(log) == PAGE_REQUESTS
    assert program.stdout.count("reported:") == 1


def test_page_in_a_browser_over_tls(serve: Any, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with serve("--bind", "127.0.0.1:0", *TLS, "--access-log", str(log), announcement=HTTPS) as program:
        page = rendered(tmp_path / "profile", f"https://127.0.0.1:{program.address.port}/")
        assert f">{SEEN}</p>" in page
    assert requested(log.read_text()) == PAGE_REQUESTS


def test_browser_that_stays_blocks_nobody(server_name: str, folder: Path, tmp_path: Path, leg: str) -> None:
    """It keeps its connections and opens spare ones; they stay open, and other clients are served."""
    with serving_site(folder, *SERVERS[server_name]) as program, ExitStack() as stack:
        args = chromium(tmp_path / "profile", "--remote-debugging-port=0", f"{program.address.url}/")
        browser = stack.enter_context(
            subprocess.Popen(args, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )
        stack.callback(browser.kill)
        said = iter(program.process.stdout or ())
        assert next(line for line in said if line.startswith("reported:")) == f"reported: {SEEN}\n"
        for _ in range(8):
            stack.enter_context(connect(program.address))
        for _ in range(10):
            assert fetch(program.address, "/stream").body == STREAM
        assert browser.poll() is None


# ---- a proxy -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("server_name", "by"),
    [("script", "TCP"), *((name, by) for name in ("one thread", "threads") for by in ("TCP", "unix"))],
)
def test_behind_nginx(server_name: str, by: str, folder: Path, tmp_path: Path, upload: Path, leg: str) -> None:
    """nginx keeps connections to the server, forwards all kinds of requests, and names the client."""
    args = list(SERVERS[server_name])
    if server_name != "script":
        args += ["--forwarded-allow-ips", "127.0.0.1,unix"]
        args += ["--bind", "unix:socket"] if by == "unix" else []
    with serving_site(folder, *args) as program:
        upstream = f"unix:{folder}/socket" if by == "unix" else f"127.0.0.1:{program.address.port}"
        with nginx(tmp_path, in_front_of(upstream)) as (proxy,):
            told = [json.loads(fetch(proxy, "/tell?a=b").body) for _ in range(20)]
            if server_name == "script":  # it trusts no peer, so it logs the proxy's address
                assert len({each["port"] for each in told}) == 1  # nginx has opened one connection
                assert all(each["forwarded"] == "127.0.0.1" for each in told)
            assert all((each["address"], each["query"]) == ("127.0.0.1", "a=b") for each in told)
            assert told[0]["host"] == f"127.0.0.1:{proxy.port}"
            assert curl(*[f"{proxy.url}/stream"] * 3) == STREAM * 3
            assert curl("--head", "--write-out", "%{http_code}", f"{proxy.url}/stream").endswith(b"200")
            assert fetch(proxy, "/missing").status == 404
            for target in ("/tell", "/at-once/tell"):
                for coding in ([], ["--header", "Transfer-Encoding: chunked"]):
                    answer = curl_told(*coding, "--upload-file", str(upload), proxy.url + target)
                    assert (answer["body"], answer["digest"]) == (2_000_000, digest(upload.read_bytes()))
            urls = [f"{proxy.url}/at-once/stream"] * 50
            assert curl("--parallel", "--parallel-max", "20", *urls).count(b"piece 999\n") == 50
