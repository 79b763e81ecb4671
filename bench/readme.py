"""Put the tables and the chart of the latest committed runs into README.md.

    python -m bench.readme

The runs are results/hot_paths.json, of ``python -m fastwsgi.bench``, and results/servers.json, of
``python -m bench.servers``.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from bench.servers import COMPARISONS, NATIVE, PEERS, RATE, USER
from fastwsgi.bench.report import Report, read_report
from fastwsgi.bench.results import Row, spread

HERE = Path(__file__).parent
README = HERE.parent / "README.md"
RESULTS = HERE / "results"
CHART = RESULTS / "servers.svg"
IN_THE_CHART = ("hello", "post", "stream", "connections")


def markdown(head: list[str], lines: list[list[str]]) -> str:
    cells = [head, ["---", *(["---:"] * (len(head) - 1))], *lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def made_on(report: Report) -> str:
    machine = report.machine
    return f"{machine['Python']} on {machine['processor']}; {'; '.join(map(str, report.settings.values()))}."


def hot_paths_block(report: Report) -> str:
    lines = []
    for row in report.rows:
        if row.group == "hot paths":
            medians = [f"{spread(row.rounds[name]).median:.3f}" for name in ("wsgiref", "pure", "compiled")]
            lines.append([row.name, *medians, *(str(spread(row.ratios(name))) for name in ("pure", "compiled"))])
    table = markdown(["µs a call", "wsgiref", "pure", "compiled", "× pure", "× compiled"], lines)
    missed = [str(verdict) for verdict in report.verdicts if verdict.is_missed]
    told = "\n".join(["Targets that were missed:", "", *(f"- {each}" for each in missed)]) if missed else ""
    return "\n\n".join(filter(None, [table, made_on(report), told or "All targets were met."]))


def servers_block(report: Report) -> str:
    found = {(row.group, row.name): row for row in report.rows}
    lines = []
    for title, comparison in COMPARISONS.items():
        if (title, RATE) in found and comparison.against == NATIVE:
            rate, user = found[title, RATE], found[title, USER]
            lines.append([
                f"{title}: {comparison.workload.about}", f"{spread(rate.rounds['fastwsgi']).median:,.0f}",
                ratio(rate, NATIVE), best_of(rate, NATIVE), ratio(user, NATIVE), ratio(rate, ("wsgiref",)),
            ])  # fmt: skip
    head = ["", "requests/s", "× best in C or Rust", "best server", "user CPU: best / ours", "× wsgiref"]
    told = "\n".join(["Targets:", "", *(f"- {verdict}" for verdict in report.verdicts)])
    versions = ", ".join(f"{name} {version}" for name, version in report.machine.items() if name in PEERS)
    return "\n\n".join([markdown(head, lines), f"{made_on(report)} {versions}.", told])


def ratio(row: Row, against: tuple[str, ...]) -> str:
    ratios = row.ratios("fastwsgi", against)
    return str(spread(ratios)) if ratios else ""


def best_of(row: Row, names: tuple[str, ...]) -> str:
    medians = {name: spread(row.rounds[name]).median for name in names if name in row.rounds}
    return max(medians, key=medians.__getitem__, default="")


BLOCKS = {"hot_paths": hot_paths_block, "servers": servers_block}


def with_blocks(text: str) -> str:
    """Replace the blocks between the marks in a README."""
    for name, make in BLOCKS.items():
        begin, end = f"<!-- begin {name} -->", f"<!-- end {name} -->"
        block = make(read_report(RESULTS / f"{name}.json"))
        before, _, rest = text.partition(begin)
        _, found, after = rest.partition(end)
        if not found:
            raise SystemExit(f"README.md has no place for {name}: {begin} ... {end}")
        text = f"{before}{begin}\n{block}\n{end}{after}"
    return text


def main() -> None:
    from fastwsgi.bench.chart import draw

    README.write_text(with_blocks(README.read_text(encoding="utf-8")), encoding="utf-8")
    report = read_report(RESULTS / "servers.json")
    draw(replace(report, rows=[row for row in report.rows if row.group in IN_THE_CHART]), CHART)


if __name__ == "__main__":
    main()
