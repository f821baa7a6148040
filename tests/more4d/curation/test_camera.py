"""Claims about more4d.curation.camera."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from more4d.curation.camera import CameraTracker
from more4d.curation.filters import FilterThresholds, judge_window, measure_motion
from more4d.curation.flow import DenseFlow
from more4d.curation.shots import HistogramDetector
from more4d.curation.windows import WindowShape, iter_windows
from more4d.presets import TINY
from more4d.scenes import sample_scene
from more4d.scenes.distractors import CAMERA_MOVES, CameraMove, camera_move
from more4d.scenes.render import film_scene
from numpy.typing import NDArray

PACKAGED = Path(".cache/packaged")
MakeVideo = Callable[..., NDArray[np.uint8]]


def _since_first(video: NDArray[np.uint8]) -> NDArray[np.float64]:
    tracker, flow_between = CameraTracker(video[0]), DenseFlow(192)
    since = np.eye(3)
    for before, after in zip(video, video[1:], strict=False):
        _, since = tracker.follow(after, flow_between(before, after))
    return since


def test_a_pan_is_found_in_pixels(make_video: MakeVideo) -> None:
    since = _since_first(make_video("pan", 9))
    np.testing.assert_allclose(since[:2, 2], [-24, 0], atol=0.5)


def test_a_zoom_is_found_as_a_scale(make_video: MakeVideo) -> None:
    first = make_video("still", 1)[0]
    turns = [cv2.getRotationMatrix2D((48, 32), 0, 1 + 0.02 * t) for t in range(6)]
    video = np.stack([cv2.warpAffine(first, turn, (96, 64), borderMode=cv2.BORDER_REFLECT) for turn in turns])
    since = _since_first(video)
    np.testing.assert_allclose([since[0, 0], since[1, 1]], 1.1, atol=0.01)


def test_a_still_camera_before_a_moving_subject_is_the_identity_exactly(make_video: MakeVideo) -> None:
    np.testing.assert_array_equal(_since_first(make_video("subject", 6)), np.eye(3))


def test_a_slow_pan_adds_up_over_a_window(make_video: MakeVideo) -> None:
    wide = cv2.resize(make_video("still", 1)[0], (960, 640), interpolation=cv2.INTER_CUBIC)
    video = np.stack(
        [cv2.resize(wide[:, 2 * t : 2 * t + 900], (96, 64), interpolation=cv2.INTER_AREA) for t in range(13)]
    )
    assert measure_motion(video)[1] > 0.01


@pytest.mark.parametrize("level", [0, 128])
def test_a_picture_without_a_corner_has_no_motion(level: int) -> None:
    assert measure_motion(np.full((5, 64, 96, 3), level, np.uint8)) == (0, 0)


def test_snow_that_drifts_before_a_still_background_is_no_camera_motion(make_video: MakeVideo) -> None:
    video = make_video("still", 13).copy()
    flakes = np.random.default_rng(0).integers(0, (64, 96), (60, 2))
    for t, image in enumerate(video):
        rows, columns = ((flakes + [t, 2 * t]) % [63, 95]).T
        for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
            image[rows + down, columns + right] = 255
    assert measure_motion(video)[1] < 0.005


@pytest.mark.parametrize("move", CAMERA_MOVES)
def test_every_move_of_a_camera_before_a_rendered_scene_is_found(move: CameraMove) -> None:
    spec = sample_scene(4)
    poses = camera_move(move, spec, 13, np.random.default_rng(0))
    video = film_scene(spec, poses, height=64, width=96, fox_file=PACKAGED / "fox" / "Fox.gltf")
    assert measure_motion(video)[1] > 0.02


def test_the_same_frames_give_the_same_scores(make_video: MakeVideo) -> None:
    assert measure_motion(make_video("pan")) == measure_motion(make_video("pan"))


def test_every_window_of_the_skyline_pan_is_rejected_for_the_camera_and_none_of_a_still_one() -> None:
    limits = FilterThresholds.model_validate(TINY["clips"]["filters"])
    reasons = {name: _reasons(name, limits) for name in ("city.mpg", "sports2d_demo.mp4")}
    assert len(reasons["city.mpg"]) == 3
    assert all("the camera moves" in reason for reason in reasons["city.mpg"])
    assert reasons["sports2d_demo.mp4"][:3] == ["", "", ""]


def _reasons(name: str, limits: FilterThresholds) -> list[str]:
    shape = WindowShape(frames=13, height=64, width=96, fps=8)
    path = PACKAGED / "clips" / name
    windows = iter_windows(path, shape, detector=HistogramDetector(), cut_threshold=0.3)
    whole = (window for window in windows if len(window.frames) == 13)
    return ["; ".join(f.reason for f in judge_window(window, limits) if f.reason) for window in whole]
