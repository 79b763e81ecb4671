"""The outcome of a call, for comparing two implementations of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class Text(str):
    """A str that isn't exactly one, as PEP 3333 doesn't want them."""

    __slots__ = ()


def outcome(call: Callable[..., Any], *args: Any, **keywords: Any) -> tuple[Any, ...]:
    """The call's value, or the type and message of what it raises."""
    try:
        return ("value", call(*args, **keywords))
    except Exception as error:
        return ("raises", type(error), str(error))
