"""What came of each source table and each real video, and under which licences the samples are."""

import re
from collections import Counter
from dataclasses import dataclass

import pandas as pd

from more4d.data.tables import ACCEPTED
from more4d.report.curated.journey import STAGES, funnel
from more4d.report.curated.reasons import Kind, reason_kinds
from more4d.report.curated.tables import Tables

_NAMES_SHOWN = 4
_REASONS_SHOWN = 4
_NOT_COMMERCIAL = re.compile(
    r"\bNC\b|non[- ]?commercial|research[- ](only|use|purposes)|academic|personal use", re.IGNORECASE
)
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


def source_summaries(journey: pd.DataFrame) -> tuple[SourceSummary, ...]:
    """A summary for each (source table, origin), the one with most rows first."""
    groups = journey.groupby(["source_table", "origin"], sort=True, dropna=False)
    made = [_summary(str(table), str(origin), part) for (table, origin), part in groups]  # pyright: ignore[reportGeneralTypeIssues]
    return tuple(sorted(made, key=lambda item: (-item.rows, item.name, item.origin)))


def _summary(table: str, origin: str, part: pd.DataFrame) -> SourceSummary:
    steps = {step.stage: step for step in funnel(part)}
    kinds = sorted(reason_kinds(part), key=lambda kind: (-kind.count, STAGES.index(kind.stage), kind.text))
    return SourceSummary(
        name=table, origin=origin, rows=steps["source"].entered, fetched=steps["source"].kept,
        windows=steps["clips"].entered, samples=steps["trajscene"].kept, reasons=tuple(kinds[:_REASONS_SHOWN]),
        licences=_commonest(part["licence"]), attributions=_commonest(part["attribution"]),
    )  # fmt: skip


def _commonest(texts: pd.Series) -> tuple[str, ...]:
    counts = Counter(texts.fillna("").astype(str).tolist())
    known = sorted((text for text in counts if text), key=lambda text: (-counts[text], text))
    more = len(known) - _NAMES_SHOWN
    return (*known[:_NAMES_SHOWN], *([f"and {more} more"] if more > 0 else []))


def real_videos(journey: pd.DataFrame, limit: int) -> tuple[VideoOutcome, ...]:
    """The outcome of the first `limit` real rows, in their tables' order."""
    real, keys = journey[journey["origin"] == "real"], ["source_table", "source_row", "videoid"]
    number = real.groupby(keys, sort=True, dropna=False).ngroup()
    return tuple(_outcome(part) for _, part in real[number < limit].groupby(keys, sort=True, dropna=False))


def _outcome(part: pd.DataFrame) -> VideoOutcome:
    first = part.iloc[0]
    refused = part[part["verdict"] != ACCEPTED]
    ends = Counter(zip(refused["stage"], refused["reason"], strict=True))
    return VideoOutcome(
        videoid=str(first["videoid"]), name=str(first["name"]), source_table=str(first["source_table"]),
        windows=int((part["clip_id"] != "").sum()), samples=int((part["verdict"] == ACCEPTED).sum()),
        ends=tuple((stage, reason, count) for (stage, reason), count in ends.items()),
    )  # fmt: skip


def licence_counts(journey: pd.DataFrame, tables: Tables) -> tuple[LicenceCount, ...]:
    """Samples by the licence of their video, of their depth and of their tracks; doubts first named by `doubt`."""
    samples = journey[journey["verdict"] == ACCEPTED]
    labels = tables["tracks"].set_index("clip_id").reindex(samples["clip_id"])
    parts = (("video", samples["licence"]), ("depth", labels["depth_licence"]), ("tracks", labels["licence"]))
    return tuple(
        LicenceCount(what, licence, count, doubt(licence))
        for what, texts in parts
        for licence, count in Counter(texts.fillna("").astype(str).tolist()).most_common()
    )


def doubt(licence: str) -> str:
    """Why a licence's words do not allow commercial use, as far as words tell; "" where nothing speaks against it."""
    if _UNKNOWN.match(licence):
        return "no licence is stated"
    return "not for commercial use" if _NOT_COMMERCIAL.search(licence) else ""
