"""How a cost grows with its input: the slope of log(cost) over log(size), and its limit.

A slope of 1 is a cost in proportion to the size, 2 one that grows with its square, 0 one that stays as it is. Nothing
is measured here: costs are numbers of any unit.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

#: The most that a cost may grow with its input, unless somebody says otherwise.
LIMIT = 1.1
#: What the last two points may have more: there the caches end that smaller inputs have been in.
TAIL = 0.2
# Two halves of the rounds whose slopes are further apart than this have measured something else.
_MOST_SPREAD = 0.15


class Finding(NamedTuple):
    """What a number of rounds say of one cost."""

    #: Of the line through all points, by least squares.
    slope: float
    #: Of the last two points. A square that a constant hides at small sizes shows here.
    tail: float
    #: How far the slope of the odd rounds and that of the even ones are from each other.
    spread: float
    #: "met", "missed", or "too noisy" to tell.
    verdict: str


def slope(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """The slope of a line through the logarithms of the points, by least squares. At least two sizes, all positive."""
    xs, ys = [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    return sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True)) / sum((x - x_mean) ** 2 for x in xs)


def judge(sizes: Sequence[float], rounds: Sequence[Sequence[float]], limit: float = LIMIT) -> Finding:
    """Judge a cost by its least value at each size.

    sizes: at least two, ascending; rounds: at least two, in each a cost for each size; limit: of the slope, and that
    of the last two points may be larger by ``TAIL``. The odd and the even rounds are judged as well: only if they
    agree, that is the verdict.
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
    """The least cost at each size: what disturbs a measurement, only adds to it."""
    return [min(costs) for costs in zip(*rounds, strict=True)]


def _slopes(sizes: Sequence[float], rounds: Sequence[Sequence[float]]) -> tuple[float, float]:
    costs = least(rounds)
    return slope(sizes, costs), slope(sizes[-2:], costs[-2:])
