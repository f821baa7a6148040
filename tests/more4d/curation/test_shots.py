"""Claims about more4d.curation.shots."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import cv2
import numpy as np
import pytest
from more4d.curation.shots import HistogramDetector, score_frames, shot_detector
from more4d.data.video import VideoError
from more4d.presets import TINY
from more4d.scenes import SceneConfig, render_distractor
from numpy.typing import NDArray

PACKAGED = Path(".cache/packaged")
WEIGHTS = PACKAGED / "models" / "transnetv2.pth"
THRESHOLD = TINY["clips"]["cut_threshold"]
# The first frames of the new shots.
BIKES = [30, 76, 137, 187, 242]

MakeVideo = Callable[..., NDArray[np.uint8]]


def _cuts(video: NDArray[np.uint8]) -> list[int]:
    small = [cv2.resize(image, (48, 32), interpolation=cv2.INTER_AREA) for image in video]
    return [number for number, score in enumerate(HistogramDetector().scores(small)) if score >= THRESHOLD]


def test_a_cut_is_found_where_it_is(make_video: MakeVideo) -> None:
    video = np.concatenate([make_video("subject", 4, 1), make_video("subject", 5, 7)])
    assert _cuts(video) == [4]


def test_scenes_of_like_colours_are_cut_apart() -> None:
    for seed in range(12):
        made = render_distractor("cuts", seed, SceneConfig(fox_share=0), frames=9, height=64, width=96)
        assert len(_cuts(made.video)) == made.caption.count(", then "), (seed, made.caption)


def test_motion_and_pans_are_no_cuts(make_video: MakeVideo) -> None:
    assert _cuts(make_video("subject", 9)) == []
    assert _cuts(make_video("pan", 9)) == []


def test_a_change_of_exposure_is_no_cut(make_video: MakeVideo) -> None:
    video = make_video("subject", 6)
    video[3:] = (video[3:] * 0.6).astype(np.uint8)
    assert _cuts(video) == []


@pytest.mark.parametrize(("name", "threshold"), [("histogram", THRESHOLD), ("transnetv2", 0.5)])
def test_both_detectors_find_the_bikes_clips_five_cuts_and_no_other(name: str, threshold: float) -> None:
    detector = shot_detector(name, WEIGHTS)
    scored = score_frames(PACKAGED / "clips" / "bikes.mp4", detector)
    assert [number for number, frame in enumerate(scored) if frame.score >= threshold] == BIKES


def test_transnet_without_weights_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"needs its weights at .*more4d\.data\.packaged"):
        shot_detector("transnetv2", tmp_path / "none.pth")


def test_scores_of_the_good_frames_come_before_the_error_of_a_broken_file(make_video: MakeVideo) -> None:
    with patch("more4d.curation.shots.iter_thumbnails", partial(_breaks_off, make_video("still", 10))):
        scored = score_frames(b"", shot_detector("transnetv2", WEIGHTS))
        assert len([next(scored) for _ in range(10)]) == 10
        with pytest.raises(VideoError, match="breaks off"):
            next(scored)


def _breaks_off(video: NDArray[np.uint8], source: bytes, height: int, width: int) -> Iterator[tuple[float, Any]]:
    yield from ((n / 8, cv2.resize(image, (width, height))) for n, image in enumerate(video))
    raise VideoError("breaks off")
