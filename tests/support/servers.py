"""Run servers in threads of the test process, and read their logs."""

from __future__ import annotations

import contextlib
import dataclasses
import re
import ssl
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import pytest

from clients import CERTIFICATE, Address, Client
from fastwsgi import simple_server
from fastwsgi._events.shared_loop import SharedLoop
from waiting import TIMEOUT, wait_until

#: The kinds of event-driven servers, as settings. All must give the same answers.
KINDS: dict[str, dict[str, Any]] = {
    "fast lane": {"fast_lane": True},
    "general path": {"fast_lane": False},
    "selectors": {"fast_lane": False, "poller": "selectors"},
}
#: The same kinds with several threads.
THREADED_KINDS: dict[str, dict[str, Any]] = {
    "threads": {"fast_lane": True},
    "threads, general path": {"fast_lane": False},
    "threads, selectors": {"fast_lane": True, "poller": "selectors"},
}
ALL_KINDS = {**KINDS, **THREADED_KINDS}
THREADS = 4
BLOCK = b"0123456789abcdef" * 4096


def listening_server(
    wsgi: Any,
    application: Any,
    server: Any = None,
    handler: Any = None,
    *,
    host: str = "127.0.0.1",
    attributes: Mapping[str, Any] | None = None,
    on_instance: Mapping[str, Any] | None = None,
    **settings: Any,
) -> Any:
    """Make a server of wsgi, the implementation under test, which listens on a free port and doesn't serve yet.

    server, handler: classes instead of the standard ones; attributes: for a new subclass of the handler class;
    on_instance: methods to set on the server before it is bound; settings: for fastwsgi's server.
    """
    module = wsgi.simple_server
    handler_class = handler or module.WSGIRequestHandler
    if attributes is not None:
        handler_class = type("Handler", (handler_class,), dict(attributes))
    if on_instance is None:
        made = module.make_server(host, 0, application, server or module.WSGIServer, handler_class)
    else:
        made = (server or module.WSGIServer)((host, 0), handler_class, bind_and_activate=False)
        for name, value in on_instance.items():
            setattr(made, name, partial(value, made))
        made.server_bind()
        made.server_activate()
        made.set_app(application)
    if settings and wsgi.package == "fastwsgi":
        made.settings = dataclasses.replace(made.settings, **settings)
    return made


@contextmanager
def serving(
    server: Any, *, poll_interval: float = 0.02, bound: float = TIMEOUT, closes: bool = True
) -> Iterator[Any]:
    """Run *server*'s ``serve_forever()`` in a thread; shut it down and close it when the block ends.

    Yields the server's address. Exceptions of ``serve_forever()`` are raised here. The test fails if the thread doesn't
    stop within *bound* seconds. closes: whether to close the server at the end; without it, it may serve again.
    """
    failures: list[BaseException] = []

    def serve() -> None:
        try:
            server.serve_forever(poll_interval=poll_interval)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        where = server.server_address
        yield Address(*where[:2]) if isinstance(where, tuple) else where
    finally:
        # In another thread, because shutdown() waits for the thread above, which may hang.
        stopper = threading.Thread(target=server.shutdown, daemon=True)
        stopper.start()
        thread.join(bound)
        stopper.join(bound)
        if closes:
            server.server_close()
    assert not thread.is_alive(), f"serve_forever() didn't return within {bound} s of shutdown()"
    assert not stopper.is_alive(), "shutdown() didn't return although serve_forever() has"
    if failures:
        raise failures[0]


def of(*blocks: Any, status: str = "200 OK", headers: Any = ()) -> Callable[..., Any]:
    """An application that answers with a generator."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response(status, list(headers))
        return (block for block in blocks)

    return application


def returning(result: Callable[[], Any], status: str = "200 OK", headers: Any = ()) -> Callable[..., Any]:
    """An application that answers with the result of a call."""

    def application(environ: dict[str, Any], start_response: Any) -> Any:
        start_response(status, list(headers))
        return result()

    return application


class EventServer(NamedTuple):
    """A running event-driven server."""

    address: Address
    server: Any

    @property
    def connections(self) -> list[Any]:
        inside = self.server._inside  # exists while the server runs
        return [] if inside is None else list(inside.loop.connections.values())

    def wait_until_all_are_gone(self) -> None:
        self.wait_until(lambda: not self.connections)

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Wait for a condition that can't be read from a socket."""
        wait_until(condition)


class ThreadedServer(simple_server.WSGIServer):
    """A server with the loop for several threads, as in fastwsgi.serve()."""

    def serve_forever(self, poll_interval: float = 0.5) -> None:
        try:
            self.serve_in_threads(SharedLoop(self.settings))
        finally:
            self.has_stopped.set()

    def serve_in_threads(self, loop: SharedLoop) -> None:
        self._inside = inside = simple_server._inside_of(self, loop, THREADS)
        threads = [threading.Thread(target=loop.serve_in_thread, args=(i,), daemon=True) for i in range(THREADS)]
        for thread in threads:
            thread.start()
        self.is_asked_to_stop.wait()
        loop.finish(self.settings.graceful_timeout)
        for thread in threads:
            thread.join(TIMEOUT)
            assert not thread.is_alive()
        loop.close()
        self._inside = None
        assert inside.loop.connections == {}

    def shutdown(self) -> None:
        self.is_asked_to_stop.set()
        self.has_stopped.wait(TIMEOUT)

    def __init__(self, *args: Any, **keywords: Any) -> None:
        self.is_asked_to_stop = threading.Event()
        self.has_stopped = threading.Event()
        super().__init__(*args, **keywords)


@contextlib.contextmanager
def event_server(
    application: Any, kind: str, *, attributes: Mapping[str, Any] | None = None, tls: bool = False, **settings: Any
) -> Iterator[EventServer]:
    """Run a server of a kind, with settings, and attributes on a new handler class."""
    stock = simple_server.WSGIRequestHandler
    handler_class = type("Handler", (stock,), dict(attributes)) if attributes else stock
    server_class = ThreadedServer if kind in THREADED_KINDS else simple_server.WSGIServer
    server: Any = simple_server.make_server("127.0.0.1", 0, application, server_class, handler_class)
    with contextlib.ExitStack() as stack:
        stack.enter_context(server)
        server.socket.listen(1024)  # so that hundreds of clients can connect at once
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(CERTIFICATE)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        settings = {"graceful_timeout": 0.1, **ALL_KINDS[kind], **settings}
        server.settings = dataclasses.replace(server.settings, **settings)
        assert simple_server.explain(server).path == "event-driven"
        address = stack.enter_context(serving(server))
        yield EventServer(address, server)


class Starter:
    """Starts servers of a kind."""

    def __init__(self, kind: str, stack: contextlib.ExitStack) -> None:
        self.kind = kind
        self.is_threaded = kind in THREADED_KINDS
        self._stack = stack

    def __call__(self, application: Any, **options: Any) -> EventServer:
        return self._stack.enter_context(event_server(application, self.kind, **options))


def starting(request: Any) -> Iterator[Starter]:
    """Yield a Starter for the kind in request.param; for fixtures whose params are kinds."""
    with contextlib.ExitStack() as stack:
        yield Starter(request.param, stack)


class FailsToClose:
    """An iterable whose close() raises."""

    def __iter__(self) -> Iterator[bytes]:
        return iter([b"hello"])

    def close(self) -> None:
        raise ValueError("on purpose")


def hello(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    environ["wsgi.input"].read()
    start_response("200 OK", [])
    return [b"hello"]


def assert_serves(running: EventServer) -> None:
    with Client(running.address) as client:
        assert client.get("/").body == b"hello"


class Log:
    """The standard error of a test's servers."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys
        self._text = ""

    def text(self) -> str:
        self._text += self._capsys.readouterr().err
        return self._text

    def requests(self) -> list[str]:
        """The end of each request's log line: the request line, the status, the size."""
        return re.findall(r'^[\d.]+ - - \[.*\] (".*" \S+ \S+)$', self.text(), re.MULTILINE)

    def wait_for_requests(self, count: int) -> list[str]:
        wait_until(lambda: len(self.requests()) >= count)
        return self.requests()
