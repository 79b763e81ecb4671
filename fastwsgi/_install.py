"""Put our modules under wsgiref's names in a running process, and take them out again."""

from __future__ import annotations

import importlib
import sys
import threading
from types import TracebackType
from typing import Any

_MODULES = ("handlers", "headers", "simple_server", "types", "util", "validate")

# The places we changed, each with what it held before; None while nothing is installed.
_replaced: list[tuple[dict[str, Any], str, Any]] | None = None
_lock = threading.Lock()
_ABSENT = object()


class _Installation:
    """What ``install()`` returns; leaving its ``with`` block takes back what that call has done."""

    def __init__(self, did_it: bool) -> None:
        self._did_it = did_it

    def __enter__(self) -> _Installation:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._did_it:
            uninstall()


def install() -> _Installation:
    """Put our six modules under wsgiref's names, for all imports and ``wsgiref.`` look-ups from now on.

    Code that has imported the package ``wsgiref`` before sees them too; names that were taken out of
    its modules before (``from wsgiref.util import FileWrapper``) stay what they are. Installing twice
    changes nothing.

    The result can be used in a ``with`` statement: at the block's end ``uninstall()`` is called if it
    was this call that installed, so of nested blocks the outermost restores.
    """
    global _replaced  # noqa: PLW0603
    # Before the lock is taken: an import can run other people's code.
    package = importlib.import_module("wsgiref")
    ours = {name: importlib.import_module(f"{__package__}.{name}") for name in _MODULES}
    with _lock:
        if _replaced is not None:
            return _Installation(did_it=False)
        _replaced = []
        for name, module in ours.items():
            for namespace, key in ((sys.modules, f"wsgiref.{name}"), (vars(package), name)):
                _replaced.append((namespace, key, namespace.get(key, _ABSENT)))
                namespace[key] = module
    return _Installation(did_it=True)


def uninstall() -> None:
    """Undo ``install()``, wherever it was called: wsgiref's modules are again what they were.

    A module that hadn't been imported is absent again. Does nothing if nothing is installed.
    """
    global _replaced  # noqa: PLW0603
    with _lock:
        for namespace, key, value in _replaced or ():
            if value is _ABSENT:
                namespace.pop(key, None)
            else:
                namespace[key] = value
        _replaced = None
