"""What came of each source table and each real video, and under which licences the samples are."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd

from more4d.data.tables import ACCEPTED
from more4d.report.curated.journey import STAGES, funnel
from more4d.report.curated.reasons import Kind, folding, reason_kinds
from more4d.report.curated.tables import Tables, accepted_rows, by_clip, column, rows_where, text_of, values_of

_NAMES_SHOWN = 4
_REASONS_SHOWN = 4
_NOT_COMMERCIAL = re.compile(
    r"\bNC\b|non[- ]?commercial|research[- ](only|use|purposes)|academic|personal use", re.IGNORECASE
)
_OF_ANOTHER = re.compile(r"no statement of its own", re.IGNORECASE)
_UNKNOWN = re.compile(r"^\s*(unknown|none|n/?a|\?)?\s*$", re.IGNORECASE)


@dataclass(frozen=True)
class SourceSummary:
    """A source table: rows, videos, windows, samples, what most of the others lack, who made it under which licence."""

    name: str
    origin: str
    rows: int
    fetched: int
    windows: int
    samples: int
    reasons: tuple[Kind, ...]
    licences: tuple[str, ...]
    attributions: tuple[str, ...]


@dataclass(frozen=True)
class VideoOutcome:
    """A real video: its windows, how many became samples, and where and why the others ended."""

    videoid: str
    name: str
    source_table: str
    windows: int
    samples: int
    ends: tuple[tuple[str, str, int], ...]
    """Stage, reason and how many windows."""


@dataclass(frozen=True)
class LicenceCount:
    """What is under a licence (videos or labels), how many samples, and whether commercial use is in doubt."""

    what: str
    licence: str
    samples: int
    doubt: str
    """"" for none."""


def source_summaries(journey: pd.DataFrame, folded: Callable[[str], str] | None = None) -> tuple[SourceSummary, ...]:
    """A summary for each (source table, origin), the one with most rows first; reasons as `folded` for the journey."""
    if not len(journey):
        return ()
    keys = [text_of(journey, "source_table"), text_of(journey, "origin")]
    parts = journey.loc[:, ["videoid", "stage", "verdict", "reason", "licence", "attribution"]].groupby(keys)
    chosen = folded or folding(journey)
    made = [_summary(str(table), str(origin), part, chosen) for (table, origin), part in parts]
    return tuple(sorted(made, key=lambda item: (-item.rows, item.name, item.origin)))


def _summary(table: str, origin: str, part: pd.DataFrame, folded: Callable[[str], str]) -> SourceSummary:
    steps = {step.stage: step for step in funnel(part)}
    kinds = sorted(reason_kinds(part, folded), key=lambda kind: (-kind.count, STAGES.index(kind.stage), kind.text))
    return SourceSummary(
        name=table, origin=origin, rows=steps["source"].entered, fetched=steps["source"].kept,
        windows=steps["clips"].entered, samples=steps["trajscene"].kept, reasons=tuple(kinds[:_REASONS_SHOWN]),
        licences=_commonest(text_of(part, "licence")), attributions=_commonest(text_of(part, "attribution")),
    )  # fmt: skip


def _commonest(texts: pd.Series) -> tuple[str, ...]:
    counts = Counter(values_of(texts))
    known = sorted((text for text in counts if text), key=lambda text: (-counts[text], text))
    more = len(known) - _NAMES_SHOWN
    return (*known[:_NAMES_SHOWN], *([f"and {more} more"] if more > 0 else []))


def real_videos(journey: pd.DataFrame, limit: int) -> tuple[VideoOutcome, ...]:
    """The outcome of the first `limit` real rows, in their tables' order."""
    keys = ["source_table", "source_row", "videoid"]
    real = rows_where(journey, column(journey, "origin") == "real")
    number = real.groupby(keys, sort=True, dropna=False).ngroup()
    shown = rows_where(real, number < limit)
    return tuple(_outcome(part) for _, part in shown.groupby(keys, sort=True, dropna=False))


def _outcome(part: pd.DataFrame) -> VideoOutcome:
    rows = part.to_dict("records")
    ends = Counter((str(row["stage"]), str(row["reason"])) for row in rows if row["verdict"] != ACCEPTED)
    return VideoOutcome(
        videoid=str(rows[0]["videoid"]), name=str(rows[0]["name"]), source_table=str(rows[0]["source_table"]),
        windows=sum(row["clip_id"] != "" for row in rows), samples=sum(row["verdict"] == ACCEPTED for row in rows),
        ends=tuple((stage, reason, count) for (stage, reason), count in ends.items()),
    )  # fmt: skip


def licence_counts(journey: pd.DataFrame, tables: Tables) -> tuple[LicenceCount, ...]:
    """Samples by the licence of their video, of their depth and of their tracks; doubts first named by `doubt`."""
    samples = accepted_rows(journey)
    labels = by_clip(tables["tracks"], column(samples, "clip_id"))
    parts = (
        ("video", text_of(samples, "licence")),
        ("depth", text_of(labels, "depth_licence")),
        ("tracks", text_of(labels, "licence")),
    )
    return tuple(
        LicenceCount(what, licence, count, doubt(licence))
        for what, texts in parts
        for licence, count in Counter(values_of(texts)).most_common()
    )


def doubt(licence: str) -> str:
    """Why a licence's words do not allow commercial use, as far as words tell; "" where nothing speaks against it."""
    if _UNKNOWN.match(licence):
        return "no licence is stated"
    if _NOT_COMMERCIAL.search(licence):
        return "not for commercial use"
    return "not stated for the video itself" if _OF_ANOTHER.search(licence) else ""
