"""A worker class for gunicorn: ``gunicorn -k fastwsgi.gunicorn.Worker module:app``.

gunicorn listens, starts and replaces processes; in each of them our event-driven server serves. Works like its other
workers: threads, max_requests, timeout, graceful_timeout, TLS, access log, reload. Its settings for limits and
keep-alive count where they aren't gunicorn's defaults; otherwise ours do. ``pre_request`` and ``post_request`` are not
called.
"""

from __future__ import annotations

import os
import socket
from dataclasses import replace
from datetime import timedelta
from time import monotonic
from types import SimpleNamespace
from typing import Any, NamedTuple

import gunicorn.sock
from gunicorn.workers import base

from ._serve.options import Options
from ._serve.service import Service

# gunicorn's settings, where they aren't its defaults, and ours.
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

    def __init__(self, logger: Any) -> None:
        self._logger = logger

    def log(self, request: Any, status: str, size: int, seconds: float) -> None:
        head = request._head
        if head is None:
            environ = {"REMOTE_ADDR": request.address_string(), "REQUEST_METHOD": "-", "SERVER_PROTOCOL": "-"}
            fields = []
        else:
            environ, fields = request.get_environ(), head.fields
            environ["REMOTE_ADDR"] = request.address_string()
        environ["RAW_URI"] = environ.get("REQUEST_URI", "-")
        response = SimpleNamespace(status=status, sent=size, headers=[])
        self._logger.access(response, SimpleNamespace(headers=fields), environ, timedelta(seconds=seconds))

    def stamp(self) -> str:
        return ""

    def write(self, text: str) -> None:
        """Nothing comes here: each request is logged by itself."""

    def reopen(self) -> None:
        """gunicorn's to do."""

    def close(self) -> None:
        """gunicorn's to do."""


class Worker(base.Worker):  # type: ignore[misc, unused-ignore]
    """Serves in one of gunicorn's processes, in as many threads as its ``threads`` says."""

    _service: Service | None = None
    _is_quick = False
    _next_beat = 0.0

    def run(self) -> None:
        options = self._options()
        context = gunicorn.sock.ssl_context(self.cfg) if self.cfg.is_ssl else None
        listeners = []
        for each in self.sockets:
            sock = each.sock
            if context is not None:
                sock = context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            listeners.append(_Listener(sock))
        # Of the options a process of our own command line has a log, else gunicorn's, if it is to have one.
        log = _AccessLog(self.log) if options.access_log is None and self.log.access_log_enabled else None
        self._service = service = Service(
            self.wsgi, options, listeners, multiprocess=self.cfg.workers > 1, access_log=log
        )
        self._beat_time = min(1.0, self.timeout / 2 or 1.0)
        try:
            if self.alive:  # no signal has come meanwhile
                service.serve(self._beat, self._beat_time)
            if not self._is_quick:
                service.finish(self.notify)
        finally:
            service.close()

    def _options(self) -> Options:
        """Our options: those of our own command line if that has started gunicorn, else made of gunicorn's."""
        options = getattr(self.app, "options", None)
        if isinstance(options, Options):
            return options
        settings = self.cfg.settings
        changes = {
            ours: settings[theirs].get()
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

    def _beat(self) -> None:
        now = monotonic()
        if now < self._next_beat or self._service is None:
            return
        self._next_beat = now + self._beat_time
        self.notify()
        if self.ppid != os.getppid():
            self.log.info("Parent changed, shutting down: %s", self)
            self._service.stop()
        elif self._service.requests >= self.max_requests:
            self.log.info("Autorestarting worker after current request.")
            self._service.stop()

    def handle_exit(self, sig: int, frame: Any) -> None:
        super().handle_exit(sig, frame)
        if self._service is not None:
            self._service.stop()

    def handle_quit(self, sig: int, frame: Any) -> None:
        # Not by an exception: it would come up in an application that is running, as an error of that.
        self.alive = False
        self._is_quick = True
        self.cfg.worker_int(self)
        if self._service is not None:
            self._service.stop()


def _addresses(value: Any) -> tuple[str, ...]:
    return tuple(each.strip() for each in value.split(",")) if isinstance(value, str) else tuple(value)
