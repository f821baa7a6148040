from collections.abc import Callable

import numpy as np
import pytest
from more4d.inference.smoothing import smooth_motion
from numpy.typing import NDArray

ROWS, COLUMNS = 24, 36
CAMERA = np.array([[COLUMNS, 0, COLUMNS / 2], [0, COLUMNS, ROWS / 2], [0, 0, 1]], np.float32)
Lift = Callable[[NDArray, NDArray], NDArray]


@pytest.fixture
def blocky(lift: Lift) -> tuple[NDArray, NDArray, NDArray]:
    """Points, picture and mask of an object that moves right, by twice as much in its right half."""
    mask = np.zeros((ROWS, COLUMNS), bool)
    mask[6:18, 8:28] = True
    points = np.tile(lift(np.where(mask, 2.0, 5.0), CAMERA), (3, 1, 1, 1))
    points[2, mask, 0] += 0.2
    points[2, 6:18, 18:28, 0] += 0.2
    picture = np.where(mask[..., None], [200, 80, 60], [60, 90, 160]).astype(np.uint8)
    return points, picture, mask


def test_jumps_within_a_surface_shrink_and_the_background_stays(blocky: tuple) -> None:
    points, picture, mask = blocky
    smooth = smooth_motion(points, picture, 100.0)
    moved = smooth[2, ..., 0] - smooth[0, ..., 0]
    assert np.abs(np.diff(moved[10, 9:27])).max() < 0.04
    assert np.abs(moved[~mask]).max() < 1e-3
    assert moved[mask].mean() == pytest.approx(0.3, abs=0.01)
    assert np.array_equal(smooth[0], points[0])


def test_a_field_that_is_even_already_stays(blocky: tuple) -> None:
    points, picture, mask = blocky
    points[2, 6:18, 18:28, 0] -= 0.2
    assert np.abs(smooth_motion(points, picture, 100.0) - points).max() < 5e-3
    assert smooth_motion(points, picture, 0.0) is points


def test_cells_without_a_point_stay_so_and_do_not_spoil_their_neighbours(blocky: tuple) -> None:
    points, picture, _ = blocky
    points[:, :4] = np.nan
    smooth = smooth_motion(points, picture, 100.0)
    assert np.isnan(smooth[:, :4]).all()
    assert np.isfinite(smooth[:, 4:]).all()
