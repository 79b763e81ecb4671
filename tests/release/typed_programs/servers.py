"""Servers with hooks of their own. Also a program for wsgiref, so it's checked with either import."""

from __future__ import annotations

import socket
import ssl
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from socketserver import ThreadingMixIn
from typing import Any
from urllib.parse import urlsplit

from typing_extensions import assert_type

from fastwsgi.simple_server import (
    ServerHandler,
    WSGIRequestHandler,
    WSGIServer,
    demo_app,
    make_server,
    server_version,
    software_version,
)
from fastwsgi.types import WSGIApplication, WSGIEnvironment


class QuietHandler(WSGIRequestHandler):
    """Says less in the log, and more in the environ."""

    server_version = "Quiet/1.0"
    protocol_version = "HTTP/1.0"

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        if not self.path.startswith("/health"):
            super().log_message(format, *args)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        self.log_message('"%s" %s %s', self.requestline, str(code), str(size))

    def address_string(self) -> str:
        return str(self.client_address[0])

    def get_environ(self) -> WSGIEnvironment:
        environ = super().get_environ()
        assert_type(environ, dict[str, Any])
        environ["example.agent"] = self.headers.get("User-Agent", "")
        environ["example.segments"] = urlsplit(self.path).path.split("/")
        return environ


class PatientServer(WSGIServer):
    """Listens on IPv6, counts what it turns away, and tells its applications the host's name."""

    address_family = socket.AF_INET6
    request_queue_size = 128
    allow_reuse_address = True
    timeout = 5.0
    refused = 0

    def verify_request(self, request: Any, client_address: Any) -> bool:
        self.refused += 1
        return super().verify_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        print("failed for", client_address)

    def setup_environ(self) -> None:
        super().setup_environ()
        self.base_environ["example.host"] = self.server_name

    def get_app(self) -> WSGIApplication | None:
        return self.application or demo_app

    def service_actions(self) -> None:
        print(self.server_port)


class ThreadingServer(ThreadingMixIn, WSGIServer):
    daemon_threads = True


def in_a_thread(application: WSGIApplication) -> str:
    with make_server("", 0, application) as server:
        assert_type(server, WSGIServer)
        assert_type(server.get_app(), WSGIApplication | None)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        server.shutdown()
        thread.join()
        host, port = server.server_address[:2]
        return f"{host!r} {port} {server.server_name} {server.fileno()}"


def with_classes_of_our_own() -> None:
    patient = make_server("::1", 8000, demo_app, PatientServer, QuietHandler)
    assert_type(patient, PatientServer)
    assert_type(patient.refused, int)
    patient.set_app(None)
    threading_server = make_server("localhost", 8000, demo_app, server_class=ThreadingServer)
    assert_type(threading_server, ThreadingServer)
    quiet = make_server("localhost", 8000, app=demo_app, handler_class=QuietHandler)
    assert_type(quiet, WSGIServer)


def with_tls(context: ssl.SSLContext) -> None:
    server = WSGIServer(("localhost", 8443), WSGIRequestHandler, bind_and_activate=False)
    server.server_bind()
    server.server_activate()
    server.set_app(demo_app)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    server.handle_request()
    server.server_close()


def by_their_bases() -> tuple[HTTPServer, type[BaseHTTPRequestHandler], str]:
    ServerHandler.server_software = software_version
    return make_server("", 0, demo_app), QuietHandler, server_version
