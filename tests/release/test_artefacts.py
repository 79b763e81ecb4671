"""The sdist and both wheels: their files, and the symbols that the extension exports.

They are built as by ``make wheel``, but without isolation, so that no network is needed.
"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from programs import run, run_python
from waiting import TIMEOUT

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

import fastwsgi
from artefacts import EGG_INFO, METADATA, NAME, ROOT, build_sdist, build_wheel, copy_source, source_files, wrong

pytestmark = pytest.mark.source

SETTINGS: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PYTHONS = ("cp310", "cp311", "cp312", "cp313", "cp314", "cp314t", "cp315", "cp315t")
SYSTEMS = {
    "linux": ("manylinux_x86_64", "manylinux_aarch64", "musllinux_x86_64", "musllinux_aarch64"),
    "macos": ("macosx_x86_64", "macosx_arm64"),
    "windows": ("win_amd64", "win_arm64"),
}


@pytest.fixture(scope="module")
def sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    return build_sdist(copy_source(folder / "source"), folder / "dist")


def test_the_sdist_has_the_whole_source_and_nothing_else(sdist: Path) -> None:
    source = source_files()
    assert wrong(sdist, source) == []
    # Check the list by a few important files.
    assert {"fastwsgi/_speedups.pyx", "tests/support/artefacts.py", "bench/floor.c", "Makefile", ".gitignore"} <= source
    assert not [name for name in source if name.endswith((".so", ".pyd", ".pyc", "_speedups.c"))]


@pytest.mark.compiled
def test_the_compiled_wheel_has_the_package_and_an_extension_that_shows_nothing_else(
    sdist: Path, tmp_path: Path
) -> None:
    wheel = build_wheel(sdist, tmp_path / "wheel", "--no-build-isolation", pure=False)
    assert wrong(wheel, source_files()) == []
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"fastwsgi/py.typed", "fastwsgi/_events/loop.py", "fastwsgi/_service/cli.py"} <= names
    assert not [name for name in names if name.endswith((".c", ".pyx", ".pxi")) or name.startswith("tests")]


def test_the_pure_wheel_is_for_every_python(sdist: Path, tmp_path: Path) -> None:
    wheel = build_wheel(sdist, tmp_path / "wheel", "--no-build-isolation", pure=True)
    assert wheel.name == f"{NAME}-{fastwsgi.__version__}-py3-none-any.whl"  # the version, from its only source
    assert wrong(wheel, source_files()) == []


# ---- the check finds errors --------------------------------------------------------------------------

SOURCE = {"setup.py", "fastwsgi/__init__.py", "fastwsgi/_speedups.pyx", "fastwsgi/py.typed", "tests/test_x.py"}
INSTALLED = {"fastwsgi/__init__.py", "fastwsgi/py.typed"} | {f"{NAME}-1.0.dist-info/{name}" for name in METADATA}


def a_wheel(folder: Path, tags: str, files: set[str]) -> Path:
    path = folder / f"{NAME}-1.0-{tags}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in files:
            archive.writestr(name, b"")
    return path


@pytest.mark.parametrize(
    ("tags", "files", "complaints"),
    [
        ("py3-none-any", INSTALLED, []),
        ("py3-none-any", INSTALLED - {"fastwsgi/py.typed"}, ["fastwsgi/py.typed is missing"]),
        ("py3-none-any", INSTALLED | {"fastwsgi/_speedups.pyx"}, ["fastwsgi/_speedups.pyx is too much"]),
        ("py3-none-any", INSTALLED | {"fastwsgi/_speedups.c"}, ["fastwsgi/_speedups.c is too much"]),
        ("py3-none-any", INSTALLED | {"tests/test_x.py"}, ["tests/test_x.py is too much"]),
        ("py3-none-any", INSTALLED | {"fastwsgi/_speedups.so"}, ["fastwsgi/_speedups.so is in a pure wheel"]),
        ("cp311-cp311-win_amd64", INSTALLED | {"fastwsgi/_speedups.cp311-win_amd64.pyd"}, []),
        ("cp311-cp311-win_amd64", INSTALLED, ["0 extensions, not one"]),
    ],
)
def test_a_wheel_with_too_much_or_too_little_is_wrong(
    tags: str, files: set[str], complaints: list[str], tmp_path: Path
) -> None:
    assert wrong(a_wheel(tmp_path, tags, files), SOURCE) == complaints


@pytest.mark.parametrize("lost", ["tests/test_x.py", "PKG-INFO"])
def test_an_sdist_with_too_little_is_wrong(lost: str, tmp_path: Path) -> None:
    path = tmp_path / f"{NAME}-1.0.tar.gz"
    egg_info = {f"{NAME}.egg-info/{name}" for name in EGG_INFO}
    with tarfile.open(path, "w:gz") as archive:
        for name in (SOURCE | {"PKG-INFO", "setup.cfg", "left-over"} | egg_info) - {lost}:
            archive.addfile(tarfile.TarInfo(f"{NAME}-1.0/{name}"))
    assert wrong(path, SOURCE) == [f"{lost} is missing", "left-over is too much"]


HAS_MORE = """
int GLOBAL = 1;
void PyInit__speedups(void) {}
void another(void) {}
"""
NEEDS_GLIBC = """
#define _GNU_SOURCE
#include <sys/random.h>
__attribute__((visibility("default"))) long PyInit__speedups(void) { char byte; return getrandom(&byte, 1, 0); }
"""


@pytest.mark.compiled
@pytest.mark.skipif(sys.platform != "linux", reason="builds and reads ELF")
@pytest.mark.parametrize(
    ("code", "flags", "platform", "complaints"),
    [
        (NEEDS_GLIBC, ["-fvisibility=hidden", "-s"], "manylinux_2_28_x86_64", []),
        (HAS_MORE, ["-s"], "manylinux_2_28_x86_64", ["the extension exports GLOBAL, PyInit__speedups, another"]),
        (HAS_MORE, [], "manylinux_2_28_x86_64", ["a section .symtab", "exports GLOBAL, PyInit__speedups, another"]),
        (NEEDS_GLIBC, ["-g"], "manylinux_2_28_x86_64", ["a section .debug_info", "a section .symtab"]),
        (NEEDS_GLIBC, ["-s"], "manylinux_2_17_x86_64.manylinux2014_x86_64", ["needs GLIBC_2.25"]),
        (NEEDS_GLIBC, ["-s"], "musllinux_1_2_x86_64", ["needs GLIBC_2.25"]),
    ],
)
def test_an_extension_that_shows_or_needs_too_much_is_wrong(
    code: str, flags: list[str], platform: str, complaints: list[str], tmp_path: Path
) -> None:
    library, source = tmp_path / "library.so", tmp_path / "library.c"
    source.write_text(code)
    run("cc", "-shared", "-fPIC", *flags, source, "-o", library, timeout=2 * TIMEOUT, check=True)
    wheel = a_wheel(tmp_path, f"cp311-cp311-{platform}", INSTALLED)
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.write(library, "fastwsgi/_speedups.so")
    found = wrong(wheel, SOURCE)
    for complaint in complaints:
        assert [line for line in found if complaint in line], found
    assert bool(found) == bool(complaints)


# ---- cibuildwheel ------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.version_info < (3, 11), reason="cibuildwheel has no release for Python 3.10")
@pytest.mark.skipif(sys.implementation.name == "pypy", reason="CPython's legs run cibuildwheel")
@pytest.mark.parametrize("system", SYSTEMS)
def test_cibuildwheel_builds_for_each_python_on_each_system(system: str) -> None:
    command = ("-m", "cibuildwheel", "--print-build-identifiers", "--platform", system, ROOT)
    listed = run_python(*command, timeout=2 * TIMEOUT, check=True).stdout.split()
    assert sorted(listed) == sorted(f"{python}-{tag}" for python in PYTHONS for tag in SYSTEMS[system])


def test_cibuildwheel_tests_with_all_of_the_source_but_the_package() -> None:
    settings = SETTINGS["tool"]["cibuildwheel"]
    assert set(settings["test-sources"]) == {name.partition("/")[0] for name in source_files()} - {"fastwsgi"}
    assert settings["audit-requires"] == SETTINGS["dependency-groups"]["check"]
    assert "--leg=compiled" in settings["test-command"]
    assert settings["environment"] == {"FASTWSGI_REQUIRE_SPEEDUPS": "1"}
