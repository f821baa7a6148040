"""What became of every row and window: one table of them all, and the funnel counted from it.

A row of the source names a video; a video gives windows, and from stage clips on the windows are what is counted.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from more4d.data.tables import ACCEPTED, REJECTED
from more4d.report.curated.tables import (
    AFTER_CLIPS,
    TABLES,
    Tables,
    accepted_rows,
    column,
    rows_where,
    text_of,
    values_of,
)

LOST = "lost"
"""Accepted by one stage and not in the table of the next: no stage does that, so it is shown as a problem."""
STAGES = tuple(TABLES)
_ABOUT = ["videoid", "name", "origin", "split", "source_table", "source_row", "licence", "attribution"]
_PLACE = {stage: place for place, stage in enumerate(STAGES)}


@dataclass(frozen=True)
class Step:
    """A stage's counts: entered = kept + rejected + lost, in `unit`; `windows` is what the kept became, if others."""

    stage: str
    title: str
    unit: str
    entered: int
    kept: int
    rejected: int
    lost: int


_TITLES = {
    "source": ("videos fetched", "rows"),
    "clips": ("windows kept", "windows"),
    "captions": ("captioned", "windows"),
    "selection": ("selected", "windows"),
    "depth": ("with depth", "windows"),
    "tracks": ("tracked", "windows"),
    "trajscene": ("accepted samples", "windows"),
}


def follow(tables: Tables) -> pd.DataFrame:
    """One row for each source row that gave no window and for each window: who it is, and how it ended.

    Beside what the source says of it: `clip_id` ("" without a window), `stage` at which it ended, `verdict`
    (accepted, rejected or lost) and `reason`. Raises ValueError where the tables are of different runs.
    """
    source, clips = tables["source"], tables["clips"]
    fetched, videos = accepted_rows(source), column(clips, "videoid")
    ids = _require_unique(column(fetched, "videoid"), "source")
    _require_known(videos, ids, "clips", "videos", "source")
    barren = rows_where(fetched, ~column(fetched, "videoid").isin(videos))
    none = "the video gave no window, and no reason for it"
    parts = [
        _items(rows_where(source, column(source, "verdict") != ACCEPTED), "source"),
        _items(barren.assign(verdict=LOST, reason=none), "clips"),
        _through_stages(_with_source_columns(clips, fetched), tables),
    ]
    return pd.concat(parts, ignore_index=True).fillna({"reason": ""})


def _items(rows: pd.DataFrame, stage: str) -> pd.DataFrame:
    extra = [name for name in ("distractor",) if name in rows.columns]
    table = rows.loc[:, [*_ABOUT, *extra, "verdict", "reason"]].copy()
    table.insert(0, "clip_id", rows["clip_id"] if "clip_id" in rows.columns else "")
    table["stage"] = stage
    return table


def _with_source_columns(clips: pd.DataFrame, fetched: pd.DataFrame) -> pd.DataFrame:
    """The windows with what only the source's table says of their videos, where it does."""
    if "distractor" in clips.columns or "distractor" not in fetched.columns:
        return clips
    known = _by(fetched, "videoid", "distractor")
    return clips.assign(distractor=[known.get(video) for video in values_of(column(clips, "videoid"))])


def _through_stages(clips: pd.DataFrame, tables: Tables) -> pd.DataFrame:
    _require_unique(column(clips, "clip_id"), "clips")
    items = _items(clips, "clips")
    before = "clips"
    for stage in AFTER_CLIPS:
        table = tables[stage]
        _require_unique(column(table, "clip_id"), stage)
        going = column(items, "verdict") == ACCEPTED
        ids = column(rows_where(items, going), "clip_id")
        _require_known(column(table, "clip_id"), set(values_of(ids)), stage, "clips", before)
        verdicts, reasons = _by(table, "clip_id", "verdict"), _by(table, "clip_id", "reason")
        clip_ids, unknown = values_of(ids), f"not in the table of stage {stage}"
        items.loc[going, "verdict"] = [verdicts.get(clip, LOST) for clip in clip_ids]
        items.loc[going, "reason"] = [reasons.get(clip, unknown) for clip in clip_ids]
        items.loc[going, "stage"] = stage
        before = stage
    return items


def _by(table: pd.DataFrame, key: str, name: str) -> dict[Any, Any]:
    """A column's values by those of another."""
    return dict(zip(values_of(column(table, key)), values_of(column(table, name)), strict=True))


def _require_unique(ids: pd.Series, stage: str) -> set[str]:
    """The ids as a set. Raises ValueError where one is there twice."""
    if ids.duplicated().any():
        twice = ids.loc[ids.duplicated()].iloc[0]
        raise ValueError(f"the table of stage {stage} has {twice!r} in several rows: run the stage again")
    return set(values_of(ids))


def _require_known(ids: pd.Series, known: set[str], stage: str, what: str, before: str) -> None:
    strays = [item for item in values_of(ids) if item not in known]
    if strays:
        raise ValueError(
            f"the table of stage {stage} holds {len(strays)} {what} that stage {before} did not accept "
            f"(the first is {strays[0]!r}): it is of another run; run {stage} and the stages after it again"
        )


def funnel(journey: pd.DataFrame) -> tuple[Step, ...]:
    """The steps from rows to samples, counted from what `follow` gave, or from a part of it."""
    return tuple(_steps(journey))


def _steps(journey: pd.DataFrame) -> Iterator[Step]:
    place = column(journey, "stage").map(_PLACE).to_numpy(int) if len(journey) else np.zeros(0, int)
    verdict = column(journey, "verdict").to_numpy(object)
    at_source = place == 0
    videos = len(set(column(journey, "videoid").to_numpy(object)[~at_source]))
    refused = int(at_source.sum())
    yield Step("source", *_TITLES["source"], videos + refused, videos, refused, 0)
    for stage in STAGES[1:]:
        entered = place >= _PLACE[stage]
        here = place == _PLACE[stage]
        rejected = int((here & (verdict == REJECTED)).sum())
        lost = int((here & (verdict == LOST)).sum())
        yield Step(stage, *_TITLES[stage], int(entered.sum()), int(entered.sum()) - rejected - lost, rejected, lost)


def funnels_by(journey: pd.DataFrame, columns: list[str]) -> dict[str, tuple[Step, ...]]:
    """A funnel for each value (or pair of values) of the columns, by name; the largest first."""
    first, *more = (text_of(journey, name) for name in columns)
    texts = first.str.cat(more, sep=" · ") if more else first
    # Of a part, the funnel needs these three alone.
    needed = journey.loc[:, ["stage", "verdict", "videoid"]]
    groups = {str(name): part for name, part in needed.groupby(texts)} if len(journey) else {}
    return {name: funnel(groups[name]) for name in sorted(groups, key=lambda name: (-len(groups[name]), name))}
