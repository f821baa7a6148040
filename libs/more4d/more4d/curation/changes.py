"""What has changed in a picture by more than its noise: flow alone finds motion in the noise of a still clip.

Suffixes: T frames, H height, W width.
"""

from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from more4d.curation.camera import Homography

_PATCH = (5, 5)
_MIN_CHANGE = 2.0
"""Levels of 255: what compression and rounding change."""
_NOISE_FACTOR = 3.0
"""Of the variance that noise gives a difference: in one patch of a hundred it is more, in a clip's worst frame."""
_IMMERKAER = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32) / 6
"""Blind to surfaces and straight edges; noise keeps its standard deviation (Immerkaer 1996)."""
_TO_SIGMA = 1.4826
"""A median of absolute values into a standard deviation."""

Grey = NDArray[np.float32]


class ChangeSince:
    """Compares each frame with the first, carried along with the camera and as bright as the frame."""

    def __init__(self, first: NDArray[np.uint8], noise: float) -> None:
        self._first = _grey(first)
        self._limit = max(_MIN_CHANGE**2, _NOISE_FACTOR * 2 * noise**2)

    def __call__(self, image: NDArray[np.uint8], since_first: Homography) -> NDArray[np.bool_]:
        """[H, W], True where the patch around a pixel differs from the first frame by more than noise does."""
        height, width = self._first.shape
        before = cv2.warpPerspective(self._first, since_first, (width, height), borderMode=cv2.BORDER_REPLICATE)
        now = _grey(image)
        gain = float(np.median((now + 1) / (before + 1)))
        return cv2.blur((now - gain * before) ** 2, _PATCH) > self._limit


def measure_noise(frames: NDArray[np.uint8]) -> float:
    """The standard deviation of the noise of frames [T, H, W, 3], in levels of 255; motion and texture add little.

    The smaller of two estimates. In time: noise makes one difference of frames the opposite of the next, motion does
    not. In space: what a filter that is blind to surfaces leaves of the first frame; texture is not in all of it.
    """
    residual = cv2.filter2D(_grey(frames[0]), -1, _IMMERKAER, borderType=cv2.BORDER_REFLECT)
    in_space = _TO_SIGMA * float(np.median(np.abs(residual)))
    if len(frames) < 3:
        return in_space
    products = np.zeros(frames.shape[1:3], np.float32)
    steps = (_grey(after) - _grey(before) for before, after in pairwise(frames))
    for step, following in pairwise(steps):
        products -= step * following
    in_time = max(0.0, float(np.median(products)) / (len(frames) - 2)) ** 0.5
    return min(in_space, in_time)


def _grey(image: NDArray[np.uint8]) -> Grey:
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
