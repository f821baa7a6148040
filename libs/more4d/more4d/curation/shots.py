"""Shot boundaries by colour histograms: simple, weight-free, under its own name.

Suffixes: H height, W width.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

DETECTOR = "hsv-histogram"
_BINS = (16, 4, 4)


class ShotDetector:
    """Finds cuts in frames that come one by one: a jump in the colours that is also a jump in the layout.

    `score` of a frame is the smaller of two distances to the frame before, both in 0..1: the total variation of the
    HSV histograms, and one minus the correlation of grey thumbnails. A moving subject hardly changes the first, a
    change of exposure not the second; a cut changes both.
    """

    def __init__(self, threshold: float) -> None:
        self._threshold = threshold
        self._before: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None

    def score(self, image: NDArray[np.uint8]) -> float:
        """The score of a frame uint8 [H, W, 3] RGB; 0 for the first."""
        small = np.asarray(cv2.resize(image, (48, 32), interpolation=cv2.INTER_AREA), np.uint8)
        now = _histogram(small), _layout(small)
        before, self._before = self._before, now
        if before is None:
            return 0.0
        colours = 0.5 * float(np.abs(now[0] - before[0]).sum())
        layout = 1 - float((now[1] * before[1]).sum())
        return min(colours, max(0.0, min(1.0, layout)))

    def is_cut(self, score: float) -> bool:
        """Whether a frame with this score begins a new shot."""
        return score >= self._threshold


def _histogram(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
    counts = cv2.calcHist([hsv], [0, 1, 2], None, list(_BINS), [0, 180, 0, 256, 0, 256])
    return (counts / counts.sum()).astype(np.float32)


def _layout(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Grey levels with mean 0 and length 1."""
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 1.0)
    centred = grey - grey.mean()
    return (centred / max(float(np.linalg.norm(centred)), 1e-3)).astype(np.float32)
