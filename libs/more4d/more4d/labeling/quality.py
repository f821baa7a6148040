"""Whether a sample's tracks are fit to train on: the paper's three criteria (section 3, appendix D) and ours.

Suffixes: T frames, H height, W width.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from more4d.labeling.agreement import flow_error, look, unexplained_change
from more4d.labeling.scale_change import scale_change
from more4d.labeling.tracks import TrackLabel
from more4d.settings import Section


class QualityThresholds(Section):
    """When a sample's tracks are refused."""

    min_depth_m: float = Field(gt=0)
    max_depth_m: float = Field(gt=0)
    """A depth outside is anomalous, as is one that is not finite."""
    max_depth_jump: float = Field(gt=1)
    """So is one that changes by more than this factor from one frame to the next."""
    max_anomalous_share: float = Field(ge=0, le=1)
    """Of the trajectories, those anomalous at any time."""
    max_depth_deviation: float = Field(gt=0)
    """Standard deviation of the scene's log depth."""
    scale: float = Field(gt=0)
    """The cloud is rendered at this scale and at 1."""
    max_scale_change: float = Field(gt=0)
    """See scale_change."""
    max_flow_error: float = Field(gt=0, le=2)
    """See agreement.flow_error."""
    max_unexplained_change: float = Field(gt=0, le=1)
    """See agreement.unexplained_change."""

    @model_validator(mode="after")
    def _compares_something(self) -> "QualityThresholds":
        if self.scale == 1:
            raise ValueError("scale=1 compares a picture with itself; use for example 1.25")
        if self.min_depth_m >= self.max_depth_m:
            raise ValueError(f"min_depth_m={self.min_depth_m} leaves nothing below max_depth_m={self.max_depth_m}")
        return self


@dataclass(frozen=True)
class Quality:
    """The measured values, and why they are refused (no reason: they are not)."""

    anomalous_share: float
    depth_deviation: float
    scale_change: float
    flow_error: float
    unexplained_change: float
    reasons: tuple[str, ...]


def judge_tracks(tracks: TrackLabel, video: NDArray[np.uint8], limits: QualityThresholds) -> Quality:
    """All criteria on the tracks of a clip uint8 [T, H, W, 3]. Raises ValueError if it is not of the tracks' size."""
    if tracks.points.shape != video.shape:
        raise ValueError(f"tracks are {tracks.points.shape}, but the clip is {video.shape}; track this very clip")
    found = look(tracks, video)
    quality = Quality(
        anomalous_share(tracks.points[..., 2], limits),
        depth_deviation(tracks.points[..., 2]),
        scale_change(tracks, limits.scale),
        flow_error(found),
        unexplained_change(found),
        (),
    )
    return Quality(**{**vars(quality), "reasons": tuple(_reasons(quality, limits))})


def _reasons(found: Quality, limits: QualityThresholds) -> list[str]:
    """Each value that is above its limit or not a number, with both."""
    checks = [
        (found.anomalous_share, limits.max_anomalous_share,
         "{:.2%} of the trajectories have invalid or anomalous depth (above {:.2%})"),
        (found.depth_deviation, limits.max_depth_deviation, "log depth deviates by {:.3f} (above {})"),
        (found.scale_change, limits.max_scale_change,
         f"scaled by {limits.scale}, renders change by another factor than the first: {{:.3f}} (above {{}})"),
        (found.flow_error, limits.max_flow_error, "tracks move otherwise than the picture: by {:.2f} (above {})"),
        (found.unexplained_change, limits.max_unexplained_change,
         "where {:.1%} of what changes is, tracks see points that stand still (above {:.1%})"),
    ]  # fmt: skip
    return [text.format(value, limit) for value, limit, text in checks if not value <= limit]


def anomalous_share(depth: NDArray[np.float32], limits: QualityThresholds) -> float:
    """The share of the trajectories [T, H, W] whose depth is ever not finite, out of range, or jumps."""
    with np.errstate(invalid="ignore", divide="ignore"):
        good = np.isfinite(depth) & (depth >= limits.min_depth_m) & (depth <= limits.max_depth_m)
        steps = np.abs(np.diff(np.log(np.where(good, depth, 1.0)), axis=0))
    jumps = (steps > np.log(limits.max_depth_jump)).any(0)
    return float((~good.all(0) | jumps).mean())


def depth_deviation(depth: NDArray[np.float32]) -> float:
    """Standard deviation of the log of all positive, finite depths; infinite where there is none.

    Of the logarithm, so that a scene measured in other units deviates as much.
    """
    good = depth[np.isfinite(depth) & (depth > 0)]
    return float(np.log(good).std()) if good.size else float("inf")
