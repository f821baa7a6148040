"""A video cut into windows of a fixed length, at shot boundaries, frame by frame: never a whole video in memory.

Suffixes: T frames, H height, W width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from more4d.curation.shots import ShotDetector
from more4d.data.video import Source, iter_frames
from more4d.geometry.images import fit_image


@dataclass(frozen=True, eq=False)
class Window:
    """Consecutive frames of one shot, uint8 [T, H, W, 3]; shorter than wanted where the shot or the video ended.

    `start` counts frames at the wanted rate from the video's beginning; `shot_score` is the highest shot-boundary
    score between two of its frames.
    """

    start: int
    frames: NDArray[np.uint8]
    ended_by: Literal["length", "cut", "end"]
    shot_score: float


@dataclass(frozen=True)
class WindowShape:
    """How long and how large a window is."""

    frames: int
    height: int
    width: int
    fps: float


def iter_windows(source: Source, shape: WindowShape, *, cut_threshold: float) -> Iterator[Window]:
    """The video's windows one after the other, without overlap; each shot starts a new one.

    Frames are resized to cover and cropped about the centre. Raises VideoError, perhaps after some windows.
    """
    detector = ShotDetector(cut_threshold)
    frames: list[NDArray[np.uint8]] = []
    start, score = 0, 0.0
    for number, (_, image) in enumerate(iter_frames(source, shape.fps)):
        change = detector.score(image)
        if frames and detector.is_cut(change):
            yield Window(start, np.stack(frames), "cut", score)
            frames = []
        if not frames:
            start, score = number, 0.0
        else:
            score = max(score, change)
        frames.append(fit_image(image, shape.height, shape.width)[0])
        if len(frames) == shape.frames:
            yield Window(start, np.stack(frames), "length", score)
            frames = []
    if frames:
        yield Window(start, np.stack(frames), "end", score)
