"""Monocular depth on real photos with true disparity: the Middlebury pairs that come with installed packages."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import from_numpy

from more4d.geometry.cameras import move_intrinsics
from more4d.geometry.images import fit_image, load_image
from more4d.inference.files import fit_depth
from more4d.models.bundle import Models

Floats = NDArray[np.float32]
OPENCV_SAMPLES = Path("/usr/share/doc/opencv-doc/examples/data")
"""Where Debian's opencv-doc puts the Aloe pair."""


@dataclass(frozen=True)
class StereoTruth:
    """A photo uint8 [H,W,3], its true inverse depth [H,W] up to scale and shift (NaN unknown), intrinsics where known."""

    name: str
    image: NDArray[np.uint8]
    inverse_depth: Floats
    intrinsics: Floats | None


def stereo_truths(opencv_samples: Path | None = OPENCV_SAMPLES) -> Iterator[StereoTruth]:
    """Motorcycle (scikit-image), and Aloe where OpenCV's sample data are in that folder; None leaves it out."""
    from skimage.data import stereo_motorcycle

    left, _, disparity = stereo_motorcycle()
    camera = np.array([[994.978, 0, 311.193], [0, 994.978, 254.877], [0, 0, 1]], np.float32)
    known = np.where(np.isfinite(disparity), disparity + 31.086, np.nan).astype(np.float32)
    yield StereoTruth("motorcycle", left, known, camera)
    if opencv_samples is not None and (opencv_samples / "aloeGT.png").is_file():
        codes = cv2.imread(str(opencv_samples / "aloeGT.png"), cv2.IMREAD_GRAYSCALE)
        assert codes is not None
        known = np.where(codes > 0, codes.astype(np.float32), np.nan).astype(np.float32)
        yield StereoTruth("aloe", load_image(opencv_samples / "aloeL.jpg"), known, None)


@torch.no_grad()
def stereo_figures(models: Models, truths: Iterator[StereoTruth]) -> dict[str, float]:
    """For each pair: `stereo_<name>_error`, `_plane_error` and `_correlation` of inverse depth, from one photo alone.

    The prediction gets the scale and shift that fit best (least squares), as a single photo of an unknown camera cannot
    tell them; the error is the mean absolute difference as a share of the mean true inverse depth, the plane's is that of
    the best constant (the median).
    """
    figures: dict[str, float] = {}
    size = models.config.generation.height, models.config.generation.width
    for truth in truths:
        image, crop = fit_image(truth.image, *size)
        camera = None if truth.intrinsics is None else move_intrinsics(from_numpy(truth.intrinsics), crop)[None]
        predicted = models.depth.infer(from_numpy(image).permute(2, 0, 1)[None], camera).depth[0].double().numpy()
        true = fit_depth(np.nan_to_num(truth.inverse_depth), truth.image.shape[:2], crop.box, size)
        known = true > 0
        figures |= _compare(truth.name, 1 / predicted[known], true[known].astype(np.float64))
    return figures


def _compare(name: str, predicted: NDArray[np.float64], true: NDArray[np.float64]) -> dict[str, float]:
    design = np.stack([predicted, np.ones_like(predicted)], axis=-1)
    fitted = design @ np.linalg.lstsq(design, true, rcond=None)[0]
    return {
        f"stereo_{name}_error": float(np.abs(fitted - true).mean() / true.mean()),
        f"stereo_{name}_plane_error": float(np.abs(np.median(true) - true).mean() / true.mean()),
        f"stereo_{name}_correlation": float(np.corrcoef(predicted, true)[0, 1]),
    }
