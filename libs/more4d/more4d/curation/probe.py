"""What a video claims to be, judged before any of it is decoded."""

from pydantic import Field

from more4d.data.video import MAX_PIXELS, Source, VideoError, VideoInfo, probe_video
from more4d.settings import Section


class ProbeLimits(Section):
    """Which videos are worth decoding."""

    min_side: int = Field(ge=16, default=32)
    max_pixels: int = Field(gt=0, le=MAX_PIXELS, default=MAX_PIXELS)
    """Of one frame."""
    max_aspect: float = Field(gt=1, default=4.0)
    """Long side over short side: of a longer strip hardly anything is left after the crop."""
    max_fps: float = Field(gt=0, default=1000.0)
    max_seconds: float = Field(gt=0, default=6 * 3600.0)


def probe(source: Source, limits: ProbeLimits, *, min_fps: float) -> VideoInfo:
    """What the container claims. Raises VideoError, naming the reason, where that is outside the limits."""
    info = probe_video(source)
    if reason := _reason(info, limits, min_fps):
        raise VideoError(reason)
    return info


def _reason(info: VideoInfo, limits: ProbeLimits, min_fps: float) -> str:
    size = f"{info.width}x{info.height}"
    short, long = sorted((info.height, info.width))
    if short < limits.min_side:
        return f"absurd size: {size} pixels (a side below {limits.min_side})"
    if short * long > limits.max_pixels:
        return f"absurd size: {size} pixels (above {limits.max_pixels} in all)"
    if long > limits.max_aspect * short:
        return f"absurd size: {size} pixels (a side more than {limits.max_aspect:g} times the other)"
    if info.fps < min_fps:
        return f"too slow: {info.fps:g} frames per second (below {min_fps:g})"
    if info.fps > limits.max_fps:
        return f"absurd rate: {info.fps:g} frames per second (above {limits.max_fps:g})"
    if info.duration > limits.max_seconds:
        return f"absurd length: {info.duration:.0f} s (above {limits.max_seconds:g})"
    return ""
