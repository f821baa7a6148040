"""What motion can be had without a network: the training set's mean field, and a look-up by the caption's words.

Shape letters: T frames, H height, W width.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from more4d.evaluation.trajectories import Truth
from more4d.geometry.motion import motion_from_points, points_from_motion

Floats = NDArray[np.float32]

DIRECTIONS = {
    "to the left": "left",
    "to the right": "right",
    "towards the camera": "towards",
    "away from the camera": "away",
}
_SUBJECT = re.compile(r"\b(fox|ball|box)\b")

Key = tuple[str, str]
"""What a caption's first clause names, and where it goes; "" where it says neither."""


@dataclass(frozen=True)
class Clip:
    """A labeled clip as far as the baselines need it: caption, points [T,H,W,3], visibility [T,H,W], intrinsics [3,3]."""

    caption: str
    points: Floats
    visibility: NDArray[np.bool_]
    intrinsics: Floats

    @property
    def truth(self) -> Truth:
        return Truth(self.points, self.visibility)


@dataclass(frozen=True)
class MotionStatistics:
    """Means over a training set, in eq. 1's units: shares of the viewing frustum at the first-frame depth."""

    field: Floats
    """[3,T,H,W] the mean over clips of each pixel's motion, moving or not."""
    by_caption: dict[Key, Floats]
    """[3,T] the mean over moving pixels of all clips whose caption has this key."""
    overall: Floats
    """[3,T] the mean over all moving pixels: for keys that never occurred."""


def caption_key(caption: str) -> Key:
    """What the caption's first clause says moves, and its direction."""
    clause = caption.lower().split(" and ")[0]
    subject = _SUBJECT.search(clause)
    direction = next((name for words, name in DIRECTIONS.items() if words in clause), "")
    return (subject.group() if subject else "", direction)


def gather_statistics(clips: Iterable[Clip]) -> MotionStatistics:
    """The means over `clips`. A position that is unknown counts as not moving. Raises ValueError where there is none."""
    field, clips_seen = np.zeros(()), 0
    sums: dict[Key, NDArray[np.float64]] = {}
    counts: dict[Key, int] = {}
    for clip in clips:
        motion, truth, key = _motion(clip), clip.truth, caption_key(clip.caption)
        field, clips_seen = field + motion.astype(np.float64), clips_seen + 1
        moving = truth.moving & truth.counted[0]
        sums[key] = sums.get(key, 0) + motion[:, :, moving].sum(-1, dtype=np.float64)
        counts[key] = counts.get(key, 0) + int(moving.sum())
    if not clips_seen:
        raise ValueError("no training clip to take the mean motion of")
    total = max(sum(counts.values()), 1)
    return MotionStatistics(
        field=(field / clips_seen).astype(np.float32),
        by_caption={key: (sums[key] / counts[key]).astype(np.float32) for key in sums if counts[key]},
        overall=(np.sum(list(sums.values()), axis=0) / total).astype(np.float32),
    )


def mean_motion(statistics: MotionStatistics, clip: Clip) -> Floats:
    """Points [T,H,W,3] when every pixel moves as that pixel does on average over the training set."""
    return _moved(statistics.field, clip)


def caption_lookup(statistics: MotionStatistics, clip: Clip) -> Floats:
    """Points [T,H,W,3] when every truly moving pixel moves as the mean of its caption's key, and the others do not.

    It knows the true mask, which no model does: a bar, not a rival.
    """
    motion = statistics.by_caption.get(caption_key(clip.caption), statistics.overall)
    return _moved(motion[:, :, None, None] * clip.truth.moving, clip)


def _motion(clip: Clip) -> Floats:
    points = torch.from_numpy(np.nan_to_num(clip.points, nan=0.0))
    known = np.asarray(np.isfinite(clip.points).all(-1))
    motion, _ = motion_from_points(points, torch.from_numpy(clip.intrinsics))
    return np.where(known & known[0], motion.numpy(), 0).astype(np.float32)


def _moved(motion: Floats, clip: Clip) -> Floats:
    # Pixels without a point stay without one.
    arguments = (motion.astype(np.float32), clip.points[0], clip.intrinsics)
    return points_from_motion(*(torch.from_numpy(np.ascontiguousarray(a)) for a in arguments)).numpy()
