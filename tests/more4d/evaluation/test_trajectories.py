import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from more4d.evaluation.baselines import Clip
from more4d.evaluation.trajectories import (
    Truth,
    error_sum,
    method_sums,
    nothing_moves,
    ratio_to_static,
    static_sums,
    trajectory_error,
)

MakeClip = Callable[..., Clip]


@pytest.mark.parametrize("region", ["moving", "all"])
def test_a_perfect_prediction_scores_0_and_nothing_moves_scores_1(make_clip: MakeClip, region: str) -> None:
    truth = make_clip().truth
    assert ratio_to_static(truth.points, truth, region) == 0
    assert ratio_to_static(nothing_moves(truth), truth, region) == 1


def test_half_the_motion_scores_a_half_and_the_opposite_motion_2(make_clip: MakeClip) -> None:
    truth = make_clip().truth
    first = truth.points[0]
    assert ratio_to_static(first + (truth.points - first) / 2, truth, "moving") == pytest.approx(0.5, abs=1e-6)
    assert ratio_to_static(first - (truth.points - first), truth, "moving") == pytest.approx(2, abs=1e-6)


def test_the_error_is_the_mean_distance_over_visible_positions(make_clip: MakeClip) -> None:
    truth = make_clip().truth
    wrong = truth.points + np.array([0.03, 0, 0.04], np.float32)
    assert trajectory_error(wrong, truth) == pytest.approx(0.05, rel=1e-4)
    hidden = ~truth.visibility
    wrong[hidden] += 100
    assert trajectory_error(wrong, truth) == pytest.approx(0.05, rel=1e-4)
    assert error_sum(wrong, truth)[1] == truth.visibility.sum()


def test_what_drifts_in_the_background_counts_in_all_alone(make_clip: MakeClip) -> None:
    truth = make_clip().truth
    drifting = truth.points + np.where(truth.moving, 0, 0.1)[..., None].astype(np.float32)
    assert ratio_to_static(drifting, truth, "moving") == 0
    assert ratio_to_static(drifting, truth, "all") > 0.5


def test_a_pixel_moves_when_it_passes_a_hundredth_of_its_depth_at_some_frame(make_clip: MakeClip) -> None:
    for speed, moves in ((0.0049, False), (0.0051, True)):
        # Four frames of 5 mm at 2 m: 1 % is 2 cm.
        truth = make_clip(speed=speed).truth
        assert truth.moving[4:10, 8:14].all() == moves
        assert not truth.moving[:4].any()


def test_unknown_positions_are_not_counted(make_clip: MakeClip) -> None:
    truth = make_clip().truth
    points = truth.points.copy()
    points[3, 0] = np.nan
    points[0, 1] = np.nan
    points[:, 2, :, 2] = -1
    partly = Truth(points, np.ones_like(truth.visibility))
    assert not partly.counted[3, 0].any()
    assert not partly.counted[:, 1].any()
    assert not partly.counted[:, 2].any()
    assert ratio_to_static(np.nan_to_num(points), partly, "all") == 0


def test_sums_of_scenes_pool_to_one_ratio(make_clip: MakeClip) -> None:
    slow, fast = make_clip(speed=0.1).truth, make_clip(speed=0.3).truth
    rows = [
        static_sums(truth) | method_sums(prediction, truth, "model")
        for truth, prediction in ((slow, slow.points), (fast, nothing_moves(fast)))
    ]
    error = sum(row["model_moving_error"] for row in rows)
    static = sum(row["moving_static"] for row in rows)
    assert error / static == pytest.approx(0.75, abs=1e-6)
    assert rows[0]["moving_count"] == rows[1]["moving_count"] > 0


def test_predictions_that_do_not_fit_are_refused(make_clip: MakeClip) -> None:
    truth = make_clip().truth
    with pytest.raises(ValueError, match="predicted points are"):
        error_sum(truth.points[:3], truth)
    broken = truth.points.copy()
    broken[1, 5, 5] = np.nan
    with pytest.raises(ValueError, match="1 of .* predicted positions are not finite"):
        error_sum(broken, truth)
    assert np.isnan(trajectory_error(broken, dataclasses.replace(truth, visibility=np.zeros_like(truth.visibility))))
