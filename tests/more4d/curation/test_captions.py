"""Claims about more4d.curation.captions."""

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from more4d.curation.captions import CaptionRequest, FrameSettings, captioner, clean_caption, frames_message
from more4d.curation.llm.errors import CannotAskError
from more4d.data.video import write_video
from PIL import Image


def test_captions_become_one_line_of_plain_text() -> None:
    assert clean_caption(" A&nbsp;fox <b>runs</b>\n fast\u200b https://x.y/z \x07!") == "A fox runs fast !"


def test_the_table_captioner_answers_in_order() -> None:
    requests = [CaptionRequest(name, Path(name), f" {name}  moves ") for name in ("b", "a")]
    answers = list(captioner("table").caption_all(requests))
    assert [(answer.clip_id, answer.text) for answer in answers] == [("b", "b moves"), ("a", "a moves")]


def test_an_unknown_captioner_is_refused_with_the_known() -> None:
    with pytest.raises(ValueError, match="unknown captioner 'gpt'; the captioners are table, vlm"):
        captioner("gpt")


def test_a_model_without_a_server_is_refused() -> None:
    with pytest.raises(ValueError, match=r"give captions\.server its base_url and model"):
        captioner("vlm")


def _shown(message: list[dict[str, Any]]) -> list[Image.Image]:
    *pictures, told = message
    assert told["text"].startswith(f"{len(pictures)} frames")
    heads, data = zip(*(part["image_url"]["url"].split(",") for part in pictures), strict=True)
    assert set(heads) == {"data:image/jpeg;base64"}
    return [Image.open(io.BytesIO(base64.b64decode(one))) for one in data]


@pytest.mark.parametrize(("frames", "fps", "shown"), [(13, 8.0, 3), (1, 8.0, 1), (60, 2.0, 24), (5, 10.0, 1)])
def test_a_frame_for_each_second_begun_is_shown_but_one_at_least_and_24_at_most(
    tmp_path: Path, frames: int, fps: float, shown: int
) -> None:
    write_video(tmp_path / "a.mp4", np.zeros((frames, 32, 48, 3), np.uint8), fps)
    assert len(_shown(frames_message(tmp_path / "a.mp4", FrameSettings()))) == shown


def test_frames_are_shown_in_order_and_reduced(tmp_path: Path) -> None:
    video = np.repeat(np.array([20, 120, 220], np.uint8), 4)[:, None, None, None] * np.ones((1, 64, 128, 3), np.uint8)
    write_video(tmp_path / "a.mp4", video, 4)
    images = _shown(frames_message(tmp_path / "a.mp4", FrameSettings(longest_side=64)))
    assert [image.size for image in images] == [(64, 32)] * 4
    assert [round(float(np.asarray(image).mean()), -1) for image in images] == [20, 120, 220, 220]


def test_a_clip_that_cannot_be_read_cannot_be_asked_about(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"no video")
    with pytest.raises(CannotAskError, match=r"a\.mp4 cannot be opened"):
        frames_message(tmp_path / "a.mp4", FrameSettings())
