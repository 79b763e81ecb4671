"""A worker class for gunicorn: ``gunicorn -k fastwsgi.gunicorn.Worker module:app``.

gunicorn listens, and starts and replaces the processes. In each process our event-driven server serves. These features
work as with gunicorn's other workers: threads, max_requests, timeout, graceful_timeout, TLS, access log, statsd,
reload. gunicorn's settings ``keepalive``, ``limit_request_line``, ``limit_request_fields`` and ``worker_connections``
are used if they differ from gunicorn's defaults; otherwise our defaults apply.

Differences: the hooks ``pre_request`` and ``post_request`` aren't called, because they need gunicorn's own request
object. The access log has no header fields of the answer, ``%({name}o)s``. From trusted proxies
(``forwarded_allow_ips`` and every peer on a unix socket) X-Forwarded-For is used too, and not only X-Forwarded-Proto.
``secure_scheme_headers``, ``forwarder_headers`` and ``proxy_allow_ips`` are ignored. With ``proxy_protocol`` every
connection must begin with such a header, from any peer. ALPN offers no HTTP/2.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from time import monotonic
from types import SimpleNamespace
from typing import Any, NamedTuple

import gunicorn.sock
from gunicorn import glogging
from gunicorn.workers import base

from ._backend import Request
from ._http.environ import request_environ
from ._service.options import OPTIONS, Options
from ._service.run import speaking_tls
from ._service.service import Service

# How long an application may run after SIGQUIT, in seconds, before the process ends.
_QUICK = 1

# gunicorn's settings and our options for them. A limit of 0 means no limit.
_SETTINGS = {
    "keepalive": "keep_alive_timeout",
    "limit_request_line": "max_request_line",
    "limit_request_fields": "max_fields",
    "worker_connections": "max_connections",
}


class _Listener(NamedTuple):
    """A listening socket that gunicorn's arbiter also has open."""

    sock: socket.socket
    is_inherited: bool = True

    def close(self) -> None:
        self.sock.close()


class _AccessLog:
    """gunicorn's access log, written by gunicorn's logger."""

    is_common = False
    line = None

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def log(self, request: Request, status: str, size: int, port: str) -> None:
        environ: dict[Any, Any] | None = request.environ  # an application may have added keys of any type
        if not environ:  # a refused request has none, and an application may have cleared it
            environ = request_environ({}, request, "") if request.method else {"REQUEST_METHOD": "-"}
        environ = {name: value for name, value in environ.items() if isinstance(name, str)}
        environ["REMOTE_ADDR"] = request.client[0] or "-"
        environ["RAW_URI"] = request.target or "-"
        environ["SERVER_PROTOCOL"] = request.version if request.method else "-"
        # gunicorn's statsd logger needs a number. nginx logs 499 for a client that left without an answer.
        status = "499" if status == "-" else status
        response = SimpleNamespace(status=status, sent=size, headers=[])
        seconds = timedelta(seconds=monotonic() - request.began)
        self._logger.access(response, SimpleNamespace(headers=request.fields), environ, seconds)

    def stamp(self) -> str:
        return ""

    def write(self, lines: str) -> None:
        """Never called, because each request is logged by ``log()``."""

    def reopen(self) -> None:
        """Do nothing: gunicorn reopens its log."""

    def close(self) -> None:
        """Do nothing: gunicorn closes its log."""


class Worker(base.Worker):  # type: ignore[misc, unused-ignore]
    """Serves in one of gunicorn's processes, with the number of threads in its ``threads`` setting."""

    alive: bool
    _service: Service | None = None
    _is_quick = False
    _next_beat = 0.0

    def run(self) -> None:
        options = self._options()
        context = gunicorn.sock.ssl_context(self.cfg) if self.cfg.is_ssl else None
        theirs: list[Any] = self.sockets
        sockets = [each.sock for each in theirs]
        listeners = [_Listener(sock if context is None else speaking_tls(sock, context)) for sock in sockets]
        # If our command line started gunicorn, use the log of our options; otherwise gunicorn's, if it has one.
        log = _AccessLog(self.log) if options.access_log is None and self._has_access_log() else None
        application: Any = self.wsgi if options.threads > 1 else self._answer
        self._service = service = Service(
            application, options, listeners, multiprocess=self.cfg.workers > 1, access_log=log
        )
        service.reopen_logs()  # a signal may have arrived before the service existed
        if not self.cfg.keepalive:
            service.loop.close_each()
        self._beat_time = min(1.0, self.timeout / 2 or 1.0)
        # A single thread checks max_requests after each turn of the loop. With several threads, this one checks
        # it while it waits.
        interval = self._beat_time if self.max_requests == sys.maxsize else min(0.1, self._beat_time)
        try:
            self.notify()  # or the arbiter wouldn't notice a worker that hangs at its first request
            if self.alive:  # no signal has arrived meanwhile
                service.serve(self._beat, interval)
            if not self._is_quick:
                service.finish(self._beat)
        finally:
            service.close()

    def _options(self) -> Options:
        """Our options: from our command line if that has started gunicorn, otherwise made from gunicorn's settings."""
        options = getattr(self.app, "options", None)
        if isinstance(options, Options):
            return options
        settings = self.cfg.settings
        changes = {
            ours: _within_bounds(ours, settings[theirs].get())
            for theirs, ours in _SETTINGS.items()
            if settings[theirs].get() != settings[theirs].default
        }
        return replace(
            Options(),
            threads=self.cfg.threads,
            # End earlier than the arbiter, which kills the process at its own timeout.
            graceful_timeout=max(self.cfg.graceful_timeout - 1.0, 0.1),
            forwarded_allow_ips=("unix", *_addresses(self.cfg.forwarded_allow_ips)),
            proxy_protocol=self.cfg.proxy_protocol not in (False, None, "off"),
            **changes,
        )

    def _has_access_log(self) -> bool:
        """Whether gunicorn's logger needs the requests, to write lines or to count them."""
        is_usual = type(self.log).access is glogging.Logger.access
        return not is_usual or getattr(self.log, "access_log_enabled", True)

    def _answer(self, environ: Any, start_response: Any) -> Any:
        """Call the application, and notify the arbiter: one turn of the loop may take longer than the timeout."""
        self._beat()
        return self.wsgi(environ, start_response)

    def _beat(self) -> None:
        service = self._service
        assert service is not None
        if self.alive and self.max_requests != sys.maxsize and service.requests >= self.max_requests:
            self.alive = False
            self.log.info("Autorestarting worker after current request.")
        if not self.alive:  # max_requests, a signal or the reloader's thread has ended it
            service.stop()
        now = monotonic()
        if now < self._next_beat:
            return
        self._next_beat = now + self._beat_time
        self.notify()
        if self.ppid != os.getppid() and self.alive:
            self.alive = False
            self.log.info("Parent changed, shutting down: %s", self)
            service.stop()

    def handle_exit(self, sig: int, frame: Any) -> None:
        super().handle_exit(sig, frame)
        if self._service is not None:
            self._service.stop()

    def handle_usr1(self, sig: int, frame: Any) -> None:
        super().handle_usr1(sig, frame)
        if self._service is not None:
            self._service.reopen_logs()

    def handle_quit(self, sig: int, frame: Any) -> None:
        # Don't raise an exception: in a running application it would count as the application's error. SIGALRM ends the
        # process if the application doesn't end in time.
        self._is_quick = True
        self.cfg.worker_int(self)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_QUICK)
        self.handle_exit(sig, frame)

    def handle_abort(self, sig: int, frame: Any) -> None:
        # The base class raises an exception, so that the log shows where the application hangs.
        self._is_quick = True
        if self._service is not None:
            self._service.stop()
        super().handle_abort(sig, frame)


def _within_bounds(name: str, value: Any) -> Any:
    """A value of a gunicorn setting, limited to the bounds of our option."""
    least, most = OPTIONS[name].metadata["between"]
    if not value:
        return least if name == "keep_alive_timeout" else most
    return min(value, most)


def _addresses(value: str | Iterable[str]) -> list[str]:
    entries = value.split(",") if isinstance(value, str) else value
    return [entry.strip() for entry in entries if entry.strip()]
