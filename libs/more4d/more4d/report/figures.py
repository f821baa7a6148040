"""Plots as inline SVG that follows the page's colours: matplotlib draws with stand-ins, CSS variables replace them."""

import io
import re
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter

from more4d.report.model import Curve, Estimate, MeasureTable

_COLOURS = {"#010101": "var(--ink)", "#020202": "var(--line)", "#030303": "var(--accent)", "#040404": "var(--bad)"} | {
    f"#0a0a0{i}": f"var(--series-{i})" for i in range(4)
}
INK, LINE, ACCENT, BAD, *SERIES = _COLOURS
"""Stand-ins for colours, of which as_svg makes the page's."""
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 10,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.edgecolor": LINE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.major.size": 0,
    "ytick.minor.size": 0,
}
_HIDDEN_SERIES = ("gradient_norm", "learning_rate", "seconds")


def curve_svg(curve: Curve) -> str:
    """One training history: the loss strong, its parts thin, a logarithmic axis where all values are positive."""
    with matplotlib.rc_context(page_style(curve.title)):
        figure = Figure(figsize=(4.6, 2.7), layout="constrained")
        axes = figure.subplots()
        names = [name for name in curve.series if name not in _HIDDEN_SERIES]
        for i, name in enumerate(sorted(names, key=lambda name: name != "loss")[: len(SERIES)]):
            axes.plot(curve.step, curve.series[name], color=SERIES[i], linewidth=1.8 if i == 0 else 1.0, label=name)
        if names and all((values[np.isfinite(values)] > 0).all() for values in map(curve.series.__getitem__, names)):
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("step")
        axes.margins(x=0.01)
        if len(names) > 1:
            axes.legend(frameon=False, fontsize=9, labelcolor=INK)
        return as_svg(figure, f"{curve.title}: {', '.join(names)} over {len(curve.step)} logged steps")


def table_svg(table: MeasureTable) -> str:
    """The table's chart column as dots with intervals, one line a method, the reference value dashed."""
    column = table.chart_column or 0
    rows = [(row, row.values[column]) for row in table.rows if row.values[column] is not None]
    with matplotlib.rc_context(page_style(table.title, grid_axis="x")):
        figure = Figure(figsize=(7.2, 0.6 + 0.36 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for place, (row, estimate) in enumerate(reversed(rows)):
            if estimate is not None:
                _draw_estimate(axes, place, estimate, ACCENT if row.ours else INK)
        if table.reference is not None:
            axes.axvline(table.reference, color=INK, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.set_yticks(range(len(rows)), [row.label for row, _ in reversed(rows)])
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.spines["left"].set_visible(False)
        axes.set_xlabel(table.columns[column])
        return as_svg(figure, f"{table.title}: {table.columns[column]}")


def page_style(salt: str, grid_axis: str = "both") -> dict[Any, Any]:
    """The page's style; the salt keeps ids apart between figures, and the same between runs."""
    return {**_STYLE, "svg.hashsalt": salt, "axes.grid.axis": grid_axis}


def _draw_estimate(axes: Axes, place: int, estimate: Estimate, colour: str) -> None:
    if estimate.low is not None and estimate.high is not None:
        axes.plot([estimate.low, estimate.high], [place, place], color=colour, linewidth=2.4, solid_capstyle="round")
    axes.plot([estimate.value], [place], marker="o", color=colour, markersize=6.5)


def as_svg(figure: Figure, label: str) -> str:
    """The figure without XML prologue, metadata, document-wide style rules and ids that repeat between figures."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.S)
    text = re.sub(r"<style .*?</style>", "", text, flags=re.S)
    text = re.sub(
        r' id="(?:figure|axes|patch|line2d|text|matplotlib\.axis|xtick|ytick|legend|LineCollection)_\d+"', "", text
    )
    for stand_in, variable in _COLOURS.items():
        text = text.replace(stand_in, variable)
    return text.replace("<svg ", f'<svg role="img" aria-label="{_attribute(label)}" ', 1)


def _attribute(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
