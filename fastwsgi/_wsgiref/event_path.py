"""Build the event-driven server behind a ``WSGIServer``.

This module is imported when the first server is made, so that a program without a server doesn't load it.
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

# From Python 3.15, http.server imports _colorize lazily, and only an error imports traceback. Load both now: later the
# program may have lost the right to read the files.
getattr(http.server, "_colorize", None)


class Inside(NamedTuple):
    """The objects that serve a WSGIServer's connections on the event-driven path."""

    front: ServerFront
    server: EventServer
    #: A SingleLoop; tests also use a SharedLoop.
    loop: Any


def make_inside(front: ServerFront, loop: EventLoop | None, threads: int) -> Inside:
    """Make the objects that serve behind a front. loop: None for a new SingleLoop."""
    loop = loop or SingleLoop(front.settings)
    return Inside(front, EventServer(front, front.settings, loop, threads), loop)


@functools.cache
def response_of(handler_class: type[SimpleHandler]) -> type[Response]:
    """Combine Response with a handler class, so that attributes which a program set on that class have effect."""
    return type(f"{handler_class.__name__}Response", (Response, handler_class), {})
