"""The command line of the benchmark: what to measure, for how long, and what to do with the results."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from . import hot_paths, load, servers
from .compare import compare
from .machine import describe_machine
from .progress import progress
from .report import BadReportError, Report, read_report, show
from .results import FailureError

BASELINE = Path("fastwsgi-bench.json")
#: --compare reports a ratio as slower above this factor.
FACTOR = 1.25
CHART_TYPES = (".svg", ".png")


class Effort(NamedTuple):
    """How long to measure: the number of rounds, and the seconds of each implementation in a round."""

    hot_rounds: int
    hot_seconds: float
    server_rounds: int
    server_seconds: float


USUAL = Effort(41, 0.004, 7, 1.5)
QUICK = Effort(15, 0.002, 3, 0.4)
#: The servers of each workload, and of a quick run.
ALL_SERVERS = tuple(servers.PROGRAMS)
SERVERS = {"hello": ALL_SERVERS, "connections": ALL_SERVERS[:3], "post": ALL_SERVERS[:3]}
QUICK_SERVERS = {"hello": ALL_SERVERS, "connections": ALL_SERVERS[:3]}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m fastwsgi.bench",
        description="Compare wsgiref with the pure and the compiled implementation: first functions, then servers.",
        epilog="Exit status: 1 if a response was wrong, a request failed or --compare found something slower; "
        "2 for an invalid option. A missed target is shown, but doesn't change the status.",
    )
    parser.add_argument("--quick", action="store_true", help="take less than 20 seconds, with less precise numbers")
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="measure only names that contain this; repeatable"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all measurements to a file")
    parser.add_argument(
        "--save-baseline", action="store_true", help=f"write them to {BASELINE}, which --compare reads by default"
    )
    parser.add_argument(
        "--compare", type=Path, nargs="?", const=BASELINE, metavar="OLD.json", help="compare with an earlier run"
    )
    parser.add_argument(
        "--factor", type=float, default=FACTOR, help=f"slowdown that --compare tolerates (default: {FACTOR})"
    )
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw a chart, SVG or PNG; needs matplotlib")
    parser.add_argument("--unpinned", action="store_true", help="let servers and clients share all cores")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark for command-line *arguments*; return the exit status."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    effort = QUICK if options.quick else USUAL
    wanted = Wanted(options.only, options.quick)
    if not wanted.works and not wanted.servers:
        texts = " or ".join(map(repr, options.only))
        parser.error(f"nothing has {texts} in its name; there is {', '.join(wanted.names)}")
    if options.factor <= 1:
        parser.error(f"--factor must be over 1, not {options.factor:g}")
    old = None
    try:
        if options.compare is not None:
            old = read_report(options.compare)
        draw = chart_maker(options.plot)
        for path in filter(None, (options.json, options.plot)):
            if not path.parent.is_dir():
                raise ValueError(f"{path}: No such file or directory")
    except (BadReportError, ImportError, ValueError) as error:
        parser.error(str(error))
    if options.unpinned:
        load.cores.clear()

    report = Report(describe_machine(), settings(effort))
    measure_all(report, wanted, effort)
    print(show(report, {group: workload.about for group, workload in servers.WORKLOADS.items()}))
    for path in (options.json, BASELINE if options.save_baseline else None):
        if path is not None:
            report.save(path)
    if draw is not None:
        draw(report, options.plot)
    status = 1 if report.failures else 0
    if old is not None:
        status |= show_comparison(old, report, options.factor, is_part=bool(options.only))
    return status


class Wanted:
    """The selected measurements: hot paths by name, and the servers of each workload."""

    def __init__(self, texts: Sequence[str], is_quick: bool) -> None:
        workloads = QUICK_SERVERS if is_quick else SERVERS
        self.names: list[str] = [*hot_paths.WORKS, *workloads]

        def is_wanted(name: str) -> bool:
            return not texts or any(text.lower() in name.lower() for text in texts)

        self.works: list[str] = [name for name in hot_paths.WORKS if is_wanted(name)]
        self.servers: dict[str, tuple[str, ...]] = {name: each for name, each in workloads.items() if is_wanted(name)}


def settings(effort: Effort) -> dict[str, Any]:
    rounds = f"{effort.server_rounds} rounds of {effort.server_seconds:g} s"
    return {
        "hot paths": f"{effort.hot_rounds} rounds of {effort.hot_seconds * 1000:g} ms",
        "servers": f"{rounds}, {load.CONNECTIONS} connections, {load.how_pinned()}",
        "client": load.client_name(),
    }


def measure_all(report: Report, wanted: Wanted, effort: Effort) -> None:
    """Measure, and add rows, targets and failures to the report."""
    implementations = {}
    for name in hot_paths.IMPLEMENTATIONS:
        modules = hot_paths.load(name)
        if modules is None:
            report.left_out[name] = "not built"
        else:
            implementations[name] = modules
    if wanted.servers and load.client_name() != "wrk":
        report.left_out["targets of requests/s"] = "they need wrk, because our own client is slower than the server"
    here = [name for name in ALL_SERVERS if name.split(",")[0] in implementations]
    runs = {group: [name for name in names if name in here] for group, names in wanted.servers.items()}
    steps = len(wanted.works) + effort.server_rounds * sum(map(len, runs.values()))
    with progress(steps) as step:
        for name in wanted.works:
            try:
                report.rows.append(hot_paths.measure(name, implementations, effort.hot_rounds, effort.hot_seconds))
            except FailureError as error:
                report.failures.append(str(error))
            step(name)
        for group, names in runs.items():
            step_of_group = functools.partial(step, group)
            rows, failures = servers.measure(group, names, effort.server_rounds, effort.server_seconds, step_of_group)
            report.rows += rows
            report.failures += failures
    works = set(wanted.works)
    all_targets = [*hot_paths.TARGETS, *(servers.TARGETS if load.client_name() == "wrk" else [])]
    report.targets = [
        each for each in all_targets if each.implementation in here and (each.group in runs or each.name in works)
    ]


def chart_maker(path: Path | None) -> Callable[[Report, Path], None] | None:
    """The function that draws the chart, or None. Checks in advance whether a chart can be drawn."""
    if path is None:
        return None
    if path.suffix not in CHART_TYPES:
        raise ValueError(f"--plot must end in {' or '.join(CHART_TYPES)}, not {path.name!r}")
    try:
        import matplotlib  # noqa: F401 # pyright: ignore[reportUnusedImport]
    except ImportError:
        raise ImportError("--plot needs matplotlib: pip install 'fastwsgi-toolkit[bench]'") from None
    from .chart import draw

    return draw


def show_comparison(old: Report, new: Report, factor: float, is_part: bool) -> int:
    found = compare(old, new, factor)
    for name, value in old.machine.items():
        if new.machine.get(name) != value:
            print(f"the old run had {name}: {value}")
    lines = [*map(str, found.slower), *map(str, found.faster)]
    if not is_part:
        lines += [f"{title}: not measured now" for title in found.missing]
    counted = f"{len(found.slower)} of {found.compared} ratios are more than {factor:g} times worse, beyond the noise"
    print(f"\ncompared with the old run: {counted}", *lines, sep="\n")
    return 1 if found.slower else 0
