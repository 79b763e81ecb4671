"""The servers that are compared, each started as its documentation tells, and the applications they serve.

    python -m bench.server_scripts SERVER PORT APP [FILE]

FILE is what the application "file" answers with.
"""

from __future__ import annotations

import importlib
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any
from wsgiref import util

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
BLOCK = 65536  # what files are read by


class FileWrapper(util.FileWrapper):
    """For a server without a wrapper of its own; fastpysgi takes any class of this name for Werkzeug's."""

    buffer_size = BLOCK


def hello(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    # The length is there for bjoern and gunicorn: without it they send even one block as a chunked body.
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "13")])
    return [b"Hello, world!"]


def post(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    answer = b"%d" % len(environ["wsgi.input"].read(int(environ["CONTENT_LENGTH"])))
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(answer)))])
    return [answer]


def stream(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])
    for _ in range(100):
        yield b"x" * 100


def file(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    opened = open(sys.argv[4], "rb")  # noqa: SIM115 - the wrapper closes it
    length = os.fstat(opened.fileno()).st_size
    start_response("200 OK", [("Content-Type", "application/octet-stream"), ("Content-Length", str(length))])
    wrapper: type[FileWrapper] = environ.get("wsgi.file_wrapper", FileWrapper)
    return wrapper(opened, BLOCK)


APPS: dict[str, App] = {"hello": hello, "post": post, "stream": stream, "file": file}


def make_server_script(module: str, port: int, app: App) -> None:
    with importlib.import_module(module).make_server("127.0.0.1", port, app) as httpd:
        httpd.serve_forever()


def fastwsgi_as(implementation: str) -> Any:
    """The package, running as "compiled" or "pure"."""
    os.environ["FASTWSGI_PURE"] = "1" if implementation == "pure" else ""
    package = importlib.import_module("fastwsgi")
    if package.implementation != implementation:
        raise SystemExit(f"fastwsgi isn't {implementation} here")
    return package


def fastwsgi(implementation: str, port: int, app: App) -> None:
    fastwsgi_as(implementation)
    make_server_script("fastwsgi.simple_server", port, app)


def serve(implementation: str, port: int, app: App, **options: Any) -> None:
    fastwsgi_as(implementation).serve(app, bind=f"127.0.0.1:{port}", **options)


def bjoern(port: int, app: App) -> None:
    module = importlib.import_module("bjoern")
    listener = module.listen(app, "127.0.0.1", port)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # connections inherit it
    module.run()


def fastpysgi(port: int, app: App) -> None:
    module = importlib.import_module("fastpysgi")
    module.server.tcp_nodelay = 1
    module.run(app, "127.0.0.1", port, loglevel=module.LL_DISABLED, workers=1)


def waitress(port: int, app: App) -> None:
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # a warning for each request that waits
    importlib.import_module("waitress").serve(app, host="127.0.0.1", port=port, threads=4)


def cheroot(port: int, app: App) -> None:
    server = importlib.import_module("cheroot.wsgi").Server(("127.0.0.1", port), app, numthreads=4, max=4)
    server.start()


def gunicorn(port: int, app: App) -> None:
    base = importlib.import_module("gunicorn.app.base").BaseApplication

    class Application(base):  # type: ignore[misc, valid-type]
        def load_config(self) -> None:
            settings = {"bind": f"127.0.0.1:{port}", "workers": 1, "worker_class": "gthread", "threads": 4}
            for name, value in {**settings, "loglevel": "error", "control_socket_disable": True}.items():
                if name in self.cfg.settings:  # older ones have no control socket
                    self.cfg.set(name, value)

        def load(self) -> App:
            return app

    Application().run()


SERVERS: dict[str, Callable[[int, App], None]] = {
    "fastwsgi": partial(fastwsgi, "compiled"),
    "fastwsgi-pure": partial(fastwsgi, "pure"),
    "serve": partial(serve, "compiled"),
    "serve-4": partial(serve, "compiled", threads=4),
    "serve-pure": partial(serve, "pure"),
    "serve-pure-4": partial(serve, "pure", threads=4),
    "serve-common": partial(serve, "compiled", access_log="-"),
    "serve-combined": partial(serve, "compiled", access_log="-", access_log_format="combined"),
    "serve-json": partial(serve, "compiled", access_log="-", access_log_format="json"),
    "serve-proxied": partial(serve, "compiled", forwarded_allow_ips="127.0.0.1"),
    "wsgiref": partial(make_server_script, "wsgiref.simple_server"),
    "bjoern": bjoern,
    "fastpysgi": fastpysgi,
    "waitress": waitress,
    "cheroot": cheroot,
    "gunicorn": gunicorn,
}

if __name__ == "__main__":
    SERVERS[sys.argv[1]](int(sys.argv[2]), APPS[sys.argv[3]])
