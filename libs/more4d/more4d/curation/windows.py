"""A video cut into windows of a fixed length, at shot boundaries, frame by frame: never a whole video in memory.

Suffixes: T frames, H height, W width.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from more4d.curation.shots import ScoredFrame, ShotDetector, score_frames
from more4d.data.video import SampledFrame, Source, VideoError, probe_video, sample_frames
from more4d.geometry.cameras import resize_cover
from more4d.geometry.images import fit_image

_SAMPLE_SIDE = 640
"""Overlay text must stay legible where the model's own frames are small."""
_MIN_SHORTFALL = 1.0
_MAX_SHORTFALL = 0.2

Ending = Literal["length", "cut", "end"]


@dataclass(frozen=True, eq=False)
class Window:
    """Consecutive frames of one shot, uint8 [T, H, W, 3]; shorter than wanted where the shot or the video ended.

    `start` counts frames at the wanted rate from the video's beginning; `shot_score` is the highest shot-boundary
    score between two of its frames; `repeated` the share of frames that only repeat the one before, for want of
    another in the source; `samples` its first, middle and last frame as large as the source allows (up to 640 pixels).
    """

    start: int
    frames: NDArray[np.uint8]
    ended_by: Ending
    shot_score: float
    repeated: float = 0.0
    samples: tuple[NDArray[np.uint8], ...] = ()


@dataclass(frozen=True)
class WindowShape:
    """How long and how large a window is."""

    frames: int
    height: int
    width: int
    fps: float


@dataclass
class _Open:
    """A window that is being filled."""

    start: int
    after_cut: bool
    score: float = 0.0
    repeated: int = 0
    frames: list[NDArray[np.uint8]] = field(default_factory=list)
    samples: list[NDArray[np.uint8]] = field(default_factory=list)

    def add(self, frame: SampledFrame, score: float, shape: WindowShape) -> None:
        if self.frames:
            self.score = max(self.score, score)
            self.repeated += frame.repeated
        if len(self.frames) in (0, shape.frames // 2, shape.frames - 1):
            self.samples.append(_sample(frame.image, shape))
        self.frames.append(fit_image(frame.image, shape.height, shape.width)[0])

    def close(self, ended_by: Ending) -> Window:
        frames = np.stack(self.frames)
        share = self.repeated / len(frames)
        return Window(self.start, frames, ended_by, self.score, share, tuple(self.samples))


def iter_windows(
    source: Source, shape: WindowShape, *, detector: ShotDetector, cut_threshold: float
) -> Iterator[Window]:
    """The video's windows one after the other, without overlap; each shot starts a new one.

    Frames are picked by their times, resized to cover and cropped about the centre. Shots are sought in all frames
    of the source. Frames inside a gradual transition belong to no window. Raises VideoError, perhaps after some
    windows: where the file breaks off, or ends well before the time that it claims.
    """
    frames: Iterator[SampledFrame] = sample_frames(source, shape.fps)
    scores = score_frames(source, detector)
    window, seen = None, 0.0
    for frame in frames:
        change = _highest_score(scores, seen, frame.time)
        is_cut, seen = change >= cut_threshold, frame.time
        if window is not None and is_cut:
            if not (window.after_cut and len(window.frames) == 1):
                yield window.close("cut")
            window = None
        window = window or _Open(frame.number, after_cut=is_cut)
        window.add(frame, change, shape)
        if len(window.frames) == shape.frames:
            yield window.close("length")
            window = None
    if window is not None:
        yield window.close("end")
    _check_length(source, seen)


def _highest_score(scores: Iterator[ScoredFrame], after: float, until: float) -> float:
    """The highest score of the source's frames later than `after` and not later than `until` seconds."""
    highest = 0.0
    if until <= after:
        return highest
    for scored in scores:
        highest = max(highest, scored.score)
        if scored.time >= until:
            break
    return highest


def _sample(image: NDArray[np.uint8], shape: WindowShape) -> NDArray[np.uint8]:
    """The same part of the picture that the window keeps, in its own resolution up to 640 pixels."""
    left, top, right, bottom = resize_cover(image.shape[:2], (shape.height, shape.width)).box
    scale = min(1.0, _SAMPLE_SIDE / max(right - left, bottom - top))
    height, width = max(1, round((bottom - top) * scale)), max(1, round((right - left) * scale))
    return fit_image(image, height, width)[0]


def _check_length(source: Source, ended: float) -> None:
    claimed = probe_video(source).duration
    shortfall = claimed - ended
    if shortfall > _MIN_SHORTFALL and shortfall > _MAX_SHORTFALL * claimed:
        name = f"{len(source)} bytes" if isinstance(source, bytes) else source.name
        raise VideoError(f"{name} claims {claimed:.1f} s but ends after {ended:.1f} s: truncated, or it lies")
