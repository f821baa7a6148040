"""Small made-up videos for these tests."""

import io
import itertools
from collections.abc import Callable, Iterable
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

Frames = NDArray[np.uint8]


def texture(seed: int, height: int = 64, width: int = 192) -> Frames:
    """A colourful blurred noise picture [H, W, 3]."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8)
    soft = cv2.GaussianBlur(noise, (0, 0), 3).astype(np.float32)
    tint = np.random.default_rng(seed + 99).uniform(0.3, 1, 3)
    stretched = (soft - soft.min()) / (soft.max() - soft.min())
    return (255 * stretched * tint).astype(np.uint8)


@pytest.fixture(scope="session")
def make_video() -> Callable[..., Frames]:
    """Makes frames uint8 [T, 64, 96, 3]: "still", "pan" (the camera), "subject" (a patch moves), "dark", "flat"."""

    def make(kind: str, frames: int = 5, seed: int = 0) -> Frames:
        wide = texture(seed)
        if kind == "pan":
            return np.stack([wide[:, 3 * t : 3 * t + 96] for t in range(frames)])
        video = np.repeat(wide[None, :, :96], frames, 0).copy()
        if kind in ("subject", "dark", "flat"):
            patch = texture(seed + 1)[:24, :24]
            for t in range(frames):
                video[t, 20:44, 20 + 3 * t : 44 + 3 * t] = patch
        if kind == "dark":
            video = (video * 0.05).astype(np.uint8)
        if kind == "flat":
            video = (128 + (video.astype(int) - 128) // 30).astype(np.uint8)
        return video

    return make


@pytest.fixture(scope="session")
def encode() -> Callable[..., bytes]:
    """Encodes frames by hand, as no encoder of ours would: any container, pixel format and frame times (ms)."""
    return _encode


def _encode(
    video: Iterable[Frames],
    *,
    container: str = "mp4",
    codec: str = "libx264",
    pixels: str = "yuv420p",
    times_ms: Iterable[int] | None = None,
    fps: int = 8,
) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=fps, options={"crf": "10"} if codec == "libx264" else {})
        stream.pix_fmt = pixels
        if times_ms is not None:
            stream.codec_context.time_base = Fraction(1, 1000)
        times = iter(times_ms) if times_ms is not None else itertools.count()
        for image, time in zip(video, times, strict=False):
            if not stream.codec_context.is_open:
                stream.height, stream.width = image.shape[:2]
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000) if times_ms is not None else Fraction(1, fps)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return buffer.getvalue()
