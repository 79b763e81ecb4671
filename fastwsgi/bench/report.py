"""A report of what was measured, on which machine, and how; as JSON and as tables."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from . import hot_paths
from .machine import as_lines
from .results import TOO_NOISY, Row, Target, Verdict, judge, noise, spread

#: Version of the JSON format; reports of another version can't be compared.
FORMAT = 1


class BadReportError(Exception):
    """The file isn't a report, or a report of another version."""


@dataclass
class Report:
    """One run: its machine and settings, its rows, and its failures."""

    machine: dict[str, str]
    settings: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)  # names that weren't measured, and the reasons

    @property
    def verdicts(self) -> list[Verdict]:
        return [judge(target, self.rows) for target in self.targets]

    def groups(self) -> dict[str, list[Row]]:
        found: dict[str, list[Row]] = {}
        for row in self.rows:
            found.setdefault(row.group, []).append(row)
        return found

    def save(self, path: Path) -> None:
        path.write_text(json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n", encoding="utf-8")


def _with_tuple(fields: dict[str, Any]) -> dict[str, Any]:
    return {**fields, "against": tuple(fields["against"])}


def read_report(path: Path) -> Report:
    """Read what Report.save() wrote; raise BadReportError for anything else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content.pop("format") != FORMAT:
            raise BadReportError(f"{path}: a report of another version")
        rows = [Row(**_with_tuple(row)) for row in content.pop("rows")]
        targets = [Target(**_with_tuple(each)) for each in content.pop("targets")]
        return Report(**content, rows=rows, targets=targets)
    except OSError as error:
        raise BadReportError(f"{path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadReportError(f"{path}: not a report of this benchmark") from None


def table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """Columns of minimal width; the first one is aligned to the left, the others to the right."""
    cells = [list(head), *map(list, lines)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    shown = ("  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])]) for line in cells)
    return "\n".join(line.rstrip() for line in shown)


def show_hot_paths(rows: Sequence[Row], verdicts: Sequence[Verdict]) -> str:
    """A line for each kind of work."""
    names = list(rows[0].rounds)
    ours = [name for name in names if name not in rows[0].against]
    head = ["µs a call", *names, *(f"× {name}" for name in ours), "targets"]
    lines = []
    for row in rows:
        medians = (f"{spread(values).median:.3f}" for values in row.rounds.values())
        ratios = (str(spread(row.ratios(name))) for name in ours)
        judged = (each for each in verdicts if each.target.name == row.name and each.ratio is not None)
        words = (f"{each.target.at_least:g} {each.word}" for each in judged)
        lines.append([row.name, *medians, *ratios, ", ".join(words)])
    return table(head, lines)


def show_servers(rows: Sequence[Row]) -> str:
    """A line for each server."""
    head = [", ".join(rows[0].against) + " = 1"]
    for row in rows:
        head += [row.name if row.unit in row.name else f"{row.name}, {row.unit}", *(["×"] if row.against else [])]
    lines = []
    for name in dict.fromkeys(name for row in rows for name in row.rounds):
        line = [name]
        for row in rows:
            line.append(str(spread(row.rounds[name])) if name in row.rounds else "")
            if row.against:
                ratios = row.ratios(name)
                line.append(str(spread(ratios)) if ratios else "")
        lines.append(line)
    return table(head, lines)


def show_noise(rows: Iterable[Row]) -> str:
    """Whether the ratios of steady rows are precise enough to be reproducible, and the worst of them."""
    found = {}
    for row in rows:
        for name in row.rounds if row.is_steady else ():
            if name not in row.against and (ratios := row.ratios(name)):
                found[f"{row.title}: {name}"] = noise(ratios)
    noisy = sorted((part, title) for title, part in found.items() if part > TOO_NOISY)
    if not noisy:
        return "in another run, each ratio should be the same within 10 %"
    worst = "; ".join(f"{title} ±{part:.0%}" for part, title in noisy[:-4:-1])
    return f"TOO NOISY: {len(noisy)} of {len(found)} ratios may differ by more than 10 % in another run: {worst}"


def show(report: Report, about: dict[str, str]) -> str:
    """The whole report as text; about: a description for each group of rows."""
    parts = [as_lines({**report.machine, **report.settings})]
    verdicts = report.verdicts
    for group, rows in report.groups().items():
        heading = f"{group}: {about[group]}" if group in about else group
        shown = show_hot_paths(rows, verdicts) if group == hot_paths.GROUP else show_servers(rows)
        parts.append(f"{heading}\n{shown}")
    if report.left_out:
        parts.append("\n".join(f"left out: {name}: {why}" for name, why in report.left_out.items()))
    servers = [str(each) for each in verdicts if each.target.group != hot_paths.GROUP]
    if servers:
        parts.append("\n".join(["server targets", *servers]))
    counts = {word: sum(each.word == word for each in verdicts) for word in ("met", "MISSED", "not measured")}
    summary = [f"targets: {', '.join(f'{count} {word}' for word, count in counts.items())}"]
    summary += [f"  {each}" for each in verdicts if each.is_missed]
    summary.append(show_noise(report.rows))
    summary += [f"FAILED: {each}" for each in report.failures]
    parts.append("\n".join(summary))
    return "\n\n".join(parts)
