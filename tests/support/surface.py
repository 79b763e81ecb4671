"""Look up public names and their signatures."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from types import FunctionType, GenericAlias, ModuleType
from typing import Any

MODULES = ("util", "headers", "handlers", "simple_server", "validate", "types")

# Operators call these with positional arguments, so only their number matters.
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
    """A default or an attribute in a form that can be compared: wsgiref's classes are replaced by ours."""
    if isinstance(value, GenericAlias | type(Callable[[], None])):  # of our classes or wsgiref's
        return repr(value).replace("wsgiref.", "").replace("fastwsgi.", "")
    return value.__qualname__ if inspect.isclass(value) else value


def parameters(function: Callable[..., Any]) -> list[tuple[str, str, object]]:
    return [
        (parameter.name, parameter.kind.name, comparable(parameter.default))
        for parameter in inspect.signature(function).parameters.values()
    ]


def positional_range(function: Callable[..., Any]) -> tuple[int, float]:
    """The least and the largest number of positional arguments that a function takes."""
    if function.__name__ == "__next__" and not isinstance(function, FunctionType):
        return 1, 1  # the only slot without a readable signature in a compiled class
    found = inspect.signature(function).parameters.values()
    positional = [p for p in found if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    required = [p for p in positional if p.default is p.empty]
    return len(required), float("inf") if any(p.kind is p.VAR_POSITIONAL for p in found) else len(positional)
