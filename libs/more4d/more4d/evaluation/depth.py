"""First-frame depth against truth, beside the best constant plane."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


def depth_sums(predicted: Floats, truth: Floats) -> dict[str, float]:
    """Sums over the valid pixels of one picture, both depths [H,W] in metres.

    depth_log_error: |log predicted - log true|; depth_scaled_log_error: the same after the prediction's median is set to the
    truth's; depth_plane_log_error: of the constant depth that is best for this picture (its true median, which the network
    is not told); depth_relative_error: |predicted - true| / true; depth_pixels. Raises ValueError on a prediction that is
    not positive.
    """
    valid = np.isfinite(truth) & (truth > 0)
    if predicted.shape != truth.shape or not (predicted[valid] > 0).all():
        raise ValueError(
            f"a predicted depth {list(predicted.shape)} must be positive wherever {list(truth.shape)} is known"
        )
    ours, true = predicted[valid].astype(np.float64), truth[valid].astype(np.float64)
    difference = np.log(ours) - np.log(true)
    return {
        "depth_log_error": float(np.abs(difference).sum()),
        "depth_scaled_log_error": float(np.abs(difference - np.median(difference)).sum()),
        "depth_plane_log_error": float(np.abs(np.log(true) - np.median(np.log(true))).sum()),
        "depth_relative_error": float((np.abs(ours - true) / true).sum()),
        "depth_pixels": float(valid.sum()),
    }


@dataclass(frozen=True)
class DepthScores:
    """The field's measures of one depth map, over the pixels where the truth is known (Eigen et al. 2014)."""

    abs_rel: float
    """The mean of |predicted - true| / true."""
    delta1: float
    """The share of pixels with max(predicted / true, true / predicted) < 1.25."""
    log_error: float
    """The mean of |log predicted - log true|, natural logarithms."""


def depth_scores(predicted: Floats, truth: Floats) -> DepthScores:
    """Measures of a depth map [H,W] in metres as it is: no scale is fitted.

    Raises ValueError on a prediction that is not positive, or a truth that is known nowhere.
    """
    valid = np.isfinite(truth) & (truth > 0)
    if not valid.any():
        raise ValueError(f"none of {truth.size} true depths is finite and positive")
    sums, pixels = depth_sums(predicted, truth), float(valid.sum())
    ratio = predicted[valid].astype(np.float64) / truth[valid]
    near = float((np.maximum(ratio, 1 / ratio) < 1.25).mean())
    return DepthScores(sums["depth_relative_error"] / pixels, near, sums["depth_log_error"] / pixels)


def constant_depth(truth: Floats) -> Floats:
    """The constant depth [H,W] with the smallest log error for this picture: the truth's median, which no model is told."""
    valid = np.isfinite(truth) & (truth > 0)
    return np.full(truth.shape, np.median(truth[valid]), np.float32)
