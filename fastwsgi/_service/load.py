"""Load the application that the command line names: MODULE:APP, MODULE:FACTORY() or FILE.py:APP."""

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

# Names of the application if the spec gives none: mod_wsgi and Django use the first, Flask the second.
_USUAL_NAMES = ("application", "app")
# A longer list of candidates doesn't help.
_FEW = 5
# A Windows path has a colon after the drive letter, so a file name is recognised by its suffix.
_FILE = re.compile(r"(.+?\.py)(?::(.*))?", re.DOTALL)


class LoadError(Exception):
    """The application can't be found; the message gives the reason in one line."""


def load_application(spec: str) -> WSGIApplication:
    """Import the module that a spec names, and return the application in it.

    spec: ``MODULE:APP``, ``MODULE:APP.attribute``, ``MODULE:FACTORY()`` (called without arguments) or ``MODULE`` (its
    ``application``, else its ``app``). ``FILE.py`` may stand in place of MODULE; its module name is the file's name
    without ".py". The current directory (for a file, the file's directory) is put first on ``sys.path`` and stays.

    Raises LoadError if the spec is wrong. Exceptions from importing the program or from running its factory pass
    through, and so does a ModuleNotFoundError for any module other than the requested one.
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
            raise LoadError(f"{path}() of {module.__name__!r} returned {_a(found)}, which is not callable")
    return cast("WSGIApplication", found)  # its parameters and its result are checked when it's called


def _parse(spec: str, name: str | None) -> tuple[str | None, bool]:
    """The dotted name after the colon, or None; and whether to call the object with that name."""
    if name is None:
        return None, False
    path = name.removesuffix("()")
    if "(" in path and path.partition("(")[0].replace(".", "_").isidentifier():
        raise LoadError(f"{spec!r}: a factory is called without arguments: {path.partition('(')[0]}()")
    if not all(part.isidentifier() for part in path.split(".")):
        raise LoadError(f"{spec!r}: {name!r} is not NAME, NAME.ATTRIBUTE or NAME()")
    return path, path != name


def _import_module(name: str) -> ModuleType:
    if not name or not all(name.split(".")) or "/" in name or "\\" in name:
        raise LoadError(f"{name!r} is not a module's name; a file's name ends in .py")
    _put_first(os.getcwd())
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # If a different module is missing, the program itself reports that.
        if not f"{name}.".startswith(f"{error.name}."):
            raise
        wanted = "" if error.name == name else f", needed for {name!r}"
        raise LoadError(f"there is no module {error.name!r}{wanted}") from None


def _import_file(path: str) -> ModuleType:
    """Import a file as the import system would, but from exactly this path."""
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
    """Names in a module that look like an application or a factory, unless there are many."""
    names = []
    for name, value in vars(module).items():
        # type(value), because a proxy that is bound to no object may raise when it is asked for its class.
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
    """Whether a function, or an instance of a Python class, can be called with ``count`` arguments."""
    if type(value) is not FunctionType:
        if str(type(value).__module__).partition(".")[0] in sys.stdlib_module_names:
            return False  # an object that the module has imported from the standard library
        value, count = type(value).__call__, count + 1
        if type(value) is not FunctionType:
            return False  # in C
    try:
        # The real signature, not the one that functools.wraps() shows.
        inspect.signature(value, follow_wrapped=False).bind(*[None] * count)
    except (TypeError, ValueError):
        return False
    return True


def _a(value: object) -> str:
    """A value's type, as part of a sentence."""
    return "None" if value is None else f"of type {type(value).__name__!r}"
