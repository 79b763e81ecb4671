"""Find which of the standard library's hooks a program overrides, to choose the path that serves it.

The event-driven server reads requests without a request handler. If a class overrides how a connection is accepted,
read or answered, the classic path serves it, as socketserver does. Both paths call all other hooks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import FunctionType
from typing import Any, NamedTuple

#: CONTENT_TYPE of a request without one.
CONTENT_TYPE = "text/plain"

#: Server methods for how a connection is accepted, handled and closed.
SERVER_HOOKS = (
    "get_request", "process_request", "finish_request", "shutdown_request", "close_request", "handle_timeout",
    "_handle_request_noblock",
)  # fmt: skip
#: Request handler attributes for how a connection is read and written.
HANDLER_HOOKS = (
    "__new__", "__init__", "setup", "handle", "handle_one_request", "finish", "parse_request", "handle_expect_100",
    "send_error", "rbufsize", "wbufsize", "timeout",
)  # fmt: skip
#: Request handler attributes that change the environ, so that no part of it can be prepared.
ENVIRON_HOOKS = ("get_environ", "get_stderr", "address_string", "headers")
#: Request handler methods that make log lines.
LOG_HOOKS = ("log_request", "log_message", "address_string", "log_date_time_string")


class Overridden(NamedTuple):
    """The overridden hooks that the event-driven server must call."""

    #: Whether get_app() is overridden, which returns the application.
    app: bool
    #: Whether a hook that changes the environ is overridden.
    environ: bool
    #: Whether a hook that makes log lines is overridden, and does something.
    log: bool
    #: Whether requests are logged: a program may override the log with a function that does nothing.
    logs: bool
    #: The value of SERVER_SOFTWARE.
    software: str


class Explanation(NamedTuple):
    """Which path serves a server's connections, and why."""

    #: "event-driven" or "classic".
    path: str
    #: What prevents the event-driven path; one sentence each.
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.path}: {'; '.join(self.reasons) or 'nothing forbids it'}"


def stock(cls: type, names: Iterable[str]) -> dict[str, Any]:
    """The attributes of a class with these names, to compare with later."""
    return {name: getattr(cls, name) for name in names}


def methods(cls: type) -> dict[str, Any]:
    """All methods of a class, including inherited ones, to compare with later."""
    return {name: value for name in dir(cls) if isinstance(value := getattr(cls, name), FunctionType)}


def overridden(cls: type, before: Mapping[str, Any], instance: object = None) -> list[str]:
    """The names whose values have changed since ``stock()``, in the class or in an instance of it."""
    own = vars(instance) if instance is not None else {}
    return [name for name, value in before.items() if name in own or getattr(cls, name, None) is not value]


def _nothing(*args: object) -> None:
    pass


def _documented(*args: object) -> None:
    """Does nothing either."""


_TAKES_ANY = 4  # inspect.CO_VARARGS
# The code of functions that do nothing, and the place of the constant that they return; None if the instruction names
# it, as from Python 3.15 on.
_NOTHING = {
    code.co_code: code.co_consts.index(None) if None in code.co_consts else None
    for code in (_nothing.__code__, _documented.__code__)
}


def does_nothing(function: object, arguments: int, more: bool) -> bool:
    """Whether calls of a function do nothing, as its code tells: ``def log_message(self, *args): pass``.

    arguments: how many it is called with at least, by position; more: whether calls may have any number of others.
    """
    if type(function) is not FunctionType:
        return False
    code = function.__code__
    if code.co_code not in _NOTHING:
        return False
    place = _NOTHING[code.co_code]
    if place is not None and (len(code.co_consts) <= place or code.co_consts[place] is not None):
        return False
    needed = code.co_argcount - len(function.__defaults__ or ())
    takes_any = bool(code.co_flags & _TAKES_ANY)
    takes_enough = takes_any or (not more and code.co_argcount >= arguments)
    return needed <= arguments and takes_enough and code.co_kwonlyargcount == len(function.__kwdefaults__ or ())


def sets(cls: type, name: str, base: type) -> bool:
    """Whether a class sets an attribute, or a class between it and base does."""
    return any(name in vars(each) for each in cls.__mro__[: cls.__mro__.index(base)])
