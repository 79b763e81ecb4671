"""The source of the package: imports point in one direction, and the twins have the same names."""

from __future__ import annotations

import ast
import graphlib
import inspect
import re
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.source
PACKAGE = Path(__file__).parents[2] / "fastwsgi"

# The rule: each module, and what it may import from the package. "_events.*" means all modules of that folder.
TWINS = {"_fallback", "_speedups"}
GATEWAY = {"util", "headers", "handlers", "validate"}
COMMON = {"_backend", "_http.grammar", "types"}
ROOMS = ("_http", "_events", "_wsgiref", "_service", "bench")
ALLOWED: dict[str, set[str]] = {
    **{room: set() for room in ROOMS},
    "types": set(),
    "_version": set(),
    "_http.grammar": set(),
    "_http.settings": set(),
    "_fallback": {"_http.grammar", "types"},
    "_speedups": {"_http.grammar", "_fallback"},  # every unusual case goes to the pure twin
    "_backend": TWINS,
    "_http.*": {"_backend", "types", "_http.*"},
    "util": COMMON,
    "headers": COMMON | {"util"},
    "handlers": COMMON | {"util", "headers"},
    "validate": COMMON,
    "_events.*": COMMON | GATEWAY | {"_http.*", "_events.*"},
    "_wsgiref.*": COMMON | GATEWAY | {"_http.*", "_events.*", "_wsgiref.*"},
    "simple_server": COMMON | GATEWAY | {"_http.*", "_events.*", "_wsgiref.*"},
    "_service.*": COMMON | GATEWAY | {"_version", "_http.*", "_events.*", "_service.*"},
    "gunicorn": {"_backend", "_http.*", "_service.*"},
    "_install": {"types", "simple_server"} | GATEWAY,
    "swap": {"_install"},
    "__init__": {"_backend", "_install", "_version", "types", "_service.*"},
    "__main__": {"_service.*"},
    "bench.*": {"__init__", "_backend", "_version", "bench.*"},
}

# Imports that only an extra needs, or only type checkers, which include them.
EXTRAS = {
    "gunicorn": {"gunicorn"},
    "_service.workers": {"gunicorn"},
    "_service.reload": {"watchfiles"},
    "bench.chart": {"matplotlib"},
    "bench.cli": {"matplotlib"},
    "bench.progress": {"rich"},
    "__init__": {"typing_extensions"},
}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


SOURCES = {module_name(path): path for pattern in ("*.py", "*.pyx") for path in PACKAGE.rglob(pattern)}


def python_imports(path: Path) -> list[tuple[int, str, str]]:
    """All import statements, nested ones too, as (level, module, name); name is "" for plain imports."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"), str(path))):
        if isinstance(node, ast.Import):
            found += [(0, alias.name, "") for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found += [(node.level, node.module or "", alias.name) for alias in node.names]
    return found


def cython_source(path: Path) -> str:
    """A .pyx file with its includes in place."""

    def included(match: re.Match[str]) -> str:
        return (path.parent / match[1]).read_text(encoding="utf-8")

    return re.sub(r'^include "(.+)"$', included, path.read_text(encoding="utf-8"), flags=re.MULTILINE)


def cython_imports(path: Path) -> list[tuple[int, str, str]]:
    """The run-time imports of a .pyx file. A cimport of C declarations imports nothing at run time."""
    source = cython_source(path)
    text = re.sub(r"\([^()]*\)", lambda match: match[0].replace("\n", " "), source)
    found = []
    for line in text.splitlines():
        if match := re.match(r"\s*import\s+(.+)", line):
            found += [(0, name.split()[0], "") for name in match[1].split(",")]
        elif match := re.match(r"\s*from\s+(\.*)([\w.]*)\s+c?import\s+\(?([^)#]+)", line):
            package = match[2].partition(".")[0]
            if match[1] or package not in {"cpython", "libc", "cython"}:
                names = [name.split()[0] for name in match[3].split(",") if name.strip()]
                found += [(len(match[1]), match[2], name) for name in names]
    return found


def split_imports(module: str) -> tuple[set[str], set[str]]:
    """The imports of *module*: other top-level packages, and modules of our package."""
    path = SOURCES[module]
    outside, inside = set(), set()
    for level, target, name in cython_imports(path) if path.suffix == ".pyx" else python_imports(path):
        parts = target.split(".") if target else []
        if level:
            folder = path.parent.relative_to(PACKAGE).parts
            parts = ["fastwsgi", *folder[: len(folder) - (level - 1)], *parts]
        if parts[0] != "fastwsgi":
            outside.add(parts[0])
            continue
        dotted = ".".join(parts[1:])
        if name and (longer := f"{dotted}.{name}".lstrip(".")) in SOURCES:
            dotted = longer
        inside.add(dotted or "__init__")
    return outside, inside


def test_the_reader_reads() -> None:
    # If these weren't found, the tests below would prove nothing.
    assert split_imports("_backend")[1] == TWINS
    assert {"copyreg", "re"} <= split_imports("_speedups")[0]
    assert split_imports("_speedups")[1] == {"_http.grammar", "_fallback"}
    assert "_backend" in split_imports("util")[1]
    assert "posixpath" in split_imports("util")[0]


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_imports_point_one_way(module: str) -> None:
    package = module.partition(".")[0]
    row = f"{package}.*" if package != module and module not in ALLOWED else module
    assert row in ALLOWED, f"{module} is new: give it a row in ALLOWED"
    _, inside = split_imports(module)
    allowed = ALLOWED[row]
    for package in ROOMS:
        if f"{package}.*" in allowed:
            allowed = allowed | {name for name in SOURCES if name.startswith(f"{package}.")}
    wrong = inside - allowed
    assert not wrong, f"{module} may not import {sorted(wrong)}"
    assert inside <= SOURCES.keys()


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {module: split_imports(module)[1] for module in SOURCES}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


@pytest.mark.parametrize("module", sorted(SOURCES))
def test_only_the_standard_library_is_needed(module: str) -> None:
    outside, _ = split_imports(module)
    assert outside <= sys.stdlib_module_names | EXTRAS.get(module, set())


def test_every_module_of_the_rule_is_there() -> None:
    assert {row for row in ALLOWED if not row.endswith("*")} <= SOURCES.keys()


# ---- the twins ---------------------------------------------------------------------------------------


def pure_names() -> dict[str, list[str]]:
    """The pure twin's public functions and classes in order; for a class, its methods in order."""
    names: dict[str, list[str]] = {}
    for node in ast.parse(SOURCES["_fallback"].read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            body = node.body if isinstance(node, ast.ClassDef) else []
            methods = [item for item in body if isinstance(item, ast.FunctionDef)]
            names[node.name] = [item.name for item in methods if not is_one_of(item, "overload", "property")]
    return names


def is_one_of(function: ast.FunctionDef, *decorators: str) -> bool:
    return any(ast.unparse(decorator) in decorators for decorator in function.decorator_list)


CYTHON_DEF = r"(?:def|cpdef(?:\s+[\w ]+)?)\s+(\w+)\("


def compiled_names() -> dict[str, list[str]]:
    """The same for the compiled twin, without plain cdef functions and internal classes, which aren't exported."""
    names: dict[str, list[str]] = {}
    current: list[str] = []
    decorators: list[str] = []
    for line in cython_source(SOURCES["_speedups"]).splitlines():
        if match := re.match(rf"{CYTHON_DEF}|(?:cdef\s+)?class\s+(\w+)", line):
            current = []
            if not ((name := match[1] or match[2]).startswith("_") or "@cython.internal" in decorators):
                names[name] = current
        elif re.match(r"\S", line) and not line.startswith("#"):
            current = []
        elif (match := re.match(rf"    {CYTHON_DEF}", line)) and not {"@property", "@fields.setter"} & {*decorators}:
            current.append(match[1])
        decorators = [*decorators, line.strip()] if line.strip().startswith("@") else []
    return names


# The accelerator: compiled code without a twin, because general code does the same.
ACCELERATOR = {"run_stock", "SharedEpoll", "FastLane", "Channel", "hand_out"}


def test_the_twins_have_the_same_names_in_the_same_order() -> None:
    pure, compiled = list(pure_names()), list(compiled_names())
    assert pure == [name for name in compiled if name not in ACCELERATOR]
    assert set(compiled) >= ACCELERATOR
    assert {"Headers", "FileWrapper", "parse_head", "build_environ"} <= set(pure)


# Additional methods of compiled classes, which have no instance dict to copy and free memory explicitly.
MECHANICS = {"__cinit__", "__dealloc__", "__reduce__", "__setstate__"}


def test_the_twins_classes_have_the_same_methods_in_the_same_order() -> None:
    pure, compiled = pure_names(), compiled_names()
    classes = [name for name, methods in pure.items() if methods]
    assert "Headers" in classes
    for name in classes:
        assert [method for method in compiled[name] if method not in MECHANICS] == pure[name], name


def test_the_compiled_twins_stub_names_all_of_the_pure_twins_types() -> None:
    stub = python_imports(PACKAGE / "_speedups.pyi")
    assert {(level, target) for level, target, _ in stub} == {(1, "_fallback")}
    assert sorted(name for _, _, name in stub) == sorted(pure_names())


def test_the_chooser_hands_on_the_same_names_of_either_twin() -> None:
    chosen: dict[str, list[str]] = {}
    for level, target, name in python_imports(SOURCES["_backend"]):
        if level == 1 and target in TWINS:
            chosen.setdefault(target, []).append(name)
    chosen["_fallback"] = [name for name in chosen["_fallback"] if name in pure_names()]  # without load_pure()'s module
    assert chosen["_fallback"] == chosen["_speedups"]
    assert set(chosen["_fallback"]) <= set(pure_names())


@pytest.mark.compiled
def test_the_twins_have_the_same_signatures() -> None:
    from fastwsgi import _fallback, _speedups

    def signature(function: object) -> list[tuple[str, object, object]]:
        parameters = inspect.signature(function).parameters.values()  # type: ignore[arg-type]
        return [(parameter.name, parameter.kind, parameter.default) for parameter in parameters]

    for name, methods in pure_names().items():
        ours, theirs = getattr(_speedups, name), getattr(_fallback, name)
        assert signature(ours) == signature(theirs), name
        for method in methods:
            if not method.startswith("__"):  # these are slots in C, called by operators
                pair = getattr(ours, method), getattr(theirs, method)
                assert signature(pair[0]) == signature(pair[1]), f"{name}.{method}"
