"""Claims about more4d.labeling.broken: each way breaks what it says, as strongly as it is told, and nothing else."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from more4d.labeling.broken import BREAKS, Labeled, break_sample
from more4d.labeling.tracks import TrackLabel
from numpy.typing import NDArray

Float = NDArray[np.float32]


@pytest.fixture(scope="module")
def sound(intrinsics: Float, lift_points: Callable[[Float], Float], sliding_patch: NDArray[np.uint8]) -> Labeled:
    depth = np.broadcast_to(np.linspace(8, 3, 32)[:, None], (32, 48)).astype(np.float32).copy()
    points = lift_points(np.repeat(depth[None], 5, 0))
    points[..., 0] += np.arange(5, dtype=np.float32)[:, None, None] * 0.1
    return Labeled(sliding_patch, TrackLabel(points, np.ones((5, 32, 48), bool), depth, intrinsics))


@pytest.fixture(scope="module")
def other(sound: Labeled) -> Labeled:
    return Labeled(255 - sound.video, replace(sound.tracks, points=sound.tracks.points * np.float32(2)))


@pytest.mark.parametrize("name", BREAKS)
def test_each_way_changes_the_sample_and_the_same_seed_gives_the_same_bytes(
    name: str, sound: Labeled, other: Labeled
) -> None:
    one, again, third = (break_sample(name, sound, other, seed=seed) for seed in (3, 3, 4))
    assert one.video.tobytes() == again.video.tobytes()
    assert one.tracks.points.tobytes() == again.tracks.points.tobytes()
    assert one.video.tobytes() + one.tracks.points.tobytes() != sound.video.tobytes() + sound.tracks.points.tobytes()
    assert one.tracks.points.dtype == np.float32 and one.tracks.points.shape == sound.tracks.points.shape
    if name != "tracks of another clip":
        assert (third.video.tobytes(), third.tracks.points.tobytes()) != (
            one.video.tobytes(), one.tracks.points.tobytes(),
        )  # fmt: skip


@pytest.mark.parametrize("name", [name for name, kind in BREAKS.items() if kind.criterion == "anomalous_share"])
def test_the_strength_is_the_share_of_broken_trajectories(name: str, sound: Labeled, other: Labeled) -> None:
    broken = break_sample(name, sound, other, seed=1, strength=0.25).tracks.points
    changed = ~(broken == sound.tracks.points).all((0, 3))
    assert changed.mean() == 0.25
    np.testing.assert_array_equal(broken[0], sound.tracks.points[0])


@pytest.mark.parametrize("name", ["sheared tracks", "sliding tracks", "shaking tracks"])
def test_tracks_go_astray_at_their_depth(name: str, sound: Labeled, other: Labeled) -> None:
    broken = break_sample(name, sound, other, seed=1).tracks.points
    np.testing.assert_allclose(broken[..., 2], sound.tracks.points[..., 2])
    np.testing.assert_allclose(broken[0], sound.tracks.points[0], atol=1e-5)
    assert np.abs(broken[-1] - sound.tracks.points[-1]).max() > 0.05


@pytest.mark.parametrize("name", ["drifting scale", "drifting scale of a region", "stretched depth"])
def test_wrong_depth_stays_under_its_pixels(name: str, sound: Labeled, other: Labeled) -> None:
    broken, truth = break_sample(name, sound, other, seed=1).tracks.points, sound.tracks.points
    np.testing.assert_allclose(broken[..., :2] / broken[..., 2:], truth[..., :2] / truth[..., 2:], atol=1e-5)


def test_a_drift_ends_at_its_strength(sound: Labeled, other: Labeled) -> None:
    factors = break_sample("drifting scale", sound, other, seed=1, strength=0.2).tracks.points / sound.tracks.points
    assert abs(np.log(factors[-1, 0, 0, 2])) == pytest.approx(0.2, abs=1e-5) and np.ptp(factors[-1, ..., 2]) < 1e-5


def test_every_chosen_frame_leaves_its_place(sound: Labeled, other: Labeled) -> None:
    for seed in range(8):
        broken = break_sample("swapped frames", sound, other, seed=seed, strength=1.0)
        same = (broken.video == sound.video).all((1, 2, 3))
        moved = broken.video is not sound.video
        assert same.tolist() == ([True] + [False] * 4 if moved else [True] * 5)


def test_an_unknown_way_is_refused_by_name(sound: Labeled, other: Labeled) -> None:
    with pytest.raises(ValueError, match="unknown way to break a sample 'rust'; known are depth spikes"):
        break_sample("rust", sound, other, seed=0)
