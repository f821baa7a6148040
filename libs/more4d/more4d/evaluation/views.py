"""Novel views against rendered truth, beside OpenCV's inpainting of the same render.

Shape letters: T frames, H height, W width.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from more4d.evaluation.pooling import Interval, bootstrap
from more4d.geometry.errors import Mask, Video, psnr, squared_error

TELEA_RADIUS = 3.0


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


def view_sums(completed: Video, truth: Video, render: Video, covered: Mask) -> dict[str, float]:
    """Squared errors of the completed view and of Telea's inpainting, over all pixels and inside holes, with counts."""
    ours, classic, holes = compose(render, covered, completed), telea(render, covered), ~covered
    sums: dict[str, float] = {}
    for region, mask in (("view", None), ("hole", holes)):
        sums[f"{region}_squared_error"], count = squared_error(ours, truth, mask)
        sums[f"{region}_telea_squared_error"], _ = squared_error(classic, truth, mask)
        sums[f"{region}_values"] = count
    return sums


def psnr_interval(squared_errors: NDArray[np.float64], values: NDArray[np.float64], *, seed: int = 0) -> Interval:
    """PSNR of the error pooled over all pixels of all views [S], and its interval over views."""
    return bootstrap(np.stack([squared_errors, values], axis=-1), _psnr_of_columns, seed=seed)


def _psnr_of_columns(values: NDArray[np.float64]) -> float:
    return psnr(float(values[:, 0].sum()), float(values[:, 1].sum()))
