"""Serve in a process of its own, and again whenever a source file changes: for development."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from .workers import MissingExtraError


def run_reloading(arguments: Sequence[str]) -> None:
    """Run ``python -m fastwsgi`` with these arguments until interrupted; files below the current directory count.

    Raises MissingExtraError.
    """
    try:
        from watchfiles import PythonFilter, run_process
    except ModuleNotFoundError as error:
        if error.name != "watchfiles":
            raise
        raise MissingExtraError("--reload needs watchfiles: pip install 'fastwsgi-toolkit[reload]'") from None
    # The environment may say to reload, too, and that is done here.
    arguments = ["--no-reload", *(each for each in arguments if each != "--reload")]
    # As a list of one callable's arguments: no shell, and no quoting.
    run_process(".", target=_serve, args=(arguments,), watch_filter=PythonFilter(), callback=_announce)


def _announce(changes: object) -> None:
    print("fastwsgi: files changed, starting again", flush=True)


def _serve(arguments: list[str]) -> None:
    """In the new process."""
    os.execv(sys.executable, [sys.executable, "-m", "fastwsgi", *arguments])
