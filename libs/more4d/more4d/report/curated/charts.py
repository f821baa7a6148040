"""Histograms of the scores with their limits drawn, as SVG in the page's colours."""

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, NullFormatter, StrMethodFormatter
from numpy.typing import NDArray

from more4d.report.curated.scores import Distribution
from more4d.report.figures import ACCENT, BAD, INK, as_svg, page_style

BINS = 40
_LOGARITHMIC = 100.0
"""The ratio of an axis' ends (1st and 99th percentile, limits) above which, of positive values, it is logarithmic."""


def histogram_svg(found: Distribution) -> str:
    """How many items have which value: accepted by the stage, rejected on top of them, limits dashed; "" without values.

    The axis ends at the 1st and 99th percentile and shows every limit; what is beyond is in its first and last bar.
    """
    if not len(found.values):
        return ""
    edges, logarithmic = bin_edges(found)
    inside = np.clip(found.values, edges[0], edges[-1])
    kept, refused = (np.histogram(inside[mask], edges)[0] for mask in (found.accepted, ~found.accepted))
    score = found.score
    with rc_context(page_style(f"{score.stage}.{score.column}", grid_axis="y")):
        figure = Figure(figsize=(4.4, 2.3), layout="constrained")
        axes = figure.subplots()
        axes.bar(edges[:-1], kept, np.diff(edges), align="edge", color=ACCENT, linewidth=0, label="kept")
        axes.bar(edges[:-1], refused, np.diff(edges), align="edge", bottom=kept, color=BAD, linewidth=0)
        _draw_limits(axes, found)
        _scale(axes, edges, logarithmic)
        axes.set_xlabel(score.unit)
        return as_svg(figure, describe(found))


def bin_edges(found: Distribution) -> tuple[NDArray[np.float64], bool]:
    """[BINS + 1] edges that hold the bulk of the values and every limit, and whether they are logarithmic."""
    low, high = (float(x) for x in np.quantile(found.values, [0.01, 0.99]))
    limits = [x for x in (found.low, found.high) if x is not None]
    low, high = min([low, *limits]), max([high, *limits])
    if found.values.min() > 0 and low > 0 and high / low > _LOGARITHMIC:
        return np.geomspace(low / 1.1, high * 1.1, BINS + 1), True
    room = 0.04 * (high - low) or 0.5 * (abs(high) or 1.0)
    start = low - room if low < 0 or low - room > 0 else 0.0
    return np.linspace(start, high + room, BINS + 1), False


def describe(found: Distribution) -> str:
    """The chart in a sentence."""
    limits = [f"{name} {x:g}" for name, x in (("at least", found.low), ("at most", found.high)) if x is not None]
    rule = f", limit {' and '.join(limits)}" if limits else ""
    return f"{found.score.title}: {len(found.values):,} values, median {found.quantile(0.5):.4g}{rule}"


def _draw_limits(axes: Axes, found: Distribution) -> None:
    for value in (found.low, found.high):
        if value is not None:
            axes.axvline(value, color=INK, linewidth=1.3, linestyle=(0, (4, 3)))


def _scale(axes: Axes, edges: NDArray[np.float64], logarithmic: bool) -> None:
    axes.set_xlim(float(edges[0]), float(edges[-1]))
    if logarithmic:
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
