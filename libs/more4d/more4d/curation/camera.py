"""What the camera did between two frames: one homography for the whole picture, against what moves by itself.

Suffixes: N points, H height, W width.
"""

import cv2
import numpy as np
from numpy.typing import NDArray

from more4d.curation.flow import camera_shift

_LONG_SIDE = 288
_MAX_CORNERS = 400
_MIN_CORNERS = 12
_TOLERANCE = 1.0
"""Pixels, at the long side above."""
_CELLS = (4, 6)
_MIN_CELLS = 4
"""Of the picture's border: fewer that agree are a subject, not the camera."""

Points = NDArray[np.float32]
Homography = NDArray[np.float64]


def camera_homography(before: NDArray[np.uint8], after: NDArray[np.uint8], flow: NDArray[np.float32]) -> Homography:
    """The homography [3, 3], in pixels, that the camera's motion from `before` to `after` (uint8 [H, W, 3]) works.

    Corners are tracked there and back, RANSAC finds the motion that most of them share; the identity is preferred
    where it explains as much of the picture's border. Where too few corners can be followed (a fast or blurred pan, a
    plain surface) the dense `flow` [H, W, 2] of the border gives a shift. The same frames give the same answer.
    """
    height, width = before.shape[:2]
    scale = _LONG_SIDE / max(height, width)
    starts, ends = _tracked_corners(_grey(before, scale), _grey(after, scale))
    if len(starts) < _MIN_CORNERS:
        return _shift(before, flow)
    found, _ = cv2.findHomography(starts, ends, cv2.RANSAC, _TOLERANCE)
    size = (height * scale, width * scale)
    still = _agreeing_cells(starts, ends, np.eye(3), size)
    moving = 0 if found is None else _agreeing_cells(starts, ends, found, size)
    if max(still, moving) < _MIN_CELLS:
        return _shift(before, flow)
    if still >= moving or found is None:
        return np.eye(3)
    resize = np.diag([scale, scale, 1.0])
    return np.linalg.inv(resize) @ found @ resize


def carried(points_N2: Points, homography: Homography) -> Points:
    """Where a homography [3, 3] puts points [..., 2] of the picture, in pixels."""
    flat = points_N2.reshape(-1, 1, 2).astype(np.float64)
    return cv2.perspectiveTransform(flat, homography).reshape(points_N2.shape).astype(np.float32)


def pixel_grid(height: int, width: int) -> Points:
    """x and y of each pixel, [H, W, 2]."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)


def _grey(image: NDArray[np.uint8], scale: float) -> NDArray[np.uint8]:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    size = (round(grey.shape[1] * scale), round(grey.shape[0] * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(grey, size, interpolation=how), np.uint8)


def _tracked_corners(before: NDArray[np.uint8], after: NDArray[np.uint8]) -> tuple[Points, Points]:
    """Corners [N, 2] of `before` and where they are in `after`; those that do not come back are left out."""
    corners = cv2.goodFeaturesToTrack(before, _MAX_CORNERS, qualityLevel=0.01, minDistance=_LONG_SIDE / 40)
    if corners is None:
        return np.zeros((0, 2), np.float32), np.zeros((0, 2), np.float32)
    there, seen, _ = cv2.calcOpticalFlowPyrLK(before, after, corners, np.zeros_like(corners))
    back, returned, _ = cv2.calcOpticalFlowPyrLK(after, before, there, np.zeros_like(corners))
    kept = (seen & returned).astype(bool).ravel()
    kept &= np.linalg.norm((back - corners).reshape(-1, 2), axis=1) < _TOLERANCE
    return corners.reshape(-1, 2)[kept], there.reshape(-1, 2)[kept]


def _agreeing_cells(starts: Points, ends: Points, motion: Homography, size: tuple[float, float]) -> int:
    """Of the cells along the picture's border that hold corners, those where half of the corners move so."""
    agrees = np.linalg.norm(carried(starts, motion) - ends, axis=1) < _TOLERANCE
    rows = np.clip((starts[:, 1] / size[0] * _CELLS[0]).astype(int), 0, _CELLS[0] - 1)
    columns = np.clip((starts[:, 0] / size[1] * _CELLS[1]).astype(int), 0, _CELLS[1] - 1)
    border = (rows % (_CELLS[0] - 1) == 0) | (columns % (_CELLS[1] - 1) == 0)
    cell = (rows * _CELLS[1] + columns)[border]
    total = np.bincount(cell, minlength=_CELLS[0] * _CELLS[1])
    agreeing = np.bincount(cell, agrees[border], minlength=len(total))
    return int(((total > 0) & (agreeing >= 0.5 * total)).sum())


def _shift(before: NDArray[np.uint8], flow: NDArray[np.float32]) -> Homography:
    _, residual = camera_shift(before, flow)
    moved = np.eye(3)
    moved[:2, 2] = (flow - residual)[0, 0]
    return moved
