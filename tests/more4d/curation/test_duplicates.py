"""Claims about more4d.curation.duplicates."""

from collections.abc import Callable

import cv2
import numpy as np
from more4d.curation.duplicates import DuplicateFinder, Nearest, perceptual_hash
from more4d.data.video import encode_video, read_video
from numpy.typing import NDArray

MakeVideo = Callable[..., NDArray[np.uint8]]


def _far(digits: str) -> str:
    return f"{int(digits, 16) ^ (2**192 - 1):048x}"


def test_a_copy_that_was_compressed_and_made_smaller_is_found(make_video: MakeVideo) -> None:
    video = make_video("subject", 6)
    smaller = np.stack([cv2.resize(image, (72, 48), interpolation=cv2.INTER_AREA) for image in video])
    copy, _ = read_video(encode_video(smaller, 8, crf=30))
    finder = DuplicateFinder(0.1)
    assert finder.add("a-0", "a", perceptual_hash(video)) == (None, False)
    nearest, is_duplicate = finder.add("b-0", "b", perceptual_hash(copy))
    assert nearest is not None
    assert (nearest.clip_id, is_duplicate) == ("a-0", True)


def test_another_picture_is_no_duplicate(make_video: MakeVideo) -> None:
    finder = DuplicateFinder(0.1)
    finder.add("a-0", "a", perceptual_hash(make_video("subject", 5, 1)))
    nearest, is_duplicate = finder.add("b-0", "b", perceptual_hash(make_video("subject", 5, 7)))
    assert nearest is not None
    assert nearest.distance > 0.2
    assert not is_duplicate


def test_windows_of_one_video_are_not_compared() -> None:
    finder = DuplicateFinder(0.1)
    assert finder.add("a-0", "a", "0" * 48) == (None, False)
    assert finder.add("a-1", "a", "0" * 48) == (None, False)
    assert finder.add("b-0", "b", "0" * 48) == (Nearest("a-0", 0.0), True)


def test_a_duplicate_is_not_kept_to_be_compared_with() -> None:
    finder = DuplicateFinder(1 / 192)
    finder.add("a-0", "a", f"{0b0:048x}")
    assert finder.add("b-0", "b", f"{0b1:048x}")[1]
    assert finder.add("c-0", "c", f"{0b11:048x}") == (Nearest("a-0", 2 / 192), False)


def test_more_clips_than_were_made_room_for_are_all_compared() -> None:
    finder = DuplicateFinder(0.0)
    rng = np.random.default_rng(0)
    hashes = [rng.bytes(24).hex() for _ in range(2500)]
    assert not any(finder.add(f"{n}", f"{n}", digits)[1] for n, digits in enumerate(hashes))
    assert finder.add("x", "x", hashes[2100]) == (Nearest("2100", 0.0), True)
    assert finder.add("y", "y", _far(hashes[5]))[1] is False
