"""For development: serve in a child process, and restart it whenever a source file changes."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from .workers import MissingExtraError


def run_reloading(arguments: Sequence[str]) -> None:
    """Run ``python -m fastwsgi`` with these arguments until interrupted. Watch the files below the current directory.

    Raises MissingExtraError if watchfiles isn't installed.
    """
    try:
        from watchfiles import PythonFilter, run_process
    except ModuleNotFoundError as error:
        if error.name != "watchfiles":
            raise
        raise MissingExtraError("--reload needs watchfiles: pip install 'fastwsgi-toolkit[reload]'") from None
    # The environment may set reload as well, but the child must not reload.
    arguments = ["--no-reload", *(each for each in arguments if each != "--reload")]
    # A callable with arguments, so no shell and no quoting is involved.
    run_process(".", target=_serve, args=(arguments,), watch_filter=PythonFilter(), callback=_announce)


def _announce(changes: object) -> None:
    print("fastwsgi: files changed, restarting", flush=True)


def _serve(arguments: list[str]) -> None:
    """In the new process."""
    os.execv(sys.executable, [sys.executable, "-m", "fastwsgi", *arguments])
