"""Measure how costs grow with the size of the input: log-log slopes, which must not exceed 1.1.

    python -m bench.scaling [--only TEXT] [--rounds N] [--parts] [--json FILE]

Each row is some work on inputs of four sizes, on both twins, in interleaved rounds. The least CPU time at each size
counts. The program prints two slopes: that of a line through all sizes, and that from the last size but one to the
last, which shows a quadratic cost that a constant hides at small sizes. Work without sockets runs in this process. A
server runs in a separate process, which reports its own CPU time.

The exit status is 1 if a slope exceeds its limit (1.3 for the second slope). A row whose rounds disagree is measured
again at the end. If they still disagree, it is reported as too noisy, and the exit status is 2 unless it is 1. A wrong
answer ends the run.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from bench import scaling_heads as scaling_heads  # noqa: PLC0414 - the import adds rows to the table
from bench import scaling_parts, scaling_servers
from bench.slopes import LIMIT, Finding, judge, least
from fastwsgi.bench.machine import as_lines, describe_machine

TWINS = ("pure", "compiled")
# Shorter work is called many times in one measurement.
_SHORTEST = 0.0005
_MOST_CALLS = 1000
# How often a slope that is too noisy is measured again.
_TRIES = 3


@dataclass
class Row:
    """One cost on one twin."""

    name: str
    twin: str
    sizes: tuple[int, ...]
    limit: float = LIMIT
    #: In each round, seconds for each size.
    rounds: list[list[float]] = field(default_factory=list)

    def finding(self) -> Finding:
        return judge(self.sizes, self.rounds, self.limit)


def seconds(work: Callable[[], object], calls: int) -> float:
    """The CPU time of a call, without garbage collection."""
    gc.collect(0)
    gc.disable()
    try:
        start = time.thread_time()
        for _ in range(calls):
            work()
        return (time.thread_time() - start) / calls
    finally:
        gc.enable()


def measured_parts(cost: scaling_parts.Cost, twin: scaling_parts.Twin) -> Callable[[], list[float]]:
    """Return a function that measures a round of a cost without sockets."""
    works = []
    for size in cost.sizes:
        work = cost.prepare(twin, size)
        works.append((work, min(_MOST_CALLS, max(1, int(_SHORTEST / max(seconds(work, 1), 1e-7))))))
    return lambda: [seconds(work, calls) for work, calls in works]


@dataclass
class Job:
    """The rows of one cost, on all twins."""

    rows: list[Row]
    #: Makes the functions that measure a round of each row.
    measuring: Callable[[], contextlib.AbstractContextManager[list[Callable[[], list[float]]]]]

    def measure(self, rounds: int) -> None:
        """Add rounds to the rows whose verdict may change by them: at first all rows."""
        with self.measuring() as measurers:
            chosen = [(row, each) for row, each in zip(self.rows, measurers, strict=True) if may_change(row)]
            for _ in range(rounds):
                for row, measurer in chosen:
                    row.rounds.append(measurer())


def may_change(row: Row) -> bool:
    """Whether the row hasn't been measured, is too noisy, or exceeds the limit so little that it may be noise."""
    if not row.rounds:
        return True
    found = row.finding()
    return found.verdict == "too noisy" or (found.verdict == "missed" and found.slope < row.limit + 0.3)


def print_row(row: Row) -> None:
    found = row.finding()
    costs = least(row.rounds)
    limit = "" if row.limit == LIMIT else f" (limit {row.limit})"
    print(
        f"{row.name:<72} {row.twin:<8} {row.sizes[-1]:>9} {costs[-1] * 1e6:>10.1f} {found.slope:>6.2f}"
        f" {found.tail:>6.2f} {found.spread:>6.2f}  {found.verdict}{limit}",
        flush=True,
    )


def jobs(only: str, without_servers: bool) -> Iterator[Job]:
    """The jobs to measure, in order."""
    parts = {name: cost for name, cost in scaling_parts.COSTS.items() if only in name.lower()}
    twins = [scaling_parts.Twin(name) for name in TWINS] if parts else []
    for name, cost in parts.items():
        rows = [Row(name, twin, cost.sizes, cost.limit) for twin in TWINS]
        yield Job(rows, partial(measuring_parts, cost, twins))
    for name, server_cost in {} if without_servers else scaling_servers.COSTS.items():
        if only in name.lower():
            rows = [Row(name, twin, server_cost.sizes, server_cost.limit) for twin in TWINS]
            yield Job(rows, partial(scaling_servers.measuring, server_cost, TWINS))


@contextlib.contextmanager
def measuring_parts(
    cost: scaling_parts.Cost, twins: list[scaling_parts.Twin]
) -> Iterator[list[Callable[[], list[float]]]]:
    yield [measured_parts(cost, twin) for twin in twins]


def as_json(rows: list[Row]) -> dict[str, Any]:
    return {
        "machine": describe_machine(),
        "limit": LIMIT,
        "rows": [
            {
                "name": row.name, "twin": row.twin, "sizes": row.sizes, "seconds": least(row.rounds),
                "limit": row.limit, "rounds": len(row.rounds), **row.finding()._asdict(),
            }
            for row in rows
        ],
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.scaling", description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="TEXT", help="measure only rows whose name contains this text")
    parser.add_argument("--rounds", type=int, default=2, metavar="N", help="rounds, at least 2 (default: 2)")
    parser.add_argument("--parts", action="store_true", help="measure only the work that needs no server process")
    parser.add_argument("--json", metavar="FILE", help="write every measurement to this file too")
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error("at least two rounds are needed to judge the noise")
    print(as_lines(describe_machine()))
    print(f"{'cost':<72} {'twin':<8} {'largest n':>9} {'us at it':>10} {'slope':>6} {'tail':>6} {'spread':>6}")
    done = []
    for job in jobs(options.only.lower(), options.parts):
        job.measure(options.rounds)
        done.append(job)
        for row in job.rows:
            print_row(row)
    rows = [row for job in done for row in job.rows]
    if not rows:
        parser.error(f"no row has {options.only!r} in its name")
    for _ in range(_TRIES - 1):  # at the end, when a disturbance may be over
        again = [job for job in done if any(map(may_change, job.rows))]
        if again:
            print("again:")
        for job in again:
            changing = [row for row in job.rows if may_change(row)]
            job.measure(options.rounds)
            for row in changing:
                print_row(row)
    if options.json:
        Path(options.json).write_text(json.dumps(as_json(rows), indent=1), encoding="utf-8")
    counts = Counter(row.finding().verdict for row in rows)
    print(", ".join(f"{counts[verdict]} {verdict}" for verdict in ("met", "missed", "too noisy")))
    return 1 if counts["missed"] else 2 if counts["too noisy"] else 0


if __name__ == "__main__":
    sys.exit(main())
