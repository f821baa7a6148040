"""Claims about more4d.curation.parts."""

from pathlib import Path

import numpy as np
import pytest
from more4d.curation.parts import cut_part
from more4d.data.video import VideoError, encode_video, read_video


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Five seconds at 8 frames a second; frame t has brightness 6t."""
    images = np.repeat(np.arange(40, dtype=np.uint8)[:, None] * 6, 33 * 48 * 3, 1).reshape(40, 33, 48, 3)
    (tmp_path / "v.mp4").write_bytes(encode_video(images, 8, lossless=True))
    return tmp_path / "v.mp4"


@pytest.mark.parametrize(
    ("begin", "end", "frames"), [(0, 1, range(8)), (1.5, 2, range(12, 16)), (4.5, 99, range(36, 40))]
)
def test_a_part_has_the_frames_from_its_begin_up_to_its_end(
    video: Path, tmp_path: Path, begin: float, end: float, frames: range
) -> None:
    cut_part(video, tmp_path / "p.mp4", begin, end, 8)
    made, fps = read_video(tmp_path / "p.mp4")
    assert (made.shape, fps) == ((len(frames), 32, 48, 3), 8)
    np.testing.assert_allclose(made.mean((1, 2, 3)), 6 * np.array(frames), atol=3)


def test_the_same_part_gives_the_same_bytes(video: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        cut_part(video, tmp_path / f"{name}.mp4", 1, 2, 12)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_a_part_beyond_the_end_and_a_broken_file_are_errors_that_leave_nothing(video: Path, tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="v.mp4 has no frame between 7 s and 8 s"):
        cut_part(video, tmp_path / "p.mp4", 7, 8, 12)
    video.write_bytes(video.read_bytes()[:300])
    with pytest.raises(VideoError, match="cannot be cut"):
        cut_part(video, tmp_path / "p.mp4", 0, 1, 12)
    assert not (tmp_path / "p.mp4").exists()
