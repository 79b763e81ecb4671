"""Run a service in this process: open its sockets, announce its address, stop at a signal."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Any

from fastwsgi._backend import implementation
from fastwsgi._version import __version__

from .access_log import AccessLog, LogFile
from .bind import Listener, notify_systemd, open_listeners
from .options import Options
from .proxies import Proxies
from .service import Service

if TYPE_CHECKING:
    import socket
    import ssl

    from fastwsgi.types import WSGIApplication


def run(application: WSGIApplication, options: Options) -> None:
    """Serve an application until SIGINT or SIGTERM; then answer the requests already received, and return.

    A second signal ends the process at once. Only the main thread receives signals; in any other thread this function
    serves for ever. Raises OSError if a socket can't be opened or a certificate can't be read, ValueError for options
    that contradict each other.
    """
    context = check(options)
    listeners = listen(options)
    with contextlib.ExitStack() as stack:
        for listener in listeners:
            stack.callback(listener.close)
        if context is not None:
            for listener in listeners:
                listener.sock = speaking_tls(listener.sock, context)
        service = Service(application, options, listeners)
        stack.callback(service.close)
        stack.enter_context(_stopped_by_signals(service.stop, service.reopen_logs))
        announce(options, listeners)
        notify_systemd("READY=1")
        service.serve()
        notify_systemd("STOPPING=1")
        service.finish()


def listen(options: Options) -> list[Listener]:
    """Open the sockets that the options name; ``check()`` the options first."""
    return open_listeners(
        options.bind,
        reuse_port=options.reuse_port,
        backlog=options.backlog,
        scheme="http" if options.certfile is None else "https",
    )


def announce(options: Options, listeners: Sequence[Listener]) -> None:
    """Print one line: what serves, and where."""
    what = [implementation]
    if options.workers > 1:
        what.append(f"{options.workers} workers")
    if options.threads > 1:
        what.append(f"{options.threads} threads")
    where = ", ".join(listener.url for listener in listeners)
    print(f"fastwsgi {__version__} ({', '.join(what)}) serving on {where}", flush=True)


def _tls_context(options: Options) -> ssl.SSLContext | None:
    """The TLS context, or None without a certificate; with ca_certs it requires client certificates."""
    if options.certfile is None:
        return None
    import ssl

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    with _naming("read", certfile=options.certfile, keyfile=options.keyfile):
        context.load_cert_chain(options.certfile, options.keyfile)
    if options.ca_certs is not None:
        with _naming("read", ca_certs=options.ca_certs):
            context.load_verify_locations(options.ca_certs)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def check(options: Options) -> ssl.SSLContext | None:
    """Check what can be checked before a service starts; return its TLS context.

    Raises ValueError or OSError, which name the option. This runs before anything is opened that others could see. With
    workers it runs once, and not in each of them.
    """
    try:
        AccessLog(options.access_log_format, sys.stdout)
    except ValueError as error:
        raise ValueError(f"access_log_{error}") from None
    try:
        Proxies(options.forwarded_allow_ips, options.forwarded_fields)
    except ValueError as error:
        raise ValueError(f"forwarded_{error}".replace("forwarded_allow ", "forwarded_allow_ips ")) from None
    context = _tls_context(options)
    if options.access_log is not None:
        with _naming("write", access_log=options.access_log):
            LogFile(options.access_log).close()
    return context


@contextlib.contextmanager
def _naming(action: str, **files: str | None) -> Generator[None]:
    """Add the options and their file names to the message of an OSError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno is not None and error.strerror in (None, "", "Error"):  # PyPy's ssl gives none
            reason = os.strerror(error.errno)
        what = " with ".join(f"{option} {name!r}" for option, name in files.items() if name is not None)
        raise OSError(error.errno, f"can't {action} {what}: {reason}") from error


def speaking_tls(sock: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    """Wrap a listening socket for TLS. It offers HTTP/1.1 only."""
    context.set_alpn_protocols(["http/1.1"])
    return context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)


@contextlib.contextmanager
def _stopped_by_signals(stop: Callable[[], None], reopen_logs: Callable[[], None]) -> Generator[None]:
    """Call stop() at the first termination signal; the second has the system's default effect. SIGUSR1 reopens logs."""
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
