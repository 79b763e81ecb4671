"""Load the application that a command line names: each form of the name, and each error."""

from __future__ import annotations

import importlib
import os
import pickle
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from fastwsgi._service.load import LoadError, load_application

Write = Callable[..., Path]

# Unique module names, so that each test can remove its modules.
SITE = """
    from functools import partial
    from os.path import join
    from time import sleep
    from typing import Optional, TypeVar

    class Site:
        def __init__(self, name):
            self.name = name
        def __call__(self, environ, start_response):
            return [self.name.encode()]

    application = Site("application")
    app = Site("app")
    other = Site("other")
    other.api = Site("other.api")
    number = 5

    def make():
        return Site("made")

    def make_nothing():
        return None

    def fail():
        raise AttributeError("the factory's own")

    make.inner = make
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write a file below the current directory, which is new; its modules are removed at the end."""
    modules = set(sys.modules)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.chdir(tmp_path)

    def write(path: str, source: str = SITE) -> Path:
        file = tmp_path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(dedent(source), encoding="utf-8")
        importlib.invalidate_caches()
        return file

    yield write
    for name in sys.modules.keys() - modules:
        del sys.modules[name]


def answer(application: Any) -> str:
    return b"".join(application({}, lambda status, headers: None)).decode()


@pytest.mark.parametrize(
    "module", ["site_a", "site_a.py", "site_p.inner", "site_p/inner.py", "./site_p/inner.py", "site-d"]
)
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("", "application"),
        (":application", "application"),
        (":app", "app"),
        (":other", "other"),
        (":other.api", "other.api"),
        (":make()", "made"),
        (":make.inner()", "made"),
    ],
)
def test_good_specs(write: Write, module: str, name: str, expected: str) -> None:
    write("site_a.py")
    write("site-d.py")
    write("site_p/__init__.py", "")
    write("site_p/inner.py")
    assert answer(load_application(module + name)) == expected


def test_app_is_found_where_there_is_no_application(write: Write) -> None:
    write("site_b.py", "app = lambda environ, start_response: [b'app']\n")
    assert answer(load_application("site_b")) == "app"


def test_a_class_may_be_the_application(write: Write) -> None:
    write("site_c.py", "class application(list):\n def __init__(self, environ, start_response): self.append(b'c')\n")
    assert answer(load_application("site_c")) == "c"


def test_an_absolute_path(write: Write, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = write("deep/site_e.py")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert answer(load_application(f"{file}:app")) == "app"  # its path has another colon on Windows


@pytest.mark.parametrize(("spec", "directory"), [("site_f", "."), ("sub/site_g.py", "sub")])
def test_the_directory_comes_first_and_once(write: Write, tmp_path: Path, spec: str, directory: str) -> None:
    write("site_f.py")
    write("sub/site_g.py")
    before = list(sys.path)
    load_application(spec)
    load_application(spec)
    first, *others = sys.path
    assert os.path.samefile(first, tmp_path / directory)
    assert os.path.isabs(first)
    assert others == before


def test_a_module_beside_comes_before_one_installed(write: Write, tmp_path: Path) -> None:
    write("sub/site_h.py", "from site_i import application\n")
    write("sub/site_i.py")
    write("installed/site_i.py", "application = None\n")
    sys.path.insert(0, str(tmp_path / "installed"))
    assert answer(load_application("sub/site_h.py")) == "application"


def test_a_file_is_a_module_like_any_other(write: Write) -> None:
    write("site_j.py", SITE + "    main = __name__ == '__main__'\n")
    application = load_application("site_j.py")
    module = sys.modules["site_j"]
    assert module.application is application
    assert module.main is False
    assert importlib.import_module("site_j") is module
    assert pickle.loads(pickle.dumps(application)).name == "application"  # type: ignore[attr-defined]
    assert importlib.reload(module) is module
    assert load_application("site_j.py:other") is module.other
    assert load_application("site_j:other") is module.other


def test_a_module_may_put_another_in_its_place(write: Write) -> None:
    write("site_k.py", "import sys, types\nm = types.ModuleType(__name__)\nm.app = len\nsys.modules[__name__] = m\n")
    assert load_application("site_k.py:app") is len


# ---- errors in the spec ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "problem"),
    [
        ("no_such", "there is no module 'no_such'"),
        ("no_such:app", "there is no module 'no_such'"),
        ("no_such.inner", "there is no module 'no_such', needed for 'no_such.inner'"),
        ("site_p.no_such", "there is no module 'site_p.no_such'"),
        ("site_a.no_such", "there is no module 'site_a.no_such'"),
        ("", "'' is not a module's name; a file's name ends in .py"),
        (":app", "'' is not a module's name; a file's name ends in .py"),
        (".site_a", "'.site_a' is not a module's name; a file's name ends in .py"),
        ("site_p..inner", "'site_p..inner' is not a module's name; a file's name ends in .py"),
        ("site_p/inner:app", "'site_p/inner' is not a module's name; a file's name ends in .py"),
        ("site_p\\inner", r"'site_p\\inner' is not a module's name; a file's name ends in .py"),
        ("site_a:", "'site_a:': '' is not NAME, NAME.ATTRIBUTE or NAME()"),
        ("site_a.py:", "'site_a.py:': '' is not NAME, NAME.ATTRIBUTE or NAME()"),
        ("site_a:app:x", "'site_a:app:x': 'app:x' is not NAME, NAME.ATTRIBUTE or NAME()"),
        ("site_a:app[0]", "'site_a:app[0]': 'app[0]' is not NAME, NAME.ATTRIBUTE or NAME()"),
        ("site_a:()", "'site_a:()': '()' is not NAME, NAME.ATTRIBUTE or NAME()"),
        ("site_a:make()()", "'site_a:make()()': a factory is called without arguments: make()"),
        ("site_a:make().x", "'site_a:make().x': a factory is called without arguments: make()"),
        ("site_a:make('x')", "\"site_a:make('x')\": a factory is called without arguments: make()"),
        ("site_a:a.make(debug=True)", "'site_a:a.make(debug=True)': a factory is called without arguments: a.make()"),
        ("site_a:make(", "'site_a:make(': a factory is called without arguments: make()"),
        ("site_a:number", "number of 'site_a' is not callable, but of type 'int'"),
        ("site_a:number()", "number of 'site_a' is not callable, but of type 'int'"),
        ("site_a:other.name", "other.name of 'site_a' is not callable, but of type 'str'"),
        ("site_a:make_nothing()", "make_nothing() of 'site_a' returned None, which is not callable"),
        ("site_a:other.no.x", "'other' of module 'site_a' has no no"),
        ("site_a.py:other.py", "'other' of module 'site_a' has no py"),
        ("site_a:nothing", "module 'site_a' has no nothing, but application, app, other"),
        ("site_a.py:nothing()", "module 'site_a' has no nothing, but application, app, other"),
        ("site_p", "module 'site_p' has no application and no app"),
        ("site_l", "module 'site_l' has no application and no app, but serve_me, create_app()"),
        ("site_m", "module 'site_m' has no application and no app"),
        ("site_n", "application of 'site_n' is not callable, but None"),
    ],
)
def test_bad_specs(write: Write, spec: str, problem: str) -> None:
    write("site_a.py")
    write("site_p/__init__.py", "")
    write("site_l.py", "def serve_me(environ, start_response): ...\ndef create_app(c=None): ...\ndef helper(): ...\n")
    write("site_m.py", "".join(f"def a{i}(environ, start_response): ...\n" for i in range(6)))
    write("site_n.py", "application = None\napp = len\n")
    with pytest.raises(LoadError) as caught:
        load_application(spec)
    assert str(caught.value) == problem


def test_a_hint_asks_no_proxy(write: Write) -> None:
    source = """
        import functools
        class Proxy:
            def __getattribute__(self, name): raise RuntimeError("nobody is there")
            def __call__(self, *args): ...
        def wraps(function):
            @functools.wraps(function)
            def application(environ, start_response): ...
            return application
        proxy = Proxy()
        @wraps
        def viewed(request): ...
        partial = functools.partial(print)
    """
    write("site_o.py", source)
    with pytest.raises(LoadError, match=r"has no application and no app, but proxy, viewed$"):
        load_application("site_o")


@pytest.mark.parametrize("spec", ["no_such.py", "no_such.py:app", "no/such.py", "folder.py", "no_such.py:make()"])
def test_no_such_file(write: Write, tmp_path: Path, spec: str) -> None:
    (tmp_path / "folder.py").mkdir()
    path = str(Path(os.getcwd(), spec.partition(":")[0]))
    with pytest.raises(LoadError) as caught:
        load_application(spec)
    assert str(caught.value).startswith(f"can't read {path!r}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["json", "sys", "fastwsgi"])
def test_a_file_takes_no_modules_place(write: Write, name: str) -> None:
    module = sys.modules[name] = importlib.import_module(name)
    write(f"{name}.py")
    path = list(sys.path)
    with pytest.raises(LoadError, match=rf"another module is called '{name}'; rename the file$"):
        load_application(f"{name}.py")
    assert sys.modules[name] is module
    assert sys.path == path


# ---- errors in the program ---------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["", ".py"])
@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("import no_such_thing", ModuleNotFoundError, "No module named 'no_such_thing'"),
        ("import site_q.no_such", ModuleNotFoundError, "No module named 'site_q.no_such'"),
        ("from os import no_such", ImportError, "cannot import name 'no_such'"),
        ("1 / 0", ZeroDivisionError, "division by zero"),
        ("def", SyntaxError, "invalid syntax"),
        ("raise SystemExit(3)", SystemExit, "3"),
        ("raise AttributeError('x')", AttributeError, "x"),
    ],
)
def test_errors_of_the_program_pass_through(
    write: Write, source: str, error: type[BaseException], message: str, suffix: str
) -> None:
    write("site_q.py", source + "\n")
    with pytest.raises(error, match=message) as caught:
        load_application(f"site_q{suffix}:app")
    assert type(caught.value) is error
    assert "site_q" not in sys.modules  # so that a second try is possible


def test_a_missing_module_of_the_same_beginning_is_the_programs(write: Write) -> None:
    write("site_r.py", "import site_\n")
    with pytest.raises(ModuleNotFoundError, match="No module named 'site_'"):
        load_application("site_r")


def test_errors_of_a_factory_pass_through(write: Write) -> None:
    write("site_a.py")
    with pytest.raises(AttributeError, match=r"^the factory's own$"):
        load_application("site_a:fail()")
    with pytest.raises(TypeError, match="missing 1 required positional argument"):
        load_application("site_a:Site()")


def test_a_spec_is_no_program(write: Write) -> None:
    write("site_a.py")
    with pytest.raises(LoadError):
        load_application("site_a:__import__('os').abort()")
