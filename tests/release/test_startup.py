"""The modules that an import loads: no heavy one that the module, or wsgiref's of the same name, doesn't need.

``import fastwsgi`` and the modules that don't serve load no heavy module at all. simple_server needs http.server, which
loads email and, if available, ssl; ours loads no more of these than wsgiref's. ``python -m bench.startup`` measures the
time.
"""

from __future__ import annotations

import pytest

from programs import run_python
from surface import MODULES

HEAVY = {"asyncio", "email", "gunicorn", "http.client", "http.server", "multiprocessing", "ssl", "watchfiles"}
LIST_MODULES = "import sys; sys.stdout.write(' '.join(sys.modules))"


def loaded(code: str) -> set[str]:
    """The modules that a new interpreter has loaded after some code."""
    return set(run_python("-c", f"{code}; {LIST_MODULES}", check=True).stdout.split())


def test_an_import_is_seen() -> None:
    # If these weren't loaded, the tests below would prove nothing.
    assert {"asyncio", "ssl", "email"} <= loaded("import asyncio, ssl, email")
    assert "fastwsgi._backend" in loaded("import fastwsgi")


@pytest.mark.parametrize("module", ["fastwsgi", *(f"fastwsgi.{name}" for name in MODULES if name != "simple_server")])
def test_nothing_heavy_is_loaded_for_what_does_not_serve(module: str) -> None:
    assert not HEAVY & loaded(f"import {module}")


def test_simple_server_loads_what_wsgirefs_does_of_the_heavy_and_no_more() -> None:
    theirs = HEAVY & loaded("import wsgiref.simple_server")
    assert "http.server" in theirs
    assert HEAVY & loaded("import fastwsgi.simple_server") == theirs


# Modules that a server needs and an import doesn't. logging, dataclasses (with inspect) and tempfile alone take a
# quarter of the time of all of wsgiref.
OF_SERVERS = {"_events.loop", "_events.event_server", "_events.connection", "_http.settings", "_http.body"}
FOR_SERVERS = {f"fastwsgi.{name}" for name in OF_SERVERS} | {"dataclasses", "inspect", "logging", "tempfile"}


def test_an_import_of_simple_server_loads_nothing_that_only_a_server_needs() -> None:
    theirs = loaded("import wsgiref.simple_server, wsgiref.validate")
    assert not (loaded("import fastwsgi.simple_server, fastwsgi.validate") - theirs) & FOR_SERVERS


@pytest.mark.compiled
def test_the_pure_twin_is_loaded_for_the_first_case_that_is_left_to_it() -> None:
    usual = "import fastwsgi.util, fastwsgi.headers; fastwsgi.headers.Headers([('A', 'b')])"
    assert "fastwsgi._fallback" not in loaded(usual)
    assert "fastwsgi._fallback" in loaded(f"{usual}.__repr__()")


SERVES_WITHOUT_IMPORTS = """
import socket, sys
from fastwsgi.simple_server import WSGIRequestHandler, explain, make_server

class Handler(WSGIRequestHandler):
    if sys.argv[1] == "classic":
        def handle(self):
            super().handle()

def application(environ, start_response):
    body = environ["wsgi.input"].read()
    start_response("200 OK", [])
    return [body] if body else 1 / 0

server = make_server("127.0.0.1", 0, application, handler_class=Handler)
"host".encode("idna")  # the client's
sys.meta_path.clear()
print(explain(server).path)
for request in (
    b"GET / HTTP/1.1\\r\\n\\r\\n",
    b"GET / HTTP/1.1\\r\\nHost: h\\r\\n\\r\\n",
    b"POST / HTTP/1.1\\r\\nHost: h\\r\\nContent-Length: 2\\r\\n\\r\\nab",
    b"POST / HTTP/1.1\\r\\nHost: h\\r\\nTransfer-Encoding: chunked\\r\\n\\r\\n2\\r\\nab\\r\\n0\\r\\n\\r\\n",
):
    with socket.create_connection(server.server_address) as client:
        client.sendall(request)
        client.shutdown(socket.SHUT_WR)
        server.handle_request()
        print(client.makefile("rb").readline().split()[1].decode())
server.server_close()
"""


@pytest.mark.parametrize("path", ["event-driven", "classic"])
def test_a_server_that_is_made_has_all_it_serves_with(path: str) -> None:
    """Before it serves, a program may change its root directory, or to a user who can't read the package."""
    finished = run_python("-c", SERVES_WITHOUT_IMPORTS, path)
    assert finished.stdout.split() == [path, "400", "500", "200", "200"], finished.stderr
    assert "ZeroDivisionError" in finished.stderr


def test_install_loads_no_more_than_simple_server() -> None:
    assert HEAVY & loaded("import fastwsgi; fastwsgi.install()") <= HEAVY & loaded("import wsgiref.simple_server")


def test_the_command_line_loads_no_extra_before_it_is_asked_for() -> None:
    assert not {"asyncio", "gunicorn", "multiprocessing", "watchfiles"} & loaded("import fastwsgi._service.cli")


def test_serve_is_loaded_when_it_is_called() -> None:
    assert not {name for name in loaded("import fastwsgi; fastwsgi.serve") if name.startswith("fastwsgi._serve")}
