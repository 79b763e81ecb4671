"""Draw docs/states.svg, the states of a connection, from the table in fastwsgi/_events/states.py.

Run ``python -m docs.states_diagram`` in the top directory. With ``--check`` it only checks whether the picture is
current.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from html import escape
from itertools import count
from pathlib import Path

from fastwsgi._events.poller import READ, WRITE
from fastwsgi._events.states import STATES, State

PICTURE = Path(__file__).with_name("states.svg")

# One box for each state, one below the other. An arrow on the right leads down, one on the left leads up.
_LEFT, _WIDTH, _HEIGHT, _STEP = 140, 510, 56, 78
_LANE, _FIRST = 14, 16  # the distance between arrows, and of the first from the boxes

_STYLE = """\
  <style>
    .box { fill: #fff; stroke: #00796b; stroke-width: 1.5 }
    .lane { fill: #fff3e0; stroke: #ef6c00; stroke-width: 1.5 }
    .name { fill: #1b1b1b; font-weight: 600 }
    .text { fill: #333; font-size: 13.5px }
    .line { stroke: #555; stroke-width: 1.3; fill: none }
    .tip { fill: #555 }
    @media (prefers-color-scheme: dark) {
      .box { fill: #1e2129; stroke: #4db6ac }
      .lane { fill: #3b2a14; stroke: #ffb74d }
      .name { fill: #f2f2f2 }
      .text { fill: #d0d0d0 }
      .line { stroke: #aaa }
      .tip { fill: #aaa }
    }
  </style>
  <defs>
    <marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" orient="auto">
      <path class="tip" d="M0 0 8 4 0 8z"/>
    </marker>
  </defs>
"""


def picture() -> str:
    """The expected text of the picture."""
    height = len(STATES) * _STEP + 10
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 800 {height}" font-family="system-ui, sans-serif"'
        ' font-size="15">\n',
        "  <!-- Made by python -m docs.states_diagram from fastwsgi/_events/states.py. -->\n",
        "  <title>The states of a connection</title>\n",
        _STYLE,
        *map(_box, STATES),
        *_arrows(),
        "</svg>\n",
    ]
    return "".join(parts)


def _top(state: State) -> int:
    return 10 + state.index * _STEP


def _box(state: State) -> str:
    top = _top(state)
    watched = {READ: "waits to read", WRITE: "waits to write"}.get(state.watches, "")
    limit = f"at most {state.timeout}" if state.timeout else ""
    facts = ", ".join(filter(None, [watched, limit, "the fast lane may answer" if state.for_lane else ""]))
    lines = [f'  <text class="name" x="{_LEFT + 14}" y="{top + 23}">{state.name}']
    lines.append(f'<tspan class="text" dx="12" font-weight="400">{escape(state.meaning)}</tspan></text>\n')
    lines.append(f'  <text class="text" x="{_LEFT + 14}" y="{top + 44}">{escape(facts)}</text>\n')
    box = "lane" if state.for_lane else "box"
    lines.insert(0, f'  <rect class="{box}" x="{_LEFT}" y="{top}" width="{_WIDTH}" height="{_HEIGHT}" rx="6"/>\n')
    return "".join(lines)


def _arrows() -> Iterator[str]:
    """The transitions: down on the right, short ones first; up on the left. Those to CLOSED share one line."""
    by_name = {state.name: state for state in STATES}
    end = STATES[-1]
    pairs = [(state, by_name[name]) for state in STATES for name in state.follows if name != end.name]
    pairs.sort(key=lambda pair: abs(pair[1].index - pair[0].index))
    right, left = count(_FIRST, _LANE), count(_FIRST, _LANE)
    for start, stop in pairs:
        if stop.index == start.index + 1:
            middle = _LEFT + _WIDTH // 2
            yield _path(f"M{middle} {_top(start) + _HEIGHT}V{_top(stop)}")
            continue
        goes_down = stop.index > start.index
        edge = _LEFT + _WIDTH if goes_down else _LEFT
        away = edge + next(right) if goes_down else edge - next(left)
        leaves, arrives = _top(start) + _HEIGHT * 2 // 3, _top(stop) + _HEIGHT // 3
        yield _path(f"M{edge} {leaves}H{away}V{arrives}H{edge}")
    edge, away = _LEFT + _WIDTH, _LEFT + _WIDTH + next(right)
    for start in STATES:
        if end.name in start.follows:
            yield _path(f"M{edge} {_top(start) + _HEIGHT - 6}H{away}V{_top(end) + _HEIGHT // 2}H{edge}")


def _path(steps: str) -> str:
    return f'  <path class="line" d="{steps}" marker-end="url(#tip)"/>\n'


if __name__ == "__main__":
    from docs.generated_file import main

    sys.exit(main(__doc__, PICTURE, picture(), "states_diagram"))
