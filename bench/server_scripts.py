"""Start the compared servers, each as its documentation recommends, with the applications that they serve.

    BENCH_APP=hello python -m bench.server_scripts SERVER PORT

starts a server that has no command line. The other servers import the application from this module. BENCH_FILE is the
file that the application "file" sends.
"""

from __future__ import annotations

import importlib
import logging
import os
import socket
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from fastwsgi.bench.server_script import make_server_script
from fastwsgi.bench.workloads import APPS, App


def find_app(name: str) -> App:
    if name != "flask":
        return APPS[name]
    flask: Any = importlib.import_module("flask")
    app = flask.Flask(__name__)
    app.add_url_rule("/shop/<page>", view_func=lambda page: {"page": page, "sort": flask.request.args["sort"]})
    found: App = app
    return found


application = find_app(os.environ.get("BENCH_APP", "hello"))


def fastwsgi_as(implementation: str) -> Any:
    """Start the package with the "compiled" or "pure" implementation."""
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
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # it logs a warning for each request that waits
    importlib.import_module("waitress").serve(app, host="127.0.0.1", port=port, threads=4)


def cheroot(port: int, app: App) -> None:
    server = importlib.import_module("cheroot.wsgi").Server(("127.0.0.1", port), app, numthreads=4, max=4)
    server.start()


def gevent(port: int, app: App) -> None:
    importlib.import_module("gevent.pywsgi").WSGIServer(("127.0.0.1", port), app, log=None).serve_forever()


def werkzeug(port: int, app: App) -> None:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # it logs a coloured line for each request
    importlib.import_module("werkzeug.serving").run_simple("127.0.0.1", port, app, threaded=True)


#: The servers that a function of this module starts.
FUNCTIONS: dict[str, Callable[[int, App], None]] = {
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
    "gevent": gevent,
    "werkzeug": werkzeug,
}

APPLICATION = "bench.server_scripts:application"
GUNICORN = "gunicorn --bind 127.0.0.1:{port} --log-level error --no-control-socket -k"
#: The servers that a command starts; {scratch} is a directory for them.
COMMANDS = {
    "granian": f"granian --interface wsgi --port {{port}} --workers 1 --blocking-threads 1 --no-log {APPLICATION}",
    "uwsgi": f"uwsgi --http11-socket 127.0.0.1:{{port}} --die-on-term --disable-logging --module {APPLICATION}",
    "gunicorn": f"{GUNICORN} gthread --threads 4 {APPLICATION}",
    "gunicorn-sync": f"{GUNICORN} sync {APPLICATION}",
    "floor": "{scratch}/floor {port}",
    "nginx": "nginx -p {scratch} -c {scratch}/nginx-{port}.conf",
}
NGINX = """
daemon off; pid nginx-{port}.pid; error_log stderr; worker_processes 1; events {{}}
http {{
  access_log off; sendfile on; keepalive_requests 1000000;
  server {{ listen 127.0.0.1:{port}; root {scratch}; location / {{ try_files /file =404; }} }}
}}
"""


def command(name: str, port: int, app: str, scratch: Path) -> tuple[list[str], dict[str, str]]:
    """The command that starts a server, and its environment variables."""
    variables = {"BENCH_APP": app, "BENCH_FILE": str(scratch / "file"), "FASTWSGI_PURE": "1" if "pure" in name else ""}
    if name in FUNCTIONS:
        return [sys.executable, "-m", "bench.server_scripts", name, str(port)], variables
    if name == "nginx":
        (scratch / f"nginx-{port}.conf").write_text(NGINX.format(port=port, scratch=scratch), encoding="ascii")
    program, *arguments = COMMANDS[name].format(port=port, scratch=scratch).split()
    beside = Path(sys.executable).parent / program  # the program of this environment, if it exists
    return [str(beside) if beside.exists() else program, *arguments], variables


if __name__ == "__main__":
    FUNCTIONS[sys.argv[1]](int(sys.argv[2]), application)
