"""One application on its listening sockets, in one thread or several: start, serve, stop without losing a request.

It uses the same event-driven server as make_server, with another front: a clean environ, no hooks, its own logs.
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

# How long to wait for all threads to end, in seconds, after the loop has stopped.
_LAST = 1.0


class Listener(Protocol):
    """A listening socket of a service."""

    @property
    def sock(self) -> socket.socket:
        """The socket, or a TLS socket around it."""
        ...

    @property
    def is_inherited(self) -> bool:
        """Whether other processes may still accept clients from it."""
        ...

    def close(self) -> None:
        """Close the socket."""


class Service:
    """Serves an application on listening sockets.

    application: PEP 3333 callable; options: all options, except that those for listening are ignored; listeners: the
    listening sockets, plain or TLS; multiprocess: whether other processes serve the application too; access_log: used
    instead of the access log of the options.
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
        #: A SingleLoop for one thread, a SharedLoop for more.
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
        """How many requests were answered. It is an estimate, because threads count without a lock."""
        return self.loop.requests + sum(lane.requests for server in self._servers for lane in server.lanes)

    def serve(self, actions: Callable[[], None] = lambda: None, interval: float = 0.5) -> None:
        """Serve until ``stop()``. actions: called in this thread, at least every interval seconds."""
        if isinstance(self.loop, SingleLoop):
            self.loop.serve(lambda: False, interval, actions)
            return
        for number in range(self.options.threads):
            # Daemon threads, so that an application that hangs doesn't keep the process alive.
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
            except BaseException:  # raised by an application; a Ctrl-C is raised in the main thread only
                report(logging.ERROR, "An error in thread %d, which continues", number, exc_info=True)

    def stop(self) -> None:
        """Make ``serve()`` return. May be called from any thread or a signal handler."""
        # Without a lock, because a signal handler may interrupt the thread that holds it. From now on each answer
        # closes its connection.
        self.loop.ask_to_stop()
        self._bell.wake()

    def reopen_logs(self) -> None:
        """Open the access log again, after its file was renamed."""
        if self.access_log is not None:
            self.access_log.reopen()

    def finish(self, actions: Callable[[], None] = lambda: None) -> None:
        """Stop accepting, answer the requests that were received, and close everything.

        It waits ``options.graceful_timeout`` seconds at most. actions: called repeatedly while waiting.
        """
        try:
            self.loop.retire()
            for server, listener in zip(self._servers, self._listeners, strict=True):
                if not listener.is_inherited:  # if it is, another process accepts the waiting clients
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
