"""A worker class for gunicorn: ``gunicorn -k fastwsgi.gunicorn.Worker module:app``.

gunicorn listens, starts and replaces processes; in each of them our event-driven server serves. Works like its other
workers: threads, max_requests, timeout, graceful_timeout, TLS, access log, statsd, reload. Its settings ``keepalive``,
``limit_request_line``, ``limit_request_fields`` and ``worker_connections`` count where they aren't gunicorn's defaults;
otherwise ours do.

All hooks are called but two, ``pre_request`` and ``post_request``, which want gunicorn's own request object. The access
log has no fields of the answer, ``%({name}o)s``. Of its proxies (``forwarded_allow_ips``, and whoever connects to a
unix socket) X-Forwarded-For is believed, too, and not only X-Forwarded-Proto; ``secure_scheme_headers``,
``forwarder_headers`` and ``proxy_allow_ips`` are not looked at: with ``proxy_protocol`` each connection begins with
such a header, whoever it comes from. ALPN offers no HTTP/2.
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
from ._service.options import OPTIONS, Options
from ._service.run import speaking_tls
from ._service.service import Service

# What an application has, in seconds, from SIGQUIT to the end of its process.
_QUICK = 1

# gunicorn's settings, where they aren't its defaults, and ours; for the limits 0 is none.
_SETTINGS = {
    "keepalive": "keep_alive_timeout",
    "limit_request_line": "max_request_line",
    "limit_request_fields": "max_fields",
    "worker_connections": "max_connections",
}


class _Listener(NamedTuple):
    """A socket that the arbiter listens on, too."""

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
        environ = request.environ
        if not environ:  # there is none of a request that got no further, and an application may have emptied it
            environ = {"REQUEST_METHOD": request.method or "-", "SERVER_PROTOCOL": request.version}
        environ = {
            **environ,
            "REMOTE_ADDR": request.client[0] or "-",
            "RAW_URI": request.target or "-",
        }
        if not request.method:
            environ["SERVER_PROTOCOL"] = "-"
        # Its statsd logger counts by number: of a request without an answer, by nginx's for a client that has gone.
        status = "499" if status == "-" else status
        response = SimpleNamespace(status=status, sent=size, headers=[])
        seconds = timedelta(seconds=monotonic() - request.began)
        self._logger.access(response, SimpleNamespace(headers=request.fields), environ, seconds)

    def stamp(self) -> str:
        return ""

    def write(self, lines: str) -> None:
        """Nothing comes here: each request is logged by itself."""

    def reopen(self) -> None:
        """gunicorn's to do."""

    def close(self) -> None:
        """gunicorn's to do."""


class Worker(base.Worker):  # type: ignore[misc, unused-ignore]
    """Serves in one of gunicorn's processes, in as many threads as its ``threads`` says."""

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
        # Of the options a process of our own command line has a log, else gunicorn's, if it is to have one.
        log = _AccessLog(self.log) if options.access_log is None and self._has_access_log() else None
        application: Any = self.wsgi if options.threads > 1 else self._answer
        self._service = service = Service(
            application, options, listeners, multiprocess=self.cfg.workers > 1, access_log=log
        )
        service.reopen_logs()  # a signal now finds the service, but may have come while it was made
        if not self.cfg.keepalive:
            service.loop.close_each()
        self._beat_time = min(1.0, self.timeout / 2 or 1.0)
        # One thread looks at max_requests after each turn of the loop, and several by the one that waits for them.
        interval = self._beat_time if self.max_requests == sys.maxsize else min(0.1, self._beat_time)
        try:
            self.notify()  # or a worker that hangs at its first request would not be seen to
            if self.alive:  # no signal has come meanwhile
                service.serve(self._beat, interval)
            if not self._is_quick:
                service.finish(self._beat)
        finally:
            service.close()

    def _options(self) -> Options:
        """Our options: those of our own command line if that has started gunicorn, else made of gunicorn's."""
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
            # The arbiter kills at its own time.
            graceful_timeout=max(self.cfg.graceful_timeout - 1.0, 0.1),
            forwarded_allow_ips=("unix", *_addresses(self.cfg.forwarded_allow_ips)),
            proxy_protocol=self.cfg.proxy_protocol not in (False, None, "off"),
            **changes,
        )

    def _has_access_log(self) -> bool:
        """Whether gunicorn's logger wants to hear of requests: to write lines, or because it counts them."""
        is_usual = type(self.log).access is glogging.Logger.access
        return not is_usual or getattr(self.log, "access_log_enabled", True)

    def _answer(self, environ: Any, start_response: Any) -> Any:
        """The application, and a sign of life: a turn of the loop may answer more requests than the timeout allows."""
        self._beat()
        return self.wsgi(environ, start_response)

    def _beat(self) -> None:
        service = self._service
        assert service is not None
        if self.alive and self.max_requests != sys.maxsize and service.requests >= self.max_requests:
            self.alive = False
            self.log.info("Autorestarting worker after current request.")
        if not self.alive:  # by that, by a signal, or by the reloader's thread
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
        # Not by an exception: it would come up in an application that is running, as an error of that. One that goes on
        # nevertheless, the system ends, together with the process.
        self._is_quick = True
        self.cfg.worker_int(self)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(_QUICK)
        self.handle_exit(sig, frame)

    def handle_abort(self, sig: int, frame: Any) -> None:
        # By an exception, so that the log tells where the application hangs.
        self._is_quick = True
        if self._service is not None:
            self._service.stop()
        super().handle_abort(sig, frame)


def _within_bounds(name: str, value: Any) -> Any:
    """A value of gunicorn's for an option of ours."""
    least, most = OPTIONS[name].metadata["between"]
    if not value:
        return least if name == "keep_alive_timeout" else most
    return min(value, most)


def _addresses(value: str | Iterable[str]) -> list[str]:
    entries = value.split(",") if isinstance(value, str) else value
    return [entry.strip() for entry in entries if entry.strip()]
