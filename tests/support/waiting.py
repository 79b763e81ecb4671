"""Wait for a condition with a time limit, and do work in several threads at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

#: Seconds after which a wait fails. No wait needs a tenth of this time.
TIMEOUT = 30.0


def wait_until(condition: Callable[[], object], timeout: float = TIMEOUT) -> None:
    """Wait at most *timeout* seconds for a condition that can't be read from a socket."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, "the condition has not become true"
        time.sleep(0.001)


def together(*works: Callable[[], object], timeout: float = 2 * TIMEOUT) -> None:
    """Run all functions at once, each in a thread; raise the first exception."""
    failures: list[BaseException] = []
    barrier = threading.Barrier(len(works))

    def run(work: Callable[[], object]) -> None:
        try:
            barrier.wait(timeout)
            work()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work,), daemon=True) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout)
    assert not any(thread.is_alive() for thread in threads), "a thread hasn't ended"
    if failures:
        raise failures[0]


def numbered(work: Callable[[int], object], count: int) -> list[Callable[[], object]]:
    """Make *count* functions that call the work with the numbers 0, 1 and so on."""
    return [lambda number=number: work(number) for number in range(count)]  # type: ignore[misc]
