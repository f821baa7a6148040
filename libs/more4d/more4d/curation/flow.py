"""Dense optical flow (OpenCV's DIS) between frames, and the shift of the picture's border.

Suffixes: H height, W width.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

_LONG_SIDE = 288
_SMOOTHNESS = 20.0
"""The preset's own."""
_BORDER = 0.12
"""Width of the border as a share of the side."""
_MIN_SLOPE = 2.0
"""Of the brightness, in levels of 255 a pixel."""
_MIN_TEXTURED = 0.1
_STILL_SHARE = 0.2


class DenseFlow:
    """DIS flow between two frames; small frames are enlarged first, as its patches are 8 pixels wide.

    `smoothness` is the weight of smoothness in its refinement.
    """

    def __init__(self, long_side: int = _LONG_SIDE, *, smoothness: float = _SMOOTHNESS) -> None:
        self._long_side = long_side
        self._dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
        self._dis.setVariationalRefinementAlpha(smoothness)

    def __call__(self, before: NDArray[np.uint8], after: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Flow float32 [H, W, 2] in pixels (right, down) from frame `before` to `after`, both uint8 [H, W, 3] RGB."""
        height, width = before.shape[:2]
        scale = self._long_side / max(height, width)
        size = (round(width * scale), round(height * scale))
        flow = self._dis.calc(_grey(before, size), _grey(after, size), np.zeros((*size[::-1], 2), np.float32))
        back = cv2.resize(flow, (width, height), interpolation=cv2.INTER_AREA if scale > 1 else cv2.INTER_LINEAR)
        return (back * np.array([width / size[0], height / size[1]], np.float32)).astype(np.float32)


def _grey(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return np.asarray(cv2.resize(grey, size, interpolation=cv2.INTER_CUBIC), np.uint8)


def border_shift(before: NDArray[np.uint8], flow: NDArray[np.float32]) -> NDArray[np.float32]:
    """How a moving camera shifts the picture, [2] in pixels (right, down): the median flow of its textured border.

    A camera that moves carries all of the border, a subject seldom most of it: 0 where a fifth of the border moves
    less than half as far. Flow on a plain surface says nothing.
    """
    border = flow[_textured_border(before)]
    lengths = np.linalg.norm(border, axis=-1)
    if not len(border) or np.quantile(lengths, _STILL_SHARE) < 0.5 * np.median(lengths):
        return np.zeros(2, np.float32)
    return np.median(border, axis=0)


def _textured_border(image: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """[H, W], True near the border where the brightness has a slope; the whole border where too little of it has."""
    height, width = image.shape[:2]
    margin_y, margin_x = max(1, int(_BORDER * height)), max(1, int(_BORDER * width))
    border = np.ones((height, width), bool)
    border[margin_y:-margin_y, margin_x:-margin_x] = False
    grey = cv2.GaussianBlur(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32), (0, 0), 1.0)
    slope = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1)) / 8
    textured = border & (slope > _MIN_SLOPE)
    return textured if textured.sum() >= _MIN_TEXTURED * border.sum() else border
