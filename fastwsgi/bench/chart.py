"""Draw a report as a chart, with matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from . import hot_paths
from .results import Row, spread

if TYPE_CHECKING:
    from .report import Report


def draw(report: Report, path: Path) -> None:
    """Draw a chart with one panel for each group. The suffix of the path selects the file type.

    Hot paths are shown as ratios, on a logarithmic scale; servers as requests a second. Thin lines show the spread.
    Raises ImportError without matplotlib.
    """
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "fastwsgi"  # the same report gives the same file
    from matplotlib import pyplot

    panels = []
    for group, rows in report.groups().items():
        if group == hot_paths.GROUP:
            panels.append(("times as fast as wsgiref", rows, True))
        else:
            panels += [(f"{group}: requests a second", [row], False) for row in rows if row.more_is_better]
    heights = [sum(len(bars(row, is_ratio)) for row in rows) + 1.5 for _, rows, is_ratio in panels]
    figure, all_axes = pyplot.subplots(
        len(panels), 1, figsize=(9, 0.24 * sum(heights)), height_ratios=heights, squeeze=False, layout="constrained"
    )
    for axes, (title, rows, is_ratio) in zip(all_axes[:, 0], panels, strict=True):
        labels: list[str] = []
        for row in rows:
            for name, values in bars(row, is_ratio).items():
                median, low, high = spread(values)
                own = name.startswith(("fastwsgi", "compiled", "pure", "serve"))
                error = [[median - low], [high - median]]
                colour = "#2a6f97" if own and "pure" not in name else "#89c2d9" if own else "#b8b8b8"
                axes.barh(len(labels), median, xerr=error, color=colour, ecolor="#555555", height=0.75)
                labels.append(f"{row.name}, {name}" if is_ratio else name)
        axes.set_yticks(range(len(labels)), labels, fontsize=8)
        axes.tick_params(axis="x", labelsize=8)
        axes.invert_yaxis()
        axes.set_title(title, fontsize=9, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        if is_ratio:
            axes.set_xscale("log")
            axes.axvline(1, color="#555555", linewidth=0.8)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    pyplot.close(figure)


def bars(row: Row, is_ratio: bool) -> dict[str, list[float]]:
    if is_ratio:
        return {name: row.ratios(name) for name in row.rounds if name not in row.against}
    return row.rounds
