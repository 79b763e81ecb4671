"""Measurements, round by round; ratios with their spread; targets, and whether they are met."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

#: If two runs are each this precise, they differ by at most 10 %. Above this value the machine is too noisy.
TOO_NOISY = 0.05


class FailureError(Exception):
    """A server doesn't run, a request has failed, or a response is wrong."""


class Spread(NamedTuple):
    """A median, and the range of the values; with ten or more values, without the first and the last tenth."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{number(self.median)} ({number(self.low)}–{number(self.high)})"


def number(value: float) -> str:
    digits = max(0, 3 - len(str(int(abs(value)))))
    return f"{value:,.{digits}f}"


def spread(values: Iterable[float]) -> Spread:
    ordered = sorted(values)
    tenth = len(ordered) // 10
    return Spread(statistics.median(ordered), ordered[tenth], ordered[-1 - tenth])


def noise(values: Sequence[float]) -> float:
    """The relative error of the median, estimated from the quartiles (McGill, Tukey and Larsen, 1978)."""
    if len(values) < 2:
        return math.inf
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return 1.57 * (third - first) / math.sqrt(len(values)) / statistics.median(values)


@dataclass(frozen=True)
class Row:
    """One kind of work and one measure of it, for each implementation or server, which took turns in each round."""

    group: str  # "hot paths", or a workload of the servers
    name: str  # the work, or the measure of the servers
    unit: str
    rounds: dict[str, list[float]]
    against: tuple[str, ...] = ("wsgiref",)  # ratios are relative to the best of these in the same round
    more_is_better: bool = False
    is_steady: bool = True  # whether it depends on the server alone, and not on the client

    @property
    def title(self) -> str:
        return f"{self.group}: {self.name}"

    def ratios(self, name: str, against: Sequence[str] = ()) -> list[float]:
        """How many times better *name* is than the others, round by round; empty if either wasn't measured.

        Rounds are left out if either value is 0, because it was too small to measure.
        """
        others = [self.rounds[other] for other in against or self.against if other in self.rounds]
        best = max if self.more_is_better else min
        bests = [best(values) for values in zip(*others, strict=True)]
        pairs = zip(self.rounds.get(name, []), bests, strict=False)
        return [own / other if self.more_is_better else other / own for own, other in pairs if own and other]


@dataclass(frozen=True)
class Target:
    """How many times better an implementation must be than the best of others."""

    group: str
    name: str
    implementation: str
    at_least: float
    against: tuple[str, ...] = ("wsgiref",)


@dataclass(frozen=True)
class Verdict:
    """The result for a target: the spread of the ratio, or None if one side wasn't measured."""

    target: Target
    ratio: Spread | None

    @property
    def is_missed(self) -> bool:
        return self.ratio is not None and self.ratio.median < self.target.at_least

    @property
    def word(self) -> str:
        return "not measured" if self.ratio is None else "MISSED" if self.is_missed else "met"

    def __str__(self) -> str:
        target = self.target
        names = target.against
        others = " or ".join(names) if len(names) < 5 else f"the best of the {len(names)} others"
        text = f"{target.group}: {target.name}: {target.implementation} at least {target.at_least:g} × {others}"
        return f"{text}: {self.word}" + ("" if self.ratio is None else f", {self.ratio}")


def judge(target: Target, rows: Iterable[Row]) -> Verdict:
    for row in rows:
        if (row.group, row.name) == (target.group, target.name) and (
            ratios := row.ratios(target.implementation, target.against)
        ):
            return Verdict(target, spread(ratios))
    return Verdict(target, None)
