"""Put our modules in the place of wsgiref's, for a whole process and without touching a program.

In code: :func:`install` and :func:`uninstall`. From a shell::

    python -m fastwsgi.swap SCRIPT [ARGS...]
    python -m fastwsgi.swap -m MODULE [ARGS...]

It holds for this process and those forked from it; a process that starts afresh has wsgiref again.
"""

from __future__ import annotations

import builtins
import importlib
import importlib.util
import os
import pkgutil
import sys
import threading
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import CodeType, ModuleType, TracebackType
from typing import Any, NoReturn

__all__ = ["install", "uninstall"]

_MODULES = ("handlers", "headers", "simple_server", "types", "util", "validate")

_USAGE = "usage: python -m fastwsgi.swap [-h] (SCRIPT | -m MODULE) [ARGS...]"
_HELP = f"""{_USAGE}

Run an unchanged program with fastwsgi's modules under wsgiref's names.

SCRIPT        a Python file, or a directory or zip file with a __main__.py, as for python SCRIPT
-m MODULE     a module or package, as for python -m MODULE
ARGS          the program's own arguments
"""

# The places we changed, each with what it held before; None while nothing is installed.
_replaced: list[tuple[dict[str, Any], str, Any]] | None = None
_lock = threading.Lock()
_ABSENT = object()


class _Installation:
    """What :func:`install` returns; leaving its ``with`` block takes back what that call has done."""

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

    The result can be used in a ``with`` statement: at the block's end :func:`uninstall` is called if it
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
    """Undo :func:`install`, wherever it was called: wsgiref's modules are again what they were.

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


def main(argv: Sequence[str]) -> None:
    """Run the program that *argv* (without our own name) asks for, as the interpreter would run it.

    What the program raises passes through. With no program to run: ``SystemExit`` with status 2, after
    one line on stderr.
    """
    if argv and argv[0] in ("-h", "--help"):
        print(_HELP, end="")
    elif not argv:
        _refuse(f"no program given; {_USAGE}")
    elif argv[0] == "-m":
        if len(argv) == 1:
            _refuse(f"-m needs a module; {_USAGE}")
        install()
        _run_module(argv[1], argv[2:])
    elif argv[0].startswith("-"):
        _refuse(f"unknown option {argv[0]}; {_USAGE}")
    else:
        install()
        _run_script(argv[0], argv[1:])


def _refuse(reason: str) -> NoReturn:
    print(f"fastwsgi.swap: {reason}", file=sys.stderr)
    sys.exit(2)


def _run_module(name: str, args: Sequence[str]) -> None:
    """Do what ``python -m name args`` does; our own ``-m`` has already put the right sys.path[0] there."""
    sys.argv[:] = ["-m", *args]  # what a package that is imported on the way sees
    spec = _find_module(name)
    sys.argv[0] = str(spec.origin)
    _run_spec(spec)


def _find_module(name: str) -> ModuleSpec:
    """Find the module itself, or the ``__main__`` of a package."""
    spec = None
    try:
        if not name.startswith(".") and name:
            spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            name += ".__main__"
            spec = importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        # A parent package that isn't there is ours to report; one that fails to import speaks for itself.
        if not f"{name}.".startswith(f"{error.name}."):
            raise
    if spec is None:
        _refuse(f"no module named {name!r}")
    return spec


def _run_script(script: str, args: Sequence[str]) -> None:
    """Do what ``python script args`` does: for a Python file, or a directory or zip file of modules."""
    sys.argv[:] = [script, *args]
    path = os.path.join(os.getcwd(), script)  # and no abspath(): with links "a/../b" needn't be "b"
    finder = pkgutil.get_importer(path)
    if finder is not None:
        spec = finder.find_spec("__main__")
        if spec is None:
            _refuse(f"no __main__ module in {script!r}")
        _replace_first_path(path)
        _run_spec(spec)
        return
    loader = SourceFileLoader("__main__", path)
    try:
        source = loader.get_data(path)
    except OSError as error:
        _refuse(f"can't open {script!r}: {error.strerror}")
    if not _path_is_safe():
        _replace_first_path(os.path.dirname(os.path.realpath(path)))
    _run(loader.source_to_code(source, path), __file__=path, __loader__=loader)


def _path_is_safe() -> bool:
    """Tell whether the interpreter was asked (-I, -P) to put no directory of its own into sys.path."""
    return bool(sys.flags.isolated or getattr(sys.flags, "safe_path", False))


def _replace_first_path(path: str) -> None:
    """Put *path* first, in the place of the directory that our own ``-m`` has put there."""
    sys.path[: 0 if _path_is_safe() else 1] = [path]


def _run_spec(spec: ModuleSpec) -> None:
    get_code = getattr(spec.loader, "get_code", None)
    code: CodeType | None = get_code and get_code(spec.name)
    if code is None:
        _refuse(f"no Python code in module {spec.name!r}")
    _run(code, __file__=spec.origin, __loader__=spec.loader, __package__=spec.parent, __spec__=spec)


def _run(code: CodeType, **names: object) -> None:
    """Execute *code* as the main module, which it stays: threads and exit handlers run after us."""
    module = ModuleType("__main__")
    vars(module).update(names, __builtins__=builtins)
    sys.modules["__main__"] = module
    exec(code, vars(module))


if __name__ == "__main__":
    # By name, because this is a second copy: a program that calls install() must meet our state.
    importlib.import_module("fastwsgi.swap").main(sys.argv[1:])
