"""A part of a video as a file of its own: decoded from the key frame before it, frame by frame, and encoded again."""

from fractions import Fraction
from pathlib import Path

import av
import av.codec.context
import av.container
import av.error
import av.video.stream
import numpy as np

from more4d.data.video import VideoError

_TICK = Fraction(1, 90_000)


def cut_part(source: Path, target: Path, begin: float, end: float, crf: int) -> None:
    """Write the frames of `source` from `begin` up to `end` (seconds) to `target`: H.264 in mp4, times kept, no sound.

    Frames are turned upright and lose an odd last row or column; `crf` 0 is lossless but for the chroma of yuv420p.
    Raises VideoError where the file cannot be read or has no frame there.
    """
    try:
        with av.open(str(source)) as given, av.open(str(target), "w", options={"fflags": "+bitexact"}) as made:
            count = _copy_frames(given, made, begin, end, crf)
    except av.error.FFmpegError as error:
        raise VideoError(f"{source.name}: the part from {begin:g} s cannot be cut: {error.strerror}") from error
    if not count:
        target.unlink(missing_ok=True)
        raise VideoError(f"{source.name} has no frame between {begin:g} s and {end:g} s")


def _copy_frames(
    given: av.container.InputContainer, made: av.container.OutputContainer, begin: float, end: float, crf: int
) -> int:
    stream = given.streams.video[0]
    stream.thread_type = "NONE"
    step = stream.time_base or _TICK
    zero = float((stream.start_time or 0) * step)
    given.seek(int((begin + zero) / step), stream=stream)
    out: av.video.stream.VideoStream | None = None
    count = 0
    for frame in given.decode(stream):
        time = (frame.time or 0.0) - zero
        if time >= end:
            break
        # Half a tick: the time of a frame was rounded when it was written.
        if time < begin - float(_TICK) / 2:
            continue
        image = _upright_even(frame)
        if out is None:
            out = _open_stream(made, image.shape[0], image.shape[1], stream.average_rate or Fraction(25), crf)
        picture = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(out.width, out.height, "yuv420p")
        picture.pts, picture.time_base = round((time - begin) / _TICK), _TICK
        made.mux(out.encode(picture))
        count += 1
    if out is not None:
        made.mux(out.encode(None))
    return count


def _open_stream(
    made: av.container.OutputContainer, height: int, width: int, rate: Fraction, crf: int
) -> av.video.stream.VideoStream:
    stream = made.add_stream("libx264", rate=rate, options={"crf": str(crf), "x264-params": "mbtree=0"})
    stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
    # One thread and no versions in the file: the same part gives the same bytes.
    stream.codec_context.thread_count = 1
    stream.codec_context.time_base = _TICK
    stream.codec_context.flags |= av.codec.context.Flags.bitexact
    return stream


def _upright_even(frame: av.VideoFrame) -> np.ndarray:
    image = np.rot90(np.asarray(frame.to_ndarray(format="rgb24"), np.uint8), round(frame.rotation / 90) % 4)
    return np.ascontiguousarray(image[: image.shape[0] // 2 * 2, : image.shape[1] // 2 * 2])
