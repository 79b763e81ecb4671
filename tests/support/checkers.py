"""Run mypy on files that use the package as users do."""

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
    """The errors that mypy (or one of its other tools) finds, one line each. It runs in a writable folder.

    path: where to find fastwsgi, instead of this checkout or installation.
    """
    environ = dict(os.environ) | {"PYTHONPATH": str(ROOT)}
    if path.name != "site-packages":  # mypy finds these by itself, and refuses them in MYPYPATH
        environ["MYPYPATH"] = str(path)
    command = [sys.executable, "-m", tool, *map(str, arguments)]
    if tool == "mypy":
        command += ["--strict", "--follow-imports=silent", f"--cache-dir={folder / '.mypy_cache'}"]
    result = run(*command, environment=environ, cwd=folder, timeout=300)
    output = result.stdout + result.stderr
    errors = [line for line in output.splitlines() if ": error: " in line or line.startswith("fastwsgi.")]
    assert (result.returncode, bool(errors)) in ((0, False), (1, True)), output
    return errors
