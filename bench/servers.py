"""Compare the server with other servers: one process on one core each, with load by wrk on another core.

    python -m bench.servers [--seconds N] [--rounds N] [--only NAME ...] [--workload NAME ...] [--unpinned]
                            [--json FILE] [--plot FILE]

For each workload all servers are started and then loaded in turn, a round at a time. The program prints the median of
the rounds and, in brackets, the smallest and the largest value. A ratio compares with the best of the servers that the
table names, in the same round. The exit status is 1 if a request fails or an answer is wrong. README.md in this
directory tells how to install the required programs, and what the numbers don't show.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.held_connections import SPARE_DESCRIPTORS, allow_descriptors, crowd
from bench.process_times import cpu_times
from bench.server_scripts import COMMANDS, FUNCTIONS, command
from fastwsgi.bench import load
from fastwsgi.bench.chart import draw
from fastwsgi.bench.machine import describe_machine
from fastwsgi.bench.report import Report, read_report, show, show_servers
from fastwsgi.bench.results import Row, Target
from fastwsgi.bench.servers import Outcome, Running, free_port, in_turn, started
from fastwsgi.bench.workloads import ADDRESS, CONNECTIONS, COOKIE, DOCUMENT, FILE, HELLO, POST, Workload

HERE = Path(__file__).parent
NATIVE = ("bjoern", "fastpysgi", "granian", "uwsgi")  # in C or Rust
PEERS = (*NATIVE, "waitress", "cheroot", "gunicorn", "gunicorn-sync", "gevent", "werkzeug")
NAMES = (*COMMANDS, *FUNCTIONS)
USUAL = ("floor", "fastwsgi", "fastwsgi-pure", "wsgiref", *PEERS)
USER, SYSTEM, RATE, P99, STALLED = "user CPU", "system CPU", "requests/s", "p99", "p99 with stalls"


@dataclass(frozen=True)
class Comparison:
    """A workload, and the servers to measure."""

    workload: Workload
    servers: tuple[str, ...] = USUAL
    against: tuple[str, ...] = NATIVE
    left_out: dict[str, str] = field(default_factory=dict)  # servers that are left out, and why
    idle: int = 0  # how many idle connections each server has
    has_latencies: bool = False  # whether to measure latencies, which takes wrk some seconds more


NO_FLOOR = {"floor": "it only answers hello, on connections that are kept alive"}
WAITS = "a silent connection blocks all others"
COMPARISONS = {
    "plain": Comparison(
        Workload("a head of one field, 13 bytes back", "hello", b"Hello, world!", is_plain=True)
    ),
    "hello": Comparison(HELLO),
    "mixed": Comparison(
        Workload("no two heads equal, 13 bytes back", "hello", b"Hello, world!",
                 varies=COOKIE),
    ),
    "connections": Comparison(
        CONNECTIONS, left_out={**NO_FLOOR, "gevent": "wrk counts the way it closes connections as an error"}
    ),
    "idle": Comparison(
        Workload("hello, with 1 000 idle connections alongside", "hello", b"Hello, world!"), idle=1000,
        left_out={**NO_FLOOR, "wsgiref": WAITS, "gunicorn-sync": WAITS, "uwsgi": WAITS, "cheroot": WAITS,
                  "waitress": "it takes no more than 100 connections", "gunicorn": "it takes no more than 1 000"},
    ),
    "post": Comparison(POST, left_out=NO_FLOOR),
    "document": Comparison(Workload("64 KiB of JSON back", "document", DOCUMENT), left_out=NO_FLOOR),
    "stream": Comparison(
        Workload("100 blocks of 100 bytes back, no Content-Length", "stream", b"x" * 10_000),
        left_out={**NO_FLOOR, **dict.fromkeys(
            ("wsgiref", "werkzeug", "uwsgi"), "wrk counts a body that ends with its connection as an error")},
    ),
    "file": Comparison(Workload("a file of 1 MiB back", "file", FILE), ("nginx", *USUAL), left_out=NO_FLOOR),
    "flask": Comparison(
        Workload("a Flask app: a route, a query, JSON back", "flask", b'{"page":"items","sort":"price"}\n'),
        left_out=NO_FLOOR,
    ),
    "threads": Comparison(
        Workload("hello, answered in one thread or four", "hello", b"Hello, world!"),
        ("serve", "serve-4", "serve-pure", "serve-pure-4", "waitress", "cheroot", "gunicorn"), ("serve",),
        has_latencies=True,
    ),
    "log": Comparison(
        Workload("hello, with an access log or without", "hello", b"Hello, world!"),
        ("serve", "serve-common", "serve-combined", "serve-json"), ("serve",),
    ),
    "proxied": Comparison(
        Workload(
            "hello, as a proxy forwards it, each time for another client", "hello", b"Hello, world!",
            {"X-Forwarded-For": ADDRESS.place, "X-Forwarded-Proto": "https"}, varies=ADDRESS,
        ),
        ("fastwsgi", "serve", "serve-proxied"), ("serve",),
    ),
}  # fmt: skip

OTHERS = (*PEERS, "wsgiref")
TARGETS = [
    Target("hello", USER, "fastwsgi", 2, NATIVE),
    Target("hello", RATE, "fastwsgi", 1.2, OTHERS),
    Target("hello", RATE, "fastwsgi", 0.85, ("floor",)),
    Target("hello", RATE, "fastwsgi", 25),
    Target("hello", RATE, "fastwsgi-pure", 3),
    Target("mixed", USER, "fastwsgi", 1.25, NATIVE),
    Target("connections", RATE, "fastwsgi", 3),
    Target("post", RATE, "fastwsgi", 1, OTHERS),
    Target("stream", RATE, "fastwsgi", 1, OTHERS),
    Target("file", RATE, "fastwsgi", 1, OTHERS),
    Target("threads", RATE, "serve-4", 0.8, ("serve",)),
    Target("threads", RATE, "serve-4", 8, ("waitress", "cheroot")),
    Target("threads", P99, "serve-4", 2, ("gunicorn",)),
    Target("threads", STALLED, "serve-4", 2, ("gunicorn",)),
]


def missing_ones() -> dict[str, str]:
    """The servers that can't be measured here, with the reason."""
    missing = {}
    if not shutil.which("cc"):
        missing["floor"] = "no C compiler"
    for name in PEERS:
        try:
            importlib.metadata.version(name.partition("-")[0])
        except importlib.metadata.PackageNotFoundError:
            missing[name] = "not installed"
    if not shutil.which("nginx"):
        missing["nginx"] = "not installed"
    return missing


@contextlib.contextmanager
def serving(name: str, app: str, scratch: Path, idle: int = 0) -> Iterator[Running]:
    """Run a server, with idle connections to it."""
    port = free_port()
    arguments, variables = command(name, port, app, scratch)
    with contextlib.ExitStack() as stack:
        process = stack.enter_context(started(arguments, port, variables=variables))
        if idle:
            stack.enter_context(crowd(port, idle, "silent", is_replaced=True))
        yield Running(port, lambda: cpu_times(process.pid))


def rows_of(title: str, comparison: Comparison, outcome: Outcome) -> list[Row]:
    measures = [
        Row(title, RATE, RATE, outcome.column(lambda each: each.load.rate), comparison.against, more_is_better=True,
            is_steady=False),
        Row(title, USER, "µs", outcome.column(lambda each: each.user), comparison.against),
        Row(title, SYSTEM, "µs", outcome.column(lambda each: each.system), (), is_steady=False),
        Row(title, "server busy", "part", outcome.column(lambda each: each.busy), (), is_steady=False),
        Row(title, "wrk busy", "part", outcome.column(lambda each: each.load.busy), (), is_steady=False),
    ]  # fmt: skip
    if comparison.has_latencies:
        measures += [
            Row(title, P99, "µs", outcome.column(lambda each: each.load.p99), comparison.against, is_steady=False),
            Row(title, STALLED, "µs", outcome.column(lambda each: each.load.stalled_p99), (), is_steady=False),
        ]
    return measures


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench.servers", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=2, help="seconds of load for each server in each round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument(
        "--workload", nargs="+", choices=COMPARISONS, default=list(COMPARISONS), metavar="NAME",
        help=", ".join(COMPARISONS),
    )  # fmt: skip
    parser.add_argument("--unpinned", action="store_true", help="don't pin the servers and wrk to cores")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write every measurement to this file; other workloads in it are kept"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw a chart; needs matplotlib")
    return parser


def main() -> int:
    options = make_parser().parse_args()
    if options.unpinned:
        load.cores.clear()
    if load.client_name() != "wrk":
        raise SystemExit("wrk is needed; see bench/README.md")
    missing = {name: why for name, why in missing_ones().items() if name in options.only}
    report = Report(describe_machine(), settings(options), left_out=missing, targets=[
        target for target in TARGETS if target.group in options.workload and target.implementation in options.only
    ])  # fmt: skip
    # Each server, and each process with connections to it, inherits this limit.
    allow_descriptors(max(each.idle for each in COMPARISONS.values()) + SPARE_DESCRIPTORS)
    os.environ["PYTHONPATH"] = str(HERE.parent)  # for servers with their own command
    with tempfile.TemporaryDirectory() as directory:
        scratch = Path(directory)
        scratch.chmod(0o755)  # nginx drops its privileges
        (scratch / "file").write_bytes(FILE)
        if "floor" in options.only and "floor" not in missing:
            subprocess.run(["cc", "-O2", "-o", scratch / "floor", HERE / "floor.c"], check=True)
        for title in options.workload:
            comparison = COMPARISONS[title]
            out = {name: why for name, why in comparison.left_out.items() if name in options.only}
            names = [name for name in comparison.servers if name in options.only and name not in {**missing, **out}]
            servers = {name: serving(name, comparison.workload.app, scratch, comparison.idle) for name in names}
            outcome = in_turn(
                comparison.workload, servers, options.rounds, options.seconds, exact=comparison.has_latencies
            )
            rows = rows_of(title, comparison, outcome)
            report.rows += rows
            report.failures += [f"{title}: {name}: {why}" for name, why in outcome.failures.items()]
            report.left_out |= {f"{title}: {name}": why for name, why in out.items()}
            print(f"{title}: {comparison.workload.about}\n{show_servers(rows)}\n", flush=True)

    report.machine |= {name: importlib.metadata.version(name) for name in PEERS if has_version(name, report)}
    print(show(report, {title: each.workload.about for title, each in COMPARISONS.items()}))
    if options.json:
        if options.json.exists():
            keep_others(report, read_report(options.json), options.workload)
        report.save(options.json)
    if options.plot:
        draw(report, options.plot)
    return 1 if report.failures else 0


def keep_others(report: Report, before: Report, workloads: Sequence[str]) -> None:
    """Copy other workloads from an earlier report into a report."""

    def is_other(title: str) -> bool:
        return title.partition(":")[0] in set(COMPARISONS) - set(workloads)

    order = list(COMPARISONS)
    report.rows = sorted(
        [*report.rows, *(row for row in before.rows if is_other(row.group))], key=lambda row: order.index(row.group)
    )
    report.targets = [target for target in TARGETS if target in report.targets or target in before.targets]
    report.failures += filter(is_other, before.failures)
    if before.settings != report.settings:
        now, then = report.settings["servers"], before.settings["servers"]
        report.settings["servers"] = f"{', '.join(workloads)}: {now}; others: {then}"
    report.left_out |= {title: why for title, why in before.left_out.items() if is_other(title)}


def has_version(name: str, report: Report) -> bool:
    return "-" not in name and any(name in row.rounds for row in report.rows)


def settings(options: argparse.Namespace) -> dict[str, object]:
    rounds = f"{options.rounds} rounds of {options.seconds:g} s"
    return {"servers": f"{rounds}, {load.CONNECTIONS} connections, {load.how_pinned()}", "client": "wrk"}


if __name__ == "__main__":
    sys.exit(main())
