"""Claims about more4d.curation.changes."""

from collections.abc import Callable

import numpy as np
import pytest
from more4d.curation.changes import ChangeSince, measure_noise
from more4d.curation.filters import measure_motion
from numpy.typing import NDArray

MakeVideo = Callable[..., NDArray[np.uint8]]


def _noisy(video: NDArray[np.uint8], sigma: float) -> NDArray[np.uint8]:
    noise = np.random.default_rng(0).normal(0, sigma, (*video.shape[:3], 1))
    return np.clip(np.round(video + noise), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("sigma", [2.0, 5.0])
def test_the_noise_of_a_still_clip_is_measured(make_video: MakeVideo, sigma: float) -> None:
    assert measure_noise(_noisy(make_video("still", 13), sigma)) == pytest.approx(sigma, rel=0.25)


@pytest.mark.parametrize("kind", ["still", "pan", "subject"])
def test_a_clip_without_noise_has_next_to_none(make_video: MakeVideo, kind: str) -> None:
    assert measure_noise(make_video(kind, 13)) < 0.7


@pytest.mark.parametrize("sigma", [1.0, 3.0, 6.0])
def test_noise_is_no_motion_and_hides_none(make_video: MakeVideo, sigma: float) -> None:
    still, _ = measure_motion(_noisy(make_video("still", 13), sigma))
    moving, _ = measure_motion(_noisy(make_video("subject", 13), sigma))
    clean, _ = measure_motion(make_video("subject", 13))
    assert still < 0.005
    assert moving > 0.7 * clean


def test_a_flickering_light_is_no_motion(make_video: MakeVideo) -> None:
    light = np.random.default_rng(1).uniform(0.94, 1.06, (13, 1, 1, 1))
    flickering = np.clip(make_video("still", 13) * light, 0, 255).astype(np.uint8)
    assert measure_motion(flickering)[0] < 0.005


def test_a_change_is_seen_where_it_is(make_video: MakeVideo) -> None:
    video = make_video("still", 2).copy()
    video[1, 20:40, 50:70] += 40
    changed = ChangeSince(video[0], 1.0)(video[1], np.eye(3))
    assert changed[22:38, 52:68].all()
    changed[16:44, 46:74] = False
    assert not changed.any()


def test_what_a_camera_carried_along_has_not_changed(make_video: MakeVideo) -> None:
    video = make_video("pan", 4)
    shift = np.array([[1, 0, -9], [0, 1, 0], [0, 0, 1.0]])
    changed = ChangeSince(video[0], 0.0)
    assert not changed(video[3], shift)[:, 4:80].any()
    assert changed(video[3], np.eye(3)).mean() > 0.3
