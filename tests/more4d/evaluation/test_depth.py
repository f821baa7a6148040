import numpy as np
import pytest
from more4d.evaluation.depth import constant_depth, depth_scores, depth_sums


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


def test_depth_scores_are_the_field_s_and_nothing_is_fitted() -> None:
    truth = np.array([[1, 2, 4, np.nan]], np.float32)
    scores = depth_scores(np.array([[1.2, 2, 2, 7]], np.float32), truth)
    assert scores.abs_rel == pytest.approx((0.2 + 0 + 0.5) / 3)
    assert scores.delta1 == pytest.approx(2 / 3)
    assert scores.log_error == pytest.approx((np.log(1.2) + np.log(2)) / 3)
    with pytest.raises(ValueError, match="none of 4 true depths is finite and positive"):
        depth_scores(truth, np.full((1, 4), np.nan, np.float32))


def test_no_constant_has_a_smaller_log_error_than_the_median() -> None:
    truth = np.random.default_rng(0).uniform(1, 9, (7, 9)).astype(np.float32)
    best = depth_scores(constant_depth(truth), truth).log_error
    others = [depth_scores(np.full((7, 9), c, np.float32), truth).log_error for c in np.linspace(1, 9, 81)]
    assert best <= min(others) + 1e-7
