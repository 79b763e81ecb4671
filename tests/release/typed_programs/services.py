"""What wsgiref doesn't have: services, the choice of the path, our modules under wsgiref's names."""

from __future__ import annotations

from pathlib import Path

from typing_extensions import assert_type

import fastwsgi
from fastwsgi.simple_server import WSGIRequestHandler, WSGIServer, demo_app, explain, make_server
from fastwsgi.types import WSGIApplication, WSGIEnvironment


def small() -> None:
    fastwsgi.serve(demo_app)
    fastwsgi.serve(demo_app, "127.0.0.1:8000")
    fastwsgi.serve(demo_app, bind=["unix:/run/app.sock", "[::1]:8000"], threads=4)


def large(application: WSGIApplication, certificates: Path, body: int | None = None) -> None:
    fastwsgi.serve(
        application,
        bind=(":443",),
        threads=8,
        workers=2,
        backlog=64,
        certfile=certificates / "cert.pem",
        keyfile="key.pem",
        forwarded_allow_ips="10.0.0.0/8, unix",
        forwarded_fields=["Forwarded"],
        proxy_protocol=True,
        access_log="-",
        access_log_format="json",
        log_level="warning",
        keep_alive_timeout=90,
        graceful_timeout=0.5,
        max_body=body,
        validate=True,
    )


def told() -> str:
    assert_type(fastwsgi.__version__, str)
    assert_type(fastwsgi.implementation, str)
    with make_server("localhost", 0, demo_app) as server:
        explanation = explain(server)
        assert_type(explanation.path, str)
        assert_type(explanation.reasons, tuple[str, ...])
        return f"{explanation} {server.settings.max_body}"


def in_wsgirefs_place() -> type[WSGIServer]:
    with fastwsgi.install():
        from wsgiref.simple_server import WSGIServer as Theirs

        assert issubclass(Theirs, WSGIServer)
    fastwsgi.install()
    fastwsgi.uninstall()
    return WSGIServer


class Handler(WSGIRequestHandler):
    def get_environ(self) -> WSGIEnvironment:
        assert_type(self.server, WSGIServer)
        return super().get_environ()
