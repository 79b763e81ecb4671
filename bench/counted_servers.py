"""The servers that ``bench.counted`` measures: make_server's, the service, and a gunicorn worker with the service.

A context manager sets up each server, and yields it while it listens. The server runs in the caller's thread, and calls
the caller's actions after each turn of its loop. The package's modules are imported inside the functions, because
``bench.counted`` chooses the twin first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import socket
import tempfile
from collections.abc import Callable, Generator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol
from unittest import mock

from fastwsgi.bench.workloads import App

# How long a turn of the loop may wait, in seconds.
_INTERVAL = 0.01


class Started(NamedTuple):
    """A listening server."""

    address: tuple[str, int]
    #: Serves until the actions raise an exception.
    serve: Callable[[], None]
    #: The log file, if each request gets a line.
    log: Path | None = None


class Setup(Protocol):
    """How a server is set up.

    wsgi: the modules of a twin; actions: called after each turn of the loop, by some servers with an argument.
    """

    def __call__(
        self, wsgi: SimpleNamespace, app: App, fast_lane: bool, actions: Callable[..., None]
    ) -> contextlib.AbstractContextManager[Started]: ...


class Listener(NamedTuple):
    """A listening socket in the form that a service needs."""

    sock: socket.socket
    is_inherited: bool = False

    def close(self) -> None:
        self.sock.close()


# ---- make_server ---------------------------------------------------------------------------------------


def script(handler_class: Callable[[Any], Any] = lambda stock: stock) -> Setup:
    """A make_server script. handler_class: makes the class of request handlers from the stock class."""

    @contextlib.contextmanager
    def start(
        wsgi: SimpleNamespace, app: App, fast_lane: bool, actions: Callable[..., None]
    ) -> Generator[Started, None, None]:
        simple_server = wsgi.simple_server
        server_class = type("Server", (simple_server.WSGIServer,), {"service_actions": actions})
        handlers = handler_class(simple_server.WSGIRequestHandler)
        with simple_server.make_server("127.0.0.1", 0, app, server_class, handlers) as server:
            server.settings = dataclasses.replace(server.settings, fast_lane=fast_lane)
            yield Started(server.server_address[:2], lambda: server.serve_forever(_INTERVAL))

    return start


def silent(stock: Any) -> Any:
    """A request handler that logs nothing."""

    class Handler(stock):  # type: ignore[misc]
        def log_message(self, *args: Any) -> None:
            pass

    return Handler


def logging_handler(stock: Any) -> Any:
    """A request handler that logs to /dev/null by the logging module."""
    logging = importlib.import_module("logging")
    logger = logging.getLogger("bench.counted")
    if not logger.handlers:
        handler = logging.FileHandler(os.devnull)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False

    class Handler(stock):  # type: ignore[misc]
        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - http.server's name
            logger.info(format, *args)

    return Handler


# ---- the service ---------------------------------------------------------------------------------------


@contextlib.contextmanager
def _listening() -> Generator[tuple[socket.socket, Path], None, None]:
    """A listening socket, and a path for a log."""
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0), backlog=1024) as sock:
        yield sock, Path(folder) / "access.log"


def service(log_format: str = "", **settings: Any) -> Setup:
    """The service behind ``python -m fastwsgi``. log_format: its access log's, "" for no log; settings: its options."""

    @contextlib.contextmanager
    def start(
        wsgi: SimpleNamespace, app: App, fast_lane: bool, actions: Callable[..., None]
    ) -> Generator[Started, None, None]:
        options_class: Any = importlib.import_module("fastwsgi._service.options").Options
        service_class: Any = importlib.import_module("fastwsgi._service.service").Service
        with _listening() as (sock, log):
            logs = {"access_log": str(log), "access_log_format": log_format} if log_format else {}
            options = options_class(fast_lane=fast_lane, **logs, **settings)
            address = sock.getsockname()
            with contextlib.closing(service_class(app, options, [Listener(sock)])) as made:
                yield Started(address, lambda: made.serve(actions, _INTERVAL), log if logs else None)

    return start


@contextlib.contextmanager
def gunicorn_worker(
    wsgi: SimpleNamespace, app: App, fast_lane: bool, actions: Callable[..., None]
) -> Generator[Started, None, None]:
    """Our worker in one of gunicorn's processes, with gunicorn's settings by default and its access log to a file."""
    module: Any = importlib.import_module("fastwsgi.gunicorn")
    service_class: Any = module.Service

    class Service(service_class):  # type: ignore[misc]
        def __init__(self, application: App, options: Any, *arguments: Any, **keywords: Any) -> None:
            super().__init__(application, dataclasses.replace(options, fast_lane=fast_lane), *arguments, **keywords)

        def serve(self, its_actions: Callable[[], None], interval: float) -> None:
            def both() -> None:
                its_actions()
                actions()

            super().serve(both, _INTERVAL)

    with _listening() as (sock, log), mock.patch.object(module, "Service", Service):
        config: Any = importlib.import_module("gunicorn.config").Config()
        config.set("accesslog", str(log))
        logger = importlib.import_module("gunicorn.glogging").Logger(config)
        sockets, its_app = [SimpleNamespace(sock=sock)], SimpleNamespace()
        worker = module.Worker(0, os.getppid(), sockets, its_app, config.timeout, config, logger)
        worker.wsgi = app
        with contextlib.closing(worker.tmp):
            yield Started(sock.getsockname(), worker.run, log)
