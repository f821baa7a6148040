"""Claims about more4d.curation.probe, and about videos that are not what they seem (read by more4d.data.video)."""

import struct
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from more4d.curation.probe import ProbeLimits, probe
from more4d.curation.shots import HistogramDetector
from more4d.curation.windows import Window, WindowShape, iter_windows
from more4d.data.video import Source, VideoError, iter_frames, iter_thumbnails
from numpy.typing import NDArray

MakeVideo = Callable[..., NDArray[np.uint8]]
Encode = Callable[..., bytes]
SHAPE = WindowShape(frames=5, height=32, width=48, fps=8)


def _windows(source: Source, shape: WindowShape = SHAPE) -> Iterator[Window]:
    probe(source, ProbeLimits(), min_fps=4)
    return iter_windows(source, shape, detector=HistogramDetector(), cut_threshold=0.35)


def _still(count: int, height: int = 64, width: int = 96) -> Iterator[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    return (image[:height, :width] for _ in range(count))


@pytest.mark.parametrize(
    ("height", "width", "reason"),
    [
        (16, 96, "absurd size: 96x16 pixels .a side below 32"),
        (64, 512, "absurd size: 512x64 pixels .a side more than 4 times"),
        (256, 256, "absurd size: 256x256 pixels .above 65000 in all"),
    ],
)
def test_absurd_sizes_are_refused_before_decoding(encode: Encode, height: int, width: int, reason: str) -> None:
    with pytest.raises(VideoError, match=reason):
        probe(encode(_still(2, height, width)), ProbeLimits(max_pixels=65_000), min_fps=1)


def test_absurd_rates_and_lengths_are_refused(encode: Encode) -> None:
    data = encode(_still(20))
    with pytest.raises(VideoError, match="too slow: 8 frames per second"):
        probe(data, ProbeLimits(), min_fps=9)
    with pytest.raises(VideoError, match="absurd rate: 8 frames"):
        probe(data, ProbeLimits(max_fps=7), min_fps=1)
    with pytest.raises(VideoError, match="absurd length: 2 s"):
        probe(data, ProbeLimits(max_seconds=1), min_fps=1)


def test_sound_alone_and_nothing_at_all_are_refused(tmp_path: Path) -> None:
    with wave.open(str(tmp_path / "a.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", ""))
        sound.writeframes(bytes(16000))
    with pytest.raises(VideoError, match="no video stream, only audio"):
        _windows(tmp_path / "a.wav")
    with pytest.raises(VideoError, match="cannot be opened"):
        _windows(b"")


def test_a_container_without_a_single_frame_is_refused(encode: Encode) -> None:
    whole = encode(_still(20), container="matroska")
    with pytest.raises(VideoError):
        list(_windows(whole[: whole.index(b"\x1f\x43\xb6\x75")]))


def test_a_truncated_video_gives_its_good_windows_and_then_the_reason(encode: Encode, make_video: MakeVideo) -> None:
    # Grain, so that half of the bytes are half of the frames.
    grain = np.random.default_rng(0).integers(-20, 20, (80, 64, 96, 3))
    video = (np.clip(frame + noise, 0, 255).astype(np.uint8) for frame, noise in zip(_still(80), grain, strict=True))
    whole = encode(video, container="matroska")
    found = []
    with pytest.raises(VideoError, match="breaks off|claims 10.0 s but ends after"):
        for window in _windows(whole[: len(whole) // 2]):
            found.append(window)  # noqa: PERF402 - what came before the error counts
    assert len(found) >= 5


def test_a_video_that_lies_about_its_length_is_found_out(encode: Encode) -> None:
    lying = bytearray(encode(_still(40), container="matroska"))
    at = lying.index(b"\x44\x89\x88") + 3
    (milliseconds,) = struct.unpack(">d", lying[at : at + 8])
    assert milliseconds == 5000
    lying[at : at + 8] = struct.pack(">d", 60_000.0)
    with pytest.raises(VideoError, match=r"claims 60.0 s but ends after 4.9 s: truncated, or it lies"):
        list(_windows(bytes(lying)))


def test_a_longer_video_than_was_claimed_is_cut_as_it_is(encode: Encode) -> None:
    lying = bytearray(encode(_still(40), container="matroska"))
    at = lying.index(b"\x44\x89\x88") + 3
    lying[at : at + 8] = struct.pack(">d", 1.0)
    assert sum(len(window.frames) for window in _windows(bytes(lying))) == 40


def test_a_gap_of_hours_between_two_frames_is_refused_instead_of_filled(encode: Encode) -> None:
    data = encode(_still(8), container="matroska", times_ms=[0, 125, 250, 375, 500, 625, 36_000_000, 36_000_125])
    windows = iter_windows(data, SHAPE, detector=HistogramDetector(), cut_threshold=0.35)
    assert next(windows).start == 0
    with pytest.raises(VideoError, match="shows nothing from 0.625 s to 36000.000 s"):
        list(windows)


def test_a_varying_rate_is_resampled_by_its_times(encode: Encode) -> None:
    grey = [np.full((64, 96, 3), 20 * n, np.uint8) for n in range(11)]
    times = [0, 20, 125, 130, 250, 260, 270, 375, 500, 505, 1000]
    data = encode(grey, container="matroska", times_ms=times)
    first, second = iter_windows(data, SHAPE, detector=HistogramDetector(), cut_threshold=1.1)
    levels = [int(frame.mean()) for frame in first.frames]
    np.testing.assert_allclose(levels, [0, 40, 80, 140, 160], atol=4)
    assert (first.repeated, len(second.frames)) == (0, 4)
    # Between 505 and 1000 ms the source has nothing new.
    assert second.repeated == 0.5


@pytest.mark.parametrize("quarter_turns", [1, 2, 3])
def test_a_turned_video_is_upright_in_frames_and_thumbnails(encode: Encode, quarter_turns: int) -> None:
    image = np.zeros((64, 96, 3), np.uint8)
    image[:32, :48, 0] = 250
    upright = np.rot90(image, quarter_turns)
    data = _with_display_matrix(encode([image] * 8), quarter_turns)
    _, frame = next(iter_frames(data))
    assert frame.shape == upright.shape
    assert np.abs(frame.astype(int) - upright).mean() < 8
    _, small = next(iter_thumbnails(data, upright.shape[0] // 4, upright.shape[1] // 4))
    assert np.abs(small.astype(int) - upright[2::4, 2::4]).mean() < 8


@pytest.mark.parametrize("pixels", ["yuv420p10le", "yuv422p10le", "yuv444p", "gray"])
def test_ten_bit_and_unusual_pixels_are_converted(encode: Encode, make_video: MakeVideo, pixels: str) -> None:
    video = make_video("subject", 8)
    window = next(_windows(encode(video, pixels=pixels), WindowShape(5, 64, 96, 8)))
    wanted = video[:5] if pixels != "gray" else video[:5].mean(-1, keepdims=True)
    assert np.abs(window.frames.astype(float) - wanted).mean() < 12


@pytest.mark.parametrize("kind", ["html", "zeros", "noise", "header", "gif"])
def test_other_files_under_a_videos_name_are_refused(encode: Encode, kind: str, tmp_path: Path) -> None:
    data = {
        "html": b"<html><body>404 not found</body></html>" * 100,
        "zeros": bytes(100_000),
        "noise": np.random.default_rng(0).bytes(100_000),
        "header": encode(_still(8))[:40],
        "gif": b"GIF89a" + bytes(20),
    }[kind]
    (tmp_path / "clip.mp4").write_bytes(data)
    with pytest.raises(VideoError, match=r"clip\.mp4"):
        list(_windows(tmp_path / "clip.mp4"))


@pytest.mark.parametrize("seed", range(12))
def test_flipped_bytes_give_windows_or_a_named_reason_and_nothing_else(encode: Encode, seed: int) -> None:
    data = bytearray(encode(np.random.default_rng(0).integers(0, 256, (24, 64, 96, 3), np.uint8)))
    rng = np.random.default_rng(seed)
    for at in rng.integers(0, len(data), 40):
        data[at] = rng.integers(0, 256)
    try:
        assert all(window.frames.dtype == np.uint8 for window in _windows(bytes(data)))
    except VideoError as error:
        assert str(error)


def test_a_picture_that_grows_in_mid_stream_keeps_the_windows_size(encode: Encode) -> None:
    small, large = (encode(_still(8, *size), container="mpegts") for size in ((64, 96), (128, 160)))
    for window in _safely(small + large):
        assert window.frames.shape[1:] == (32, 48, 3)


def test_a_long_video_is_cut_in_the_memory_of_a_short_one(encode: Encode, tmp_path: Path) -> None:
    # 1,500 frames of 240x320 are 350 MB in memory.
    (tmp_path / "long.mkv").write_bytes(encode(_still(1500, 240, 320), container="matroska", codec="mpeg4"))
    process = psutil.Process()
    windows, grown, before = 0, 0, 0
    for window in _windows(tmp_path / "long.mkv", WindowShape(49, 64, 96, 8)):
        windows += len(window.frames) == 49
        before = before or process.memory_info().rss
        grown = max(grown, process.memory_info().rss - before)
    assert windows == 1500 // 49
    assert grown < 60e6


def _safely(source: Source) -> list[Window]:
    found = []
    try:
        found.extend(_windows(source))
    except VideoError as error:
        assert str(error)
    return found


def _with_display_matrix(data: bytes, quarter_turns: int) -> bytes:
    """The mp4 with the display matrix (tkhd, ISO 14496-12) of a camera held sideways."""
    cosine, sine = [(1, 0), (0, 1), (-1, 0), (0, -1)][quarter_turns]
    matrix: list[Any] = [cosine, -sine, 0, sine, cosine, 0, 0, 0]
    turned = bytearray(data)
    at = data.index(b"tkhd") + 4 + 40
    turned[at : at + 36] = struct.pack(">8i", *(65536 * value for value in matrix)) + struct.pack(">i", 1 << 30)
    return bytes(turned)
