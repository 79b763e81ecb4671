"""Compare two reports: what became slower by more than a factor, and by more than the noise of both."""

from __future__ import annotations

from dataclasses import dataclass

from .report import Report
from .results import Row, Spread, noise, spread


@dataclass(frozen=True)
class Change:
    """The ratio of one implementation to its reference, in an old and in a new report."""

    title: str
    old: Spread
    new: Spread

    @property
    def factor(self) -> float:
        """How many times slower the new one is; under 1 it is faster."""
        return self.old.median / self.new.median

    def __str__(self) -> str:
        word = "slower" if self.factor > 1 else "faster"
        times = max(self.factor, 1 / self.factor)
        return f"{self.title}: {times:.2f} times {word}: × {self.old} before, × {self.new} now"


@dataclass
class Comparison:
    """The changes between two reports, and the titles that only the old report has."""

    slower: list[Change]
    faster: list[Change]
    missing: list[str]
    compared: int


def compare(old: Report, new: Report, factor: float) -> Comparison:
    """Compare ratios to wsgiref, so that a slow minute or a slower machine doesn't count as a change.

    Rows that depend on the client's speed are skipped. A change counts if it exceeds *factor* and the difference of the
    medians exceeds their noise.
    """
    comparison = Comparison([], [], [], 0)
    rows = {(row.group, row.name): row for row in new.rows}
    for before in old.rows:
        after = rows.get((before.group, before.name))
        for name in before.rounds if before.is_steady else ():
            if name in before.against:
                continue
            title = f"{before.title}: {name}"
            if after is None or not after.ratios(name):
                comparison.missing.append(title)
            elif before.ratios(name):
                comparison.compared += 1
                if change := difference(title, before, after, name, factor):
                    (comparison.slower if change.factor > 1 else comparison.faster).append(change)
    return comparison


def difference(title: str, before: Row, after: Row, name: str, factor: float) -> Change | None:
    old, new = before.ratios(name), after.ratios(name)
    change = Change(title, spread(old), spread(new))
    larger, smaller = (old, new) if change.factor > 1 else (new, old)
    is_certain = spread(larger).median * (1 - noise(larger)) > spread(smaller).median * (1 + noise(smaller))
    return change if max(change.factor, 1 / change.factor) > factor and is_certain else None
