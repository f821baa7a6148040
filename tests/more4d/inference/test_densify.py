from collections.abc import Callable

import cv2
import numpy as np
import pytest
from more4d.inference.densify import densify
from numpy.typing import NDArray

SCALE, ROWS, COLUMNS = 4, 24, 36
HEIGHT, WIDTH = ROWS * SCALE, COLUMNS * SCALE
CAMERA = np.array([[WIDTH, 0, WIDTH / 2], [0, WIDTH, HEIGHT / 2], [0, 0, 1]], np.float32)
SMALL_CAMERA = np.diag([1 / SCALE, 1 / SCALE, 1]).astype(np.float32) @ CAMERA
NEAR, FAR = 2.0, 5.0
Lift = Callable[[NDArray, NDArray], NDArray]


def _disc() -> NDArray[np.bool_]:
    """A disc that ends between the model's cells."""
    v, u = np.indices((HEIGHT, WIDTH))
    return (v - 47) ** 2 + (u - 70) ** 2 < 27**2


def _photo(mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    noise = np.random.default_rng(0).normal(0, 4, (HEIGHT, WIDTH, 3))
    return np.clip(np.where(mask[..., None], [200, 70, 60], [70, 110, 150]) + noise, 0, 255).astype(np.uint8)


def _blurred_cells(mask: NDArray[np.bool_], lift: Lift) -> NDArray[np.float32]:
    """The disc before a wall, as a network sees it: the step smeared over cells, in depth and in motion."""
    share = cv2.resize(mask.astype(np.float32), (COLUMNS, ROWS), interpolation=cv2.INTER_AREA)
    share = cv2.GaussianBlur(share, (0, 0), 0.7)
    points = np.tile(lift(1 / (share / NEAR + (1 - share) / FAR), SMALL_CAMERA), (5, 1, 1, 1))
    points[..., 0] += np.linspace(0, 0.5, 5)[:, None, None] * share
    return points


def test_no_point_floats_between_foreground_and_background(lift: Lift) -> None:
    dense = densify(_blurred_cells(_disc(), lift), _photo(_disc()), CAMERA)
    depth = dense[0, ..., 2]
    nearest = np.minimum(np.abs(depth / NEAR - 1), np.abs(depth / FAR - 1))
    assert (nearest > 0.08).mean() < 0.002


def test_silhouettes_follow_the_photo_to_a_pixel_or_two(lift: Lift) -> None:
    mask = _disc()
    dense = densify(_blurred_cells(mask, lift), _photo(mask), CAMERA)
    found = dense[0, ..., 2] < (NEAR * FAR) ** 0.5
    rim = cv2.dilate(mask.astype(np.uint8), np.ones((5, 5))) != cv2.erode(mask.astype(np.uint8), np.ones((5, 5)))
    assert (found != mask)[~rim].sum() == 0
    assert (found != mask).sum() < 0.25 * rim.sum()


def test_the_background_does_not_move_with_the_object(lift: Lift) -> None:
    mask = _disc()
    dense = densify(_blurred_cells(mask, lift), _photo(mask), CAMERA)
    moved = dense[-1, ..., 0] - dense[0, ..., 0]
    assert np.abs(moved[~mask]).mean() < 0.01
    assert moved[mask].mean() == pytest.approx(0.5, abs=0.03)


def test_a_tilted_plane_stays_a_plane(lift: Lift) -> None:
    v = (np.arange(HEIGHT) + 0.5) / HEIGHT
    inverse = np.tile((0.1 + 0.5 * v)[:, None], (1, WIDTH))
    cells = 1 / inverse.reshape(ROWS, SCALE, COLUMNS, SCALE).mean((1, 3))
    dense = densify(lift(cells, SMALL_CAMERA)[None], np.full((HEIGHT, WIDTH, 3), 90, np.uint8), CAMERA)
    inside = (slice(SCALE, -SCALE), slice(SCALE, -SCALE))
    assert np.abs(dense[0, ..., 2] * inverse - 1)[inside].max() < 5e-3


def test_where_no_cell_has_a_point_there_is_none(lift: Lift) -> None:
    points = np.tile(lift(np.full((ROWS, COLUMNS), 3.0), SMALL_CAMERA), (2, 1, 1, 1))
    points[:, :10] = np.nan
    dense = densify(points, np.full((HEIGHT, WIDTH, 3), 90, np.uint8), CAMERA)
    assert np.isnan(dense[:, : 8 * SCALE]).all()
    assert np.isfinite(dense[:, 11 * SCALE :]).all()


def test_a_photo_of_another_size_is_refused(lift: Lift) -> None:
    points = lift(np.full((ROWS, COLUMNS), 3.0), SMALL_CAMERA)[None]
    with pytest.raises(ValueError, match="no whole multiple"):
        densify(points, np.zeros((HEIGHT, WIDTH + 1, 3), np.uint8), CAMERA)
