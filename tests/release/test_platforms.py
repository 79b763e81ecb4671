"""Platforms without some system calls or modules: everything can be imported, and servers serve."""

from __future__ import annotations

import signal
import sys

import pytest

from clients import fetch
from programs import running

# The functions and modules that each platform lacks. They are removed before anything else is imported.
LACKS = {
    "macOS": {"select": ["epoll", "EPOLLET", "EPOLLRDHUP"], "os": ["posix_fallocate"], "socket": ["SO_BINDTODEVICE"]},
    "Windows": {
        "select": ["epoll", "kqueue", "poll", "devpoll", "EPOLLET", "EPOLLRDHUP"],
        "os": ["fork", "sendfile", "pread", "set_blocking", "O_NOFOLLOW", "O_CLOEXEC"],
        "socket": ["SO_REUSEPORT", "SO_ACCEPTCONN", "MSG_DONTWAIT", "MSG_NOSIGNAL"],
        "signal": ["SIGUSR1", "SIGHUP", "SIGQUIT"],
    },
}
MISSING_MODULES = {"macOS": [], "Windows": ["fcntl", "resource", "pwd", "grp"]}

PROGRAM = """
import importlib, sys
lacks, missing, face, threads = {lacks!r}, {missing!r}, {face!r}, {threads!r}
for module, names in lacks.items():
    for name in names:
        if hasattr(importlib.import_module(module), name):
            delattr(sys.modules[module], name)
for module in missing:
    sys.modules[module] = None

def app(environ, start_response):
    start_response("200 OK", [("Content-Type", "text/plain")])
    if environ["PATH_INFO"] == "/file":
        return environ["wsgi.file_wrapper"](open({file!r}, "rb"))
    return [environ["wsgi.input"].read() or b"hello"]

if face == "serve":
    import fastwsgi
    fastwsgi.serve(app, "127.0.0.1:0", threads=threads)
else:
    from fastwsgi.simple_server import explain, make_server
    with make_server("127.0.0.1", 0, app) as server:
        assert explain(server).path == "event-driven"
        print(f"serving on http://127.0.0.1:{{server.server_port}}/", flush=True)
        server.serve_forever()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="this platform lacks them anyway")
@pytest.mark.parametrize(("face", "threads"), [("make_server", 1), ("serve", 1), ("serve", 4)])
@pytest.mark.parametrize("platform", LACKS)
def test_a_platform_with_less(platform: str, face: str, threads: int) -> None:
    program = PROGRAM.format(
        lacks=LACKS[platform], missing=MISSING_MODULES[platform], face=face, threads=threads, file=__file__
    )
    with open(__file__, "rb") as file:
        content = file.read()
    with running(["-c", program], r"serving on http://127\.0\.0\.1:(?P<port>\d+)/") as found:
        for _ in range(3):
            assert fetch(found.address, "/").body == b"hello"
        assert fetch(found.address, "/", "POST", b"x" * 1_000_000).body == b"x" * 1_000_000
        assert fetch(found.address, "/file").body == content
        found.process.send_signal(signal.SIGINT)
        found.process.wait(10)
    assert found.status == 0 if face == "serve" else found.status != 0
    assert "Error" not in found.stderr
