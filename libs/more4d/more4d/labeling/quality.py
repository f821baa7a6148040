"""The paper's three quality criteria of a sample's tracks (section 3, appendix D), each as a measured value.

Suffixes: T frames, H height, W width, N points.
"""

from dataclasses import dataclass

import numpy as np
import torch
from more4d_kernels import rasterization
from numpy.typing import NDArray
from pydantic import Field, model_validator

from more4d.labeling.tracks import TrackLabel
from more4d.settings import Section

_SIGMA_PX = 0.6
_SMOOTHING = 0.05
"""Variance added to every splat, in pixels squared: far below a pixel, so that a cloud which spreads shows holes."""


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
    max_scale_change: float = Field(gt=0, le=1)
    """See scale_change."""

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
    reasons: tuple[str, ...]


def judge_tracks(tracks: TrackLabel, image: NDArray[np.uint8], limits: QualityThresholds) -> Quality:
    """The three criteria on tracks whose colours are those of the first frame, uint8 [H, W, 3]."""
    anomalous = anomalous_share(tracks.points[..., 2], limits)
    deviation = depth_deviation(tracks.points[..., 2])
    change = scale_change(tracks, image, limits.scale)
    reasons = []
    if not anomalous <= limits.max_anomalous_share:
        reasons.append(f"{anomalous:.2%} of the trajectories have invalid or anomalous depth "
                       f"(above {limits.max_anomalous_share:.2%})")  # fmt: skip
    if not deviation <= limits.max_depth_deviation:
        reasons.append(f"log depth deviates by {deviation:.3f} (above {limits.max_depth_deviation})")
    if not change <= limits.max_scale_change:
        reasons.append(
            f"renders at scale 1 and {limits.scale} differ by {change:.4f} (above {limits.max_scale_change})"
        )
    return Quality(anomalous, deviation, change, tuple(reasons))


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


def scale_change(tracks: TrackLabel, image: NDArray[np.uint8], scale: float) -> float:
    """How differently later frames take a scaling of the cloud about the first camera than the first frame does.

    The picture from that camera should stay the same. Splats keep the size in metres that just closes the first
    frame's surface, and the picture is taken between the pixels, where gaps show: the scaled cloud then changes the
    first frame's picture by an amount that depends on its texture alone. Later frames change it equally as long as
    neighbouring points keep their distances; where depths drift, spread or spike, more or less. The largest
    deviation of the mean absolute change of colour and opacity, 0..1.
    """
    colours = torch.from_numpy(image.reshape(-1, 3).astype(np.float32) / 255)
    sizes = torch.from_numpy(_SIGMA_PX / tracks.intrinsics[0, 0] * tracks.depth0.reshape(-1))
    between = tracks.intrinsics + np.array([[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]], np.float32)
    changes = []
    for points in tracks.points:
        means = torch.from_numpy(points.reshape(-1, 3))
        one, other = (_picture(means * s, sizes, colours, between, image.shape[:2]) for s in (1.0, scale))
        changes.append(float((one - other).abs().mean()))
    return max(abs(change - changes[0]) for change in changes)


def _picture(
    means_N3: torch.Tensor,
    sizes_N: torch.Tensor,
    colours_N3: torch.Tensor,
    intrinsics: NDArray[np.float32],
    size: tuple[int, ...],
) -> torch.Tensor:
    """Colours on black and opacity, [H, W, 4], as the first camera sees the points that are finite and ahead."""
    keep = torch.isfinite(means_N3).all(-1) & (means_N3[:, 2] > 0) & (sizes_N > 0)
    quats = torch.zeros(int(keep.sum()), 4)
    quats[:, 0] = 1
    image, alpha, _ = rasterization(
        means_N3[keep],
        quats,
        sizes_N[keep, None].expand(-1, 3).contiguous(),
        torch.full((len(quats),), 0.99),
        colours_N3[keep],
        torch.eye(4)[None],
        torch.from_numpy(intrinsics)[None],
        size[1],
        size[0],
        eps2d=_SMOOTHING,
    )
    return torch.cat([image[0], alpha[0]], dim=-1)
