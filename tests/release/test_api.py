"""Compare our public names with the standard library's: signatures, classes, values.

The names come from the running interpreter. NEWER lists names that only newer versions have.
"""

from __future__ import annotations

import copy
import http.server
import importlib
import importlib.util
import inspect
import io
import pickle
import socketserver
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

import pytest

from surface import MODULES, OPERATORS, comparable, look_up, ours, parameters, positional_range

# Names that only newer interpreters have, and we have everywhere.
# The value is the version that added the name, or None if bugfix releases got it too.
NEWER: dict[str, tuple[int, int] | None] = {
    "types": (3, 11),
    "handlers.BaseHandler._validate_status": None,
}

# Underscore names that count because subclasses override or call them.
HOOKS = {
    "handlers.BaseHandler": (
        "_convert_string_type",
        "_flush",
        "_validate_status",
        "_write",
    ),
    "handlers.SimpleHandler": ("_flush", "_write"),
    "headers.Headers": ("_convert_string_type",),
}

# Names that wsgiref's modules import for their own use, and that other code doesn't import from them.
INCIDENTAL = {
    "simple_server": {"python_implementation"},
    "types": {"Any", "Callable", "Iterable", "Iterator", "Protocol", "TracebackType", "TypeAlias"},
}

# Signatures that CPython has changed; we follow the newest version.
CHANGED = {
    "headers.Headers._convert_string_type": [
        ("self", "POSITIONAL_OR_KEYWORD", "_empty"),
        ("value", "POSITIONAL_OR_KEYWORD", "_empty"),
        ("name", "KEYWORD_ONLY", "_empty"),
    ],
}


def stdlib(module: str) -> ModuleType | None:
    """The module of wsgiref with this name, or None."""
    name = f"wsgiref.{module}"
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def public_names() -> Iterator[str]:
    """Every "module.name" in the standard library's modules, except modules."""
    for module in MODULES:
        incidental = INCIDENTAL.get(module, set())
        for name, value in vars(stdlib(module)).items() if stdlib(module) else ():
            if not (name.startswith("_") or inspect.ismodule(value) or name in incidental):
                yield f"{module}.{name}"


def is_own_class(dotted: str) -> bool:
    """Whether the name is a class that its module defines and doesn't import."""
    value = look_up(dotted, stdlib)
    return inspect.isclass(value) and f"wsgiref.{dotted}" == f"{value.__module__}.{value.__name__}"


NAMES = list(public_names())
CLASSES = [dotted for dotted in NAMES if is_own_class(dotted)]
FUNCTIONS = [dotted for dotted in NAMES if isinstance(look_up(dotted, stdlib), FunctionType)]
PROTOCOLS = [dotted for dotted in CLASSES if getattr(look_up(dotted, stdlib), "_is_protocol", False)]


def members(dotted: str) -> Iterator[str]:
    """The names that the class defines itself: public ones, operators and the hooks that count."""
    hooks = HOOKS.get(dotted, ())
    for name, value in vars(look_up(dotted, stdlib)).items():
        is_operator = name in OPERATORS and isinstance(value, FunctionType)
        if not name.startswith("_") or name in hooks or is_operator:
            yield f"{dotted}.{name}"


MEMBERS = [member for dotted in CLASSES if dotted not in PROTOCOLS for member in members(dotted)]
METHODS = [member for member in MEMBERS if isinstance(look_up(member, stdlib), FunctionType)]
VALUES = [member for member in MEMBERS if member not in METHODS]


def test_the_comparison_sees_the_whole_surface() -> None:
    # If the search found nothing, all tests below would pass.
    assert len(NAMES) >= 45
    assert len(CLASSES) >= 15
    assert len(METHODS) >= 75
    assert {"validate.header_re", "headers.tspecials", "simple_server.software_version"} <= set(NAMES)
    assert {"handlers.Headers", "simple_server.SimpleHandler", "handlers.format_date_time"} <= set(NAMES)


@pytest.mark.parametrize("dotted", NAMES)
def test_public_name(dotted: str) -> None:
    expected, found = look_up(dotted, stdlib), look_up(dotted, ours)
    assert inspect.isclass(found) == inspect.isclass(expected)
    assert callable(found) == callable(expected)
    assert type(found) is type(expected) or callable(expected)


@pytest.mark.parametrize("dotted", [name for name in NAMES if name not in CLASSES + FUNCTIONS])
def test_public_value(dotted: str) -> None:
    expected, found = look_up(dotted, stdlib), look_up(dotted, ours)
    if inspect.isclass(expected) and not expected.__module__.startswith("wsgiref."):
        assert found is expected  # http.server's
    elif hasattr(expected, "search"):  # a pattern must match the same characters and words
        texts = [*map(chr, range(0x180)), "X-Name", "X_Name", "9x", "-x", "x y", "x\n", "", "a\x00b"]
        assert [bool(found.search(text)) for text in texts] == [bool(expected.search(text)) for text in texts]
    else:
        assert comparable(found) == comparable(expected)


@pytest.mark.parametrize("module", [module for module in MODULES if hasattr(stdlib(module), "__all__")])
def test_star_import_gives_the_same_names(module: str) -> None:
    missing = set(look_up(f"{module}.__all__", stdlib)) - set(look_up(f"{module}.__all__", ours))
    assert not missing
    for name in look_up(f"{module}.__all__", ours):
        assert hasattr(ours(module), name)


@pytest.mark.parametrize("dotted", NEWER)
def test_what_newer_interpreters_have(dotted: str) -> None:
    look_up(dotted, ours)
    version = NEWER[dotted]
    if version and sys.version_info >= version:
        look_up(dotted, stdlib)


def test_version_constant() -> None:
    # Undocumented and deprecated in 3.15, but scripts read it.
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert ours("simple_server").__version__ == "0.2"
    deprecated = [DeprecationWarning] if sys.version_info >= (3, 15) else []
    assert [warning.category for warning in caught] == deprecated


@pytest.mark.parametrize("dotted", FUNCTIONS)
def test_function_signature(dotted: str) -> None:
    assert parameters(look_up(dotted, ours)) == parameters(look_up(dotted, stdlib))


@pytest.mark.parametrize("dotted", sorted(set(CLASSES) - set(PROTOCOLS) - {"validate.WSGIWarning"}))
def test_constructor_signature(dotted: str) -> None:
    assert parameters(look_up(dotted, ours)) == parameters(look_up(dotted, stdlib))


# What an __init__() takes is its class's signature, which is compared above.
@pytest.mark.parametrize("member", [each for each in METHODS if not each.endswith(".__init__") or each in CHANGED])
def test_method_signature(member: str) -> None:
    found, expected = look_up(member, ours), look_up(member, stdlib)
    if member in CHANGED:
        assert parameters(found) == CHANGED[member]
    elif member.rpartition(".")[2] in OPERATORS:
        assert positional_range(found) == positional_range(expected)
    else:
        assert parameters(found) == parameters(expected)


@pytest.mark.parametrize("dotted", [dotted for dotted in CLASSES if dotted not in PROTOCOLS])
def test_signature_of_every_own_method_can_be_read(dotted: str) -> None:
    found = look_up(dotted, ours)
    for name, value in vars(found).items():
        if callable(value) and not inspect.isclass(value) and not name.startswith("__"):
            inspect.signature(value)


@pytest.mark.parametrize("member", VALUES)
def test_class_attribute(member: str) -> None:
    found, expected = look_up(member, ours), look_up(member, stdlib)
    if member == "handlers.BaseHandler.os_environ":  # a copy of os.environ, made at import
        assert type(found) is dict
        assert found["PATH"] == expected["PATH"]
        return
    assert comparable(found) == comparable(expected)
    assert type(found) is type(expected)
    assert isinstance(found, list | dict) <= (found is not expected)


@pytest.mark.parametrize("dotted", CLASSES)
def test_class_hierarchy(dotted: str) -> None:
    """Our class has the same base classes in the same order; wsgiref's classes are replaced by ours."""
    mine = iter(look_up(dotted, ours).__mro__)
    for ancestor in look_up(dotted, stdlib).__mro__:
        module, _, rest = ancestor.__module__.partition(".")
        wanted = getattr(ours(rest), ancestor.__name__) if module == "wsgiref" else ancestor
        assert any(candidate is wanted for candidate in mine), ancestor


@pytest.mark.shared
def test_servers_are_http_servers(wsgi: SimpleNamespace) -> None:
    simple_server, handlers = wsgi.simple_server, wsgi.handlers
    assert issubclass(simple_server.WSGIServer, http.server.HTTPServer)
    assert issubclass(simple_server.WSGIServer, socketserver.TCPServer)
    assert issubclass(simple_server.WSGIRequestHandler, http.server.BaseHTTPRequestHandler)
    assert issubclass(simple_server.ServerHandler, handlers.SimpleHandler)
    assert issubclass(handlers.SimpleHandler, handlers.BaseHandler)
    assert issubclass(handlers.BaseCGIHandler, handlers.SimpleHandler)
    assert issubclass(handlers.CGIHandler, handlers.BaseCGIHandler)
    assert issubclass(handlers.IISCGIHandler, handlers.BaseCGIHandler)
    assert issubclass(wsgi.validate.WSGIWarning, Warning)
    assert handlers.Headers is wsgi.headers.Headers is handlers.BaseHandler.headers_class
    assert handlers.FileWrapper is wsgi.util.FileWrapper is handlers.BaseHandler.wsgi_file_wrapper
    assert handlers.is_hop_by_hop is wsgi.util.is_hop_by_hop


@pytest.mark.shared
def test_documented_values(wsgi: SimpleNamespace) -> None:
    base = wsgi.handlers.BaseHandler
    assert base.wsgi_version == (1, 0)
    assert (base.wsgi_multithread, base.wsgi_multiprocess, base.wsgi_run_once) == (True, True, False)
    assert (base.origin_server, base.http_version, base.server_software) == (True, "1.0", None)
    assert base.traceback_limit is None
    assert base.error_status == "500 Internal Server Error"
    assert base.error_headers == [("Content-Type", "text/plain")]
    assert base.error_body == b"A server error occurred.  Please contact the administrator."
    assert wsgi.handlers.BaseCGIHandler.origin_server is False
    assert wsgi.handlers.CGIHandler.wsgi_run_once is True
    assert wsgi.simple_server.WSGIRequestHandler.protocol_version == "HTTP/1.0"


# ---- our classes, compiled or not, behave like Python classes ------------------------------------------

MAKE: dict[str, Callable[[SimpleNamespace], Any]] = {
    "Headers": lambda wsgi: wsgi.headers.Headers([("A", "b")]),
    "FileWrapper": lambda wsgi: wsgi.util.FileWrapper(io.BytesIO(b"data")),
}


@pytest.mark.shared
@pytest.mark.parametrize("name", MAKE)
def test_instances_take_attributes_and_weak_references(name: str, wsgi: SimpleNamespace) -> None:
    instance = MAKE[name](wsgi)
    instance.anything = 1
    assert vars(instance)["anything"] == instance.anything == 1
    assert weakref.ref(instance)() is instance


@pytest.mark.shared
@pytest.mark.parametrize("name", MAKE)
def test_classes_can_be_subclassed_and_mixed(name: str, wsgi: SimpleNamespace) -> None:
    class Mixin:
        def mixed(self) -> str:
            return "in"

    base = type(MAKE[name](wsgi))
    made = type("Derived", (Mixin, base), {"extra": 2})
    instance = made() if name == "Headers" else made(io.BytesIO(), blksize=5)
    assert isinstance(instance, base)
    assert (instance.mixed(), instance.extra) == ("in", 2)


@pytest.mark.shared
def test_headers_can_be_copied_and_pickled(wsgi: SimpleNamespace) -> None:
    headers = wsgi.headers.Headers([("A", "b")])
    headers.note = "kept"
    for twin in (copy.deepcopy(headers), *(pickle.loads(pickle.dumps(headers, p)) for p in (2, 4, 5))):
        assert (type(twin), twin.items(), twin.note) == (wsgi.headers.Headers, [("A", "b")], "kept")
        twin["A"] = "c"
        assert headers["A"] == "b"
    shallow = copy.copy(headers)
    shallow["A"] = "c"
    assert headers["A"] == "c"  # one list, as for instances of Python classes
