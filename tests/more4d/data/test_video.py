"""Claims about more4d.data.video."""

import wave
from pathlib import Path

import numpy as np
import pytest
from more4d.data.video import VideoError, encode_video, iter_frames, probe_video, read_video, resample, write_video
from numpy.typing import NDArray


def _frames(count: int = 9, height: int = 32, width: int = 48, seed: int = 0) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).integers(0, 256, (count, height // 8, width // 8, 3), dtype=np.uint8)
    return noise.repeat(8, 1).repeat(8, 2)


def test_lossless_video_comes_back_exact(tmp_path: Path) -> None:
    frames = _frames()
    write_video(tmp_path / "a.mp4", frames, 8, lossless=True)
    back, fps = read_video(tmp_path / "a.mp4")
    assert fps == 8
    np.testing.assert_array_equal(back, frames)


def test_same_frames_give_the_same_bytes() -> None:
    assert encode_video(_frames(), 8) == encode_video(_frames(), 8)
    assert encode_video(_frames(), 8, lossless=True) == encode_video(_frames(), 8, lossless=True)


def test_lossy_video_is_near(tmp_path: Path) -> None:
    write_video(tmp_path / "a.mp4", _frames(), 8, crf=10)
    assert np.abs(read_video(tmp_path / "a.mp4")[0].astype(int) - _frames()).mean() < 6


def test_probe_reports_size_rate_and_length() -> None:
    info = probe_video(encode_video(_frames(16), 8))
    assert (info.height, info.width, info.fps, info.duration) == (32, 48, 8, 2)


def test_resampling_takes_the_nearest_frame_of_a_varying_rate() -> None:
    images = _frames(6)
    times = [0.0, 0.02, 0.11, 0.19, 0.33, 0.4]
    taken = list(resample(zip(times, images, strict=True), 10))
    for (_, image), expected in zip(taken, [0, 2, 3, 4, 5], strict=True):
        np.testing.assert_array_equal(image, images[expected])


def test_resampling_at_its_own_rate_changes_nothing() -> None:
    taken = list(iter_frames(encode_video(_frames(9), 8, lossless=True), 8))
    np.testing.assert_array_equal(np.stack([image for _, image in taken]), _frames(9))
    assert [time for time, _ in taken] == [n / 8 for n in range(9)]


def test_missing_and_broken_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"none\.mp4 does not exist"):
        read_video(tmp_path / "none.mp4")
    (tmp_path / "half.mp4").write_bytes(encode_video(_frames(), 8)[:300])
    with pytest.raises(VideoError, match=r"half\.mp4 cannot be opened"):
        read_video(tmp_path / "half.mp4")
    (tmp_path / "empty.mp4").touch()
    with pytest.raises(VideoError, match=r"empty\.mp4 cannot be opened"):
        read_video(tmp_path / "empty.mp4")


def test_sound_alone_is_no_video(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "a.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    with pytest.raises(VideoError, match="no video stream, only audio"):
        read_video(tmp_path / "a.wav")


def test_odd_sides_are_refused_for_yuv420p() -> None:
    with pytest.raises(ValueError, match="even sides, not 33x48"):
        encode_video(np.zeros((2, 33, 48, 3), np.uint8), 8)
