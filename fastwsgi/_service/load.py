"""Find the application that a command line names: MODULE:APP, MODULE:FACTORY() or FILE.py:APP."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import os
import re
import sys
from types import FunctionType, ModuleType
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from fastwsgi.types import WSGIApplication

# What an application is called by which nothing is said; the first is mod_wsgi's and Django's, the second Flask's.
_USUAL_NAMES = ("application", "app")
# More candidates than this are no help.
_FEW = 5
# The colon of a Windows drive is none of ours, so a file's name ends at its suffix.
_FILE = re.compile(r"(.+?\.py)(?::(.*))?", re.DOTALL)


class LoadError(Exception):
    """There is no application by that name; the message says in one line why."""


def load_application(spec: str) -> WSGIApplication:
    """Import the module that a spec names, and return the application in it.

    spec: one of ``MODULE:APP``, ``MODULE:APP.attribute``, ``MODULE:FACTORY()`` (called without arguments), ``MODULE``
    (its ``application``, else its ``app``), each with ``FILE.py`` for MODULE. The current directory or, for a file,
    its own, comes first on ``sys.path`` from then on. A file is imported by its name without ".py".

    Raises LoadError if the spec is wrong. What the program raises while it is imported or its factory runs, passes
    through, and so does a ModuleNotFoundError for another module than the one asked for.
    """
    if match := _FILE.fullmatch(spec):
        module_name, name = match[1], match[2]
    else:
        module_name, colon, name = spec.partition(":")
        name = name if colon else None
    path, calls = _parse(spec, name)
    module = _import_file(module_name) if match else _import_module(module_name)
    path = path or _usual_name(module)
    found = _follow(module, path)
    if not callable(found):
        raise LoadError(f"{path} of {module.__name__!r} is not callable, but {_a(found)}")
    if calls:
        found = found()
        if not callable(found):
            raise LoadError(f"{path}() of {module.__name__!r} has returned {_a(found)}, which is not callable")
    return cast("WSGIApplication", found)  # what it takes and returns, is seen when it's called


def _parse(spec: str, name: str | None) -> tuple[str | None, bool]:
    """The dotted name behind the colon, or None, and whether what it names is to be called."""
    if name is None:
        return None, False
    path = name.removesuffix("()")
    if "(" in path and path.partition("(")[0].replace(".", "_").isidentifier():
        raise LoadError(f"{spec!r}: a factory is called without arguments: {path.partition('(')[0]}()")
    if not all(part.isidentifier() for part in path.split(".")):
        raise LoadError(f"{spec!r}: {name!r} is not a name, nor NAME.ATTRIBUTE or NAME()")
    return path, path != name


def _import_module(name: str) -> ModuleType:
    if not name or not all(name.split(".")) or "/" in name or "\\" in name:
        raise LoadError(f"{name!r} is not a module's name; a file's name ends in .py")
    _put_first(os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # One that the program misses is the program's to report.
        if not f"{name}.".startswith(f"{error.name}."):
            raise
        wanted = "" if error.name == name else f", as {name!r} wants"
        raise LoadError(f"there is no module {error.name!r}{wanted}") from None


def _import_file(path: str) -> ModuleType:
    """Import a file as the import system would, but from that very place."""
    path = os.path.abspath(path)
    try:
        open(path, "rb").close()
    except OSError as error:
        raise LoadError(f"can't read {path!r}: {error.strerror}") from None
    name = os.path.basename(path).removesuffix(".py")
    if name in sys.modules:
        module = sys.modules[name]
        origin = getattr(module, "__file__", None)
        if origin is None or not os.path.exists(origin) or not os.path.samefile(origin, path):
            raise LoadError(f"{path!r} can't be imported: another module is called {name!r}; rename the file")
        return module
    _put_first(os.path.dirname(path))
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    return sys.modules.get(name, module)  # a module may have put something else in its place


def _put_first(directory: str) -> None:
    if sys.path[:1] != [directory]:
        sys.path.insert(0, directory)


def _usual_name(module: ModuleType) -> str:
    for name in _USUAL_NAMES:
        if hasattr(module, name):
            return name
    raise LoadError(f"module {module.__name__!r} has no {' and no '.join(_USUAL_NAMES)}{_hint(module)}")


def _follow(module: ModuleType, path: str) -> Any:
    found: Any = module
    done = ""
    for name in path.split("."):
        try:
            found = getattr(found, name)
        except AttributeError as error:
            owner = f"{done!r} of module" if done else "module"
            hint = "" if done else _hint(module)
            raise LoadError(f"{owner} {module.__name__!r} has no {name}{hint}") from error
        done = f"{done}.{name}".lstrip(".")
    return found


def _hint(module: ModuleType) -> str:
    """What in a module looks like an application or a factory of one, if that isn't much."""
    names = []
    for name, value in vars(module).items():
        # By its type, because a proxy may have nobody to ask for its class.
        if name.startswith("_") or not callable(value) or issubclass(type(value), type | ModuleType):
            continue
        if type(value) is FunctionType and value.__module__ != module.__name__:
            continue  # imported for use
        if _takes(value, 2):
            names.append(name)
        elif "app" in name and type(value) is FunctionType and _takes(value, 0):
            names.append(f"{name}()")
    return f", but {', '.join(names)}" if 0 < len(names) <= _FEW else ""


def _takes(value: Any, count: int) -> bool:
    """Whether a function, or an object by its class, can be called with so many arguments."""
    if type(value) is not FunctionType:
        if str(type(value).__module__).partition(".")[0] in sys.stdlib_module_names:
            return False  # what imports leave behind in any module
        value, count = type(value).__call__, count + 1
        if type(value) is not FunctionType:
            return False  # in C
    try:
        # As it is, and not as a decorator has made it look.
        inspect.signature(value, follow_wrapped=False).bind(*[None] * count)
    except (TypeError, ValueError):
        return False
    return True


def _a(value: object) -> str:
    """A value's kind, for a sentence."""
    return "None" if value is None else f"of type {type(value).__name__!r}"
