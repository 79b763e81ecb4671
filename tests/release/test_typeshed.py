"""Compare our public names with typeshed's stubs of wsgiref: names, signatures, classes, and types.

The stubs are mypy's copy, read as text, for the newest Python that we support.
"""

from __future__ import annotations

import ast
import copy
import http.server
import importlib.util
import inspect
import io
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from checkers import mypy, needs_mypy
from surface import MODULES, OPERATORS, look_up, ours, parameters, positional_range

NEWEST = (3, 15)

# Where the stubs differ from CPython; there we follow CPython.
STUB_ERRORS = {
    "validate.InputWrapper.read": "CPython takes *args, and checks their number",
    "validate.InputWrapper.readline": "CPython takes *args",
    "validate.InputWrapper.readlines": "CPython takes *args",
}


def stub_path(module: str) -> Path:
    spec = importlib.util.find_spec("mypy")
    assert spec is not None, "mypy carries the stubs: it is in the test group of pyproject.toml"
    return Path(str(spec.origin)).parent / "typeshed" / "stdlib" / "wsgiref" / f"{module}.pyi"


def statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements for the newest version; ``if sys.version_info`` branches are evaluated."""
    for node in body:
        if isinstance(node, ast.If):
            known = {"sys": SimpleNamespace(version_info=NEWEST, platform=sys.platform)}
            holds = eval(compile(ast.Expression(node.test), "stub", "eval"), known)
            yield from statements(node.body if holds else node.orelse)
        else:
            yield node


class Stub:
    """The declarations of a stub file, by dotted name."""

    def __init__(self) -> None:
        self.values: list[str] = []
        self.functions: list[tuple[str, ast.FunctionDef, bool]] = []
        self.classes: dict[str, list[str]] = {}
        self.exported: dict[str, list[str]] = {}
        for module in MODULES:
            tree = ast.parse(stub_path(module).read_text(encoding="utf-8"))
            self.read(module, tree.body, module)

    def read(self, prefix: str, body: list[ast.stmt], module: str) -> None:
        for node in statements(body):
            if isinstance(node, ast.Assign | ast.AugAssign):
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                if isinstance(target, ast.Name) and target.id == "__all__":
                    self.exported.setdefault(module, []).extend(ast.literal_eval(node.value))
            elif isinstance(node, ast.AnnAssign):
                assert isinstance(node.target, ast.Name)
                if not node.target.id.startswith("_"):
                    self.values.append(f"{prefix}.{node.target.id}")
            elif isinstance(node, ast.FunctionDef):
                overloaded = any(ast.unparse(decorator) == "overload" for decorator in node.decorator_list)
                self.functions.append((f"{prefix}.{node.name}", node, overloaded))
            elif isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                dotted = f"{prefix}.{node.name}"
                self.classes[dotted] = [ast.unparse(base) for base in node.bases]
                self.read(dotted, node.body, module)


STUB = Stub()


def test_the_stubs_were_read() -> None:
    assert len(STUB.functions) >= 80
    assert len(STUB.classes) >= 18
    assert "util.is_hop_by_hop" in [dotted for dotted, _, _ in STUB.functions]
    assert "is_hop_by_hop" in STUB.exported["util"]
    # The branch for the newest Python was taken, not the one for older ones.
    assert "util.FileWrapper.__getitem__" not in [dotted for dotted, _, _ in STUB.functions]


def instances() -> dict[str, Any]:
    """One instance of each class whose stub declares attributes that are set on instances."""
    util, handlers, simple_server, validate = map(ours, ("util", "handlers", "simple_server", "validate"))
    streams = (io.BytesIO(), io.BytesIO(), io.StringIO())
    with simple_server.make_server("127.0.0.1", 0, simple_server.demo_app) as server:
        return {
            "util.FileWrapper": util.FileWrapper(io.BytesIO()),
            "handlers.SimpleHandler": handlers.SimpleHandler(*streams, {}),
            "simple_server.WSGIServer": server,
            "validate.InputWrapper": validate.InputWrapper(io.BytesIO()),
            "validate.ErrorWrapper": validate.ErrorWrapper(io.StringIO()),
            "validate.WriteWrapper": validate.WriteWrapper(io.BytesIO().write),
            "validate.PartialIteratorWrapper": validate.PartialIteratorWrapper(iter(())),
        }


@pytest.mark.parametrize("dotted", STUB.values)
def test_stub_attribute(dotted: str) -> None:
    owner, _, name = dotted.rpartition(".")
    if owner == "validate.IteratorWrapper":
        wrapper = ours("validate").IteratorWrapper(iter(()), None)
        assert hasattr(wrapper, name)
        wrapper.close()
    elif owner in instances():
        assert hasattr(instances()[owner], name)
    else:
        assert hasattr(look_up(owner, ours), name)


@pytest.mark.parametrize("dotted", STUB.classes)
def test_stub_class(dotted: str) -> None:
    found = look_up(dotted, ours)
    assert inspect.isclass(found)
    namespace = {**vars(http.server), **vars(ours(dotted.partition(".")[0])), "Warning": Warning}
    for base in STUB.classes[dotted]:
        if base == "Protocol":
            assert found._is_protocol
        else:
            assert issubclass(found, namespace[base])


@pytest.mark.parametrize("module", STUB.exported)
def test_stub_exports(module: str) -> None:
    assert set(STUB.exported[module]) <= set(ours(module).__all__)


KINDS = inspect.Parameter


def stub_parameters(node: ast.FunctionDef) -> list[inspect.Parameter]:
    arguments = node.args
    found = []
    positional = arguments.posonlyargs + arguments.args
    defaults = [None] * (len(positional) - len(arguments.defaults)) + list(arguments.defaults)
    for index, (argument, default) in enumerate(zip(positional, defaults, strict=True)):
        kind = KINDS.POSITIONAL_ONLY if index < len(arguments.posonlyargs) else KINDS.POSITIONAL_OR_KEYWORD
        found.append(KINDS(argument.arg, kind, default=stub_default(default)))
    if arguments.vararg:
        found.append(KINDS(arguments.vararg.arg, KINDS.VAR_POSITIONAL))
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        found.append(KINDS(argument.arg, KINDS.KEYWORD_ONLY, default=stub_default(default)))
    if arguments.kwarg:
        found.append(KINDS(arguments.kwarg.arg, KINDS.VAR_KEYWORD))
    return found


def stub_default(node: ast.expr | None) -> object:
    """The value in the stub; ``...``, which stands for any default, as it is."""
    return KINDS.empty if node is None else ast.literal_eval(node)


@pytest.mark.parametrize(
    ("dotted", "node", "overloaded"),
    [pytest.param(*promise, id=f"{promise[0]}:{promise[1].lineno}") for promise in STUB.functions],
)
def test_stub_signature(dotted: str, node: ast.FunctionDef, overloaded: bool) -> None:
    owner, _, name = dotted.rpartition(".")
    promised = stub_parameters(node)
    found = look_up(owner if name == "__init__" else dotted, ours)
    if dotted in STUB_ERRORS:
        assert [kind for _, kind, _ in parameters(found)] == ["POSITIONAL_OR_KEYWORD", "VAR_POSITIONAL"]
        return
    if name == "__init__":
        promised = promised[1:]
    elif name in OPERATORS:
        required = [parameter for parameter in promised if parameter.default is KINDS.empty]
        assert positional_range(found) == (len(required), len(promised))
        return
    signature = inspect.signature(found)
    if overloaded:  # an overload, not the whole signature
        assert [p.name for p in promised if p.name not in signature.parameters] == []
        for parameter in promised:
            actual = signature.parameters[parameter.name]
            assert actual.kind in (parameter.kind, KINDS.POSITIONAL_OR_KEYWORD)
        required = [p.name for p in signature.parameters.values() if p.default is p.empty]
        assert set(required) <= {p.name for p in promised}
        return
    assert [(p.name, p.kind) for p in signature.parameters.values()] == [(p.name, p.kind) for p in promised]
    for parameter in promised:
        actual = signature.parameters[parameter.name]
        if parameter.default is ...:
            assert actual.default is not KINDS.empty
        else:
            assert actual.default == parameter.default


# ---- types -------------------------------------------------------------------------------------------

# Where our types differ from typeshed's, and why.
OTHER_TYPES = {
    "validate.InputWrapper.readlines": "it gives a list, as PEP 3333 wants it, and as CPython does",
    "validate.PartialIteratorWrapper.iterator": "it's what an application returned: an iterable, and often a list",
    "validate.IteratorWrapper.original_iterator": "the same",
    "validate.IteratorWrapper.check_start_response": "validator() passes a list, as CPython's does",
}


class Program:
    """A program for mypy that compares our types with typeshed's, line by line.

    Each member of a class must match a protocol with the stub's declaration, and a subclass must be able to override it
    with that type, as programs do. Each function must match a protocol of its call.
    """

    def __init__(self, module: str) -> None:
        self.module = module
        self.lines: list[str] = []
        #: The subject of each line.
        self.subjects: list[str] = []
        tree = ast.parse(stub_path(module).read_text(encoding="utf-8"))
        self.add("", "from typing import Protocol", f"import fastwsgi.{module} as ours")
        members: dict[str, list[ast.stmt]] = {}
        for node in statements(tree.body):
            if isinstance(node, ast.ImportFrom):
                if node.level:
                    node.module, node.level = f"fastwsgi.{node.module}", 0
                self.add("", ast.unparse(node))
            elif isinstance(node, ast.ClassDef):
                self.add("", f"from fastwsgi.{module} import {node.name}")
                for member in statements(node.body):
                    members.setdefault(f"{node.name}.{name_of(member)}", []).append(member)
            elif name_of(node).startswith("_") and name_of(node) != "__all__":
                self.add("", ast.unparse(node))  # a type that other types use
            else:
                members.setdefault(name_of(node), []).append(node)
        for name, nodes in members.items():
            self.check(name, nodes)

    def check(self, dotted: str, nodes: list[ast.stmt]) -> None:
        owner, _, name = dotted.rpartition(".")
        subject, number = f"{self.module}.{dotted}", len(self.lines)
        if isinstance(nodes[0], ast.FunctionDef) and (not owner or name == "__init__"):
            operator = [called(node, owner) for node in nodes if isinstance(node, ast.FunctionDef)]
            self.add(subject, f"class Call{number}(Protocol):", *indented(operator))
            self.add(subject, f"call{number}: Call{number} = ours.{owner or name}")
        elif owner:
            self.add(subject, f"class Promise{number}(Protocol):", *indented(nodes))
            self.add(subject, f"def promise{number}(value: {owner}) -> Promise{number}: return value")
            self.add(subject, f"class Override{number}({owner}):", *indented(nodes))
        elif isinstance(nodes[0], ast.AnnAssign):
            hint = ast.unparse(nodes[0].annotation)
            if hint.startswith("Final["):
                hint = hint[len("Final[") : -1]
            self.add(subject, f"value{number}: {hint} = ours.{name}")

    def add(self, subject: str, *lines: str) -> None:
        self.lines += lines
        self.subjects += [subject] * len(lines)


def name_of(node: ast.stmt) -> str:
    """The name that a statement of a stub declares."""
    if isinstance(node, ast.Assign):
        return ast.unparse(node.targets[0])
    return ast.unparse(node.target) if isinstance(node, ast.AnnAssign | ast.AugAssign) else getattr(node, "name", "")


def called(function: ast.FunctionDef, made: str) -> ast.FunctionDef:
    """The call operator of an object that is called as the function; made: the class whose constructor it is."""
    operator = copy.deepcopy(function)
    operator.name = "__call__"
    if made:
        operator.returns = ast.Name(made)
    elif operator.args.posonlyargs:
        operator.args.posonlyargs.insert(0, ast.arg("self"))
    else:
        operator.args.args.insert(0, ast.arg("self"))
    return operator


def indented(nodes: Sequence[ast.stmt]) -> list[str]:
    return [f"    {line}" for node in nodes for line in ast.unparse(node).splitlines()]


@needs_mypy
def test_types(tmp_path: Path) -> None:
    programs = {f"{module}_promises.pyi": Program(module) for module in MODULES if module != "types"}
    for file, program in programs.items():
        (tmp_path / file).write_text("\n".join(program.lines) + "\n", encoding="utf-8")
    found: dict[str, list[str]] = {}
    # Attributes are checked more strictly than by default, because a program may set them as well as read them.
    for error in mypy(tmp_path, "--enable-error-code=mutable-override", *programs):
        file, line, message = error.split(":", 2)
        found.setdefault(programs[file].subjects[int(line) - 1], []).append(message)
    assert {subject: found[subject] for subject in found if subject not in OTHER_TYPES} == {}
    assert set(OTHER_TYPES) <= set(found)
