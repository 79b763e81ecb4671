"""Show the progress of a run on a terminal, with rich if it is installed, else with a simple line."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Generator

WIDTH = 30


@contextlib.contextmanager
def progress(steps: int) -> Generator[Callable[[str], None]]:
    """Yield a function; call it after each step, with the name of the finished work."""
    if not sys.stderr.isatty():
        yield lambda name: None
        return
    try:
        from rich.console import Console
        from rich.progress import Progress
    except ImportError:
        yield plain_bar(steps)
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        return
    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=steps)
        yield lambda name: bar.update(task, advance=1, description=name)


def plain_bar(steps: int) -> Callable[[str], None]:
    done = 0

    def step(name: str) -> None:
        nonlocal done
        done += 1
        full = WIDTH * done // steps
        print(f"\r\x1b[K[{'#' * full}{'.' * (WIDTH - full)}] {name}", end="", file=sys.stderr, flush=True)

    return step
