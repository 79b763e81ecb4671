"""fastwsgi.install(), uninstall() and python -m fastwsgi.swap: our modules under wsgiref's names."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

import fastwsgi
from programs import run_python
from waiting import TIMEOUT

MODULES = ("handlers", "headers", "simple_server", "types", "util", "validate")

Python = Callable[..., "subprocess.CompletedProcess[str]"]


def ours(name: str) -> ModuleType:
    return importlib.import_module(f"fastwsgi.{name}")


def wsgiref_now() -> dict[str, object]:
    """Everything that install() may change: the modules, and the package's attributes with their names."""
    package = importlib.import_module("wsgiref")
    state: dict[str, object] = {}
    for name in MODULES:
        for place, key in ((sys.modules, f"wsgiref.{name}"), (vars(package), name)):
            if key in place:
                state[key] = place[key]
    return state


@pytest.fixture(params=["nothing imported before", "everything imported before"])
def before(request: pytest.FixtureRequest) -> Iterator[dict[str, object]]:
    """The state of wsgiref before the test, in both variants; it is always restored."""
    package = importlib.import_module("wsgiref")
    with pytest.MonkeyPatch.context() as patch:
        for name in MODULES:
            patch.delitem(sys.modules, f"wsgiref.{name}", raising=False)
            patch.delattr(package, name, raising=False)
        if request.param == "everything imported before":
            for name in MODULES:
                if name != "types" or sys.version_info >= (3, 11):
                    module = importlib.import_module(f"wsgiref.{name}")
                    # The import sets both; set them again, so that patch restores them.
                    patch.setitem(sys.modules, f"wsgiref.{name}", module)
                    patch.setattr(package, name, module)
        state = wsgiref_now()
        yield state
        fastwsgi.uninstall()


def test_every_way_of_importing_finds_ours(before: dict[str, object]) -> None:
    import wsgiref

    fastwsgi.install()
    for name in MODULES:
        assert importlib.import_module(f"wsgiref.{name}") is ours(name)
        assert getattr(wsgiref, name) is ours(name)
        namespace: dict[str, object] = {}
        exec(f"from wsgiref import {name} as a; import wsgiref.{name} as b; import wsgiref.{name}", namespace)
        assert namespace["a"] is ours(name)
        assert namespace["b"] is ours(name)
    from wsgiref.simple_server import WSGIServer

    assert WSGIServer.__module__ == "fastwsgi.simple_server"


def test_uninstall_restores_what_was_there(before: dict[str, object]) -> None:
    fastwsgi.install()
    assert len(wsgiref_now()) == 2 * len(MODULES)
    fastwsgi.uninstall()
    assert wsgiref_now() == before
    fastwsgi.uninstall()
    assert wsgiref_now() == before


def test_wsgirefs_own_modules_come_back(before: dict[str, object]) -> None:
    with fastwsgi.install():
        pass
    assert importlib.import_module("wsgiref.validate").__name__ == "wsgiref.validate"


def test_uninstall_alone_changes_nothing(before: dict[str, object]) -> None:
    fastwsgi.uninstall()
    assert wsgiref_now() == before


def test_installing_twice_is_installing_once(before: dict[str, object]) -> None:
    fastwsgi.install()
    installed = wsgiref_now()
    fastwsgi.install()
    assert wsgiref_now() == installed
    fastwsgi.uninstall()
    assert wsgiref_now() == before


def test_with_block_restores_also_after_an_error(before: dict[str, object]) -> None:
    def fail() -> None:
        with fastwsgi.install():
            assert importlib.import_module("wsgiref.util") is ours("util")
            raise ValueError("boom")

    with pytest.raises(ValueError, match="boom"):
        fail()
    assert wsgiref_now() == before


def test_of_nested_blocks_the_outermost_restores(before: dict[str, object]) -> None:
    with fastwsgi.install():
        installed = wsgiref_now()
        with fastwsgi.install(), fastwsgi.install():
            assert wsgiref_now() == installed
        assert wsgiref_now() == installed
    assert wsgiref_now() == before


def test_block_inside_of_a_lasting_installation_leaves_it(before: dict[str, object]) -> None:
    fastwsgi.install()
    installed = wsgiref_now()
    with fastwsgi.install():
        pass
    assert wsgiref_now() == installed


def test_uninstall_inside_of_a_block(before: dict[str, object]) -> None:
    with fastwsgi.install():
        fastwsgi.uninstall()
        assert wsgiref_now() == before
    assert wsgiref_now() == before


def test_uninstall_copes_with_what_was_changed_meanwhile(before: dict[str, object]) -> None:
    import wsgiref

    fastwsgi.install()
    del sys.modules["wsgiref.util"], wsgiref.util
    sys.modules["wsgiref.headers"] = ModuleType("somebody's")
    fastwsgi.uninstall()
    assert wsgiref_now() == before


# --- python -m fastwsgi.swap


@pytest.fixture
def python(tmp_path: Path) -> Python:
    """Run the interpreter with the given arguments in the test's directory."""
    environ = {**os.environ, "PYTHONPATH": str(Path(fastwsgi.__file__).parent.parent)}
    environ.pop("PYTHONSAFEPATH", None)

    return partial(run_python, cwd=tmp_path, environment=environ, timeout=2 * TIMEOUT)


@pytest.fixture
def swap(python: Python) -> Python:
    return lambda *args: python("-m", "fastwsgi.swap", *args)


WHAT_A_PROGRAM_SEES = """
import json, sys
json.dump([
    __name__, __file__, __package__, __spec__ and __spec__.name, __doc__,
    type(__loader__).__name__, getattr(__loader__, "name", None),
    sys.argv, sys.path[:3], sys._getframe().f_code.co_filename,
    vars(sys.modules["__main__"]) is globals(),
], sys.stdout)
"""

SEEN_BY_ITSELF = "import json, sys; json.dump([__name__, sys.argv[0], sys.path[0]], sys.stderr)"


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """The same program as a file, behind a link, as a directory, a zip file, a module and a package."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").write_text(SEEN_BY_ITSELF)
    for path in (package / "__main__.py", package / "module.py", tmp_path / "module.py"):
        path.write_text(WHAT_A_PROGRAM_SEES)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "__main__.py").write_text(WHAT_A_PROGRAM_SEES)
    with zipfile.ZipFile(tmp_path / "archive.zip", "w") as archive:
        archive.writestr("__main__.py", WHAT_A_PROGRAM_SEES)
    return tmp_path


def same_with_and_without_us(python: Python, *arguments: str, options: tuple[str, ...] = ()) -> None:
    alone = python(*options, *arguments)
    swapped = python(*options, "-m", "fastwsgi.swap", *arguments)
    assert json.loads(alone.stdout)[0] == "__main__"
    assert swapped.stdout == alone.stdout
    assert swapped.stderr == alone.stderr
    assert swapped.returncode == alone.returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ["module.py"],
        ["module.py", "-m", "--help", "x y"],
        ["package/module.py", "x"],
        ["folder"],
        ["archive.zip", "x"],
        ["-m", "module", "-x", "-h"],
        ["-m", "package", "x"],
        ["-m", "package.module"],
    ],
    ids=" ".join,
)
def test_a_program_sees_what_it_would_see_without_us(python: Python, programs: Path, arguments: list[str]) -> None:
    same_with_and_without_us(python, *arguments)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="-P came with 3.11")
@pytest.mark.parametrize("script", ["module.py", "package/module.py", "folder", "archive.zip"])
def test_no_directory_is_added_to_the_path_under_p(python: Python, programs: Path, script: str) -> None:
    same_with_and_without_us(python, script, options=("-P",))


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right of their own there")
def test_a_program_behind_a_link(python: Python, programs: Path) -> None:
    (programs / "link.py").symlink_to(programs / "package" / "module.py")
    (programs / "linked").symlink_to(programs / "folder")
    for script in ("link.py", "linked"):
        same_with_and_without_us(python, script)


@pytest.mark.skipif(sys.implementation.name == "pypy", reason="PyPy normalises the path of its script")
@pytest.mark.parametrize("script", ["./package/../module.py", "folder/", "./archive.zip"])
def test_the_path_stays_as_it_was_spelled(python: Python, programs: Path, script: str) -> None:
    same_with_and_without_us(python, script)


@pytest.mark.skipif(sys.platform == "win32", reason="links need a right of their own there")
def test_a_parent_behind_a_link_is_the_links_own(swap: Python, programs: Path) -> None:
    (programs / "a" / "b").mkdir(parents=True)
    (programs / "a" / "module.py").write_text("print('the right one')")
    (programs / "linked").symlink_to(programs / "a" / "b")
    assert swap("linked/../module.py").stdout == "the right one\n"


def test_the_program_gets_our_modules(swap: Python, tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(
        "import wsgiref, wsgiref.util\n"
        "from wsgiref import simple_server\n"
        "from wsgiref.validate import validator\n"
        "from wsgiref.types import WSGIEnvironment\n"
        "print(wsgiref.util.__name__, simple_server.__name__, validator.__module__, wsgiref.types.__name__)\n"
    )
    for arguments in (["program.py"], ["-m", "program"]):
        run = swap(*arguments)
        assert (run.returncode, run.stderr) == (0, "")
        expected = ["util", "simple_server", "validate", "types"]
        assert run.stdout.split() == [f"fastwsgi.{name}" for name in expected]


def test_an_unchanged_server_script_serves(swap: Python, tmp_path: Path) -> None:
    (tmp_path / "server.py").write_text(
        "import threading, urllib.request\n"
        "from wsgiref.simple_server import make_server\n"
        "def hello(environ, start_response):\n"
        "    start_response('200 OK', [('Content-type', 'text/plain; charset=utf-8')])\n"
        "    return [b'Hello ' + environ['PATH_INFO'].encode('latin-1')]\n"
        "if __name__ == '__main__':\n"
        "    with make_server('127.0.0.1', 0, hello) as httpd:\n"
        "        thread = threading.Thread(target=httpd.handle_request)\n"
        "        thread.start()\n"
        "        url = 'http://127.0.0.1:%d/you' % httpd.server_port\n"
        "        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))\n"
        "        print(opener.open(url, timeout=30).read().decode())\n"
        "        thread.join()\n"
        "    print(type(httpd).__module__)\n"
    )
    run = swap("server.py")
    assert run.stdout.splitlines() == ["Hello /you", "fastwsgi.simple_server"], run.stderr
    assert '"GET /you HTTP/1.1" 200' in run.stderr


def test_wsgirefs_modules_can_be_run_themselves(swap: Python) -> None:
    run = swap("-m", "wsgiref.validate")
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_the_program_can_take_it_back(swap: Python, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "import fastwsgi\nfastwsgi.install()\nfastwsgi.uninstall()\nimport wsgiref.util\nprint(wsgiref.util.__name__)\n"
    )
    run = swap("program.py")
    assert (run.stdout, run.stderr) == ("wsgiref.util\n", "")


def test_the_main_module_outlives_the_program(swap: Python, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "import atexit, sys\n"
        "mark = 'still here'\n"
        "atexit.register(lambda: print(sys.modules['__main__'].mark, mark, sys.argv))\n"
    )
    run = swap("program.py", "x")
    assert (run.stdout, run.stderr) == ("still here still here ['program.py', 'x']\n", "")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("raise ValueError('boom')", (1, "ValueError: boom")),
        ("import no_such_module_of_the_programs", (1, "No module named 'no_such_module_of_the_programs'")),
        ("open('no such file')", (1, "No such file or directory: 'no such file'")),
        ("1 +", (1, "SyntaxError: invalid syntax")),
        ("import sys; sys.exit(7)", (7, "")),
        ("import sys; sys.exit('a reason')", (1, "a reason")),
        ("import sys; sys.exit()", (0, "")),
    ],
)
@pytest.mark.parametrize("arguments", [["program.py"], ["-m", "program"]], ids=" ".join)
def test_errors_of_the_program_are_its_own(
    swap: Python, tmp_path: Path, arguments: list[str], source: str, expected: tuple[int, str]
) -> None:
    status, last_line = expected
    (tmp_path / "program.py").write_text(source)
    run = swap(*arguments)
    assert run.returncode == status
    lines = run.stderr.splitlines()
    if "Error" in last_line or "No " in last_line:
        assert lines[-1].endswith(last_line)
        assert lines[0] == "Traceback (most recent call last):"
        assert any("program.py" in line and "line 1" in line for line in lines)
        assert "fastwsgi.swap: " not in run.stderr
    else:
        assert lines == last_line.splitlines()


def test_an_import_error_in_the_programs_package_is_its_own(swap: Python, tmp_path: Path) -> None:
    (tmp_path / "package").mkdir()
    (tmp_path / "package" / "__init__.py").write_text("import no_such_module_of_the_packages")
    (tmp_path / "package" / "__main__.py").write_text("")
    run = swap("-m", "package")
    assert run.returncode == 1
    assert run.stderr.startswith("Traceback")
    assert run.stderr.endswith("No module named 'no_such_module_of_the_packages'\n")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ([], "no program given; usage: python -m fastwsgi.swap "),
        (["-m"], "-m needs a module; usage: python -m fastwsgi.swap "),
        (["-x", "program.py"], "unknown option -x; usage: python -m fastwsgi.swap "),
        (["no_such_file.py"], "can't open 'no_such_file.py'"),
        (["empty"], "no __main__ module in 'empty'"),
        (["-m", "no_such_module"], "no module named 'no_such_module'"),
        (["-m", "no_such_package.module"], "no module named 'no_such_package.module'"),
        (["-m", "json.no_such_module"], "no module named 'json.no_such_module'"),
        (["-m", "json.decoder.x"], "no module named 'json.decoder.x'"),
        (["-m", "concurrent"], "no module named 'concurrent.__main__'"),
        (["-m", "wsgiref"], "no module named 'wsgiref.__main__'"),
        (["-m", "sys"], "no Python code in module 'sys'"),
        (["-m", ".relative"], "no module named '.relative'"),
        (["-m", ""], "no module named ''"),
    ],
)
def test_no_program_is_one_line_and_status_2(swap: Python, tmp_path: Path, arguments: list[str], reason: str) -> None:
    (tmp_path / "empty").mkdir()
    run = swap(*arguments)
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith(f"fastwsgi.swap: {reason}")
    assert run.stderr.count("\n") == 1
    assert run.stderr.endswith("\n")


@pytest.mark.parametrize("option", ["-h", "--help"])
def test_help(swap: Python, option: str) -> None:
    run = swap(option, "ignored")
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.startswith("usage: python -m fastwsgi.swap")
    assert "-m MODULE" in run.stdout


def test_importing_fastwsgi_loads_none_of_the_six(python: Python) -> None:
    run = python(
        "-c",
        "import sys, fastwsgi\n"
        "print([name for name in sys.modules if name.startswith(('wsgiref', 'http', 'socketserver'))\n"
        f"       or name in {[f'fastwsgi.{name}' for name in MODULES]!r}])",
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "[]\n", "")
