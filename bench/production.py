"""Measure the cost of access logs, proxies and silenced logs for a request, in instructions or CPU time.

    python -m bench.production [--saved]
    python -m bench.production --times [--seconds N] [--rounds N]

The first command counts rows of ``bench.instructions`` and prints their ratios. With --saved it uses the counts for
this environment in ``bench/instructions.json``. The second command starts ``python -m fastwsgi`` for each case, loads
the servers in turn, and prints the CPU time of a request for each.

The exit status is 1 if a target is missed or a request fails; 2 if nothing can be counted.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.counted import PRODUCTION
from bench.instructions import BASELINE, Counts, UncountableError, environment, measure
from fastwsgi.bench import load
from fastwsgi.bench.machine import as_lines, describe_machine
from fastwsgi.bench.report import table
from fastwsgi.bench.results import FailureError, Spread, spread
from fastwsgi.bench.servers import Running, free_port, sample, started
from fastwsgi.bench.workloads import HELLO, Workload

# ---- instructions ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Goal:
    """A ratio of two rows, or a single row."""

    title: str
    row: str
    #: The row to divide by; "" for none.
    base: str = ""
    #: None: there is no target, and the value is only shown.
    at_most: float | None = None

    def value(self, counts: Mapping[str, float]) -> float:
        return counts[self.row] / (counts[self.base] if self.base else 1)

    def verdict(self, counts: Mapping[str, float]) -> str:
        """ "met", "MISSED", or "" without a target."""
        if self.at_most is None:
            return ""
        return "met" if self.value(counts) <= self.at_most else "MISSED"

    def cells(self, counts: Mapping[str, float]) -> list[str]:
        """A line of the table."""
        base = f"{counts[self.base]:,.0f}" if self.base else ""
        value = f"{self.value(counts):.2f}" if self.base else f"{self.value(counts):,.0f}"
        target = "" if self.at_most is None else f"<= {self.at_most:,}"
        return [self.title, f"{counts[self.row]:,.0f}", base, value, target, self.verdict(counts)]


GOALS = [
    Goal("combined / common", "lane: access log, combined", "lane: access log, common", 3),
    Goal("json / common", "lane: access log, json", "lane: access log, common", 4),
    Goal("trusted proxy / no proxy", "lane: trusted X-Forwarded-For", "lane: no X-Forwarded-For", 3),
    Goal("untrusted / no proxy", "lane: untrusted X-Forwarded-For", "lane: no X-Forwarded-For"),
    Goal("silent log_message / hello", "lane: silent log_message", "lane: hello"),
    Goal("general hello", "general: hello", at_most=150_000),
    Goal("pure hello", "pure: hello", at_most=300_000),
]


def rows() -> list[str]:
    """The rows that the goals need, each once."""
    return list(dict.fromkeys(name for goal in GOALS for name in (goal.row, goal.base) if name))


def saved_counts(path: Path = BASELINE) -> Counts:
    """The baseline's counts for this environment. Raises UncountableError if a row isn't there."""
    known: dict[str, Counts] = json.loads(path.read_text(encoding="utf-8"))
    counts = known.get(environment(), {})
    missing = [name for name in rows() if name not in counts]
    if missing:
        raise UncountableError(f"{path.name} has no counts for this environment of: {', '.join(missing)}")
    return counts


def show_goals(counts: Mapping[str, float]) -> int:
    """Print the goals as a table; return the exit status."""
    head = ["instructions a request", "row", "base", "value", "target", ""]
    print(table(head, [goal.cells(counts) for goal in GOALS]))
    return 1 if any(goal.verdict(counts) == "MISSED" for goal in GOALS) else 0


# ---- CPU time ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A way to run ``python -m fastwsgi``, and the request to it."""

    workload: Workload
    flags: tuple[str, ...] = ()
    #: The case that it is compared with.
    base: str = ""
    #: The format of its access log; "" for none.
    log: str = ""


NO_PROXY = "no X-Forwarded-For"
CASES = {
    "no log": Case(HELLO),
    "common": Case(HELLO, base="no log", log="common"),
    "combined": Case(HELLO, base="common", log="combined"),
    "json": Case(HELLO, base="common", log="json"),
    NO_PROXY: Case(PRODUCTION[NO_PROXY].workload),
    "trusted X-Forwarded-For": Case(
        PRODUCTION["trusted X-Forwarded-For"].workload, ("--forwarded-allow-ips=127.0.0.1",), NO_PROXY
    ),
    "untrusted X-Forwarded-For": Case(PRODUCTION["untrusted X-Forwarded-For"].workload, base=NO_PROXY),
}


@contextlib.contextmanager
def serving(case: Case, log: Path) -> Generator[Running, None, None]:
    """Run the server of a case."""
    from bench.process_times import cpu_seconds  # only on Linux

    port = free_port()
    flags = [f"--bind=127.0.0.1:{port}", *case.flags]
    if case.log:
        flags += [f"--access-log={log}", f"--access-log-format={case.log}"]
    command = [sys.executable, "-m", "fastwsgi", f"fastwsgi.bench.workloads:{case.workload.app}", *flags]
    with started(command, port, variables={"FASTWSGI_PURE": ""}) as process:
        yield Running(port, lambda: (cpu_seconds(process.pid), 0.0))


def measure_times(cases: Mapping[str, Case], rounds: int, seconds: float) -> dict[str, list[float]]:
    """Microseconds of CPU time for a request, in each round. Raises FailureError for a failed request or log line."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    asked = dict.fromkeys(cases, 0)
    with tempfile.TemporaryDirectory() as folder:
        logs = {name: Path(folder, f"{number}.log") for number, name in enumerate(cases)}
        with contextlib.ExitStack() as stack:
            running = {name: stack.enter_context(serving(case, logs[name])) for name, case in cases.items()}
            for _ in range(rounds):
                for name, server in running.items():
                    try:
                        taken = sample(server, cases[name].workload, seconds)
                    except FailureError as error:
                        raise FailureError(f"{name}: {error}") from error
                    times[name].append(taken.cpu)
                    asked[name] += taken.load.requests
        for name, case in cases.items():
            if case.log and (lines := count_lines(logs[name])) < asked[name]:
                raise FailureError(f"{name}: {lines} lines in the log for {asked[name]} requests")
    return times


def count_lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))


def ratio(times: Mapping[str, Sequence[float]], name: str, base: str) -> Spread:
    """The ratio of two cases in the same round."""
    return spread(own / other for own, other in zip(times[name], times[base], strict=True))


def show_times(cases: Mapping[str, Case], times: Mapping[str, Sequence[float]]) -> str:
    """Print a line for each case: the median, and in brackets the least and the largest value."""
    lines = []
    for name, case in cases.items():
        compared = [str(ratio(times, name, case.base)), case.base] if case.base else ["", ""]
        lines.append([name, str(spread(times[name])), *compared])
    return table(["µs of CPU time a request", "", "ratio", "to"], lines)


# ---- the command -------------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.production", description=(__doc__ or "").splitlines()[0])
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--saved", action="store_true", help=f"take the counts from {BASELINE.name}")
    what.add_argument("--times", action="store_true", help="measure CPU time instead")
    parser.add_argument("--seconds", type=float, default=2, help="of load, for each case in each round")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args(arguments)
    try:
        if options.times:
            facts = {"load": f"{options.rounds} rounds of {options.seconds:g} s by {load.client_name()}"}
            print(as_lines({**describe_machine(), **facts, "cores": load.how_pinned()}))
            print(show_times(CASES, measure_times(CASES, options.rounds, options.seconds)))
            return 0
        if options.saved:
            return show_goals(saved_counts())
        environment()
        return show_goals(measure(rows()))
    except FailureError as error:
        print(f"failed: {error}", file=sys.stderr)
        return 1
    except UncountableError as error:
        print(f"can't count: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
