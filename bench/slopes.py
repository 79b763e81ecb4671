"""Judge how a cost grows with its input: the slope of log(cost) over log(size), and its limit.

A slope of 1 means a cost in proportion to the size, 2 a cost that grows with the square of the size, 0 a constant cost.
Nothing is measured here; costs are numbers in any unit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

#: The default limit of a slope.
LIMIT = 1.1
#: How much larger the slope of the last two points may be, because larger inputs no longer fit in the caches.
TAIL = 0.2
# If the slopes of the two halves of the rounds differ by more than this, the measurement was disturbed.
_MOST_SPREAD = 0.15


class Finding(NamedTuple):
    """The result of several rounds for one cost."""

    #: The slope of the line through all points, by least squares.
    slope: float
    #: The slope of the last two points. It shows a quadratic cost that a constant hides at small sizes.
    tail: float
    #: The difference of the slopes of the odd and the even rounds.
    spread: float
    #: "met", "missed" or "too noisy".
    verdict: str


def slope(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The slope of a line through the logarithms of the points, by least squares. At least two sizes, all positive."""
    xs, ys = [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True)) / sum((x - x_mean) ** 2 for x in xs)


def judge(sizes: Sequence[float], rounds: Sequence[Sequence[float]], limit: float = LIMIT) -> Finding:
    """Judge a cost by its least value at each size.

    sizes: at least two, ascending; rounds: at least two, each with a cost for each size; limit: the largest slope; that
    of the last two points may be larger by ``TAIL``. The odd and the even rounds are judged separately too. If they
    disagree, the verdict is "too noisy".
    """
    found = [_slopes(sizes, some) for some in (rounds, rounds[::2], rounds[1::2])]
    spread = abs(found[1][0] - found[2][0])
    are_met = {whole <= limit and tail <= limit + TAIL for whole, tail in found}
    verdict = "too noisy"
    if are_met == {False}:
        verdict = "missed"
    elif are_met == {True} and spread <= _MOST_SPREAD:
        verdict = "met"
    return Finding(*found[0], spread, verdict)


def least(rounds: Sequence[Sequence[float]]) -> list[float]:
    """The least cost at each size, because a disturbance can only increase a measurement."""
    return [min(costs) for costs in zip(*rounds, strict=True)]


def _slopes(sizes: Sequence[float], rounds: Sequence[Sequence[float]]) -> tuple[float, float]:
    costs = least(rounds)
    return slope(sizes, costs), slope(sizes[-2:], costs[-2:])
