"""What an engineer must know before training: leaks between train and val, lost clips, licences, how much moves."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from more4d.data.tables import DISTRACTOR_PASSED
from more4d.report.curated.journey import LOST
from more4d.report.curated.scores import limit
from more4d.report.curated.sources import LicenceCount
from more4d.report.curated.tables import Tables, accepted_rows, by_clip, column, rows_where, text_of, values_of

_STILL = 0.01
"""A sample of which less than this share of the points moves teaches little motion."""
_HASH_DIGITS = 48
_NAMED = 5


@dataclass(frozen=True)
class Finding:
    """A sentence with what it rests on; `level` says whether it must be mended, weighed, or only known."""

    level: Literal["problem", "warning", "fine"]
    sentence: str


def findings(
    journey: pd.DataFrame, tables: Tables, settings: Mapping[str, Any], stored: Mapping[str, int],
    licences: tuple[LicenceCount, ...],
) -> tuple[Finding, ...]:  # fmt: skip
    """All of them, problems first. `stored` is the number of samples that the manifest names, by split."""
    samples = accepted_rows(journey)
    found = [
        _lost(journey), _stored(samples, stored), _splits(samples), _shared_videos(samples, tables),
        _look_alike(samples, tables, limit(settings, "clips.max_duplicate_distance") or 0.0),
        _same_captions(samples, tables), _licences(licences), _still(samples, tables), *_distractors(journey),
    ]  # fmt: skip
    order = ("problem", "warning", "fine")
    return tuple(sorted(found, key=lambda item: order.index(item.level)))


def _lost(journey: pd.DataFrame) -> Finding:
    lost = rows_where(journey, column(journey, "verdict") == LOST)
    if not len(lost):
        return Finding("fine", "Every row and every window has a verdict of each stage that it reached.")
    names = column(lost, "clip_id").where(column(lost, "clip_id") != "", column(lost, "videoid"))
    return Finding("problem", f"{len(lost):,} were lost without a verdict: {_some(names)}")


def _stored(samples: pd.DataFrame, stored: Mapping[str, int]) -> Finding:
    counted = dict(Counter(text_of(samples, "split")))
    held = {split: count for split, count in stored.items() if count}
    if counted == held:
        return Finding("fine", f"The shards hold every accepted sample: {_counts(held)}.")
    return Finding("problem", f"The shards hold {_counts(held)}, the verdicts name {_counts(counted)}.")


def _splits(samples: pd.DataFrame) -> Finding:
    missing = [split for split in ("train", "val") if split not in set(column(samples, "split"))]
    if not missing:
        return Finding("fine", "There are samples to train on and samples held out.")
    return Finding("warning", f"No sample is in {' and none in '.join(missing)}.")


def _shared_videos(samples: pd.DataFrame, tables: Tables) -> Finding:
    """By id, and by the bytes of the file."""
    fetched, videos, split = accepted_rows(tables["source"]), column(samples, "videoid"), column(samples, "split")
    known = dict(zip(*(values_of(column(fetched, name)) for name in ("videoid", "sha256")), strict=True))
    digests = pd.Series([known.get(video) for video in values_of(videos)], videos.index, dtype="str")
    shared: set[str] = set()
    for keys in (videos, digests):
        train, val = (set(values_of(keys.loc[split == name].dropna())) for name in ("train", "val"))
        both = train & val
        shared |= set(videos.loc[keys.isin(both - {""})])
    if not shared:
        return Finding("fine", "No video gives samples to both train and val.")
    return Finding("problem", f"{len(shared):,} videos give samples to both train and val: {_some(sorted(shared))}")


def _look_alike(samples: pd.DataFrame, tables: Tables, distance: float) -> Finding:
    hashes = text_of(by_clip(tables["clips"], column(samples, "clip_id")), "perceptual_hash")
    split = column(samples, "split").set_axis(hashes.index)
    known = hashes.str.len() == _HASH_DIGITS
    train, val = (_bits(hashes.loc[known & (split == name)]) for name in ("train", "val"))
    near = [i for i, bits in enumerate(val.T) if train.size and _nearest(train, bits) <= distance]
    what = f"look like one of train (at most {distance:g} of the bits of their perceptual hashes differ)"
    if not near:
        return Finding("fine", f"None of {val.shape[1]:,} val samples {what.replace('look', 'looks', 1)}.")
    names = hashes.loc[known & (split == "val")].index[near].tolist()
    return Finding("problem", f"{len(near):,} of {val.shape[1]:,} val samples {what}: {_some(names)}")


def _bits(digits: pd.Series) -> NDArray[np.uint64]:
    """[3, N] words of 64 bits."""
    words = [[int(text[i : i + 16], 16) for text in values_of(digits)] for i in range(0, _HASH_DIGITS, 16)]
    return np.array(words, np.uint64).reshape(_HASH_DIGITS // 16, -1)


def _nearest(hashes: NDArray[np.uint64], wanted: NDArray[np.uint64]) -> float:
    """The smallest share of bits in which one of the hashes [3, N] differs from the wanted one."""
    return float(np.bitwise_count(hashes ^ wanted[:, None]).sum(0, dtype=np.uint8).min()) / (4 * _HASH_DIGITS)


def _same_captions(samples: pd.DataFrame, tables: Tables) -> Finding:
    captions = text_of(by_clip(tables["captions"], column(samples, "clip_id")), "caption")
    split = column(samples, "split").set_axis(captions.index)
    train, val = captions.loc[split == "train"], captions.loc[split == "val"]
    seen = set(values_of(train))
    shared = sum(text in seen for text in values_of(val))
    distinct = f"{captions.nunique():,} different captions for {len(captions):,} samples"
    if not shared:
        return Finding("fine", f"{distinct}; no caption of val is one of train.")
    return Finding("warning", f"{distinct}; {shared:,} of {len(val):,} val samples have a caption that train has too.")


def _licences(licences: tuple[LicenceCount, ...]) -> Finding:
    doubtful = [item for item in licences if item.doubt]
    if not doubtful:
        return Finding("fine", "No licence of a video or of a label speaks against commercial use.")
    parts = [f"{item.samples:,} samples' {item.what}: {item.licence or 'none'} ({item.doubt})" for item in doubtful]
    return Finding("warning", "Licences to look at before commercial use: " + "; ".join(parts))


def _still(samples: pd.DataFrame, tables: Tables) -> Finding:
    if "moving_share" not in tables["tracks"].columns:
        return Finding("warning", "The tracks' table does not say which share of the points moves.")
    labels = by_clip(tables["tracks"], column(samples, "clip_id"))
    moving = column(labels, "moving_share").dropna().astype(float)
    still = int((moving < _STILL).sum())
    words = f"On average {moving.mean():.1%} of a sample's points move (median {moving.median():.1%})"
    if not len(moving):
        return Finding("warning", "No sample has a measured share of moving points.")
    if not still:
        return Finding("fine", f"{words}; in every sample at least {_STILL:.0%}.")
    return Finding("warning", f"{words}; in {still:,} samples fewer than {_STILL:.0%}.")


def _distractors(journey: pd.DataFrame) -> list[Finding]:
    """Whether all that was rendered in order to be refused was refused; nothing where there is none of it."""
    if "distractor" not in journey.columns:
        return []
    made = rows_where(journey, text_of(journey, "distractor") != "")
    passed = rows_where(made, text_of(made, "reason") == DISTRACTOR_PASSED)
    videos, slipped = column(made, "videoid").nunique(), column(passed, "videoid").nunique()
    if not videos:
        return []
    if not slipped:
        return [Finding("fine", f"Each of {videos:,} distractors was refused for what it is.")]
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(Counter(text_of(passed, "distractor")).items()))
    return [
        Finding(
            "warning",
            f"{slipped:,} of {videos:,} distractors passed every filter ({kinds}); the last stage refused them by name.",
        )
    ]


def _counts(samples: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} in {split}" for split, count in sorted(samples.items())) or "no sample"


def _some(names: Any) -> str:  # noqa: ANN401 - a list or a column
    shown = [str(name) for name in list(names)[:_NAMED]]
    return ", ".join(shown) + (f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else "")
