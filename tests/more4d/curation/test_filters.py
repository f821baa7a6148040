"""Claims about more4d.curation.filters and more4d.curation.flow."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from more4d.curation.filters import FilterThresholds, judge_window, measure_motion
from more4d.curation.flow import DenseFlow
from more4d.curation.overlay_text import text_detector
from more4d.curation.windows import Window
from numpy.typing import NDArray
from pydantic import ValidationError

MakeVideo = Callable[..., NDArray[np.uint8]]
LIMITS = FilterThresholds(
    min_motion=0.01, max_camera_motion=0.03, min_brightness=0.08, max_brightness=0.92, min_contrast=0.04
)


def _window(video: NDArray[np.uint8], repeated: float = 0.0) -> Window:
    return Window(0, video, "length", 0.0, repeated, (video[0], video[len(video) // 2], video[-1]))


def _reasons(video: NDArray[np.uint8], **facts: float) -> str:
    return "; ".join(finding.reason for finding in judge_window(_window(video, **facts), LIMITS) if finding.reason)


def test_a_subject_that_moves_before_a_still_background_is_kept(make_video: MakeVideo) -> None:
    assert _reasons(make_video("subject")) == ""


def test_a_pan_is_rejected_for_the_camera(make_video: MakeVideo) -> None:
    assert "the camera moves" in _reasons(make_video("pan"))


def test_a_still_clip_is_rejected_as_static(make_video: MakeVideo) -> None:
    assert _reasons(make_video("still")).startswith("static: nothing moves")


def test_dark_and_flat_clips_are_rejected_by_name(make_video: MakeVideo) -> None:
    assert "too dark" in _reasons(make_video("dark"))
    assert "no contrast" in _reasons(make_video("flat"))


def test_every_filter_reports_its_score_even_when_it_passes(make_video: MakeVideo) -> None:
    findings = judge_window(_window(make_video("subject")), LIMITS)
    assert [f.name for f in findings] == ["motion", "camera_motion", "repeated", "brightness", "contrast"]
    assert all(np.isfinite(finding.score) for finding in findings)


def test_a_source_with_too_few_frames_is_rejected(make_video: MakeVideo) -> None:
    assert _reasons(make_video("subject"), repeated=0.2) == ""
    assert "repeated are 0.4000" in _reasons(make_video("subject"), repeated=0.4)


def test_overlay_text_is_sought_only_in_what_is_kept_otherwise(make_video: MakeVideo) -> None:
    video = make_video("subject").repeat(4, 1).repeat(4, 2)
    titled = np.stack([cv2.putText(f.copy(), "Subscribe", (40, 220), 0, 2, (255, 255, 255), 4) for f in video])
    finding = judge_window(_window(titled), LIMITS, text_detector("rapidocr"))[-1]
    assert (finding.name, finding.score > 0.03) == ("text", True)
    assert finding.reason.startswith("overlay text covers")
    assert judge_window(_window(video), LIMITS, text_detector("rapidocr"))[-1].reason == ""
    still = _window(np.repeat(titled[:1], 5, 0))
    assert "text" not in [f.name for f in judge_window(still, LIMITS, text_detector("rapidocr"))]


def test_flow_of_a_shift_is_that_shift(make_video: MakeVideo) -> None:
    video = make_video("pan", 2)
    flow = DenseFlow()(video[0], video[1])
    np.testing.assert_allclose(np.median(flow[8:-8, 8:-8], axis=(0, 1)), [-3, 0], atol=0.1)


def test_motion_is_a_share_of_the_width_travelled(make_video: MakeVideo) -> None:
    motion, camera = measure_motion(make_video("subject", 5))
    assert 0.08 < motion < 0.2
    assert camera < 0.005


def test_thresholds_that_admit_nothing_are_refused() -> None:
    with pytest.raises(ValidationError, match="leaves nothing below max_brightness"):
        FilterThresholds(min_motion=1, max_camera_motion=1, min_brightness=0.9, max_brightness=0.1, min_contrast=0)
