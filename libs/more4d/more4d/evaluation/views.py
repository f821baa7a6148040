"""Novel views against rendered truth, beside OpenCV's inpainting of the same render.

Shape letters: T frames, H height, W width.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from more4d.evaluation.pooling import Interval, bootstrap

Video = NDArray[np.uint8]
Mask = NDArray[np.bool_]

TELEA_RADIUS = 3.0
PEAK = 255.0


def telea(render: Video, covered: Mask) -> Video:
    """`render` [T,H,W,3] with its holes (not `covered` [T,H,W]) filled frame by frame by OpenCV's Telea inpainting."""
    holes = (~covered).astype(np.uint8)
    frames = [
        cv2.inpaint(np.ascontiguousarray(image), hole, TELEA_RADIUS, cv2.INPAINT_TELEA)
        for image, hole in zip(render, holes, strict=True)
    ]
    return np.stack([np.asarray(frame, np.uint8) for frame in frames])


def compose(render: Video, covered: Mask, completed: Video) -> Video:
    """`completed` in the holes, `render` elsewhere, all [T,H,W,3]."""
    return np.where(covered[..., None], render, completed)


def squared_error(video: Video, truth: Video, region: Mask | None = None) -> tuple[float, int]:
    """Sum of squared differences of 8-bit values over `region` [T,H,W] (all without one), and of how many values."""
    if video.shape != truth.shape:
        raise ValueError(f"the video is {list(video.shape)}, its truth {list(truth.shape)}")
    difference = video.astype(np.float64) - truth
    chosen = difference if region is None else difference[region]
    return float(np.square(chosen).sum()), int(chosen.size)


def view_sums(completed: Video, truth: Video, render: Video, covered: Mask) -> dict[str, float]:
    """Squared errors of the completed view and of Telea's inpainting, over all pixels and inside holes, with counts."""
    ours, classic, holes = compose(render, covered, completed), telea(render, covered), ~covered
    sums: dict[str, float] = {}
    for region, mask in (("view", None), ("hole", holes)):
        sums[f"{region}_squared_error"], count = squared_error(ours, truth, mask)
        sums[f"{region}_telea_squared_error"], _ = squared_error(classic, truth, mask)
        sums[f"{region}_values"] = count
    return sums


def psnr(squared_error_sum: float, values: float) -> float:
    """Peak signal-to-noise ratio in dB of a summed squared error over so many 8-bit values; NaN over none."""
    if not values:
        return float("nan")
    return float(10 * np.log10(PEAK**2 / max(squared_error_sum / values, 1e-10)))


def psnr_interval(squared_errors: NDArray[np.float64], values: NDArray[np.float64], *, seed: int = 0) -> Interval:
    """PSNR of the error pooled over all pixels of all views [S], and its interval over views."""
    return bootstrap(np.stack([squared_errors, values], axis=-1), _psnr_of_columns, seed=seed)


def _psnr_of_columns(values: NDArray[np.float64]) -> float:
    return psnr(float(values[:, 0].sum()), float(values[:, 1].sum()))
