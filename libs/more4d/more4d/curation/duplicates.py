"""Near-duplicates: perceptual hashes (DCT of grey thumbnails) of a clip's first, middle and last frame, compared in bits."""

from dataclasses import dataclass

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image

BITS = 3 * 64


def perceptual_hash(frames: NDArray[np.uint8]) -> str:
    """48 hex digits: 64 bits each of the first, middle and last of the frames uint8 [T, H, W, 3]."""
    picked = (frames[0], frames[len(frames) // 2], frames[-1])
    return "".join(str(imagehash.phash(Image.fromarray(image))) for image in picked)


@dataclass(frozen=True)
class Nearest:
    """The kept clip that is most like another, and in what share of their hashes' bits they differ."""

    clip_id: str
    distance: float


class DuplicateFinder:
    """Clips that were kept; each new one is compared with all of other videos: 200,000 take a millisecond.

    Windows of one video are not compared: before a still camera they look alike and show other motion.
    """

    def __init__(self, max_distance: float) -> None:
        self._max_distance = max_distance
        self._hashes = np.zeros((1024, BITS // 64), np.uint64)
        self._video_numbers = np.full(1024, -1)
        self._videos: dict[str, int] = {}
        self._clip_ids: list[str] = []

    def add(self, clip_id: str, video: str, digits: str) -> tuple[Nearest | None, bool]:
        """(the nearest kept clip of another video, whether this one is its duplicate); keeps it where it is none.

        Ask in the order in which clips should be preferred.
        """
        wanted = np.array([int(digits[i : i + 16], 16) for i in range(0, len(digits), 16)], np.uint64)
        number = self._videos.setdefault(video, len(self._videos))
        nearest = self._nearest(wanted, number)
        is_duplicate = nearest is not None and nearest.distance <= self._max_distance
        if not is_duplicate:
            self._keep(clip_id, number, wanted)
        return nearest, is_duplicate

    def _nearest(self, wanted: NDArray[np.uint64], video: int) -> Nearest | None:
        count = len(self._clip_ids)
        bits = np.bitwise_count(self._hashes[:count] ^ wanted).sum(1, dtype=np.int64)
        bits[self._video_numbers[:count] == video] = BITS + 1
        if not count or bits.min() > BITS:
            return None
        best = int(bits.argmin())
        return Nearest(self._clip_ids[best], int(bits[best]) / BITS)

    def _keep(self, clip_id: str, video: int, wanted: NDArray[np.uint64]) -> None:
        count = len(self._clip_ids)
        if count == len(self._hashes):
            self._hashes = np.concatenate([self._hashes, np.zeros_like(self._hashes)])
            self._video_numbers = np.concatenate([self._video_numbers, np.full(count, -1)])
        self._hashes[count], self._video_numbers[count] = wanted, video
        self._clip_ids.append(clip_id)
