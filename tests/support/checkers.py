"""Run mypy on files that use the package as its users do."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

import fastwsgi
from programs import run

ROOT = Path(fastwsgi.__file__).parents[1]

needs_mypy = pytest.mark.skipif(sys.implementation.name == "pypy", reason="mypy has no build for PyPy")


def mypy(folder: Path, *arguments: str | Path, tool: str = "mypy", path: Path = ROOT) -> list[str]:
    """The errors that mypy (or another tool of its) finds, a line each, run in a folder that it may write to.

    path: where it finds fastwsgi, instead of this checkout or installation.
    """
    environ = dict(os.environ) | {"PYTHONPATH": str(ROOT)}
    if path.name != "site-packages":  # which it finds by itself, and refuses here
        environ["MYPYPATH"] = str(path)
    command = [sys.executable, "-m", tool, *map(str, arguments)]
    if tool == "mypy":
        command += ["--strict", "--follow-imports=silent", f"--cache-dir={folder / '.mypy_cache'}"]
    result = run(*command, environment=environ, cwd=folder, timeout=300)
    output = result.stdout + result.stderr
    errors = [line for line in output.splitlines() if ": error: " in line or line.startswith("fastwsgi.")]
    assert (result.returncode, bool(errors)) in ((0, False), (1, True)), output
    return errors
