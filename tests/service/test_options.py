"""The options of a service: accepted and refused values for each source, and the precedence of the sources."""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import math
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import fastwsgi
from fastwsgi._http.settings import Settings
from fastwsgi._service.keywords import Keywords
from fastwsgi._service.options import (
    GROUPS,
    OPTIONS,
    Options,
    add_arguments,
    describe,
    environment,
    flag,
    from_arguments,
    from_keywords,
    origins,
    variable,
)

NUMBERS = [name for name, option in OPTIONS.items() if option.metadata["between"] is not None]


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="program", allow_abbrev=False)
    add_arguments(made)
    return made


def by_flags(*arguments: str, **environ: str) -> Options:
    return from_arguments(parser().parse_args(arguments), environ)


def by_variable(name: str, text: str) -> Any:
    return getattr(by_flags(**{variable(name): text}), name)


def by_flag(name: str, text: str) -> Any:
    return getattr(by_flags(f"{flag(name)}={text}"), name)


# ---- the list of options -----------------------------------------------------------------------------


def test_all_settings_are_options_with_the_same_defaults_but_one() -> None:
    options, settings = Options(), Settings()
    assert isinstance(options, Settings)
    differing = [each.name for each in dataclasses.fields(Settings) if getattr(options, each.name) != each.default]
    assert differing == ["graceful_timeout"]
    assert options.graceful_timeout == 30.0
    assert settings.graceful_timeout == 1.0
    ours, theirs = (cls.__dataclass_fields__["graceful_timeout"].metadata for cls in (Options, Settings))
    assert ours == theirs


def test_documented_defaults() -> None:
    own = {name: option.default for name, option in OPTIONS.items() if name not in Settings.__dataclass_fields__}
    assert own == {
        "bind": (),
        "backlog": 1024,
        "reuse_port": False,
        "threads": 1,
        "workers": 1,
        "certfile": None,
        "keyfile": None,
        "ca_certs": None,
        "forwarded_allow_ips": (),
        "forwarded_fields": ("X-Forwarded-For", "X-Forwarded-Proto"),
        "proxy_protocol": False,
        "access_log": None,
        "access_log_format": "common",
        "log_level": "info",
        "validate": False,
        "reload": False,
    }


@pytest.mark.parametrize("name", OPTIONS)
def test_each_option_knows_what_the_generated_ways_need(name: str) -> None:
    option = OPTIONS[name]
    # Values are parsed by the type of the default, so that must be the declared type.
    types = {str | None: type(None), tuple[str, ...]: tuple}
    hint = get_type_hints(Options)[name]
    assert type(option.default) is types.get(hint, hint)
    assert option.metadata["group"] in GROUPS
    assert option.metadata["meaning"].endswith(".")
    assert (name in NUMBERS) == (type(option.default) in (int, float))


def test_serves_keywords_are_typed_as_the_options_that_they_are() -> None:
    hints = get_type_hints(Options)
    expected: dict[str, Any] = {}
    for name, option in OPTIONS.items():
        if hints[name] == tuple[str, ...]:
            expected[name] = str | Sequence[str] | None
        elif option.metadata["unit"] == "file":
            expected[name] = str | os.PathLike[str] | None
        else:
            expected[name] = hints[name] | None
    named = set(inspect.signature(fastwsgi.serve).parameters) - {"app", "options"}
    assert named == {"bind", "threads"}
    for name in (*named, "reload"):  # the last is refused, because it is only for the command line
        del expected[name]
    assert get_type_hints(Keywords) == expected
    assert not Keywords.__required_keys__


def test_flags_are_as_many_as_options() -> None:
    actions = {action.dest: action for action in parser()._actions if action.dest != "help"}
    assert set(actions) == set(OPTIONS)
    assert actions["keep_alive_timeout"].option_strings == ["--keep-alive-timeout"]
    assert actions["fast_lane"].option_strings == ["--fast-lane", "--no-fast-lane"]
    assert variable("keep_alive_timeout") == "FASTWSGI_KEEP_ALIVE_TIMEOUT"


def test_help_has_each_meaning_and_default_once_in_its_group(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "1000")  # lines are broken at hyphens
    monkeypatch.setenv("NO_COLOR", "1")
    text = re.sub(r"\s+", " ", parser().format_help())
    for option in OPTIONS.values():
        assert text.count(option.metadata["meaning"]) == 1
    for group in GROUPS:
        assert f" {group}: --" in text
    assert "practically never used. (default: 1k)" in text
    assert "(default: 75 seconds)" in text
    assert "(default: 8190)" in text
    assert "--max-body BYTES " in text
    assert "--poller {best,selectors} " in text
    assert "--fast-lane, --no-fast-lane " in text
    assert "(default: X-Forwarded-For, X-Forwarded-Proto)" in text
    assert "SUPPRESS" not in text


# ---- values ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("read", [by_variable, by_flag], ids=["variable", "flag"])
@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("threads", "4", 4),
        ("threads", " 04 ", 4),
        ("backlog", "65535", 65535),
        ("max_body", "0", 0),
        ("max_body", "10m", 10 << 20),
        ("max_body", "2G", 2 << 30),
        ("max_output", "1k", 1024),
        ("head_timeout", "5", 5.0),
        ("head_timeout", "0.25", 0.25),
        ("head_timeout", ".5", 0.5),
        ("head_timeout", "604800", 604800.0),
        ("bind", "127.0.0.1:80", ("127.0.0.1:80",)),
        ("bind", "[::1]:80, unix:/run/s  fd://3", ("[::1]:80", "unix:/run/s", "fd://3")),
        ("forwarded_allow_ips", "10.0.0.0/8,unix,*", ("10.0.0.0/8", "unix", "*")),
        ("access_log", "-", "-"),
        ("access_log_format", "%h %r", "%h %r"),
        ("certfile", "/a b.pem", "/a b.pem"),
        ("log_level", "WARNING", "warning"),
        ("poller", "selectors", "selectors"),
    ],
)
def test_text(read: Callable[[str, str], Any], name: str, text: str, value: Any) -> None:
    found = read(name, text)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("1", True), ("yes", True), ("On", True), ("TRUE", True), ("0", False), ("no", False), ("off", False)],
)
@pytest.mark.parametrize("name", ["fast_lane", "reuse_port"])
def test_boolean_variables(name: str, text: str, value: bool) -> None:
    assert by_variable(name, text) is value


@pytest.mark.parametrize("name", ["fast_lane", "reuse_port", "validate"])
def test_boolean_flags(name: str) -> None:
    assert getattr(by_flags(flag(name)), name) is True
    assert getattr(by_flags(flag("no_" + name)), name) is False


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("bind", "a:1", ("a:1",)),
        ("bind", "a:1, b:2", ("a:1", "b:2")),
        ("bind", ["unix:/a b,c", "b:2"], ("unix:/a b,c", "b:2")),
        ("bind", "", ()),
        ("head_timeout", 3, 3.0),
        ("certfile", Path("a") / "b.pem", str(Path("a") / "b.pem")),
        ("access_log", None, None),
        ("log_level", "DEBUG", "debug"),
        ("reload", True, True),
    ],
)
def test_keywords(name: str, given: Any, value: Any) -> None:
    found = getattr(from_keywords(**{name: given}), name)
    assert found == value
    assert type(found) is type(value)


def test_options_can_be_replaced_and_not_changed() -> None:
    options: Any = from_keywords(threads=2, bind="a:1")
    assert dataclasses.replace(options, threads=3).bind == ("a:1",)
    with pytest.raises(ValueError, match=r"^threads "):
        dataclasses.replace(options, threads=0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        options.threads = 3


# ---- refusals ----------------------------------------------------------------------------------------

BAD_TEXT = [
    ("threads", "two", "must be a whole number, not 'two'"),
    ("threads", "1.0", "must be a whole number, not '1.0'"),
    ("threads", "1_0", "must be a whole number, not '1_0'"),
    ("threads", "+1", "must be a whole number, not '+1'"),
    ("threads", "0x1", "must be a whole number, not '0x1'"),
    ("threads", "\u0661", "must be a whole number, not '\u0661'"),
    ("threads", "1k", "must be a whole number, not '1k'"),
    ("threads", "1" * 5000, "must be a whole number"),
    ("threads", "0", "must be between 1 and 1024, not 0"),
    ("threads", "-1", "must be between 1 and 1024, not -1"),
    ("workers", "0", "must be between 1 and 1024, not 0"),
    ("max_body", "10mb", "must be a whole number, optionally followed by k, m or g, not '10mb'"),
    ("max_body", "k", "must be a whole number, optionally followed by k, m or g, not 'k'"),
    ("max_body", "-1k", "must be between 0 and 1125899906842624, not -1024"),
    ("max_body", "9" * 18 + "g", "must be between 0 and 1125899906842624, not "),
    ("max_request_line", "7", "must be between 8 and 1048576, not 7"),
    ("max_request_line", "1048577", "must be between 8 and 1048576, not 1048577"),
    ("head_timeout", "0", "must be between 0.001 and 604800, not 0.0"),
    ("head_timeout", "-1", "must be between 0.001 and 604800, not -1.0"),
    ("head_timeout", "604801", "must be between 0.001 and 604800, not 604801.0"),
    ("head_timeout", "inf", "must be a number of seconds, not 'inf'"),
    ("head_timeout", "nan", "must be a number of seconds, not 'nan'"),
    ("head_timeout", "1e3", "must be a number of seconds, not '1e3'"),
    ("head_timeout", ".", "must be a number of seconds, not '.'"),
    ("head_timeout", "5s", "must be a number of seconds, not '5s'"),
    ("poller", "poll", "must be one of best, selectors, not 'poll'"),
    ("log_level", "loud", "must be one of debug, info, warning, error, critical, not 'loud'"),
]


@pytest.mark.parametrize(("name", "text", "problem"), BAD_TEXT)
def test_bad_variables(name: str, text: str, problem: str) -> None:
    with pytest.raises(ValueError, match=f"^{variable(name)} {re.escape(problem)}"):
        environment({variable(name): text})


@pytest.mark.parametrize(("name", "text", "problem"), BAD_TEXT)
def test_bad_flags(name: str, text: str, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        by_flag(name, text)
    assert caught.value.code == 2
    assert f"program: error: argument {flag(name)}: {problem}" in capsys.readouterr().err


def test_bad_boolean_variable() -> None:
    with pytest.raises(ValueError, match=r"^FASTWSGI_RELOAD must be one of 1, true, .*, not 'maybe'$"):
        environment({"FASTWSGI_RELOAD": "maybe"})


@pytest.mark.parametrize(
    ("name", "value", "error", "problem"),
    [
        ("threads", "2", TypeError, "must be a whole number, not '2'"),
        ("threads", 2.0, TypeError, "must be a whole number, not 2.0"),
        ("threads", True, TypeError, "must be a whole number, not True"),
        ("threads", None, TypeError, "must be a whole number, not None"),
        ("threads", 0, ValueError, "must be between 1 and 1024, not 0"),
        ("head_timeout", "3", TypeError, "must be a number, not '3'"),
        ("head_timeout", False, TypeError, "must be a number, not False"),
        ("head_timeout", math.nan, ValueError, "must be between 0.001 and 604800, not nan"),
        ("head_timeout", math.inf, ValueError, "must be between 0.001 and 604800, not inf"),
        ("head_timeout", 10**400, ValueError, "must be between 0.001 and 604800, not 1000"),
        ("validate", 1, TypeError, "must be True or False, not 1"),
        ("validate", "yes", TypeError, "must be True or False, not 'yes'"),
        ("bind", 8000, TypeError, "must be a string or a sequence of strings, not 8000"),
        ("bind", b"a:1", TypeError, "must be a string or a sequence of strings, not b'a:1'"),
        ("bind", [("a", 1)], TypeError, "must be a string or a sequence of strings, not [('a', 1)]"),
        ("bind", None, TypeError, "must be a string or a sequence of strings, not None"),
        ("bind", ["a:1", " "], ValueError, "must not hold an empty string: ['a:1', ' ']"),
        ("certfile", 1, TypeError, "must be a string or None, not 1"),
        ("certfile", b"a.pem", TypeError, "must be a string or None, not b'a.pem'"),
        ("certfile", "", ValueError, "must not be empty"),
        ("access_log_format", None, TypeError, "must be a string, not None"),
        ("access_log_format", "", ValueError, "must not be empty"),
        ("poller", "epoll", ValueError, "must be one of best, selectors, not 'epoll'"),
        ("poller", 1, TypeError, "must be a string, not 1"),
    ],
)
def test_bad_keywords(name: str, value: Any, error: type[Exception], problem: str) -> None:
    with pytest.raises(error, match=f"^{re.escape(f'{name} {problem}')}") as caught:
        from_keywords(**{name: value})
    assert type(caught.value) is error


@pytest.mark.parametrize("name", NUMBERS)
def test_bounds_belong_to_the_range(name: str) -> None:
    kind = type(OPTIONS[name].default)
    least, most = OPTIONS[name].metadata["between"]
    for value in (least, most):
        assert getattr(from_keywords(**{name: kind(value)}), name) == value
    for value in (least - 1, most + 1):
        with pytest.raises(ValueError, match=f"^{name} must be between "):
            from_keywords(**{name: kind(value)})


@pytest.mark.parametrize(
    ("name", "hint"), [("thread", "; did you mean 'threads'?"), ("bogus", ""), ("pure", ""), ("__class__", "")]
)
def test_unknown_keywords(name: str, hint: str) -> None:
    message = f"serve() got an unexpected keyword argument {name!r}{hint}"
    with pytest.raises(TypeError, match=f"^{re.escape(message)}$"):
        from_keywords(**{name: 1})


@pytest.mark.parametrize("name", ["keyfile", "ca_certs"])
def test_what_needs_a_certificate(name: str) -> None:
    problem = f"{name} 'x.pem' needs certfile"
    with pytest.raises(ValueError, match=problem):
        from_keywords(**{name: "x.pem"})
    with pytest.raises(ValueError, match=problem):
        by_flags(flag(name), "x.pem")
    with pytest.raises(ValueError, match=problem):
        by_flags(**{variable(name): "x.pem"})
    assert by_flags(flag(name), "x.pem", FASTWSGI_CERTFILE="c.pem").certfile == "c.pem"


# ---- precedence --------------------------------------------------------------------------------------


def test_flag_before_variable_before_default() -> None:
    assert by_flags() == Options()
    assert by_flags(FASTWSGI_THREADS="2").threads == 2
    assert by_flags("--threads", "3", FASTWSGI_THREADS="2").threads == 3
    # A flag with the default value still counts as given.
    assert by_flags("--threads", "1", FASTWSGI_THREADS="2").threads == 1
    assert by_flags("--no-reload", FASTWSGI_RELOAD="1").reload is False
    assert by_flags("--bind", "a:1", FASTWSGI_BIND="b:2").bind == ("a:1",)


def test_a_flag_takes_back_what_a_variable_says() -> None:
    assert by_flags("--access-log", "", FASTWSGI_ACCESS_LOG="-").access_log is None
    assert by_flags("--bind", "", FASTWSGI_BIND="b:2").bind == ()


def test_repeated_flags() -> None:
    made = parser()
    for _ in range(2):  # the second call must not see state of the first
        options = from_arguments(made.parse_args(["--bind", "a:1", "--bind", "b:2,c:3", "--access-log", "-"]), {})
        assert options.bind == ("a:1", "b:2", "c:3")
        assert options.access_log == "-"


def test_other_variables_and_empty_ones_say_nothing() -> None:
    environ = {"FASTWSGI_PURE": "1", "FASTWSGI_REQUIRE_SPEEDUPS": "1", "FASTWSGI_THREAD": "x", "THREADS": "3"}
    assert environment({**environ, "FASTWSGI_THREADS": "", "FASTWSGI_CERTFILE": " ", "FASTWSGI_BIND": ""}) == {}


def test_the_processs_variables_are_read_when_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTWSGI_MAX_BODY", "1m")
    assert environment()["max_body"] == 1 << 20
    assert from_arguments(argparse.Namespace()).max_body == 1 << 20
    assert Options().max_body == from_keywords().max_body == 1 << 30


def test_a_namespace_may_hold_more() -> None:
    namespace = argparse.Namespace(threads=2, application="m:app", print_config=True)
    assert from_arguments(namespace, {}) == Options(threads=2)


# ---- the description ---------------------------------------------------------------------------------


@pytest.mark.parametrize("with_origins", [False, True])
def test_a_description_can_be_read_back(with_origins: bool) -> None:
    options = from_keywords(
        bind=["unix:/a b", "c:1"], access_log_format='%h "%r" # \n', max_body=0, certfile="c'.pem", reload=True
    )
    text = describe(options, {} if with_origins else None)
    assert len(text.splitlines()) == len(OPTIONS)
    assert ("  # default" in text) == with_origins
    read = {}
    for node in ast.parse(text).body:
        assert isinstance(node, ast.Assign)
        assert isinstance(node.targets[0], ast.Name)
        read[node.targets[0].id] = ast.literal_eval(node.value)
    assert list(read) == list(OPTIONS)
    assert from_keywords(**read) == options


def test_a_description_says_where_a_value_is_from() -> None:
    namespace = parser().parse_args(["--threads", "3", "--no-fast-lane"])
    environ = {"FASTWSGI_THREADS": "2", "FASTWSGI_MAX_BODY": "1k"}
    lines = describe(from_arguments(namespace, environ), origins(namespace, environ)).splitlines()
    said = [re.split(r" = | +# ", line) for line in lines]
    assert {name: [value, origin] for name, value, origin in said if origin != "default"} == {
        "threads": ["3", "--threads"],
        "fast_lane": ["False", "--fast-lane"],
        "max_body": ["1024", "FASTWSGI_MAX_BODY"],
    }
