"""Claims about more4d.labeling.agreement."""

from dataclasses import replace

import numpy as np
import pytest
from more4d.labeling.agreement import flow_error, look, spread, unexplained_change
from more4d.labeling.tracks import TrackLabel
from numpy.typing import NDArray

Video = NDArray[np.uint8]


def _slid(tracks: TrackLabel, pixels: float) -> TrackLabel:
    """Every point goes right by so many pixels a frame more."""
    points = tracks.points.copy()
    points[..., 0] += np.arange(len(points))[:, None, None] * pixels * points[..., 2] / tracks.intrinsics[0, 0]
    return replace(tracks, points=points)


def _still(tracks: TrackLabel, *, visible: bool) -> TrackLabel:
    shown = np.ones_like(tracks.visibility) if visible else tracks.visibility
    return replace(tracks, points=np.repeat(tracks.points[:1], len(tracks.points), 0), visibility=shown)


def test_sound_tracks_agree_with_the_clip(sound: TrackLabel, sliding_patch: Video) -> None:
    found = look(sound, sliding_patch)
    assert flow_error(found) < 0.3 and unexplained_change(found) < 0.05


@pytest.mark.parametrize("pixels", [-3, -1, 1, 3])
def test_tracks_that_slide_disagree_with_the_flow(sound: TrackLabel, sliding_patch: Video, pixels: int) -> None:
    assert flow_error(look(_slid(sound, pixels), sliding_patch)) > 0.7


def test_tracks_of_other_frames_disagree_with_the_flow(sound: TrackLabel, sliding_patch: Video) -> None:
    order = [0, 4, 2, 1, 3]
    swapped = replace(sound, points=sound.points[order], visibility=sound.visibility[order])
    assert flow_error(look(swapped, sliding_patch)) > 0.9
    assert flow_error(look(sound, sliding_patch[order])) > 0.7


def test_opposite_tracks_disagree_by_two(sound: TrackLabel, sliding_patch: Video) -> None:
    back = sound.points.copy()
    back[..., 0] = 2 * back[:1, ..., 0] - back[..., 0]
    assert flow_error(look(replace(sound, points=back), sliding_patch)) > 1.3


def test_motion_that_the_tracks_miss_is_unexplained(sound: TrackLabel, sliding_patch: Video) -> None:
    missed = look(_still(sound, visible=True), sliding_patch)
    assert unexplained_change(missed) > 0.6 and flow_error(missed) == 0


def test_what_is_hidden_explains_a_change(sound: TrackLabel, sliding_patch: Video) -> None:
    seen, hidden = (look(_still(sound, visible=visible), sliding_patch) for visible in (True, False))
    assert unexplained_change(hidden) < unexplained_change(seen)
    nothing = replace(sound, visibility=np.zeros_like(sound.visibility))
    assert unexplained_change(look(nothing, sliding_patch)) == 0


def test_a_shadow_is_no_change(sound: TrackLabel, sliding_patch: Video) -> None:
    still = np.repeat(sliding_patch[:1], 5, 0)
    shaded = still.copy()
    shaded[1:, 10:20, 26:44] = shaded[1:, 10:20, 26:44] * 0.6
    assert unexplained_change(look(_still(sound, visible=True), shaded)) == 0
    other = still.copy()
    other[1:, 10:20, 26:44] = other[1:, 10:20, 26:44][..., [1, 2, 0]]
    assert unexplained_change(look(_still(sound, visible=True), other)) > 0.5


def test_nothing_to_see_is_no_disagreement(sound: TrackLabel, sliding_patch: Video) -> None:
    lost = replace(sound, points=np.full_like(sound.points, np.nan))
    found = look(lost, sliding_patch)
    assert flow_error(found) == 0 and unexplained_change(found) == 0 and np.isfinite(found.pixels).all()


def test_a_larger_clip_reads_about_the_same(sound: TrackLabel, sliding_patch: Video) -> None:
    def enlarged(array: NDArray, times: int = 5) -> NDArray:
        return array.repeat(times, 1).repeat(times, 2)

    camera = sound.intrinsics * np.array([[5], [5], [1]], np.float32)
    tracks = TrackLabel(enlarged(sound.points), enlarged(sound.visibility), enlarged(sound.depth0[None])[0], camera)
    found = look(tracks, enlarged(sliding_patch))
    assert max(found.pictures[0].shape) == 128
    assert flow_error(found) < 0.4 and unexplained_change(found) < 0.1


@pytest.mark.parametrize(("frames", "most"), [(1, 13), (5, 13), (13, 13), (49, 13), (49, 7)])
def test_frames_are_spread_from_the_first_to_the_last(frames: int, most: int) -> None:
    numbers = spread(frames, most)
    assert numbers[0] == 0 and numbers[-1] == frames - 1 and len(numbers) == min(frames, most)
