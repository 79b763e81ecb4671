"""Look up public names, and read how they can be called."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from types import FunctionType, GenericAlias, ModuleType
from typing import Any

MODULES = ("util", "headers", "handlers", "simple_server", "validate", "types")

# Called by syntax, with positional arguments: only how many they take counts.
OPERATORS = {
    "__bytes__", "__call__", "__contains__", "__del__", "__delitem__", "__getitem__", "__init__", "__iter__",
    "__len__", "__next__", "__repr__", "__setitem__", "__str__",
}  # fmt: skip


def ours(module: str) -> ModuleType:
    return importlib.import_module(f"fastwsgi.{module}")


def look_up(dotted: str, package: Callable[[str], Any]) -> Any:
    module, *names = dotted.split(".")
    value = package(module)
    for name in names:
        value = getattr(value, name)
    return value


def comparable(value: object) -> object:
    """A default or an attribute in a form that is equal on both sides: our class for a class of theirs."""
    if isinstance(value, GenericAlias | type(Callable[[], None])):  # of our classes or theirs
        return repr(value).replace("wsgiref.", "").replace("fastwsgi.", "")
    return value.__qualname__ if inspect.isclass(value) else value


def parameters(function: Callable[..., Any]) -> list[tuple[str, str, object]]:
    return [
        (parameter.name, parameter.kind.name, comparable(parameter.default))
        for parameter in inspect.signature(function).parameters.values()
    ]


def positional_range(function: Callable[..., Any]) -> tuple[int, float]:
    """How many positional arguments the function takes, at least and at most."""
    if function.__name__ == "__next__" and not isinstance(function, FunctionType):
        return 1, 1  # the one slot for which a compiled class has no signature to read
    found = inspect.signature(function).parameters.values()
    positional = [p for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in positional if p.default is p.empty]
    return len(required), float("inf") if any(p.kind is p.VAR_POSITIONAL for p in found) else len(positional)
