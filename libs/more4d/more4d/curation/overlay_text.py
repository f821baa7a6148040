"""Overlay text (captions, watermarks, titles) behind one interface: RapidOCR's text detector, or none.

Suffixes: H height, W width.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

TextDetectorName = Literal["rapidocr", "none"]
_MAX_SIDE = 640
MIN_SIDE = 100
"""Pixels; on smaller pictures the detector takes texture for text, and nobody could read an overlay."""


class TextDetector(Protocol):
    """Says where text is in a picture; what it says is not read."""

    @property
    def name(self) -> str: ...

    def boxes(self, image: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """Corners float32 [4, 2] (x, y in pixels) of each text in an image uint8 [H, W, 3] RGB."""
        ...


def text_detector(name: TextDetectorName) -> TextDetector | None:
    """The detector called `name`, None for "none"; loaded once a process."""
    return _rapid() if name == "rapidocr" else None


def overlay_share(images: Sequence[NDArray[np.uint8]], detector: TextDetector) -> float:
    """The share of the picture, 0..1, that text covers in most of the frames uint8 [H, W, 3] of one shot.

    NaN where a side is below 100 pixels. An overlay stays where it is; text on something that moves seldom covers the
    same pixels twice.
    """
    if min(images[0].shape[:2]) < MIN_SIDE:
        return float("nan")
    covered = np.mean([_mask(image.shape[:2], detector.boxes(image)) for image in images], axis=0)
    return float((covered > 0.5).mean())


class RapidDetector:
    """RapidOCR's detector (PP-OCRv6 small through ONNX Runtime, weights in its wheel), on one thread.

    With more threads, sums in another order might move a box.
    """

    name = "rapidocr"

    def __init__(self) -> None:
        # Imported here: ONNX Runtime takes a second that whoever filters no text need not wait for.
        from rapidocr import RapidOCR

        self._engine = RapidOCR(
            params={
                "Global.log_level": "error",
                "Global.max_side_len": _MAX_SIDE,
                "Global.min_side_len": 0,
                "Det.limit_type": "max",
                "Det.limit_side_len": _MAX_SIDE,
                "EngineConfig.onnxruntime.intra_op_num_threads": 1,
                "EngineConfig.onnxruntime.inter_op_num_threads": 1,
            }
        )

    def boxes(self, image: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """As the interface says."""
        bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        # Its answer's class depends on what was asked for and found.
        found = getattr(self._engine(bgr, use_det=True, use_cls=False, use_rec=False), "boxes", None)
        return [] if found is None else [np.asarray(box, np.float32) for box in found]


@lru_cache(maxsize=1)
def _rapid() -> RapidDetector:
    return RapidDetector()


def _mask(size: tuple[int, int], boxes: list[NDArray[np.float32]]) -> NDArray[np.uint8]:
    mask = np.zeros(size, np.uint8)
    for box in boxes:
        cv2.fillPoly(mask, [np.round(box).astype(np.int32)], (1,))
    return mask
