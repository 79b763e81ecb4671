"""Put our modules under wsgiref's names in a running process, and remove them again."""

from __future__ import annotations

import importlib
import sys
import threading
from types import TracebackType
from typing import Any

_MODULES = ("handlers", "headers", "simple_server", "types", "util", "validate")

# The dict entries that we changed, each with its previous value; None while nothing is installed.
_replaced: list[tuple[dict[str, Any], str, Any]] | None = None
_lock = threading.Lock()
_ABSENT = object()


class _Installation:
    """The result of ``install()``. The end of its ``with`` block undoes what that call has done."""

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
    """Put our six modules under wsgiref's names, for all later imports and ``wsgiref.`` look-ups.

    Code that imported the package ``wsgiref`` earlier sees our modules, too. Names that were imported from
    its modules earlier (``from wsgiref.util import FileWrapper``) stay the same. A second call changes
    nothing.

    The result can be used in a ``with`` statement. The end of the block calls ``uninstall()``, but only if
    this call did the installation. So if blocks are nested, the outermost one restores wsgiref.
    """
    global _replaced  # noqa: PLW0603
    # Import before taking the lock, because an import can run arbitrary code.
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
    """Undo ``install()``, wherever it was called, and restore wsgiref's modules.

    A module that wasn't imported before is absent again. Does nothing if nothing is installed.
    """
    global _replaced  # noqa: PLW0603
    with _lock:
        for namespace, key, value in _replaced or ():
            if value is _ABSENT:
                namespace.pop(key, None)
            else:
                namespace[key] = value
        _replaced = None
