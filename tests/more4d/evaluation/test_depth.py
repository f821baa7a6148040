import numpy as np
import pytest
from more4d.evaluation.depth import depth_sums


def test_a_perfect_depth_has_no_error_and_the_plane_has_the_spread() -> None:
    truth = np.exp(np.linspace(0, 1, 100)).reshape(10, 10).astype(np.float32)
    sums = depth_sums(truth, truth)
    assert sums["depth_log_error"] == sums["depth_relative_error"] == 0
    assert sums["depth_plane_log_error"] / sums["depth_pixels"] == pytest.approx(0.25, rel=0.02)


def test_a_wrong_scale_is_an_error_until_it_is_removed() -> None:
    truth = np.exp(np.linspace(0, 1, 100)).reshape(10, 10).astype(np.float32)
    sums = depth_sums(2 * truth, truth)
    assert sums["depth_log_error"] / sums["depth_pixels"] == pytest.approx(np.log(2), rel=1e-4)
    assert sums["depth_scaled_log_error"] == pytest.approx(0, abs=1e-4)


def test_pixels_without_truth_are_not_counted() -> None:
    truth = np.array([[1, 2, 0], [np.nan, np.inf, -1]], np.float32)
    assert depth_sums(np.ones((2, 3), np.float32), truth)["depth_pixels"] == 2
    with pytest.raises(ValueError, match="must be positive"):
        depth_sums(np.zeros((2, 3), np.float32), truth)
