"""Claims about more4d.labeling.quality: each criterion catches samples broken for it, and no sound one."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from more4d.labeling.quality import (
    QualityThresholds,
    anomalous_share,
    depth_deviation,
    judge_tracks,
    lost_share,
    match_colours,
    motion_error,
    render_psnr,
    scale_change,
)
from more4d.labeling.tracks import TrackLabel
from numpy.typing import NDArray
from pydantic import ValidationError

Float = NDArray[np.float32]
Video = NDArray[np.uint8]
Lift = Callable[[Float], Float]
LIMITS = QualityThresholds(
    min_depth_m=0.1, max_depth_m=1000, max_depth_jump=1.5, max_anomalous_share=0.05, max_depth_deviation=1.3,
    scale=1.25, max_scale_change=0.15, max_motion_error=1.0, max_lost_share=0.25,
)  # fmt: skip


@pytest.fixture(scope="module")
def sound(intrinsics: Float, lift_points: Lift) -> TrackLabel:
    """A slope from 3 m to 8 m, and in front of it the clip's patch, going right by two pixels a frame."""
    depth = np.broadcast_to(np.linspace(8, 3, 32)[:, None], (32, 48)).astype(np.float32).copy()
    depth[8:24, 8:24] = 2.5
    points = lift_points(np.repeat(depth[None], 5, 0))
    points[:, 8:24, 8:24, 0] += np.arange(5)[:, None, None] * 2 * 2.5 / intrinsics[0, 0]
    visible = np.ones((5, 32, 48), bool)
    for frame in range(1, 5):
        visible[frame, 8:24, 24 : 24 + 2 * frame] = False
    return TrackLabel(points, visible, depth, intrinsics)


def _judge(tracks: TrackLabel, points: NDArray[np.floating], video: Video) -> tuple[str, ...]:
    return judge_tracks(replace(tracks, points=points.astype(np.float32)), video, LIMITS).reasons


def _slid(tracks: TrackLabel, pixels: float) -> TrackLabel:
    """Every point goes right by so many pixels a frame more."""
    points = tracks.points.copy()
    points[..., 0] += np.arange(len(points))[:, None, None] * pixels * points[..., 2] / tracks.intrinsics[0, 0]
    return replace(tracks, points=points)


def test_sound_tracks_pass(sound: TrackLabel, sliding_patch: Video) -> None:
    assert _judge(sound, sound.points, sliding_patch) == ()


@pytest.mark.parametrize("value", [np.nan, 0.0, -1.0, 1e9])
def test_invalid_depth_on_many_trajectories_is_caught(sound: TrackLabel, sliding_patch: Video, value: float) -> None:
    points = sound.points.copy()
    points[3, :2, :, 2] = value
    (reason, *_) = _judge(sound, points, sliding_patch)
    assert reason == "6.25% of the trajectories have invalid or anomalous depth (above 5.00%)"


def test_depth_spikes_are_caught(sound: TrackLabel, sliding_patch: Video) -> None:
    points = sound.points.copy()
    points[2, :, 40:44] *= 2
    assert any("anomalous depth" in reason for reason in _judge(sound, points, sliding_patch))


@given(st.integers(0, 40), st.sampled_from([np.nan, np.inf, 0.0, 0.05, 2000.0, 12.0]))
@settings(max_examples=40, deadline=None)
def test_exactly_the_broken_trajectories_are_anomalous(count: int, value: float) -> None:
    depth = np.full((4, 5, 8), 5.0, np.float32)
    depth.reshape(4, -1)[2, :count] = value
    assert anomalous_share(depth, LIMITS) == pytest.approx(count / 40)


@given(st.floats(0.01, 100), st.floats(0.1, 2))
@settings(max_examples=30, deadline=None)
def test_depth_deviation_knows_no_units_and_grows_with_the_exponent(units: float, exponent: float) -> None:
    depth = np.geomspace(1, 9, 60).astype(np.float32)
    assert depth_deviation(depth**exponent * units) == pytest.approx(exponent * depth_deviation(depth), rel=1e-3)


def test_a_scene_depth_that_deviates_too_much_is_caught(sound: TrackLabel, sliding_patch: Video) -> None:
    factors = np.exp(np.linspace(-3, 3, 48))[:, None]
    (reason, *_) = _judge(sound, sound.points * factors, sliding_patch)
    assert reason.startswith("log depth deviates by") and reason.endswith("(above 1.3)")


@pytest.mark.parametrize("end", [0.6, 0.75, 0.9, 1.1, 1.3, 2.0])
def test_a_drifting_scale_is_caught_by_scale_consistency_alone(
    sound: TrackLabel, sliding_patch: Video, end: float
) -> None:
    drift = np.linspace(1, end, 5)[:, None, None, None]
    (reason,) = _judge(sound, sound.points * drift, sliding_patch)
    assert reason.startswith("scaled by 1.25, renders change by another factor") and reason.endswith("(above 0.15)")


def test_a_larger_drift_changes_more(sound: TrackLabel) -> None:
    ends = [1 - np.linspace(0, 0.05 * step, 5)[:, None, None, None] for step in range(5)]
    changes = [scale_change(replace(sound, points=(sound.points * end).astype(np.float32)), 1.25) for end in ends]
    assert changes[0] < 0.02 and changes == sorted(changes)


def test_a_drift_of_a_third_of_the_picture_is_caught(sound: TrackLabel) -> None:
    points = sound.points.copy()
    points[:, :, 29:] *= np.linspace(1, 1.3, 5)[:, None, None, None]
    assert scale_change(replace(sound, points=points), 1.25) > LIMITS.max_scale_change


def test_a_scene_that_comes_nearer_as_it_is_changes_less_than_one_whose_scale_drifts(sound: TrackLabel) -> None:
    nearer = sound.points - np.linspace(0, 0.5, 5)[:, None, None, None] * np.array([0, 0, 1])
    drifting = sound.points * np.linspace(1, 0.9, 5)[:, None, None, None]
    one, other = (scale_change(replace(sound, points=p.astype(np.float32)), 1.25) for p in (nearer, drifting))
    assert one < 0.25 < other


def test_the_units_of_a_scene_do_not_matter(sound: TrackLabel, sliding_patch: Video) -> None:
    scaled = replace(sound, points=sound.points * 7, depth0=sound.depth0 * 7)
    one, other = (judge_tracks(tracks, sliding_patch, LIMITS) for tracks in (sound, scaled))
    assert other.depth_deviation == pytest.approx(one.depth_deviation, rel=1e-4)
    for name in ("scale_change", "motion_error", "lost_share"):
        assert getattr(other, name) == pytest.approx(getattr(one, name), abs=1e-3)


def test_a_cloud_of_which_nothing_can_be_drawn_is_refused_by_name(sound: TrackLabel, sliding_patch: Video) -> None:
    reasons = _judge(sound, np.full_like(sound.points, np.nan), sliding_patch)
    assert len(reasons) == 3 and "100.00% of the trajectories" in reasons[0] and "inf (above 0.15)" in reasons[2]


@pytest.mark.parametrize("pixels", [-3, -1, 1, 3])
def test_sliding_tracks_fit_worse_than_standing_still(sound: TrackLabel, sliding_patch: Video, pixels: int) -> None:
    assert motion_error(match_colours(sound, sliding_patch)) < 0.6
    assert motion_error(match_colours(_slid(sound, pixels), sliding_patch)) > LIMITS.max_motion_error
    assert any("worse than standing still" in reason for reason in _judge(sound, _slid(sound, 3).points, sliding_patch))


def test_tracks_of_other_frames_are_lost(sound: TrackLabel, sliding_patch: Video) -> None:
    order = [0, 3, 4, 1, 2]
    swapped = replace(sound, points=sound.points[order], visibility=sound.visibility[order])
    assert lost_share(match_colours(sound, sliding_patch)) < 0.1
    assert lost_share(match_colours(swapped, sliding_patch)) > LIMITS.max_lost_share
    (reason, *_) = [r for r in _judge(swapped, swapped.points, sliding_patch) if "tracked places" in r]
    assert reason.endswith("(above 25.0%)")


def test_where_nothing_moves_no_motion_is_wrong(sound: TrackLabel, sliding_patch: Video) -> None:
    still = replace(sound, points=np.repeat(sound.points[:1], 5, 0))
    matches = match_colours(still, sliding_patch)
    assert len(matches.own) == 0 and motion_error(matches) == 0 and lost_share(matches) == 0


def test_a_clip_of_another_size_is_refused(sound: TrackLabel, sliding_patch: Video) -> None:
    with pytest.raises(ValueError, match="track this very clip"):
        judge_tracks(sound, sliding_patch[:4], LIMITS)


def test_psnr_is_that_of_the_covered_pixels() -> None:
    video = np.full((2, 4, 4, 3), 100, np.uint8)
    covered = np.zeros((2, 4, 4), bool)
    assert render_psnr(video, video, covered) == 0
    covered[:, :2] = True
    render = video.copy()
    render[:, :2] = 110
    render[:, 2:] = 0
    assert render_psnr(render, video, covered) == pytest.approx(20 * np.log10(25.5))


def test_comparing_a_picture_with_itself_is_refused() -> None:
    with pytest.raises(ValidationError, match="scale=1 compares a picture with itself"):
        QualityThresholds(**{**LIMITS.model_dump(), "scale": 1.0})
