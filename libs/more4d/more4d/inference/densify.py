"""From the model's few thousand points to one for every pixel of the photo, with silhouettes that follow the photo.

Averaging across a silhouette would put points between foreground and background, where nothing is. So a pixel first
chooses which of the nearby cells' surfaces it lies on (by colour, nearness and how many cells agree), and only cells of
that surface are averaged.

Shape letters: T frames, h, w the model's rows and columns, s the scale, H = s·h, W = s·w, F features.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import median_filter
from torch import from_numpy

from more4d.geometry.cameras import unproject
from more4d.inference.colours import lab

Floats = NDArray[np.float32]
Index = tuple[NDArray[np.intp], NDArray[np.intp]]

_SPATIAL_CELLS = 0.75
_COLOUR_LAB = 14.0
# Two cells belong to one surface when their depths differ by few percent and they move alike.
_DEPTH_SHARE = 0.06
_MOTION_SHARE = 0.03
_SAME_SURFACE = 4.0
# A tear: over two cells, a climb by this share of the scene's inverse depths, or of the depth in motion.
_TEAR_DEPTH = 0.12
_TEAR_MOTION = 0.05
_TEAR_CELLS = 4
_OFFSETS = [(row, column) for row in (-1, 0, 1) for column in (-1, 0, 1)]


@dataclass(frozen=True)
class _Cells:
    """What a model-sized frame knows, padded by one cell on each side."""

    inverse_depth: Floats
    slope: tuple[Floats, Floats]
    motion: Floats
    """[T,h,w,3] displacement as a share of the first-frame depth."""
    colour: Floats
    valid: NDArray[np.bool_]


def densify(points: Floats, photo: NDArray[np.uint8], intrinsics: Floats) -> Floats:
    """Points [T,H,W,3] (metres) of every pixel of `photo` uint8 [H,W,3], from the model's points [T,h,w,3].

    H and W are the same whole multiple of h and w; `intrinsics` [3,3] are the photo's. NaN where the pixel's cell has
    none. Raises ValueError where the sizes do not fit.
    """
    frames, rows, columns = points.shape[:3]
    scale = photo.shape[0] // rows
    if scale < 1 or photo.shape != (rows * scale, columns * scale, 3):
        raise ValueError(f"photo {photo.shape} is no whole multiple of the points' {rows}x{columns}")
    cells = _cells(points, photo, scale)
    weights = _surface_weights(cells, lab(photo), scale)
    inverse_depth = np.zeros(photo.shape[:2], np.float32)
    motion = np.zeros((frames, *photo.shape[:2], 3), np.float32)
    for weight, (window, along_y, along_x) in zip(weights, _neighbours(scale, rows, columns), strict=True):
        inverse_depth += weight * _extrapolated(cells, window, along_y, along_x, scale)
        for frame in range(1, frames):
            motion[frame] += weight[..., None] * _spread(cells.motion[frame][window], scale)
    inside = _spread(cells.valid[1:-1, 1:-1], scale)
    total = np.where(inside, weights.sum(0), 0)
    with np.errstate(invalid="ignore", divide="ignore"):
        depth = np.where(total > 0, total / inverse_depth, np.nan).astype(np.float32)
        motion = motion / total[..., None] * depth[..., None]
    first = unproject(from_numpy(depth), from_numpy(intrinsics.astype(np.float32))).numpy()
    return np.asarray(first + motion, np.float32)


def _cells(points: Floats, photo: NDArray[np.uint8], scale: int) -> _Cells:
    rows, columns = points.shape[1:3]
    valid = np.isfinite(points).all((0, -1)) & (points[0, ..., 2] > 0)
    depth = np.where(valid, points[0, ..., 2], 1.0)
    motion = np.where(valid[..., None], (points - points[0]) / depth[..., None], 0).astype(np.float32)
    small = np.asarray(cv2.resize(photo, (columns, rows), interpolation=cv2.INTER_AREA), np.uint8)
    colour, inverse = lab(small), (1 / depth).astype(np.float32)
    donors = _donors(inverse, motion, colour, valid)
    inverse = inverse[donors]
    return _Cells(
        inverse_depth=_pad(inverse),
        slope=(_pad(_limited_slope(inverse, 0)), _pad(_limited_slope(inverse, 1))),
        motion=np.stack([_pad(frame[donors]) for frame in motion]),
        colour=_pad(colour[donors]),
        valid=np.pad(valid, 1),
    )


def _donors(inverse: Floats, motion: Floats, colour: Floats, valid: NDArray[np.bool_]) -> Index:
    """For each cell whose values to take: its own, or, on a tear, those of the side that it resembles.

    A network blurs the step from one surface to the next over a few cells: depths and motions between both sides, on
    neither. Such cells are filled anew from the cells around them, the nearest in colour and value first.
    """
    low, high = np.quantile(inverse[valid], (0.02, 0.98)) if valid.any() else (0.0, 1.0)
    value = np.concatenate([inverse[..., None] / max(high - low, 1e-6) / _TEAR_DEPTH, motion[-1] / _TEAR_MOTION], -1)
    settled = valid & ~_torn(value)
    rows, columns = np.asarray(np.indices(inverse.shape))
    donor_rows, donor_columns = rows.copy(), columns.copy()
    for _ in range(_TEAR_CELLS):
        best, before = np.full(inverse.shape, np.inf, np.float32), settled.copy()
        for row, column in _OFFSETS:
            at = np.clip(rows + row, 0, rows.max()), np.clip(columns + column, 0, columns.max())
            source = donor_rows[at], donor_columns[at]
            unlike = ((colour[source] - colour) ** 2).sum(-1) / _COLOUR_LAB**2 + ((value[source] - value) ** 2).sum(-1)
            take = ~settled & before[at] & (unlike < best)
            best[take] = unlike[take]
            donor_rows[take], donor_columns[take] = source[0][take], source[1][take]
        settled = before | np.isfinite(best)
    return donor_rows, donor_columns


def _torn(value: Floats) -> NDArray[np.bool_]:
    """Cells [h,w] across which the values [h,w,F] climb by more than 1, and not as part of a long slope."""
    torn = np.zeros(value.shape[:2], bool)
    for axis in (0, 1):
        climb = np.abs(_shift(value, 1, axis) - _shift(value, -1, axis))
        usual = median_filter(climb, size=[9 if axis == dimension else 1 for dimension in range(3)], mode="nearest")
        # A cell beside a step is sound if its own value is its neighbour's on the other side.
        alone = np.minimum(*(np.abs(_shift(value, step, axis) - value) for step in (-1, 1)))
        torn |= ((climb > np.maximum(1, 2.5 * usual)) & (alone > 0.2)).any(-1)
    return torn


def _surface_weights(cells: _Cells, fine: Floats, scale: int) -> Floats:
    """Weights [9,H,W] of the cells around each pixel: zero for those on another surface than the chosen one."""
    height, width = fine.shape[:2]
    near, features = [], []
    for window, along_y, along_x in _neighbours(scale, height // scale, width // scale):
        distance = along_y[:, None] ** 2 + along_x[None, :] ** 2
        unlike = ((fine - _spread(cells.colour[window], scale)) ** 2).sum(-1)
        weight = np.exp(-distance / (2 * _SPATIAL_CELLS**2) - unlike / (2 * _COLOUR_LAB**2))
        near.append(np.where(_spread(cells.valid[window], scale), weight + 1e-6, 0))
        features.append(_features(cells, window, along_y, along_x, scale))
    return _agreeing(np.stack(near).astype(np.float32), np.stack(features))


def _agreeing(near_9HW: Floats, features_9HWF: Floats) -> Floats:
    """`near` restricted to the cells that lie on the surface which the most weight speaks for."""
    support = np.zeros_like(near_9HW)
    for features, weight in zip(features_9HWF, near_9HW, strict=True):
        support += weight * np.exp(-0.5 * ((features_9HWF - features) ** 2).sum(-1))
    support = np.where(near_9HW > 0, support * near_9HW**0.5, -1)
    chosen = np.take_along_axis(features_9HWF, support.argmax(0)[None, ..., None], axis=0)
    apart = ((features_9HWF - chosen) ** 2).sum(-1)
    return np.where(apart < _SAME_SURFACE, near_9HW * np.exp(-0.5 * apart), 0).astype(np.float32)


def _features(cells: _Cells, window: tuple[slice, slice], along_y: Floats, along_x: Floats, scale: int) -> Floats:
    """[H,W,F] what tells surfaces apart: log-depth of the cell's plane at the pixel, and where the cell goes."""
    depth = -np.log(_extrapolated(cells, window, along_y, along_x, scale)) / _DEPTH_SHARE
    middle, last = cells.motion.shape[0] // 2, cells.motion.shape[0] - 1
    motion = [_spread(cells.motion[frame][window], scale) / _MOTION_SHARE for frame in (middle, last)]
    return np.concatenate([depth[..., None], *motion], axis=-1).astype(np.float32)


def _extrapolated(cells: _Cells, window: tuple[slice, slice], along_y: Floats, along_x: Floats, scale: int) -> Floats:
    """[H,W] inverse depth of each pixel on the plane of one of its cells: planes are linear in inverse depth."""
    value, slope_y, slope_x = (_spread(a[window], scale) for a in (cells.inverse_depth, *cells.slope))
    plane = value + slope_y * along_y[:, None] + slope_x * along_x[None, :]
    return np.clip(plane, value / 1.5, value * 1.5)


def _neighbours(scale: int, rows: int, columns: int) -> Iterator[tuple[tuple[slice, slice], Floats, Floats]]:
    """For each of the nine cells around a pixel: its window in the padded arrays, and the way [H], [W] to the pixel."""
    inside = np.asarray((np.arange(scale) + 0.5) / scale - 0.5, np.float32)
    for row, column in _OFFSETS:
        window = (slice(1 + row, 1 + row + rows), slice(1 + column, 1 + column + columns))
        yield window, np.tile(inside - row, rows), np.tile(inside - column, columns)


def _limited_slope(values: Floats, axis: int) -> Floats:
    """The smaller of the slopes to both sides where they agree in sign, else 0: zero across a step, right on a plane."""
    before, after = values - _shift(values, -1, axis), _shift(values, 1, axis) - values
    inner = _shift(after, -1, axis)
    size = values.shape[axis]
    at = np.arange(size).reshape([-1 if axis == dimension else 1 for dimension in range(values.ndim)])
    # Beyond the border there is no slope to compare with: the inner one counts.
    before, after = np.where(at == 0, after, before), np.where(at == size - 1, inner, after)
    smaller = np.where(np.abs(before) < np.abs(after), before, after)
    return np.where(before * after > 0, smaller, 0).astype(np.float32)


def _shift(values: Floats, step: int, axis: int) -> Floats:
    """Values of the cell `step` further along `axis`; the border repeats."""
    size = values.shape[axis]
    return values.take(np.clip(np.arange(size) + step, 0, size - 1), axis=axis)


def _spread(values: NDArray, scale: int) -> NDArray:
    """Every cell of [h, w, ...] repeated to its pixels, [H, W, ...]."""
    return values.repeat(scale, axis=0).repeat(scale, axis=1)


def _pad(values: NDArray) -> NDArray:
    return np.pad(values, [(1, 1), (1, 1)] + [(0, 0)] * (values.ndim - 2), mode="edge")
