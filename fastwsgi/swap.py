"""Run an unchanged program with our modules under wsgiref's names.

::

    python -m fastwsgi.swap SCRIPT [ARGS...]
    python -m fastwsgi.swap -m MODULE [ARGS...]

This affects this process and processes forked from it. A newly started process has the real wsgiref again.
"""

from __future__ import annotations

import builtins
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, SourceFileLoader
from types import CodeType, ModuleType
from typing import NoReturn

from ._install import install

_USAGE = "usage: python -m fastwsgi.swap [-h] (SCRIPT | -m MODULE) [ARGS...]"
_HELP = f"""{_USAGE}

Run an unchanged program with fastwsgi's modules under wsgiref's names.

SCRIPT        a Python file, or a directory or zip file with a __main__.py, as for python SCRIPT
-m MODULE     a module or package, as for python -m MODULE
ARGS          the program's own arguments
"""

def main(argv: Sequence[str]) -> None:
    """Run the program that *argv* names, as the interpreter would run it. *argv* is without our own name.

    Exceptions of the program pass through. If there is no program to run, one line goes to stderr, and ``SystemExit``
    with status 2 is raised.
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
    """Do what ``python -m name args`` does. Our own ``-m`` has already set the right sys.path[0]."""
    sys.argv[:] = ["-m", *args]  # seen by packages that are imported while the module is located
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
        # We report a missing parent package. If one fails to import, its own exception passes through.
        if not f"{name}.".startswith(f"{error.name}."):
            raise
        spec = None
    if spec is None:
        _refuse(f"no module named {name!r}")
    return spec


def _run_script(script: str, args: Sequence[str]) -> None:
    """Do what ``python script args`` does: for a Python file, or a directory or zip file of modules."""
    sys.argv[:] = [script, *args]
    path = os.path.join(os.getcwd(), script)  # not abspath(): with symbolic links "a/../b" may differ from "b"
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
    """Tell whether the interpreter was started with -I or -P, and so added no directory to sys.path."""
    return bool(sys.flags.isolated or getattr(sys.flags, "safe_path", False))


def _replace_first_path(path: str) -> None:
    """Put *path* first in sys.path, in place of the directory that our own ``-m`` has put there."""
    sys.path[: 0 if _path_is_safe() else 1] = [path]


def _run_spec(spec: ModuleSpec) -> None:
    get_code = getattr(spec.loader, "get_code", None)
    code: CodeType | None = get_code and get_code(spec.name)
    if code is None:
        _refuse(f"no Python code in module {spec.name!r}")
    _run(code, __file__=spec.origin, __loader__=spec.loader, __package__=spec.parent, __spec__=spec)


def _run(code: CodeType, **names: object) -> None:
    """Execute *code* as the main module. It stays the main module for threads and exit handlers, which run later."""
    module = ModuleType("__main__")
    vars(module).update(names, __builtins__=builtins)
    sys.modules["__main__"] = module
    exec(code, vars(module))


if __name__ == "__main__":
    main(sys.argv[1:])
