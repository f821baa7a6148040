"""Claims about more4d.labeling.flow_tracker."""

import numpy as np
import pytest
from more4d.labeling.flow_tracker import (
    FlowTrackerParams,
    PixelTracks,
    _least_doubtful,
    _Places,
    lift,
    nearest,
    sample,
    track_pixels,
)
from numpy.typing import NDArray

Float = NDArray[np.float32]
PARAMS = FlowTrackerParams(max_inconsistency=1.0, max_inconsistency_share=0.2, max_colour_change=40, still_pixels=0.8)


@pytest.fixture(scope="module")
def tracks(sliding_patch: NDArray[np.uint8]) -> PixelTracks:
    return track_pixels(sliding_patch, PARAMS)


def test_a_sliding_patch_is_followed(tracks: PixelTracks) -> None:
    travelled = (tracks.positions - tracks.positions[0])[:, 11:21, 11:21]
    expected = np.arange(5)[:, None] * np.array([2.0, 0.0])
    np.testing.assert_allclose(np.median(travelled, axis=(1, 2)), expected, atol=0.25)


def test_the_still_background_stays_exactly_on_its_pixels(tracks: PixelTracks) -> None:
    np.testing.assert_array_equal(tracks.positions[:, :4], np.repeat(tracks.positions[:1, :4], 5, 0))
    assert tracks.visible[:, :4].all()


def test_background_that_is_passed_over_is_mostly_hidden_and_not_carried_away(tracks: PixelTracks) -> None:
    region = (slice(10, 22), slice(26, 30))
    assert tracks.visible[4][region].mean() < 0.5
    # The patch has gone 8 pixels; its edge drags what is beside it, but not far.
    assert np.linalg.norm(tracks.positions[4] - tracks.positions[0], axis=-1)[region].mean() < 3


def test_every_point_is_seen_in_the_first_frame(tracks: PixelTracks) -> None:
    assert tracks.visible[0].all()


def test_lifting_keeps_the_first_depth_of_what_stands_still(tracks: PixelTracks, intrinsics: Float) -> None:
    depths = np.repeat(np.linspace(4, 6, 5, dtype=np.float32)[:, None, None], 32, 1).repeat(48, 2)
    points = lift(tracks, depths, intrinsics, PARAMS.still_pixels)
    np.testing.assert_array_equal(points[:, :4, :, 2], np.full((5, 4, 48), 4, np.float32))
    np.testing.assert_allclose(np.median(points[:, 12:20, 12:20, 2], axis=(1, 2)), [4, 4.5, 5, 5.5, 6], rtol=1e-5)


def test_lifted_points_project_to_the_tracks(tracks: PixelTracks, intrinsics: Float) -> None:
    points = lift(tracks, np.full((5, 32, 48), 3, np.float32), intrinsics, PARAMS.still_pixels)
    pixels = points[..., :2] / points[..., 2:] * intrinsics[0, 0] + intrinsics[:2, 2]
    np.testing.assert_allclose(pixels, tracks.positions, atol=1e-3)


def test_sampling_reads_pixel_centres() -> None:
    field = np.random.default_rng(0).normal(size=(4, 6, 2)).astype(np.float32)
    centres = (np.stack(np.meshgrid(np.arange(6), np.arange(4)), -1) + 0.5).astype(np.float32)
    np.testing.assert_allclose(sample(field, centres), field, atol=1e-6)
    np.testing.assert_array_equal(nearest(field[..., 0], centres), field[..., 0])
    np.testing.assert_array_equal(nearest(field[..., 0], centres + 100), np.full((4, 6), field[-1, -1, 0]))


def test_points_that_are_covered_for_a_frame_are_lost_and_found_again(sliding_patch: NDArray[np.uint8]) -> None:
    covered = sliding_patch.copy()
    covered[2, 8:24] = 0
    tracks = track_pixels(covered, PARAMS)
    inner = (slice(12, 20), slice(12, 20))
    assert tracks.visible[1][inner].all()
    assert not tracks.visible[2][inner].any()
    assert tracks.visible[3][inner].mean() > 0.9
    np.testing.assert_allclose(np.median((tracks.positions[3] - tracks.positions[0])[inner], (0, 1)), [6, 0], atol=0.3)


def test_a_point_is_taken_from_the_start_whose_flow_agrees_best() -> None:
    here = np.array([[[0.5, 0.5], [1.5, 0.5]]], np.float32)
    near, far = here + 1, here + 2
    seen, doubt = np.ones((1, 2), bool), np.array([[0.5, 0.1]], np.float32)
    one = _Places(near, seen, doubt), np.array([[0.5, 0.1]], np.float32)
    other = _Places(far, seen, doubt), np.array([[0.2, 0.4]], np.float32)
    taken = _least_doubtful(_Places(here, seen, doubt), [one, other])
    np.testing.assert_array_equal(taken.positions, [[far[0, 0], near[0, 1]]])
    nowhere = _Places(near, ~seen, doubt + 1), np.full((1, 2), np.inf, np.float32)
    lost = _least_doubtful(_Places(here, seen, doubt), [nowhere])
    np.testing.assert_array_equal(lost.positions, here)
    np.testing.assert_array_equal(lost.doubt, doubt)
    assert not lost.visible.any()


def test_the_same_frames_give_the_same_bytes(sliding_patch: NDArray[np.uint8]) -> None:
    first, second = (track_pixels(sliding_patch, PARAMS) for _ in range(2))
    assert first.positions.tobytes() == second.positions.tobytes()
    assert first.visible.tobytes() == second.visible.tobytes()


@pytest.mark.parametrize("wrong", [{"gaps": ()}, {"gaps": (0,)}, {"flow_side": 8}, {"flow_smoothness": 0}])
def test_gaps_and_flows_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        FlowTrackerParams.model_validate(PARAMS.model_dump() | wrong)
