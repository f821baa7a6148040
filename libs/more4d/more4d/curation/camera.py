"""What the camera did: one homography of the whole picture since the first frame, against what moves by itself.

Suffixes: N points, H height, W width.
"""

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray

from more4d.curation.flow import border_shift

_LONG_SIDE = 288
_CORNERS_PER_CELL = 16
_MIN_CORNERS = 12
_MIN_KEPT = 0.4
"""Of a key frame's corners; with fewer the frame before becomes the new key frame."""
_TOLERANCE = 1.0
"""Pixels, at the long side above."""
_CELLS = (4, 6)
_BLUR = 1.5
"""Pixels, at the long side above."""
_SAME_LEVELS = 4
"""Brightness of 255 that noise may change after the blur."""
_OUTSIDE = -1000
"""Brightness of what the first frame does not show: like nothing that it does."""
_MIN_CELLS = 4
"""Of the picture's border: fewer that agree are a subject, not the camera."""

Points = NDArray[np.float32]
Homography = NDArray[np.float64]
Grey = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class _Key:
    """A frame in which corners were found, and the homography that led to it from the first frame."""

    grey: Grey
    corners: Points
    since_first: Homography


class CameraTracker:
    """Follows the camera through frames uint8 [H, W, 3] of one shot; the same frames give the same answers.

    Corners of a key frame are sought in every later frame (there and back), and RANSAC finds the homography that most
    of them share: against a key frame, not the frame before, a slow pan adds up and noise does not. No motion is
    preferred where it explains as much of the picture's border. Where too few corners can be followed (a fast or
    blurred pan, a plain surface) the dense flow of the border gives a shift. What was found is dropped where the pixels
    of the border speak against it: corners of snow or leaves that drift are many, and say nothing of the camera.
    """

    def __init__(self, first: NDArray[np.uint8]) -> None:
        self._before = first
        self._since_first: Homography = np.eye(3)
        self._first = _grey(first)
        self._key = _key_frame(self._first, np.eye(3))
        self._guess = self._key.corners

    def follow(self, image: NDArray[np.uint8], flow: NDArray[np.float32]) -> tuple[Homography, Homography]:
        """Homographies [3, 3], in pixels, that carry (the frame before, the first frame) to `image`.

        `flow` is the dense flow [H, W, 2] from the frame before.
        """
        grey = _grey(image)
        found = self._from_key(grey)
        if found is None:
            self._key = _key_frame(_grey(self._before), self._since_first)
            self._guess = self._key.corners
            found = self._from_key(grey)
        since = _shift(self._before, flow) @ self._since_first if found is None else found
        if _looks_still(self._first, grey, self._resized(since, grey)):
            since = np.eye(3)
        if found is None:
            self._key = _key_frame(grey, since)
            self._guess = self._key.corners
        step = since @ np.linalg.inv(self._since_first)
        self._before, self._since_first = image, since
        return step, since

    def _from_key(self, grey: Grey) -> Homography | None:
        """Since the first frame, through the key frame's corners; None where too few of them are found again."""
        there, kept = _track(self._key.grey, grey, self._key.corners, self._guess)
        if kept.sum() < max(_MIN_CORNERS, _MIN_KEPT * len(kept)):
            return None
        self._guess = np.where(kept[:, None], there, self._guess)
        motion = _common_motion(self._key.corners[kept], there[kept], grey.shape)
        if motion is None:
            return None
        return self._resized(motion, grey, back=True) @ self._key.since_first

    def _resized(self, motion: Homography, grey: Grey, *, back: bool = False) -> Homography:
        """A motion of the video's pixels in those of `grey`; the other way round with `back`."""
        resize = np.diag([grey.shape[1] / self._before.shape[1], grey.shape[0] / self._before.shape[0], 1.0])
        return np.linalg.inv(resize) @ motion @ resize if back else resize @ motion @ np.linalg.inv(resize)


def carried(points_N2: Points, homography: Homography) -> Points:
    """Where a homography [3, 3] puts points [..., 2] of the picture, in pixels."""
    flat = points_N2.reshape(-1, 1, 2).astype(np.float64)
    return cv2.perspectiveTransform(flat, homography).reshape(points_N2.shape).astype(np.float32)


def pixel_grid(height: int, width: int) -> Points:
    """x and y of each pixel, [H, W, 2]."""
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)


def _grey(image: NDArray[np.uint8]) -> Grey:
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    scale = _LONG_SIDE / max(grey.shape)
    size = (round(grey.shape[1] * scale), round(grey.shape[0] * scale))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(grey, size, interpolation=how), np.uint8)


def _key_frame(grey: Grey, since_first: Homography) -> _Key:
    """With corners of every cell of the picture: by strength alone a bold subject would take them all."""
    rows, columns = (np.linspace(0, side, n + 1).astype(int) for side, n in zip(grey.shape, _CELLS, strict=True))
    found = [np.zeros((0, 2), np.float32)]
    for top, bottom in pairwise(rows):
        for left, right in pairwise(columns):
            cell = np.ascontiguousarray(grey[top:bottom, left:right])
            corners = cv2.goodFeaturesToTrack(cell, _CORNERS_PER_CELL, qualityLevel=0.02, minDistance=_LONG_SIDE / 40)
            if corners is not None:
                found.append(corners.reshape(-1, 2) + np.array([left, top], np.float32))
    return _Key(grey, np.concatenate(found), since_first)


def _track(before: Grey, after: Grey, corners_N2: Points, guess_N2: Points) -> tuple[Points, NDArray[np.bool_]]:
    """Where the corners are in `after` [N, 2], near `guess_N2`; [N] False for those that do not lead back."""
    if not len(corners_N2):
        return corners_N2, np.zeros(0, bool)
    there, seen, _ = cv2.calcOpticalFlowPyrLK(before, after, corners_N2, guess_N2.copy(), flags=_FROM_GUESS)
    back, returned, _ = cv2.calcOpticalFlowPyrLK(after, before, there, corners_N2.copy(), flags=_FROM_GUESS)
    near = np.linalg.norm(back - corners_N2, axis=1) < _TOLERANCE
    led_back = np.asarray(seen, bool).ravel() & np.asarray(returned, bool).ravel() & near
    return np.asarray(there, np.float32), led_back


_FROM_GUESS = cv2.OPTFLOW_USE_INITIAL_FLOW


def _common_motion(starts: Points, ends: Points, size: tuple[int, ...]) -> Homography | None:
    """The homography that most of the picture's border follows; None where hardly any of it agrees on one."""
    answer, _ = cv2.findHomography(starts, ends, cv2.RANSAC, _TOLERANCE)
    found = None if answer is None else np.asarray(answer, np.float64)
    still = _agreeing_cells(starts, ends, np.eye(3), size)
    moving = 0 if found is None else _agreeing_cells(starts, ends, found, size)
    if max(still, moving) < _MIN_CELLS:
        return None
    return np.eye(3) if found is None or still >= moving else found


def _looks_still(first: Grey, now: Grey, motion: Homography) -> bool:
    """Whether more of the border's pixels fit the first picture unmoved, and not moved, than the other way round."""
    height, width = first.shape
    before, after = (cv2.GaussianBlur(grey, (0, 0), _BLUR).astype(np.int16) for grey in (first, now))
    moved = cv2.warpPerspective(before, motion, (width, height), borderValue=_OUTSIDE)
    border = np.ones(first.shape, bool)
    rows, columns = (side // cells for side, cells in zip(first.shape, _CELLS, strict=True))
    border[rows:-rows, columns:-columns] = False
    border &= cv2.warpPerspective(np.ones(first.shape, np.uint8), motion, (width, height)) > 0
    fits_still, fits_moved = (np.abs(after - guess) < _SAME_LEVELS for guess in (before, moved))
    return int((border & fits_still & ~fits_moved).sum()) > int((border & fits_moved & ~fits_still).sum())


def _agreeing_cells(starts: Points, ends: Points, motion: Homography, size: tuple[int, ...]) -> int:
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
    moved = np.eye(3)
    moved[:2, 2] = border_shift(before, flow)
    return moved
