"""The outcome of a call, to compare two implementations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Text(str):
    """A subclass of str, which PEP 3333 forbids where it requires str."""

    __slots__ = ()


def outcome(call: Callable[..., Any], *args: Any, **keywords: Any) -> tuple[Any, ...]:
    """The value of a call, or the type and message of its exception."""
    try:
        return ("value", call(*args, **keywords))
    except Exception as error:
        return ("raises", type(error), str(error))
