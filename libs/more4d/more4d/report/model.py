"""What the result page shows, as plain frozen values: `collect` fills them from a workspace, the templates read them."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from more4d.inference.scene import Scene

Image = NDArray[np.uint8]
"""[H,W,3] RGB."""


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, if one was computed."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class MeasureRow:
    """One method of a table; `ours` is set apart, `note` says what the method does."""

    label: str
    values: tuple[Estimate | None, ...]
    note: str = ""
    ours: bool = False


@dataclass(frozen=True)
class MeasureTable:
    """One evaluation table and how to read it."""

    title: str
    reading: str
    columns: tuple[str, ...]
    rows: tuple[MeasureRow, ...]
    digits: int = 3
    reference: float | None = None
    """A value worth a line in the chart (the error of "nothing moves" is 1)."""
    chart_column: int | None = None


@dataclass(frozen=True)
class Curve:
    """A training history: one x axis, several named series; a series may hold NaN."""

    title: str
    step: NDArray[np.float64]
    series: dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class GalleryItem:
    """One clip of the data: its pictures when it was kept, the reason when it was not."""

    clip: str
    caption: str
    origin: str
    kept: bool
    stage: str
    """The last stage that judged it."""
    reason: str
    panels: tuple[tuple[str, Image], ...]
    """Label and picture."""


@dataclass(frozen=True)
class Comparison:
    """One held-out sample: truth and prediction as labeled pictures."""

    clip: str
    caption: str
    panels: tuple[tuple[str, Image], ...]


@dataclass(frozen=True)
class FunnelStep:
    """How many clips a stage kept, and why it rejected the others."""

    stage: str
    kept: int
    reasons: tuple[tuple[str, int], ...] = ()

    @property
    def rejected(self) -> int:
        return sum(count for _, count in self.reasons)


@dataclass(frozen=True)
class StageTime:
    """Wall time of one stage's last run."""

    stage: str
    seconds: float


@dataclass(frozen=True)
class Acknowledgement:
    """Who made something that the page shows, and under which licence."""

    what: str
    attribution: str
    licence: str


@dataclass(frozen=True)
class Run:
    """What produced the page."""

    preset: str = "unknown"
    seed: str = "unknown"
    revision: str = "unknown"


@dataclass(frozen=True)
class PageData:
    """Everything on the result page; an empty part is shown as not produced, with the command that makes it."""

    run: Run = field(default_factory=Run)
    scenes: tuple[Scene, ...] = ()
    tables: tuple[MeasureTable, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    curves: tuple[Curve, ...] = ()
    gallery: tuple[GalleryItem, ...] = ()
    funnel: tuple[FunnelStep, ...] = ()
    times: tuple[StageTime, ...] = ()
    acknowledgements: tuple[Acknowledgement, ...] = ()
    data_report: str = ""
    """Where the page of the curated data is, from the result page; "" where there is none."""
    problems: tuple[str, ...] = ()
    """What exists but could not be read, one sentence each."""
