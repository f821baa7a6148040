"""First-frame depth against truth, beside the best constant plane."""

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
