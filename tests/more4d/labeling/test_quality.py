"""Claims about more4d.labeling.quality: each criterion catches samples broken for it, and no sound one."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from more4d.labeling.quality import QualityThresholds, anomalous_share, depth_deviation, judge_tracks
from more4d.labeling.tracks import TrackLabel
from numpy.typing import NDArray
from pydantic import ValidationError

Float = NDArray[np.float32]
Video = NDArray[np.uint8]
LIMITS = QualityThresholds(
    min_depth_m=0.1, max_depth_m=1000, max_depth_jump=1.5, max_anomalous_share=0.05, max_depth_deviation=1.3,
    scale=1.25, max_scale_change=0.15, max_flow_error=0.7, max_unexplained_change=0.15,
)  # fmt: skip


def _judge(tracks: TrackLabel, points: NDArray[np.floating], video: Video) -> tuple[str, ...]:
    return judge_tracks(replace(tracks, points=points.astype(np.float32)), video, LIMITS).reasons


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


def test_the_units_of_a_scene_do_not_matter(sound: TrackLabel, sliding_patch: Video) -> None:
    scaled = replace(sound, points=sound.points * 7, depth0=sound.depth0 * 7)
    one, other = (judge_tracks(tracks, sliding_patch, LIMITS) for tracks in (sound, scaled))
    assert other.depth_deviation == pytest.approx(one.depth_deviation, rel=1e-4)
    for name in ("scale_change", "flow_error", "unexplained_change"):
        assert getattr(other, name) == pytest.approx(getattr(one, name), abs=1e-3)


def test_a_cloud_of_which_nothing_can_be_drawn_is_refused_by_name(sound: TrackLabel, sliding_patch: Video) -> None:
    reasons = _judge(sound, np.full_like(sound.points, np.nan), sliding_patch)
    assert len(reasons) == 3 and "100.00% of the trajectories" in reasons[0] and "inf (above 0.15)" in reasons[2]


def test_tracks_that_do_not_fit_the_clip_are_refused_by_name(sound: TrackLabel, sliding_patch: Video) -> None:
    slides = sound.points.copy()
    slides[..., 0] += np.arange(5)[:, None, None] * 3 * slides[..., 2] / sound.intrinsics[0, 0]
    assert any("move otherwise than the picture" in reason for reason in _judge(sound, slides, sliding_patch))
    still = replace(sound, visibility=np.ones_like(sound.visibility))
    (reason,) = _judge(still, np.repeat(sound.points[:1], 5, 0), sliding_patch)
    assert "tracks see points that stand still (above 15.0%)" in reason


def test_a_clip_of_another_size_is_refused(sound: TrackLabel, sliding_patch: Video) -> None:
    with pytest.raises(ValueError, match="track this very clip"):
        judge_tracks(sound, sliding_patch[:4], LIMITS)


def test_comparing_a_picture_with_itself_is_refused() -> None:
    with pytest.raises(ValidationError, match="scale=1 compares a picture with itself"):
        QualityThresholds(**{**LIMITS.model_dump(), "scale": 1.0})
