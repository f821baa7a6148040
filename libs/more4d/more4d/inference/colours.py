"""Colours in which equal distances look equally different."""

import cv2
import numpy as np
from numpy.typing import NDArray


def lab(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """CIE L*a*b* [H,W,3] of an RGB picture uint8 [H,W,3]: L in 0..100."""
    return np.asarray(cv2.cvtColor(np.asarray(image, np.float32) / 255, cv2.COLOR_RGB2LAB), np.float32)
