"""Every number that the stages measured: what it is, where its limit is set, and how its values lie."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from more4d.data.tables import ACCEPTED, read_settings
from more4d.report.curated.tables import TABLES, Tables, column, text_of


@dataclass(frozen=True)
class Score:
    """A column of a stage's table; `low` and `high` are the settings (stage.group.name) that limit it, "" for none."""

    stage: str
    column: str
    title: str
    unit: str = ""
    low: str = ""
    high: str = ""
    digits: int = 3


SCORES = (
    Score("source", "duration", "Length of a video", "s", digits=1),
    Score("clips", "frames", "Length of a window", "frames", digits=0),
    Score("clips", "shot_score", "Shot boundary", "0 to 1", high="clips.cut_threshold"),
    Score("clips", "motion_score", "Motion", "share of the width", low="clips.filters.min_motion", digits=4),
    Score("clips", "camera_motion_score", "Camera motion", "share of the width",
          high="clips.filters.max_camera_motion", digits=4),
    Score("clips", "repeated_score", "Repeated frames", "share", high="clips.filters.max_repeated"),
    Score("clips", "brightness_score", "Brightness", "0 to 1", low="clips.filters.min_brightness",
          high="clips.filters.max_brightness"),
    Score("clips", "contrast_score", "Contrast", "0 to 1", low="clips.filters.min_contrast"),
    Score("clips", "text_score", "Overlay text", "share of the picture", high="clips.filters.max_text", digits=4),
    Score("clips", "duplicate_score", "Distance to the nearest other clip", "share of the bits",
          low="clips.max_duplicate_distance"),
    Score("captions", "words", "Words of a caption", "words", low="captions.min_words", digits=0),
    Score("captions", "characters", "Characters of a caption", "characters", high="captions.max_characters", digits=0),
    Score("depth", "median_depth_m", "Median depth of the first frame", "m", digits=2),
    Score("depth", "focal_px", "Focal length", "px", digits=1),
    Score("tracks", "visible_share", "Visible points", "share of points and frames", low="tracks.min_visible_share"),
    Score("tracks", "moving_share", "Moving points", "share"),
    Score("trajscene", "anomalous_share", "Anomalous depth", "share of the trajectories",
          high="trajscene.quality.max_anomalous_share", digits=4),
    Score("trajscene", "depth_deviation", "Deviation of the depth", "of its logarithm",
          high="trajscene.quality.max_depth_deviation"),
    Score("trajscene", "scale_change", "Change with the scale", "against the first frame's",
          high="trajscene.quality.max_scale_change", digits=4),
    Score("trajscene", "flow_error", "Steps of tracks against optical flow", "0 to 2",
          high="trajscene.quality.max_flow_error"),
    Score("trajscene", "unexplained_change", "Change that the tracks do not explain", "share",
          high="trajscene.quality.max_unexplained_change"),
)  # fmt: skip
"""In the order of the page. A column that a stage adds is shown by a line here; until then without limit and unit."""
LIMITED = tuple(dict.fromkeys(score.stage for score in SCORES if score.low or score.high))
"""The stages that limit a score; their tables say by which settings."""
_UNLISTED = ("clips", "depth", "tracks", "trajscene")
_NO_SCORES = {"source_row", "start_frame", "start_seconds", "fps"}


@dataclass(frozen=True)
class Distribution:
    """A score's finite values with whether their stage accepted the item, and how many were not finite or not measured."""

    score: Score
    values: NDArray[np.float64]
    accepted: NDArray[np.bool_]
    missing: int
    infinite: int
    low: float | None
    high: float | None

    @property
    def outside(self) -> int:
        """How many values are beyond a limit."""
        below = 0 if self.low is None else int((self.values < self.low).sum())
        return below + (0 if self.high is None else int((self.values > self.high).sum()))

    def quantile(self, share: float) -> float | None:
        return float(np.quantile(self.values, share)) if len(self.values) else None


def read_limits(folders: Mapping[str, Path]) -> dict[str, dict[str, Any]]:
    """The settings of LIMITED by stage, as their tables have them. Raises ValueError where one has none."""
    settings = {stage: read_settings(folders[stage] / TABLES[stage]) for stage in LIMITED}
    for stage, values in settings.items():
        if not values:
            path = folders[stage] / TABLES[stage]
            raise ValueError(f"{path} does not say by which settings it was judged: run stage {stage} again")
    return settings


def limit(settings: Mapping[str, Any], path: str) -> float | None:
    """The value of a setting by its dotted path, None for "". Raises ValueError where there is no such number."""
    value: Any = settings
    for key in path.split(".") if path else ():
        value = value.get(key) if isinstance(value, Mapping) else None
    if not path:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        stage = path.split(".", maxsplit=1)[0]
        raise ValueError(f"no number {path} among the settings in the table of stage {stage}: run that stage again")
    return float(value)


def distributions(tables: Tables, settings: Mapping[str, Any]) -> tuple[Distribution, ...]:
    """Of each score whose column there is; of numbers that no line of SCORES describes under their columns' names."""
    measured = with_lengths(tables)
    return tuple(_distribution(score, measured[score.stage], settings) for score in scores_of(measured))


def scores_of(tables: Tables) -> list[Score]:
    """The scores whose columns the tables have: those of SCORES, and numbers that no line there describes."""
    return [score for score in (*SCORES, *_unlisted(tables)) if score.column in tables[score.stage].columns]


def with_lengths(tables: Tables) -> dict[str, pd.DataFrame]:
    """The tables with the captions' numbers of words and characters as columns, and unknown durations as NaN."""
    text = text_of(tables["captions"], "caption")
    lengths = {"words": text.str.split().str.len(), "characters": text.str.len()}
    seconds = column(tables["source"], "duration").astype(float)
    source = tables["source"].assign(duration=seconds.where(seconds > 0))
    return {**tables, "source": source, "captions": tables["captions"].assign(**lengths)}


def _unlisted(tables: Tables) -> list[Score]:
    known = {(score.stage, score.column) for score in SCORES}
    return [
        Score(stage, str(name), str(name).replace("_", " ").capitalize())
        for stage in _UNLISTED
        for name in tables[stage].select_dtypes("number").columns
        if (stage, name) not in known and name not in _NO_SCORES
    ]


def _distribution(score: Score, table: pd.DataFrame, settings: Mapping[str, Any]) -> Distribution:
    values = column(table, score.column).to_numpy(np.float64, na_value=np.nan)
    finite = np.isfinite(values)
    accepted = (column(table, "verdict") == ACCEPTED).to_numpy(bool)
    low, high = limit(settings, score.low), limit(settings, score.high)
    missing, infinite = int(np.isnan(values).sum()), int(np.isinf(values).sum())
    return Distribution(score, values[finite], accepted[finite], missing, infinite, low, high)
