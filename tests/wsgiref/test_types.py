"""``fastwsgi.types`` has the names and shapes of wsgiref.types, on every Python."""

from __future__ import annotations

import inspect
import sys
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from checkers import mypy, needs_mypy

PROTOCOLS = {
    "StartResponse": ("__call__",),
    "InputStream": ("read", "readline", "readlines", "__iter__"),
    "ErrorStream": ("flush", "write", "writelines"),
    "FileWrapper": ("__call__",),
}

needs_stdlib_types = pytest.mark.skipif(sys.version_info < (3, 11), reason="wsgiref.types came with 3.11")


@pytest.fixture
def types(wsgi: SimpleNamespace) -> Any:
    if not hasattr(wsgi, "types"):
        pytest.skip("wsgiref.types came with 3.11")
    return wsgi.types


@pytest.mark.shared
def test_public_names(types: Any) -> None:
    assert sorted(types.__all__) == sorted([*PROTOCOLS, "WSGIEnvironment", "WSGIApplication"])


@pytest.mark.shared
@pytest.mark.parametrize("name", PROTOCOLS)
def test_protocols_are_shapes_without_an_implementation(types: Any, name: str) -> None:
    protocol = getattr(types, name)
    assert issubclass(protocol, typing.Generic)
    with pytest.raises(TypeError, match="Protocol"):
        protocol()


@pytest.mark.shared
def test_aliases(types: Any) -> None:
    assert types.WSGIEnvironment == dict[str, Any]
    parameters, result = typing.get_args(types.WSGIApplication)
    assert parameters == [types.WSGIEnvironment, types.StartResponse]
    assert result == Iterable[bytes]
    assert typing.get_origin(types.WSGIApplication) is typing.get_origin(Callable[[], None])


@needs_stdlib_types
@pytest.mark.parametrize(
    ("protocol", "method"), [(name, method) for name, methods in PROTOCOLS.items() for method in methods]
)
def test_parameters_are_those_of_wsgiref(protocol: str, method: str) -> None:
    import wsgiref.types as theirs

    import fastwsgi.types as ours

    def shape(module: Any) -> list[tuple[object, ...]]:
        parameters = inspect.signature(getattr(getattr(module, protocol), method)).parameters.values()
        return [(parameter.name, parameter.kind, parameter.default) for parameter in parameters]

    assert shape(ours) == shape(theirs)


CROSSWISE = """
import wsgiref.types as theirs
import fastwsgi.types as ours
{assignments}
app: ours.WSGIApplication = 5
"""


@needs_mypy
def test_a_type_checker_takes_ours_for_theirs_and_theirs_for_ours(tmp_path: Path) -> None:
    names = [*PROTOCOLS, "WSGIEnvironment", "WSGIApplication"]
    functions = [
        f"def {name}_{to}(value: {source}.{name}) -> {to}.{name}: return value"
        for name in names
        for source, to in (("ours", "theirs"), ("theirs", "ours"))
    ]
    source = tmp_path / "crosswise.py"
    source.write_text(CROSSWISE.format(assignments="\n".join(functions)))
    # Always 3.11: older versions have no wsgiref.types to compare with.
    errors = mypy(tmp_path, "--python-version=3.11", source)
    # The last line of the source must be refused, which proves that mypy has used the types.
    last_line = len(source.read_text().splitlines())
    assert len(errors) == 1, errors
    assert f"crosswise.py:{last_line}: error: Incompatible types in assignment" in errors[0]
