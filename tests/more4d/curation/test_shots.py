"""Claims about more4d.curation.shots."""

from collections.abc import Callable

import numpy as np
from more4d.curation.shots import ShotDetector
from numpy.typing import NDArray

MakeVideo = Callable[..., NDArray[np.uint8]]


def _cuts(video: NDArray[np.uint8]) -> list[int]:
    detector = ShotDetector(0.35)
    return [number for number, image in enumerate(video) if detector.is_cut(detector.score(image))]


def test_a_cut_is_found_where_it_is(make_video: MakeVideo) -> None:
    video = np.concatenate([make_video("subject", 4, 1), make_video("subject", 5, 7)])
    assert _cuts(video) == [4]


def test_motion_and_pans_are_no_cuts(make_video: MakeVideo) -> None:
    assert _cuts(make_video("subject", 9)) == []
    assert _cuts(make_video("pan", 9)) == []


def test_a_change_of_exposure_is_no_cut(make_video: MakeVideo) -> None:
    video = make_video("subject", 6)
    video[3:] = (video[3:] * 0.6).astype(np.uint8)
    assert _cuts(video) == []
