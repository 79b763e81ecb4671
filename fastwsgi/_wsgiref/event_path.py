"""What serves a ``WSGIServer`` on the event-driven path: loaded when the first server is made.

A program that imports simple_server and makes no server pays for none of this.
"""

from __future__ import annotations

import functools
import http.server
import traceback  # noqa: F401  # pyright: ignore[reportUnusedImport]
from typing import Any, NamedTuple

import fastwsgi._http.body  # pyright: ignore[reportUnusedImport]
import fastwsgi._http.settings  # noqa: F401  # pyright: ignore[reportUnusedImport]
from fastwsgi._events.event_server import EventServer
from fastwsgi._events.loop import EventLoop
from fastwsgi._events.response import Response
from fastwsgi._events.single_loop import SingleLoop
from fastwsgi.handlers import SimpleHandler

from .front import ServerFront

# What logs need is imported lazily from 3.15, and traceback by a failing application: while that may still be done.
getattr(http.server, "_colorize", None)


class Inside(NamedTuple):
    """What serves a WSGIServer's connections on the event-driven path."""

    front: ServerFront
    server: EventServer
    #: A SingleLoop, but in tests that run several threads.
    loop: Any


def make_inside(front: ServerFront, loop: EventLoop | None, threads: int) -> Inside:
    """What serves behind a front. loop: None for a new one of one thread."""
    loop = loop or SingleLoop(front.settings)
    return Inside(front, EventServer(front, front.settings, loop, threads), loop)


@functools.cache
def response_of(handler_class: type[SimpleHandler]) -> type[Response]:
    """A handler class on the event-driven path. It has what programs set on the class and its bases, too."""
    return type(f"{handler_class.__name__}Response", (Response, handler_class), {})
