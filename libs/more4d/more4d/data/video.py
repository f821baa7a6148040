"""Videos through PyAV: streamed frames with their times, whole short clips, files whose bytes repeat."""

import io
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import av
import av.codec.context
import av.container
import av.error
import av.video.stream
import numpy as np
from numpy.typing import NDArray

log = logging.getLogger(__name__)

Source = Path | bytes
"""A file, or a file's bytes."""

Frame = TypeVar("Frame")

MAX_PIXELS = 64_000_000
"""Of one frame; the decoder itself refuses more, whatever the header said."""
_MAX_GAP = 60.0
"""Seconds between two frames; a longer gap would be filled with one frame over and over."""


class VideoError(ValueError):
    """A video that cannot be read; the message says which and why."""


@dataclass(frozen=True)
class VideoInfo:
    """What the container claims before anything is decoded. `duration` in seconds, 0 where it claims none.

    `height` and `width` as stored: a turned video's are swapped.
    """

    height: int
    width: int
    fps: float
    duration: float
    codec: str = ""
    pixel_format: str = ""


@dataclass(frozen=True, eq=False)
class SampledFrame:
    """A frame picked for the time `number` / fps: uint8 [H, W, 3] RGB, shown `time` seconds after the first one.

    `repeated` where the source had no other frame since the one picked before.
    """

    number: int
    time: float
    image: NDArray[np.uint8]
    repeated: bool


def probe_video(source: Source) -> VideoInfo:
    """Size, frame rate and length as the container claims them. Raises VideoError."""
    with _opened(source) as container:
        stream = _video_stream(container, source)
        rate = stream.average_rate or stream.guessed_rate or Fraction(0)
        codec = stream.codec_context
        return VideoInfo(
            stream.height,
            stream.width,
            float(rate),
            _claimed_seconds(container, stream),
            codec.name,
            codec.pix_fmt or "",
        )


def _claimed_seconds(container: av.container.InputContainer, stream: av.video.stream.VideoStream) -> float:
    # The picture's own length where it is told: sound may go on after it.
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return container.duration / av.time_base if container.duration else 0.0


def iter_frames(source: Source, fps: float | None = None) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Each frame as (seconds since the first frame, uint8 [H, W, 3] RGB, upright), decoded one by one.

    With `fps` the frames nearest to 0, 1/fps, 2/fps, ... seconds. Raises VideoError where the file cannot be opened,
    has no video, or breaks off in the middle.
    """
    frames = _decode(source)
    # Picked before they are converted: a fast camera's frames are mostly dropped.
    for time, frame in frames if fps is None else resample(frames, fps):
        yield time, _upright(frame)


def sample_frames(source: Source, fps: float) -> Iterator[SampledFrame]:
    """The frames nearest to 0, 1/fps, 2/fps, ... seconds, each with its own time. Raises VideoError as iter_frames."""
    before = -1.0
    timed = ((time, (time, frame)) for time, frame in _decode(source))
    for number, (_, (time, frame)) in enumerate(resample(timed, fps)):
        yield SampledFrame(number, time, _upright(frame), repeated=time == before)
        before = time


def iter_thumbnails(source: Source, height: int, width: int) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """Every frame as (seconds since the first, uint8 [height, width, 3] RGB), upright. Raises VideoError."""
    for time, frame in _decode(source):
        turned = round(frame.rotation / 90) % 2
        small = frame.reformat(
            width=height if turned else width, height=width if turned else height, format="rgb24", interpolation="AREA"
        )
        yield time, np.rot90(np.asarray(small.to_ndarray(), np.uint8), round(frame.rotation / 90) % 4)


def resample(frames: Iterable[tuple[float, Frame]], fps: float) -> Iterator[tuple[float, Frame]]:
    """Of (seconds, frame) pairs those nearest to 0, 1/fps, 2/fps, ... seconds; tolerates a varying frame rate."""
    before: tuple[float, Frame] | None = None
    index = 0
    for now in frames:
        while before is not None and index / fps <= (before[0] + now[0]) / 2:
            yield index / fps, before[1]
            index += 1
        before = now
    # Half a step of tolerance: the last frame is shown until its own duration ends.
    while before is not None and index / fps <= before[0] + 0.5 / fps:
        yield index / fps, before[1]
        index += 1


def _decode(source: Source) -> Iterator[tuple[float, av.VideoFrame]]:
    count, first, last = 0, None, -1.0
    with _opened(source) as container:
        stream = _video_stream(container, source)
        stream.thread_type = "NONE"
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
        step = 1 / float(stream.average_rate or stream.guessed_rate or 25)
        try:
            for frame in container.decode(stream):
                time = frame.time if frame.time is not None else count * step
                first = time if first is None else first
                time -= first
                if count and time > last + _MAX_GAP:
                    raise VideoError(f"{_name(source)} shows nothing from {last:.3f} s to {time:.3f} s: its times lie")
                # A time that does not advance is no new moment.
                if time > last:
                    yield time, frame
                    count, last = count + 1, time
        except av.error.FFmpegError as error:
            raise VideoError(f"{_name(source)} breaks off after {count} frames: {error.strerror}") from error
    if not count:
        raise VideoError(f"{_name(source)} holds no frame that can be decoded")


def read_video(source: Source) -> tuple[NDArray[np.uint8], float]:
    """All frames of a short clip: uint8 [T, H, W, 3] RGB, and its frame rate. Raises VideoError."""
    frames = [image for _, image in iter_frames(source)]
    return np.stack(frames), probe_video(source).fps


def write_video(path: Path, frames: NDArray[np.uint8], fps: float, *, lossless: bool = False, crf: int = 16) -> None:
    """Write uint8 [T, H, W, 3] RGB as H.264 mp4; the same frames give the same bytes.

    Lossy: yuv420p, which browsers play (even sides). Lossless: RGB, exact. Raises ValueError for others.
    """
    path.write_bytes(encode_video(frames, fps, lossless=lossless, crf=crf))


def encode_video(
    frames: NDArray[np.uint8], fps: float, *, lossless: bool = False, crf: int = 16, preset: str | None = None
) -> bytes:
    """The mp4 that write_video writes, as bytes."""
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise ValueError(f"a video is uint8 [T, H, W, 3] with T > 0, not {frames.dtype} {list(frames.shape)}")
    if not lossless and (frames.shape[1] % 2 or frames.shape[2] % 2):
        raise ValueError(f"yuv420p needs even sides, not {frames.shape[1]}x{frames.shape[2]}; crop or go lossless")
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream(
            "libx264rgb" if lossless else "libx264",
            rate=Fraction(fps).limit_denominator(1001),
            # fastdecode codes without CABAC: read three times as fast, a tenth larger.
            options={"qp": "0", "preset": preset or "ultrafast", "tune": "fastdecode"}
            if lossless
            else {"crf": str(crf), "preset": preset or "medium", "x264-params": "mbtree=0"},
        )
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "rgb24" if lossless else "yuv420p"
        # No macroblock tree: on small pictures its bytes differ from run to run.
        # One thread: with more, x264's slices, and so the bytes, depend on the machine.
        stream.codec_context.thread_count = 1
        stream.codec_context.flags |= av.codec.context.Flags.bitexact
        for image in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")))
        container.mux(stream.encode(None))
    return buffer.getvalue()


def _opened(source: Source) -> av.container.InputContainer:
    try:
        return av.open(io.BytesIO(source) if isinstance(source, bytes) else str(source), "r")
    except FileNotFoundError as error:
        raise VideoError(f"{_name(source)} does not exist") from error
    except (av.error.FFmpegError, IsADirectoryError) as error:
        raise VideoError(f"{_name(source)} cannot be opened as a video: {error.strerror}") from error


def _video_stream(container: av.container.InputContainer, source: Source) -> av.video.stream.VideoStream:
    if not container.streams.video:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        raise VideoError(f"{_name(source)} has no video stream, only {kinds}")
    return container.streams.video[0]


def _upright(frame: av.VideoFrame) -> NDArray[np.uint8]:
    image = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(image, turns)) if turns else image


def _name(source: Source) -> str:
    return f"{len(source)} bytes" if isinstance(source, bytes) else source.name
