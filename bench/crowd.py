"""Measure the cost of many held connections: silent ones, and ones whose request arrives one octet at a time.

    python -m bench.crowd [--connections N] [--seconds N] [--rounds N] [--kind NAME ...] [--threads N ...]
                          [--pure] [--json FILE]

Two equal servers run, one of them with the held connections (the crowd), and get the same load in turn. The program
prints the ratio of their throughputs for each round, and the CPU time that the crowd takes without other requests. The
exit status is 1 if a request fails or the server closes a connection of the crowd.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.held_connections import SPARE_DESCRIPTORS, allow_descriptors, crowd
from bench.servers import serving
from fastwsgi.bench.load import client_name
from fastwsgi.bench.machine import as_lines, describe_machine
from fastwsgi.bench.results import FailureError, number, spread
from fastwsgi.bench.servers import Running, sample
from fastwsgi.bench.workloads import HELLO

KINDS = ("idle", "slow")
IDLE_SECONDS = 5
# Long timeouts for both servers, so that no connection of the crowd expires during the measurement.
SETTINGS = {
    "FASTWSGI_MAX_CONNECTIONS": "1000000",
    "FASTWSGI_HEAD_TIMEOUT": "3600",
    "FASTWSGI_KEEP_ALIVE_TIMEOUT": "3600",
}
# The targets.
LEAST_RATIO, MOST_CPU_MS = 0.8, 50


@dataclass(frozen=True)
class Result:
    """The throughput with and without a crowd in each round; the CPU milliseconds of both in the idle seconds."""

    server: str
    kind: str
    connections: int
    alone: list[float]
    crowded: list[float]
    cpu_alone: float
    cpu_crowded: float

    @property
    def ratios(self) -> list[float]:
        return [crowded / alone for crowded, alone in zip(self.crowded, self.alone, strict=True)]


def idle_cpu(server: Running) -> float:
    """The CPU time of a server in the idle seconds, in milliseconds."""
    before = sum(server.cpu_times())
    time.sleep(IDLE_SECONDS)
    return (sum(server.cpu_times()) - before) * 1000


def compare(server: str, kind: str, count: int, rounds: int, seconds: float) -> Result:
    """Load a server with a crowd and one without, in turn."""
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        alone = stack.enter_context(serving(server, HELLO.app, scratch))
        crowded = stack.enter_context(serving(server, HELLO.app, scratch))
        stack.enter_context(crowd(crowded.port, count, kind))
        result = Result(server, kind, count, [], [], idle_cpu(alone), idle_cpu(crowded))
        for turn in range(rounds):
            pairs = [(alone, result.alone), (crowded, result.crowded)]
            for each, rates in reversed(pairs) if turn % 2 else pairs:  # the order alternates
                rates.append(sample(each, HELLO, seconds).load.rate)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, default=10_000, help="connections in the crowd (default: 10000)")
    parser.add_argument("--seconds", type=float, default=3, help="seconds of load for each server in each round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=KINDS, metavar="NAME", help=", ".join(KINDS))
    parser.add_argument("--threads", nargs="+", type=int, choices=(1, 4), default=[1, 4], metavar="N", help="1, 4")
    parser.add_argument("--pure", action="store_true", help="measure the pure twin")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every measurement to this file too")
    options = parser.parse_args()
    if client_name() != "wrk":
        raise SystemExit("wrk is needed; see bench/README.md")
    count = min(options.connections, allow_descriptors(options.connections + SPARE_DESCRIPTORS) - SPARE_DESCRIPTORS)
    if count < options.connections:
        print(f"only {count} connections: the system allows no more descriptors")
    os.environ.update(SETTINGS)

    setting = {**describe_machine(), "load": f"{options.rounds} rounds of {options.seconds} s", "crowd": str(count)}
    print(as_lines(setting))
    head = f"{'':14}{'crowd':6}{'alone/s':>25}{'crowded/s':>25}{'ratio':>18}"
    print(f"{head}{f'CPU ms in {IDLE_SECONDS} s: alone':>24}, crowded")
    results: list[Result] = []
    failures: list[str] = []
    for threads in options.threads:
        server = "serve" + ("-pure" if options.pure else "") + ("-4" if threads == 4 else "")
        for kind in options.kind:
            try:
                result = compare(server, kind, count, options.rounds, options.seconds)
            except FailureError as error:
                failures.append(f"{server}, {kind}: {error}")
                print(f"{server:14}{kind:6}FAILED: {error}", flush=True)
                continue
            results.append(result)
            rates = f"{spread(result.alone)!s:>25}{spread(result.crowded)!s:>25}{spread(result.ratios)!s:>18}"
            print(f"{server:14}{kind:6}{rates}{result.cpu_alone:>24.0f}, {result.cpu_crowded:.0f}", flush=True)

    verdicts = []
    for result in results:
        what, ratio = f"{result.server}, {result.kind}", statistics.median(result.ratios)
        met = "met" if ratio >= LEAST_RATIO else "MISSED"
        verdicts.append(f"{what}: at least {LEAST_RATIO} of the throughput: {met}, {number(ratio)}")
        if result.kind == "idle":
            met = "met" if result.cpu_crowded < MOST_CPU_MS else "MISSED"
            verdicts.append(
                f"{what}: under {MOST_CPU_MS} ms of CPU in {IDLE_SECONDS} s: {met}, {result.cpu_crowded:.0f}"
            )
    print("\nTargets", *verdicts, sep="\n  ")
    if options.json:
        rows = [asdict(result) for result in results]
        report = {"setting": setting, "failures": failures, "results": rows, "targets": verdicts}
        options.json.write_text(json.dumps(report, indent=1) + "\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
