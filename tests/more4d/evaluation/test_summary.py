from collections.abc import Callable

import pytest
from more4d.evaluation.baselines import Clip
from more4d.evaluation.summary import rounded, summarise_depth, summarise_trajectories, summarise_views
from more4d.evaluation.trajectories import method_sums, nothing_moves, static_sums


def test_figures_of_perfect_and_still_predictions(make_clip: Callable[..., Clip]) -> None:
    rows = []
    for speed in (0.1, 0.2, 0.3):
        truth = make_clip(speed=speed).truth
        rows.append(static_sums(truth) | method_sums(truth.points, truth, "model"))
        rows[-1] |= method_sums(nothing_moves(truth), truth, "mean_motion")
    figures = summarise_trajectories(rows)
    assert figures["scenes"] == 3
    assert figures["model_moving_ratio"] == figures["model_all_ratio_high"] == 0
    assert figures["mean_motion_moving_ratio"] == figures["mean_motion_all_ratio_low"] == 1
    assert "caption_lookup_moving_ratio" not in figures
    # Frames move 0 to 4 times the speed; the upper half of the patch is seen in the first two alone.
    assert figures["static_moving_error_m"] == pytest.approx(0.2 * (0 + 1 + (0 + 1 + 2 + 3 + 4)) / 7, rel=1e-4)


def test_a_completion_that_halves_the_error_gains_6_decibels() -> None:
    row = {"hole_squared_error": 100.0, "hole_telea_squared_error": 400.0, "hole_values": 30.0}
    row |= {"view_squared_error": 100.0, "view_telea_squared_error": 400.0, "view_values": 300.0}
    figures = summarise_views([row, row])
    assert figures["hole_psnr_gain"] == pytest.approx(6.0206, abs=1e-3)
    assert figures["hole_psnr"] - figures["hole_telea_psnr"] == pytest.approx(figures["hole_psnr_gain"])
    assert summarise_views([]) == summarise_depth([]) == {}


def test_depth_is_as_many_times_better_as_its_error_is_smaller() -> None:
    row = {"depth_log_error": 10.0, "depth_scaled_log_error": 5.0, "depth_plane_log_error": 40.0}
    row |= {"depth_relative_error": 11.0, "depth_pixels": 100.0}
    figures = summarise_depth([row] * 3)
    assert figures["depth_plane_ratio"] == 4
    assert figures["depth_log_error"] == pytest.approx(0.1)


def test_rounding_keeps_counts_whole() -> None:
    assert rounded({"scenes": 3, "ratio": 0.123456789}, 3) == {"scenes": 3, "ratio": 0.123}
