"""Claims about more4d.labeling.quality: each criterion catches samples broken for it, and no sound one."""

from collections.abc import Callable

import numpy as np
import pytest
from more4d.labeling.quality import QualityThresholds, judge_tracks
from more4d.labeling.tracks import TrackLabel
from numpy.typing import NDArray
from pydantic import ValidationError

Float = NDArray[np.float32]
Lift = Callable[[Float], Float]
LIMITS = QualityThresholds(
    min_depth_m=0.1, max_depth_m=1000, max_depth_jump=1.5, max_anomalous_share=0.05, max_depth_deviation=1.3,
    scale=1.25, max_scale_change=0.02,
)  # fmt: skip


@pytest.fixture(scope="module")
def sound(intrinsics: Float, lift_points: Lift) -> TrackLabel:
    """A slope from 3 m to 8 m, and in front of it a patch that goes right and comes nearer."""
    depth = np.broadcast_to(np.linspace(8, 3, 32)[:, None], (32, 48)).astype(np.float32).copy()
    depth[8:24, 8:20] = 2.5
    points = lift_points(np.repeat(depth[None], 5, 0))
    points[:, 8:24, 8:20] += np.arange(5)[:, None, None, None] * np.array([0.1, 0, -0.05], np.float32)
    return TrackLabel(points, np.ones((5, 32, 48), bool), depth, intrinsics)


def _judge(tracks: TrackLabel, points: Float, image: NDArray[np.uint8]) -> tuple[str, ...]:
    broken = TrackLabel(points.astype(np.float32), tracks.visibility, tracks.depth0, tracks.intrinsics)
    return judge_tracks(broken, image, LIMITS).reasons


def test_sound_tracks_pass(sound: TrackLabel, sliding_patch: NDArray[np.uint8]) -> None:
    assert _judge(sound, sound.points, sliding_patch[0]) == ()


@pytest.mark.parametrize("value", [np.nan, 0.0, -1.0, 1e9])
def test_invalid_depth_on_many_trajectories_is_caught(
    sound: TrackLabel, sliding_patch: NDArray[np.uint8], value: float
) -> None:
    points = sound.points.copy()
    points[3, :2, :, 2] = value
    (reason, *_) = _judge(sound, points, sliding_patch[0])
    assert reason == "6.25% of the trajectories have invalid or anomalous depth (above 5.00%)"


def test_depth_spikes_are_caught(sound: TrackLabel, sliding_patch: NDArray[np.uint8]) -> None:
    points = sound.points.copy()
    points[2, :, 40:44] *= 2
    assert any("anomalous depth" in reason for reason in _judge(sound, points, sliding_patch[0]))


def test_a_scene_depth_that_deviates_too_much_is_caught(sound: TrackLabel, sliding_patch: NDArray[np.uint8]) -> None:
    factors = np.exp(np.linspace(-3, 3, 48))[:, None]
    (reason, *_) = _judge(sound, sound.points * factors, sliding_patch[0])
    assert reason.startswith("log depth deviates by")


@pytest.mark.parametrize("end", [0.6, 0.75, 1.3, 2.0])
def test_a_drifting_scale_is_caught_by_scale_consistency_alone(
    sound: TrackLabel, sliding_patch: NDArray[np.uint8], end: float
) -> None:
    drift = np.linspace(1, end, 5)[:, None, None, None]
    (reason,) = _judge(sound, sound.points * drift, sliding_patch[0])
    assert reason.startswith("renders at scale 1 and 1.25 differ")


def test_the_units_of_a_scene_do_not_matter(
    sound: TrackLabel, sliding_patch: NDArray[np.uint8], intrinsics: Float
) -> None:
    scaled = TrackLabel(sound.points * 7, sound.visibility, sound.depth0 * 7, intrinsics)
    one, other = (judge_tracks(tracks, sliding_patch[0], LIMITS) for tracks in (sound, scaled))
    assert other.depth_deviation == pytest.approx(one.depth_deviation, rel=1e-4)
    assert other.scale_change == pytest.approx(one.scale_change, abs=1e-4)


def test_comparing_a_picture_with_itself_is_refused() -> None:
    with pytest.raises(ValidationError, match="scale=1 compares a picture with itself"):
        QualityThresholds(**{**LIMITS.model_dump(), "scale": 1.0})
