"""The build, and the choice of the twin at import: compiled, pure, or an error, and never silently.

Builds run in copies of the source. They use the setuptools and Cython of this environment, so they need no network.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeAlias

import pytest

import fastwsgi
from artefacts import copy_source, environment
from programs import run_python

pytestmark = pytest.mark.source
SOURCE = Path(__file__).parents[2]
TIMEOUT = 180
Finished: TypeAlias = "subprocess.CompletedProcess[str]"

# A program that uses names of both twins, and prints which twin it got.
USE_IT = """
import fastwsgi, fastwsgi._backend, fastwsgi.headers, fastwsgi.simple_server
headers = fastwsgi.headers.Headers([("A", "b")])
assert bytes(headers) == b"A: b\\r\\n\\r\\n"
assert fastwsgi._backend.format_date_time(0) == "Thu, 01 Jan 1970 00:00:00 GMT"
print(fastwsgi.implementation, type(headers).__module__, fastwsgi.__file__)
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return copy_source(tmp_path / "tree")


class Attempt(NamedTuple):
    tree: Path
    finished: Finished


@pytest.fixture(scope="module")
def attempt(tmp_path_factory: pytest.TempPathFactory) -> Attempt:
    """Build in place without a compiler. The C file stays for other tests, because the translation takes a while."""
    folder = tmp_path_factory.mktemp("attempt")
    tree = copy_source(folder / "tree")
    finished = python("setup.py", "build_ext", "--inplace", cwd=tree, env=without_compiler(folder))
    return Attempt(tree, finished)


def without_compiler(folder: Path, **variables: str) -> dict[str, str]:
    """The environment of a machine without a C compiler: none on PATH, and none in CC."""
    empty = folder / "empty"
    empty.mkdir(exist_ok=True)
    return environment(PATH=str(empty), CC=str(empty / "cc"), CXX=str(empty / "c++"), **variables)


def python(*args: str, cwd: Path, env: Mapping[str, str], check: bool = True) -> Finished:
    return run_python(*args, cwd=cwd, environment=env, timeout=TIMEOUT, check=check)


def install(
    tree: Path, target: Path, env: Mapping[str, str], check: bool = True, verbose: Sequence[str] = ("-v",)
) -> str:
    """``pip install`` the tree into the folder *target*; return the output of pip, and with "-v" of the build."""
    options = (*verbose, "--no-build-isolation", "--no-deps", "--no-index", "--target", str(target))
    finished = python("-m", "pip", "install", *options, ".", cwd=tree, env=env, check=check)
    return finished.stdout + finished.stderr


def used(folder: Path, env: Mapping[str, str]) -> tuple[str, str]:
    """Use the package in *folder*; return which implementation runs, and the module of its Headers."""
    implementation, module, file = python("-c", USE_IT, cwd=folder, env=env).stdout.split(maxsplit=2)
    assert Path(file.strip()).parents[1] == folder
    return implementation, module


def extensions_in(folder: Path) -> list[str]:
    suffixes = tuple(importlib.machinery.EXTENSION_SUFFIXES)
    return [path.name for path in folder.rglob("*") if path.name.endswith(suffixes)]


def notices(output: str) -> list[str]:
    return [line.strip() for line in output.splitlines() if "fastwsgi: no compiled speedups" in line]


@pytest.mark.compiled
def test_without_a_compiler_a_build_in_place_leaves_a_working_package(attempt: Attempt) -> None:
    (notice,) = notices(attempt.finished.stderr)  # one line, and no traceback around it
    assert notice.startswith("fastwsgi: no compiled speedups, using pure Python (")
    assert str(attempt.tree.parent / "empty" / "cc") in notice  # the reason
    assert "Traceback" not in attempt.finished.stderr
    assert extensions_in(attempt.tree) == []
    assert used(attempt.tree, environment()) == ("pure", "fastwsgi._fallback")


@pytest.mark.compiled
def test_without_a_compiler_the_pure_twin_is_installed(attempt: Attempt, tmp_path: Path) -> None:
    target = tmp_path / "installed"
    output = install(attempt.tree, target, without_compiler(tmp_path))
    assert len(notices(output)) == 1
    assert extensions_in(target) == []
    assert used(target, environment()) == ("pure", "fastwsgi._fallback")
    # pip shows the notice only with -v. The wheel's name always tells it, and so does --version.
    assert f"fastwsgi_toolkit-{fastwsgi.__version__}-py3-none-any.whl" in output
    version = python("-m", "fastwsgi", "--version", cwd=target, env=environment()).stdout
    assert version == f"fastwsgi {fastwsgi.__version__} (pure)\n"


@pytest.mark.compiled
def test_required_speedups_make_a_failed_compile_fatal(attempt: Attempt, tmp_path: Path) -> None:
    env = without_compiler(tmp_path, FASTWSGI_REQUIRE_SPEEDUPS="1")
    error = "fastwsgi: FASTWSGI_REQUIRE_SPEEDUPS is set, and there are no compiled speedups ("
    built = python("setup.py", "build_ext", "--inplace", cwd=attempt.tree, env=env, check=False)
    assert built.returncode == 1
    assert built.stderr.splitlines()[-1].startswith(error)
    assert str(tmp_path / "empty" / "cc") in built.stderr.splitlines()[-1]  # only for that reason
    assert "Traceback" not in built.stderr
    assert notices(built.stdout + built.stderr) == []
    # pip prints it without further options.
    output = install(attempt.tree, tmp_path / "installed", env, check=False, verbose=())
    assert error in output
    assert "Traceback" not in output
    assert not (tmp_path / "installed").exists(), output


def test_pure_at_build_time_skips_the_extension(tree: Path, tmp_path: Path) -> None:
    # Even with a working compiler or FASTWSGI_REQUIRE_SPEEDUPS it builds none.
    target = tmp_path / "installed"
    output = install(tree, target, environment(FASTWSGI_PURE="1", FASTWSGI_REQUIRE_SPEEDUPS="1"))
    assert notices(output) == []
    assert not (tree / "fastwsgi" / "_speedups.c").exists()
    assert extensions_in(target) == []
    assert used(target, environment()) == ("pure", "fastwsgi._fallback")


def test_an_installation_has_what_it_should(tree: Path, tmp_path: Path) -> None:
    target = tmp_path / "installed"
    install(tree, target, environment(FASTWSGI_PURE="1"))
    package = target / "fastwsgi"
    wanted = {path.relative_to(SOURCE / "fastwsgi") for path in (SOURCE / "fastwsgi").rglob("*.py")}
    assert {path.relative_to(package) for path in package.rglob("*.py")} == wanted
    assert (package / "py.typed").exists()
    assert {path.name for path in target.iterdir() if path.suffix != ".dist-info"} == {"fastwsgi", "bin"}
    assert [path.stem for path in (target / "bin").iterdir()] == ["fastwsgi"]
    assert [path.name.partition("-")[0] for path in target.glob("*.dist-info")] == ["fastwsgi_toolkit"]
    assert not list(package.rglob("*.c"))


@pytest.mark.compiled
@pytest.mark.parametrize(("asked", "wanted"), [("1", "pure"), ("0", "compiled"), ("", "compiled")])
def test_pure_at_run_time_picks_the_fallback_of_a_built_package(
    asked: str, wanted: str, tmp_path: Path
) -> None:
    found = importlib.util.find_spec("fastwsgi._speedups")
    assert found is not None  # this leg runs on it
    folder = Path(str(found.origin)).parents[1]
    env = environment(FASTWSGI_PURE=asked)
    module = {"pure": "fastwsgi._fallback", "compiled": "fastwsgi._speedups"}[wanted]
    assert used(folder, env) == (wanted, module)
    # The variable hides the extension, but doesn't prevent its direct import.
    python("-c", "import fastwsgi._speedups", cwd=folder, env=env)


@pytest.mark.compiled
@pytest.mark.parametrize("content", [b"", b"this is no shared library\n"], ids=["empty", "garbage"])
def test_a_broken_extension_is_an_error(content: bytes, tree: Path) -> None:
    assert used(tree, environment()) == ("pure", "fastwsgi._fallback")
    extension = tree / "fastwsgi" / f"_speedups{importlib.machinery.EXTENSION_SUFFIXES[0]}"
    extension.write_bytes(content)
    finished = python("-c", "import fastwsgi", cwd=tree, env=environment(), check=False)
    assert finished.returncode == 1
    assert finished.stderr.splitlines()[-1].startswith("ImportError:")
    assert extension.name in finished.stderr
    # If the pure twin is selected, the extension isn't loaded.
    assert used(tree, environment(FASTWSGI_PURE="1")) == ("pure", "fastwsgi._fallback")


def test_a_build_that_nobody_knows_is_an_error(tree: Path) -> None:
    finished = python("setup.py", "--version", cwd=tree, env=environment(FASTWSGI_BUILD="fast"), check=False)
    assert finished.returncode == 1
    assert finished.stderr.splitlines()[-1] == "FASTWSGI_BUILD is release, debug or sanitize, not 'fast'"


def test_what_cython_checks_is_up_to_the_build() -> None:
    """A directive in the source would override setup.py, and then a debug build would check nothing."""
    directive = re.compile("boundscheck|initializedcheck|nonecheck|wraparound")
    assert directive.search((SOURCE / "setup.py").read_text(encoding="utf-8"))
    for path in (SOURCE / "fastwsgi").glob("_speedups*.p[yx][xi]"):
        assert not directive.search(path.read_text(encoding="utf-8")), path.name


@pytest.mark.compiled
def test_an_extension_of_another_version_is_an_error(tree: Path) -> None:
    """A module that lacks a name is as broken as one that can't be loaded."""
    (tree / "fastwsgi" / "_speedups.py").write_text("def is_hop_by_hop(header_name): ...\n", encoding="utf-8")
    finished = python("-c", "import fastwsgi", cwd=tree, env=environment(), check=False)
    assert finished.returncode == 1
    assert finished.stderr.splitlines()[-1].startswith("ImportError: cannot import name")


@pytest.mark.compiled
def test_an_extension_that_misses_a_module_of_its_own_is_an_error(tree: Path) -> None:
    """Only a missing extension leads to the pure twin, not any other missing module."""
    (tree / "fastwsgi" / "_speedups.py").write_text("import a_module_that_is_not_there\n", encoding="utf-8")
    finished = python("-c", "import fastwsgi", cwd=tree, env=environment(), check=False)
    assert finished.returncode == 1
    assert "a_module_that_is_not_there" in finished.stderr.splitlines()[-1]
