"""The ``Headers`` mapping."""

from __future__ import annotations

import copy
import pickle
from types import SimpleNamespace
from typing import Any

import pytest

from twins import Text

CONTROLS = [chr(code) for code in [*range(0x20), 0x7F]]


@pytest.fixture
def make(wsgi: SimpleNamespace) -> Any:
    return wsgi.headers.Headers


pytestmark = pytest.mark.shared


def test_wraps_the_list(make: Any) -> None:
    fields = [("A", "1")]
    headers = make(fields)
    headers["B"] = "2"
    assert fields == [("A", "1"), ("B", "2")]
    assert headers.items() == fields
    assert headers.items() is not fields


def test_default_is_a_new_list(make: Any) -> None:
    one, other = make(), make(None)
    one["A"] = "1"
    assert (len(one), len(other)) == (1, 0)


def test_look_up_ignores_case(make: Any) -> None:
    headers = make([("Set-Cookie", "a"), ("X", "b"), ("set-cookie", "c")])
    assert headers["SET-COOKIE"] == headers.get("set-Cookie") == "a"
    assert headers.get_all("Set-cookie") == ["a", "c"]
    assert "x" in headers
    assert "y" not in headers
    assert headers["y"] is None
    assert headers.get("y", "default") == "default"
    assert headers.get_all("y") == []


def test_look_up_folds_case_as_str_lower_does(make: Any) -> None:
    headers = make([("\u212aelvin", "sign")])  # KELVIN SIGN, whose lower case is "k"
    assert headers["kelvin"] == "sign"


def test_setting_replaces_all_and_appends(make: Any) -> None:
    headers = make([("A", "1"), ("B", "2"), ("a", "3")])
    headers["A"] = "4"
    assert headers.items() == [("B", "2"), ("A", "4")]
    del headers["b"]
    del headers["missing"]
    assert headers.items() == [("A", "4")]


def test_lists(make: Any) -> None:
    headers = make([("A", "1"), ("B", "2"), ("A", "3")])
    assert headers.keys() == ["A", "B", "A"]
    assert headers.values() == ["1", "2", "3"]
    assert len(headers) == 3


def test_setdefault(make: Any) -> None:
    headers = make([("A", "1")])
    assert headers.setdefault("a", "2") == "1"
    assert headers.setdefault("B", "3") == "3"
    assert headers.items() == [("A", "1"), ("B", "3")]


def test_add_header(make: Any) -> None:
    headers = make([])
    headers.add_header("Content-Disposition", "attachment", filename='a "b" \\c', x_y=None, empty="")
    headers.add_header("Content-Disposition", None, inline=None)
    assert headers.get_all("content-disposition") == [
        'attachment; filename="a \\"b\\" \\\\c"; x-y; empty',
        "inline",
    ]


def test_formatting(make: Any) -> None:
    headers = make([("A", "1"), ("B", "caf\xe9")])
    assert str(headers) == "A: 1\r\nB: caf\xe9\r\n\r\n"
    assert bytes(headers) == b"A: 1\r\nB: caf\xe9\r\n\r\n"
    assert repr(headers) == "Headers([('A', '1'), ('B', 'caf\xe9')])"
    assert bytes(make()) == b"\r\n"
    with pytest.raises(UnicodeEncodeError):
        bytes(make([("A", "\u20ac")]))


def test_a_long_head(make: Any) -> None:
    fields = [(f"X-{n}", "v" * n) for n in range(200)]
    assert bytes(make(fields)) == b"".join(b"X-%d: %s\r\n" % (n, b"v" * n) for n in range(200)) + b"\r\n"


def test_a_subclass_that_overrides_get_changes_what_depends_on_it(make: Any) -> None:
    class Answering(make):
        def get(self, name: str, default: str | None = None) -> str | None:
            return f"got {name}"

    headers = Answering([])
    assert headers["A"] == "got A"
    assert "A" in headers
    assert headers.setdefault("A", "1") == "got A"
    assert len(headers) == 0


def test_a_subclass_that_overrides_deletion_and_str(make: Any) -> None:
    class Keeping(make):
        def __delitem__(self, name: str) -> None:
            pass

        def __str__(self) -> str:
            return "fixed"

    headers = Keeping([("A", "1")])
    headers["A"] = "2"
    assert headers.items() == [("A", "1"), ("A", "2")]
    assert bytes(headers) == b"fixed"


def test_copies_and_pickles(wsgi: SimpleNamespace) -> None:
    headers = wsgi.headers.Headers([("A", "1")])
    headers.note = "kept"
    for twin in (copy.copy(headers), copy.deepcopy(headers), pickle.loads(pickle.dumps(headers))):
        assert twin.items() == [("A", "1")]
        assert twin.note == "kept"
    assert copy.copy(headers)._headers is headers._headers
    assert copy.deepcopy(headers)._headers is not headers._headers


def test_a_value_whose_end_changes_the_list(wsgi: SimpleNamespace) -> None:
    class Value:
        def __del__(self) -> None:
            fields.clear()

    for change in (lambda headers: headers.__delitem__("X"), lambda headers: headers.__setitem__("X", "new")):
        fields: list[Any] = []
        headers = wsgi.headers.Headers(fields)
        fields.extend([("X", Value()), ("B", "2"), ("C", "3"), ("X", Value()), ("D", "4")])
        change(headers)
        assert "B" not in headers or headers["B"] == "2"


# ---- bad input --------------------------------------------------------------------------------------


@pytest.mark.parametrize("headers", [(("A", "1"),), {"A": "1"}, "A: 1", [("A", "1")].__iter__()])
def test_only_a_list_is_wrapped(make: Any, headers: Any) -> None:
    with pytest.raises(TypeError, match=r"^Headers must be a list of name/value tuples$"):
        make(headers)


@pytest.mark.parametrize("bad", [1, b"A", None, Text("A")], ids=repr)
def test_names_and_values_are_str(make: Any, bad: Any) -> None:
    message = r"^Headers? names?/values? must be of type str \(got "
    with pytest.raises(AssertionError, match=message):
        make([(bad, "1")])
    with pytest.raises(AssertionError, match=message):
        make([("A", bad)])
    headers = make([])
    with pytest.raises(AssertionError, match=message):
        headers["A"] = bad
    with pytest.raises(AssertionError, match=message):
        headers.setdefault("A", bad)


def test_a_look_up_by_bytes(make: Any) -> None:
    with pytest.raises(AssertionError, match=r"must be of type str \(got b'a'\)"):
        make([]).get(b"A")
    with pytest.raises(AttributeError, match="'int' object has no attribute 'lower'"):
        make([("A", "1")]).get(1)


@pytest.mark.parametrize("pair", [("A",), ("A", "1", "2")])
def test_pairs_are_pairs(make: Any, pair: Any) -> None:
    with pytest.raises(ValueError, match="values to unpack"):
        make([pair])


@pytest.mark.differs("control-characters")
@pytest.mark.parametrize("control", CONTROLS, ids=repr)
def test_control_characters_in_names(make: Any, control: str) -> None:
    name, message = f"A{control}", "^Control characters not allowed in headers$"
    headers = make([("B", "1")])
    for refused in (
        lambda: make([(name, "1")]),
        lambda: headers.__setitem__(name, "1"),
        lambda: headers.setdefault(name, "1"),
        lambda: headers.add_header(name, "1"),
        lambda: headers.add_header("A", "1", **{name: "1"}),
        lambda: headers.get(name),
        lambda: headers.get_all(name),
        lambda: headers.__delitem__(name),
        lambda: headers.__contains__(name),
    ):
        with pytest.raises(ValueError, match=message):
            refused()
    assert headers.items() == [("B", "1")]


@pytest.mark.differs("control-characters")
@pytest.mark.parametrize("control", [control for control in CONTROLS if control != "\t"], ids=repr)
@pytest.mark.parametrize("place", ["{}value", "a long value {} of more than eight", "value{}"])
def test_control_characters_in_values(make: Any, control: str, place: str) -> None:
    value, message = place.format(control), "^Control characters not allowed in headers$"
    headers = make([("A", "1")])
    for refused in (
        lambda: make([("A", value)]),
        lambda: headers.__setitem__("A", value),
        lambda: headers.setdefault("B", value),
        lambda: headers.add_header("A", value),
        lambda: headers.add_header("A", "1", parameter=value),
    ):
        with pytest.raises(ValueError, match=message):
            refused()
    assert headers.items() == [("A", "1")]  # the old value is kept


def test_tab_is_field_content(make: Any) -> None:
    assert make([("A", "a\tb")])["A"] == "a\tb"


@pytest.mark.differs("control-characters")
@pytest.mark.parametrize("pair", [("A\r\nB", "1"), ("A", "1\r\nB: 2"), ("A", "1\x00"), ("A", "1\n"), ("A\r", "1")])
def test_a_list_that_was_changed_later_is_checked_again(make: Any, pair: tuple[str, str]) -> None:
    fields = [("C", "3")]
    headers = make(fields)
    fields.append(pair)
    with pytest.raises(ValueError, match=r"^Control characters not allowed in headers$"):
        bytes(headers)
    with pytest.raises(ValueError, match=r"^Control characters not allowed in headers$"):
        str(headers)
