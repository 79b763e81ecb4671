"""One application on its listening sockets, in one thread or several: start, serve, stop without losing a request.

The event-driven server behind make_server, with a front of its own: a clean environ, no hooks, other logs.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Protocol

from fastwsgi._events.event_server import EventServer
from fastwsgi._events.phases import ASKED_TO_STOP, STOPPED
from fastwsgi._events.poller import READ, WakeUp, wait_for
from fastwsgi._events.shared_loop import SharedLoop
from fastwsgi._events.single_loop import SingleLoop

from .access_log import AccessLog, LogFile
from .error_log import report
from .front import Logger, ServiceFront
from .proxies import Proxies

if TYPE_CHECKING:
    from fastwsgi.types import WSGIApplication

    from .options import Options

# What all threads together have to end in, in seconds, when nobody is waited for any more.
_LAST = 1.0


class Listener(Protocol):
    """A listening socket that a service serves."""

    @property
    def sock(self) -> socket.socket:
        """The socket, or a TLS socket around it."""
        ...

    @property
    def is_inherited(self) -> bool:
        """Whether another process may go on to accept on it."""
        ...

    def close(self) -> None:
        """Close it."""


class Service:
    """Serves an application on listening sockets.

    application: PEP 3333 callable; options: which of them concern listening, is not looked at; listeners: their
    sockets, of which each may be a TLS one; multiprocess: whether other processes serve the application, too;
    access_log: a replacement for that of the options.
    """

    def __init__(
        self,
        application: WSGIApplication,
        options: Options,
        listeners: Sequence[Listener],
        *,
        multiprocess: bool = False,
        access_log: Logger | None = None,
    ) -> None:
        self.options = options
        self._listeners = listeners
        self._threads: list[threading.Thread] = []
        self._bell = WakeUp()
        if access_log is None and options.access_log is not None:
            access_log = AccessLog(options.access_log_format, LogFile(options.access_log))
        self.access_log = access_log
        proxies = Proxies(options.forwarded_allow_ips, options.forwarded_fields)
        #: One thread runs a SingleLoop.
        self.loop: SingleLoop | SharedLoop = SharedLoop(options) if options.threads > 1 else SingleLoop(options)
        self._servers = [
            EventServer(
                ServiceFront(
                    listener.sock,
                    application,
                    access_log,
                    proxies,
                    multiprocess=multiprocess,
                    begins_with_proxy=options.proxy_protocol,
                ),
                options,
                self.loop,
                options.threads,
            )
            for listener in listeners
        ]

    @property
    def requests(self) -> int:
        """How many requests were answered, about: threads count without waiting for each other."""
        return self.loop.requests + sum(lane.requests for server in self._servers for lane in server.lanes)

    def serve(self, actions: Callable[[], None] = lambda: None, interval: float = 0.5) -> None:
        """Serve until ``stop()``. actions: called every so many seconds at least, in this thread."""
        if isinstance(self.loop, SingleLoop):
            self.loop.serve(lambda: False, interval, actions)
            return
        for number in range(self.options.threads):
            # Daemons, so that an application that hangs doesn't keep the process.
            name = f"fastwsgi-{number}"
            thread = threading.Thread(target=self._serve_in_thread, args=(number,), name=name, daemon=True)
            thread.start()
            self._threads.append(thread)
        while self.loop.phase < ASKED_TO_STOP:
            wait_for(self._bell.fd, READ, interval)
            actions()

    def _serve_in_thread(self, number: int) -> None:
        assert isinstance(self.loop, SharedLoop)
        while self.loop.phase < STOPPED:
            try:
                self.loop.serve_in_thread(number)
            except BaseException:  # which is an application's: a Ctrl-C comes to the main thread
                report(logging.ERROR, "An error in thread %d; it goes on", number, exc_info=True)

    def stop(self) -> None:
        """Have ``serve()`` return; from any thread, or a signal handler."""
        # No lock: the thread that a signal handler interrupts may have it. Now, so that a request in the application is
        # answered as the last one.
        self.loop.ask_to_stop()
        self._bell.wake()

    def reopen_logs(self) -> None:
        """Go on in a new file, after the old one was moved away."""
        if self.access_log is not None:
            self.access_log.reopen()

    def finish(self, actions: Callable[[], None] = lambda: None) -> None:
        """Accept no more, answer what has been received, close everything; in ``options.graceful_timeout`` seconds.

        actions: called again and again.
        """
        try:
            self.loop.retire()
            for server, listener in zip(self._servers, self._listeners, strict=True):
                if not listener.is_inherited:  # else another process accepts who waits there
                    self.loop.accept_all(server)
                    listener.close()
            self.loop.finish(self.options.graceful_timeout, patiently=True, actions=actions)
            end = monotonic() + _LAST
            for thread in self._threads:
                thread.join(max(end - monotonic(), 0.0))
        finally:
            self.close()

    def close(self) -> None:
        """Close every connection and listening socket now."""
        self.loop.stop()
        if isinstance(self.loop, SharedLoop) and any(thread.is_alive() for thread in self._threads):
            self.loop.close_parked()
        else:
            self.loop.close()
        for listener in self._listeners:
            listener.close()
        self._bell.close()
        if self.access_log is not None:
            self.access_log.close()
