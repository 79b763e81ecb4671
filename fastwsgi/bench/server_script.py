"""An unchanged ``make_server`` script, and ``fastwsgi.serve`` with threads, each as a separate program.

    python -m fastwsgi.bench.server_script wsgiref|fastwsgi PORT APP
    python -m fastwsgi.bench.server_script serve PORT APP THREADS

For each line on standard input, it writes the CPU seconds used so far to standard output. This works on every platform.
"""

from __future__ import annotations

import importlib
import sys
import threading
import time
from typing import TextIO

from .workloads import APPS, App


def make_server_script(module: str, port: int, app: App) -> None:
    with importlib.import_module(module).make_server("127.0.0.1", port, app) as httpd:
        httpd.serve_forever()


def tell_cpu_time(output: TextIO) -> None:
    for _ in sys.stdin:
        print(time.process_time(), file=output, flush=True)


def main(server: str, port: str, app: str, threads: str = "") -> None:
    threading.Thread(target=tell_cpu_time, args=(sys.stdout,), daemon=True).start()
    sys.stdout = sys.stderr  # for the messages of servers when they start
    if server == "serve":
        import fastwsgi

        fastwsgi.serve(APPS[app], f"127.0.0.1:{port}", threads=int(threads))
    else:
        make_server_script(f"{server}.simple_server", int(port), APPS[app])


if __name__ == "__main__":
    main(*sys.argv[1:])
