"""The event-driven inside of a ``WSGIServer``: loaded when the first one is made, not when simple_server is imported.

A program that imports simple_server and makes no server, as one with many commands does, pays for none of this.
"""

from __future__ import annotations

import functools
import http.server
import traceback  # noqa: F401  # pyright: ignore[reportUnusedImport]
from typing import NamedTuple

from fastwsgi._events.event_server import EventServer
from fastwsgi._events.loop import Loop
from fastwsgi._events.response import Response
from fastwsgi.handlers import SimpleHandler

# What logs need is imported lazily from 3.15, and traceback by a failing application: while that may still be done.
getattr(http.server, "_colorize", None)


class Inside(NamedTuple):
    """What serves a WSGIServer's connections on the event-driven path."""

    server: EventServer
    loop: Loop


@functools.cache
def response_of(handler_class: type[SimpleHandler]) -> type[Response]:
    """A handler class on the event-driven path; what programs set on the class and its bases, this one has, too."""
    return type(f"{handler_class.__name__}Response", (Response, handler_class), {})
