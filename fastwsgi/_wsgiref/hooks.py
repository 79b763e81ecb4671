"""Which of the standard library's hooks a program overrides, and so which path may serve it.

The event-driven server reads requests by itself. A class that overrides how a connection is accepted, read or
answered gets the classic path, as socketserver runs it; all other hooks are called by both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import FunctionType
from typing import Any, NamedTuple

#: What an environ says of a body of unknown type.
CONTENT_TYPE = "text/plain"

#: Of a server: how a connection is got, run and closed.
SERVER_HOOKS = (
    "get_request", "process_request", "finish_request", "shutdown_request", "close_request", "handle_timeout",
    "_handle_request_noblock",
)  # fmt: skip
#: Of a request handler: how a connection is read and written.
HANDLER_HOOKS = (
    "__new__", "__init__", "setup", "handle", "handle_one_request", "finish", "parse_request", "handle_expect_100",
    "send_error", "rbufsize", "wbufsize", "timeout",
)  # fmt: skip
#: Of a request handler: what goes into each request's environ, so that it can't be made beforehand.
ENVIRON_HOOKS = ("get_environ", "get_stderr", "address_string", "headers")
#: Of a request handler: what a log line is made of.
LOG_HOOKS = ("log_request", "log_message", "address_string", "log_date_time_string")


class Overridden(NamedTuple):
    """Which hooks a program overrides that the event-driven server calls."""

    #: How the application is got: get_app().
    app: bool
    #: What goes into each request's environ.
    environ: bool
    #: What a log line is made of.
    log: bool


class Explanation(NamedTuple):
    """Which path serves a server's connections, and why."""

    #: "event-driven" or "classic".
    path: str
    #: What forbids the event-driven server, or restrains it; a sentence each.
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.path}: {'; '.join(self.reasons) or 'nothing forbids it'}"


def stock(cls: type, names: Iterable[str]) -> dict[str, Any]:
    """What a class has under some names, to be compared with later."""
    return {name: getattr(cls, name) for name in names}


def methods(cls: type) -> dict[str, Any]:
    """All methods of a class, inherited ones among them, to be compared with later."""
    return {name: value for name in dir(cls) if isinstance(value := getattr(cls, name), FunctionType)}


def overridden(cls: type, before: Mapping[str, Any], instance: object = None) -> list[str]:
    """The names whose values aren't what they were, in the class or, if there is one, in the instance."""
    own = vars(instance) if instance is not None else {}
    return [name for name, value in before.items() if name in own or getattr(cls, name, None) is not value]


def sets(cls: type, name: str, base: type) -> bool:
    """Whether a class, or one between it and a base, sets an attribute."""
    return any(name in vars(each) for each in cls.__mro__[: cls.__mro__.index(base)])
