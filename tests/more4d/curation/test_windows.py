"""Claims about more4d.curation.windows."""

from collections.abc import Callable

import numpy as np
import pytest
from more4d.curation.shots import HistogramDetector
from more4d.curation.windows import Window, WindowShape, iter_windows
from more4d.data.video import Source, VideoError, encode_video
from numpy.typing import NDArray

MakeVideo = Callable[..., NDArray[np.uint8]]
SHAPE = WindowShape(frames=5, height=32, width=48, fps=8)


def _windows(video: NDArray[np.uint8], shape: WindowShape = SHAPE) -> list[Window]:
    return _cut(encode_video(video, 8, lossless=True), shape)


def _cut(source: Source, shape: WindowShape = SHAPE) -> list[Window]:
    return list(iter_windows(source, shape, detector=HistogramDetector(), cut_threshold=0.35))


def test_windows_follow_one_another_and_the_rest_is_named(make_video: MakeVideo) -> None:
    windows = _windows(make_video("subject", 12))
    assert [(w.start, len(w.frames), w.ended_by) for w in windows] == [
        (0, 5, "length"), (5, 5, "length"), (10, 2, "end"),
    ]  # fmt: skip
    assert windows[0].frames.shape == (5, 32, 48, 3)


def test_a_cut_ends_a_window_and_starts_the_next(make_video: MakeVideo) -> None:
    video = np.concatenate([make_video("subject", 3, 1), make_video("subject", 5, 7)])
    windows = _windows(video)
    assert [(w.start, len(w.frames), w.ended_by) for w in windows] == [(0, 3, "cut"), (3, 5, "length")]
    assert all(window.shot_score < 0.35 for window in windows)


def test_a_video_of_the_wanted_size_and_rate_is_not_touched(make_video: MakeVideo) -> None:
    video = make_video("subject", 5)
    (window,) = _windows(video, WindowShape(frames=5, height=64, width=96, fps=8))
    np.testing.assert_array_equal(window.frames, video)


def test_a_broken_video_is_an_error_after_its_good_windows(make_video: MakeVideo) -> None:
    with pytest.raises(VideoError):
        _cut(encode_video(make_video("subject"), 8)[:200])
