"""Claims about more4d.evaluation.tracking."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from more4d.evaluation.tracking import THRESHOLDS, Scaling, Tapvid3d, pixel_scores, tapvid3d
from more4d.evaluation.trajectories import Truth
from more4d.labeling.tracks import TrackLabel
from numpy.typing import NDArray

Floats = NDArray[np.float32]

CAMERA = np.array([[128, 0, 1], [0, 128, 1], [0, 0, 1]], np.float32)
"""Of a picture of 2 x 2 pixels: at 256 pixels its focal length is 16384, one threshold pixel at 2 m is 2 / 16384 m."""
PIXEL = 2 / 16384


def made(seen: list[list[int]], off: list[list[float]], true: list[list[int]]) -> tuple[TrackLabel, Truth]:
    """Tracks [T,N] of a 2 x 2 picture at 2 m: predicted visibility, how many threshold pixels aside, true visibility."""
    first = np.array([[[-0.5, -0.5], [0.5, -0.5]], [[-0.5, 0.5], [0.5, 0.5]]]) * 2 / 128
    points = np.tile(np.concatenate([first, np.full((2, 2, 1), 2.0)], -1), (len(seen), 1, 1, 1))
    moved = points.copy()
    moved[..., 0] += np.reshape(off, (-1, 2, 2)) * PIXEL
    label = TrackLabel(moved, np.reshape(seen, (-1, 2, 2)).astype(bool), points[0, ..., 2], CAMERA)
    return label, Truth(points, np.reshape(true, (-1, 2, 2)).astype(bool))


def at_four_pixels(label: TrackLabel, truth: Truth) -> tuple[float, float]:
    scores = tapvid3d(label, truth, CAMERA, scaling="none")
    return scores.jaccard[THRESHOLDS.index(4)], scores.within[THRESHOLDS.index(4)]


@pytest.mark.parametrize("scaling", ["none", "median", "per_trajectory"])
def test_the_truth_itself_scores_one(scaling: Scaling) -> None:
    label, truth = made([[1, 1, 0, 1], [1, 0, 0, 1]], [[0] * 4] * 2, [[1, 1, 0, 1], [1, 0, 0, 1]])
    scores = tapvid3d(label, truth, CAMERA, scaling=scaling)
    assert scores == Tapvid3d(1, 1, 1, (1,) * 5, (1,) * 5)
    assert pixel_scores(label, truth, CAMERA).tracked == 1
    assert pixel_scores(label, truth, CAMERA).median_error == 0


def test_a_visible_point_that_is_placed_too_far_is_a_false_positive_and_a_false_negative() -> None:
    label, truth = made([[1, 1, 1, 1]], [[0, 0, 0, 5]], [[1, 1, 1, 1]])
    assert at_four_pixels(label, truth) == (3 / 5, 3 / 4)


def test_a_hidden_point_that_is_called_visible_is_a_false_positive_wherever_it_is() -> None:
    label, truth = made([[1, 1, 1, 1]], [[0, 0, 0, 0]], [[1, 1, 1, 0]])
    assert at_four_pixels(label, truth) == (3 / 4, 1)
    assert tapvid3d(label, truth, CAMERA).occlusion_accuracy == 3 / 4


def test_a_visible_point_that_is_called_hidden_is_a_false_negative_yet_within() -> None:
    label, truth = made([[1, 1, 1, 0]], [[0, 0, 0, 0]], [[1, 1, 1, 1]])
    assert at_four_pixels(label, truth) == (3 / 4, 1)
    far, _ = made([[1, 1, 1, 0]], [[0, 0, 0, 5]], [[1, 1, 1, 1]])
    assert at_four_pixels(far, truth) == (3 / 4, 3 / 4)


def test_a_hidden_point_that_is_called_hidden_counts_for_occlusion_alone() -> None:
    label, truth = made([[1, 1, 1, 0]], [[0, 0, 0, 99]], [[1, 1, 1, 0]])
    assert at_four_pixels(label, truth) == (1, 1)
    assert tapvid3d(label, truth, CAMERA).occlusion_accuracy == 1


def test_the_averages_are_over_one_two_four_eight_and_sixteen_pixels_and_a_distance_at_the_threshold_is_outside() -> (
    None
):
    label, truth = made([[1, 1, 1, 1]], [[3, 3, 3, 3]], [[1, 1, 1, 1]])
    assert tapvid3d(label, truth, CAMERA, scaling="none").within == (0, 0, 1, 1, 1)
    assert tapvid3d(label, truth, CAMERA, scaling="none").average_within == pytest.approx(3 / 5)
    label, truth = made([[1, 1, 1, 1]], [[4.001, 4.001, 3.999, 3.999]], [[1, 1, 1, 1]])
    assert at_four_pixels(label, truth) == (2 / 6, 2 / 4)


@pytest.mark.parametrize(("depth", "focal", "hit"), [(1, 1, 0), (2, 1, 1), (1, 0.5, 1), (2, 2, 0)])
def test_thresholds_grow_with_depth_and_shrink_with_focal_length(depth: float, focal: float, hit: float) -> None:
    label, truth = made([[1] * 4], [[5] * 4], [[1] * 4])
    away = np.zeros((1, 2, 2, 3)) + [0, 0, 2 * depth - 2]
    camera = CAMERA * np.array([[focal], [focal], [1]], np.float32)
    label, truth = replace(label, points=label.points + away), replace(truth, points=truth.points + away)
    assert tapvid3d(label, truth, camera, scaling="none").within[2] == hit


def test_median_scaling_forgives_one_wrong_scale_and_per_trajectory_scaling_one_a_track() -> None:
    label, truth = made([[1] * 4] * 2, [[0] * 4] * 2, [[1] * 4] * 2)
    half = replace(label, points=label.points / 2)
    assert tapvid3d(half, truth, CAMERA, scaling="none").average_within == 0
    assert tapvid3d(half, truth, CAMERA, scaling="median").average_within == 1
    each = replace(label, points=label.points * np.array([[1.0, 2], [3, 4]])[..., None])
    assert tapvid3d(each, truth, CAMERA, scaling="median").average_within < 1
    assert tapvid3d(each, truth, CAMERA, scaling="per_trajectory").average_within == 1


def test_pixels_outside_the_region_and_without_a_first_point_do_not_count() -> None:
    label, truth = made([[1, 1, 1, 0]] * 2, [[0, 99, 0, 0]] * 2, [[1, 1, 1, 1]] * 2)
    region = np.array([[True, False], [True, False]])
    assert tapvid3d(label, truth, CAMERA, region=region).average_jaccard == 1
    truth.points[0, 0, 1] = np.nan
    truth.points[0, 1, 1] = np.nan
    assert tapvid3d(label, truth, CAMERA).average_jaccard == 1
    assert np.isnan(tapvid3d(label, truth, CAMERA, region=~region).average_jaccard)
    assert np.isnan(pixel_scores(label, truth, CAMERA, region=~region).median_error)


def test_errors_in_pixels_leave_out_the_first_frame_and_forgive_depth_and_focal_length() -> None:
    label, truth = made([[1, 1, 1, 1], [1, 1, 0, 1]], [[9] * 4, [0, 192, 0, 64]], [[1, 1, 1, 1], [1, 1, 1, 1]])
    # 64 threshold pixels of a picture of 256 are half a pixel of one of 2.
    scores = pixel_scores(label, truth, CAMERA, within_pixels=1)
    assert scores.median_error == pytest.approx(0.25)
    assert scores.tracked == 2 / 4
    zoomed = replace(
        label, points=label.points * [1.5, 1.5, 3], intrinsics=CAMERA + np.diag([128, 128, 0]).astype(np.float32)
    )
    assert pixel_scores(zoomed, truth, CAMERA).median_error == pytest.approx(0.25)


def test_a_point_behind_the_camera_is_nowhere() -> None:
    label, truth = made([[1] * 4] * 2, [[0] * 4] * 2, [[1] * 4] * 2)
    scores = pixel_scores(replace(label, points=-label.points), truth, CAMERA)
    assert (scores.median_error, scores.tracked) == (np.inf, 0)


def loop(label: TrackLabel, truth: Truth, camera: Floats, threshold: int) -> tuple[float, float, float]:
    """Jaccard, points within and occlusion accuracy of a picture, position by position."""
    tp = fp = fn = hits = visible = right = total = 0
    focal = float(np.sqrt(camera[0, 0] * camera[1, 1])) * 256 / min(truth.points.shape[1:3])
    for t, y, x in np.ndindex(*truth.visibility.shape):
        seen, true = bool(label.visibility[t, y, x]), bool(truth.visibility[t, y, x])
        away = float(np.linalg.norm(label.points[t, y, x] - truth.points[t, y, x]))
        near = away < threshold * float(truth.points[t, y, x, 2]) / focal
        tp, fp, fn = (
            tp + (true and seen and near),
            fp + (seen and not (true and near)),
            fn + (true and not (seen and near)),
        )
        hits, visible = hits + (true and near), visible + true
        right, total = right + (seen == true), total + 1
    return tp / (tp + fp + fn), hits / visible, right / total


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), frames=st.integers(1, 4), height=st.integers(1, 4), width=st.integers(1, 4))
def test_the_measures_are_those_of_a_loop_over_positions(seed: int, frames: int, height: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    points = rng.uniform([-1, -1, 1], [1, 1, 5], (frames, height, width, 3))
    camera = np.array([[rng.uniform(1, 9), 0, 1], [0, rng.uniform(1, 9), 1], [0, 0, 1]])
    visible, seen = rng.random((2, frames, height, width)) < 0.7
    visible[0, 0, 0] = True
    moved = points + rng.normal(size=points.shape) * rng.choice([0, 0.01, 0.1], points.shape[:3])[..., None]
    label, truth = TrackLabel(moved, seen, points[0, ..., 2], camera), Truth(points, visible)
    scores = tapvid3d(label, truth, camera, scaling="none")
    expected = [loop(label, truth, camera, threshold) for threshold in THRESHOLDS]
    np.testing.assert_allclose(scores.jaccard, [jaccard for jaccard, _, _ in expected])
    np.testing.assert_allclose(scores.within, [within for _, within, _ in expected])
    assert scores.average_jaccard == pytest.approx(np.mean([jaccard for jaccard, _, _ in expected]))
    assert scores.occlusion_accuracy == expected[0][2]


def test_what_cannot_be_compared_is_refused() -> None:
    label, truth = made([[1] * 4] * 2, [[0] * 4] * 2, [[1] * 4] * 2)
    with pytest.raises(ValueError, match=r"predicted points and visibility are \[1, 2, 2, 3\]"):
        tapvid3d(replace(label, points=label.points[:1]), truth, CAMERA)
    with pytest.raises(ValueError, match="1 of 8 predicted positions are not finite"):
        broken = label.points.copy()
        broken[1, 0, 0] = np.nan
        pixel_scores(replace(label, points=broken), truth, CAMERA)
    with pytest.raises(ValueError, match="unknown scaling 'mean'; the scalings are none, median, per_trajectory"):
        tapvid3d(label, truth, CAMERA, scaling="mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"the region is \[3, 2\], the picture \[2, 2\]"):
        tapvid3d(label, truth, CAMERA, region=np.ones((3, 2), bool))
    with pytest.raises(ValueError, match="within_pixels=0 must be positive"):
        pixel_scores(label, truth, CAMERA, within_pixels=0)
