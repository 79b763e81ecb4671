"""Type checkers: programs as users write them, and the types of the compiled twin."""

from __future__ import annotations

import os
import runpy
import shutil
from pathlib import Path

import pytest

from checkers import ROOT, mypy, needs_mypy

FOLDER = Path(__file__).with_name("typed_programs")
PROGRAMS = sorted(path.stem for path in FOLDER.glob("*.py"))
SHARED = ["gateways", "middleware", "responses", "servers"]  # with wsgiref


def copied(folder: Path, programs: list[str], package: str) -> list[Path]:
    """The programs in a folder, with the imports of a package."""
    paths = []
    for name in programs:
        text = (FOLDER / f"{name}.py").read_text(encoding="utf-8")
        changed = text.replace("from fastwsgi.", f"from {package}.")
        assert package == "fastwsgi" or (changed != text and "import fastwsgi" not in text)
        paths.append(folder / f"{name}.py")
        paths[-1].write_text(changed, encoding="utf-8")
    return paths


@needs_mypy
@pytest.mark.parametrize(("package", "programs"), [("fastwsgi", PROGRAMS), ("wsgiref", SHARED)])
def test_programs(package: str, programs: list[str], tmp_path: Path) -> None:
    # Always 3.11, because it is the first version with wsgiref.types.
    assert mypy(tmp_path, "--python-version=3.11", *copied(tmp_path, programs, package)) == []


@needs_mypy
def test_what_is_to_be_refused_is_seen(tmp_path: Path) -> None:
    """Without the comments that expect the errors, mypy reports one in each of these lines."""
    (path,) = copied(tmp_path, ["refused"], "fastwsgi")
    text = path.read_text(encoding="utf-8")
    expected = [number for number, line in enumerate(text.splitlines(), 1) if "# type: ignore[" in line]
    assert len(expected) >= 35
    path.write_text(text.replace("# type: ignore[", "# "), encoding="utf-8")
    assert sorted({int(error.split(":")[1]) for error in mypy(tmp_path, path)}) == expected


@pytest.mark.parametrize("program", PROGRAMS)
def test_programs_are_programs(program: str) -> None:
    """Their classes can be created: the declared attributes and methods exist."""
    if program == "gunicorn_worker" and os.name == "nt":
        pytest.skip("gunicorn is for POSIX")
    assert runpy.run_path(str(FOLDER / f"{program}.py"))["__doc__"]


# Where the compiled twin has more than its types declare.
EXTRA = r"""
fastwsgi\._speedups\.(run_stock|SharedEpoll|FastLane|Channel|hand_out)(\..*)?  # the accelerator, which has no twin
fastwsgi\._speedups\.[A-Z_]+  # constants of the grammar, which it imports for its own use
.*\.(__reduce_cython__|__setstate_cython__|__test__)  # Cython's own
"""


@needs_mypy
@pytest.mark.compiled
def test_the_compiled_twin_is_what_its_types_say(tmp_path: Path) -> None:
    # Its stub names the pure twin's types, and stubtest doesn't follow names to other modules. So the pure twin itself
    # stands in for the stub here; of the rest of the package nothing is needed.
    package = tmp_path / "fastwsgi"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "_http").mkdir()
    for name in ("_http/__init__", "_http/grammar", "types", "_fallback"):
        shutil.copy(ROOT / "fastwsgi" / f"{name}.py", package / f"{name}.py")
    shutil.copy(package / "_fallback.py", package / "_speedups.py")
    (tmp_path / "extra.txt").write_text(EXTRA, encoding="utf-8")
    working = tmp_path / "working"
    working.mkdir()
    # C takes the operands of operators by position only, and lays out its classes: no subclass has two of them.
    options = ["--concise", "--ignore-positional-only", "--ignore-disjoint-bases", f"--allowlist={tmp_path}/extra.txt"]
    assert mypy(working, *options, "fastwsgi._speedups", tool="mypy.stubtest", path=tmp_path) == []
