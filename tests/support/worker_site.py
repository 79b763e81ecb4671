"""The application and the gunicorn hooks that run in the worker processes of tests.

The application is ``worker_site:site``; the hooks are found by ``--config python:worker_site``.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import time
from collections.abc import Iterable, Iterator
from typing import Any

BLOCK = b"0123456789" * 100


def site(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answer with the process id, with the environ, or late."""
    path = environ["PATH_INFO"]
    start_response("200 OK", [("Content-Type", "text/plain")])
    if path == "/environ":
        return [json.dumps({name: value for name, value in environ.items() if isinstance(value, str | bool)}).encode()]
    if path == "/upload":
        return [hashlib.sha256(environ["wsgi.input"].read()).hexdigest().encode()]
    if path == "/file":
        return environ["wsgi.file_wrapper"](open(os.environ["FILE"], "rb"))  # type: ignore[no-any-return]
    if path == "/blocks":
        return _slowly()
    if path == "/gate":
        return _until_the_gate_opens()
    if path == "/slow":
        time.sleep(0.5)
    if path == "/hang":
        note("hang")
        time.sleep(60)
    return [str(os.getpid()).encode()]


def _slowly() -> Iterator[bytes]:
    for _ in range(10):
        yield BLOCK
        time.sleep(0.001)


def create() -> Any:
    """Return the application, and note that a process has loaded it."""
    note("created")
    return site


def _until_the_gate_opens() -> Iterator[bytes]:
    yield f"{os.getpid()}\n".encode()
    with open(os.environ["GATE"], encoding="ascii") as gate:
        yield gate.read().encode()


def note(what: str) -> None:
    """Record an event and its process."""
    fd = os.open(os.environ["NOTES"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(fd, f"{what} {os.getpid()}\n".encode())
    os.close(fd)


def when_ready(server: Any) -> None:
    address = server.LISTENERS[0].getsockname()
    print(f"listening on {address[1] if isinstance(address, tuple) else 0}", flush=True)


def post_worker_init(worker: Any) -> None:
    note("post_worker_init")
    on_exit = signal.getsignal(signal.SIGTERM)
    assert callable(on_exit)

    def on_term(number: int, frame: Any) -> None:
        on_exit(number, frame)
        note("terminated")

    signal.signal(signal.SIGTERM, on_term)


def post_fork(server: Any, worker: Any) -> None:
    note("post_fork")


def worker_int(worker: Any) -> None:
    note("worker_int")


def worker_abort(worker: Any) -> None:
    note("worker_abort")


def worker_exit(server: Any, worker: Any) -> None:
    note("worker_exit")
