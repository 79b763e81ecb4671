"""Run a service in this process: open its sockets, say where it is, stop at a signal."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from fastwsgi._backend import implementation
from fastwsgi._version import __version__

from .bind import Listener, notify_systemd, open_listeners
from .options import Options
from .service import Service

if TYPE_CHECKING:
    import ssl

    from fastwsgi.types import WSGIApplication


def run(application: WSGIApplication, options: Options) -> None:
    """Serve an application until SIGINT or SIGTERM; then answer what was received, and return.

    A second signal ends the process at once. In another thread than the main one nobody hears signals, and it
    serves for ever. Raises OSError if a socket can't be opened or a certificate not be read, ValueError for
    options that contradict each other.
    """
    context = tls_context(options)
    listeners = listen(options)
    with contextlib.ExitStack() as stack:
        for listener in listeners:
            stack.callback(listener.close)
        if context is not None:
            for listener in listeners:
                wrap(listener, context)
        service = Service(application, options, listeners)
        stack.callback(service.close)
        stack.enter_context(_stopped_by_signals(service.stop, service.reopen_logs))
        announce(options, listeners)
        notify_systemd("READY=1")
        service.serve()
        notify_systemd("STOPPING=1")
        service.finish()


def listen(options: Options) -> list[Listener]:
    """Open the sockets that the options say."""
    return open_listeners(
        options.bind,
        reuse_port=options.reuse_port,
        backlog=options.backlog,
        scheme="http" if options.certfile is None else "https",
    )


def announce(options: Options, listeners: Sequence[Listener]) -> None:
    """Say in one line what serves, and where."""
    what = [implementation]
    if options.workers > 1:
        what.append(f"{options.workers} workers")
    if options.threads > 1:
        what.append(f"{options.threads} threads")
    where = ", ".join(listener.url for listener in listeners)
    print(f"fastwsgi {__version__} ({', '.join(what)}) serving on {where}", flush=True)


def tls_context(options: Options) -> ssl.SSLContext | None:
    """The context for a certificate, if there is one; with ca_certs it wants one of each client, too."""
    if options.certfile is None:
        return None
    import ssl

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(options.certfile, options.keyfile)
    context.set_alpn_protocols(["http/1.1"])
    if options.ca_certs is not None:
        context.load_verify_locations(options.ca_certs)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def wrap(listener: Listener, context: ssl.SSLContext) -> None:
    """Have a listening socket speak TLS."""
    listener.sock = context.wrap_socket(listener.sock, server_side=True, do_handshake_on_connect=False)


@contextlib.contextmanager
def _stopped_by_signals(stop: Callable[[], None], reopen_logs: Callable[[], None]) -> Iterator[None]:
    """Call stop() at the first signal to end, and leave the second to the system; SIGUSR1 is for rotated logs."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    ends = [number for name in ("SIGINT", "SIGTERM", "SIGBREAK") if (number := getattr(signal, name, None))]

    def on_end(number: int, frame: Any) -> None:
        for each in ends:
            signal.signal(each, signal.SIG_DFL)
        stop()

    handlers: dict[int, Any] = dict.fromkeys(ends, on_end)
    if hasattr(signal, "SIGUSR1"):
        handlers[signal.SIGUSR1] = lambda number, frame: reopen_logs()
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
