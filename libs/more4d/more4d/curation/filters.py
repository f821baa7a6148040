"""Filters of a window of frames: each a score, a threshold and a verdict.

Suffixes: T frames, H height, W width.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from more4d.curation.flow import DenseFlow, camera_shift
from more4d.settings import Section

_LONG_SIDE = 192
"""Coarse flow is enough to see whether things move."""


class FilterThresholds(Section):
    """When a window is kept."""

    min_motion: float = Field(gt=0)
    """Static below: the distance that the fastest hundredth of the pixels travels, as a share of the width."""
    max_camera_motion: float = Field(gt=0)
    """The camera moves above: the distance that the textured border of the picture travels, as a share of the width."""
    min_brightness: float = Field(ge=0, le=1)
    max_brightness: float = Field(ge=0, le=1)
    min_contrast: float = Field(ge=0, le=1)
    """Standard deviation of the brightness, 0..1."""

    @model_validator(mode="after")
    def _leaves_a_range(self) -> "FilterThresholds":
        if self.min_brightness >= self.max_brightness:
            raise ValueError(
                f"min_brightness={self.min_brightness} leaves nothing below max_brightness={self.max_brightness}"
            )
        return self


@dataclass(frozen=True)
class Finding:
    """What one filter measured, and why that is not enough; `reason` is empty where it is."""

    name: str
    score: float
    reason: str


def judge_window(frames: NDArray[np.uint8], thresholds: FilterThresholds) -> list[Finding]:
    """A finding of each filter on a window uint8 [T, H, W, 3] RGB."""
    motion, camera = measure_motion(frames)
    luma = frames.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32) / 255
    brightness, contrast = float(luma.mean()), float(luma.std(axis=(1, 2)).mean())
    limits = thresholds
    return [
        Finding("motion", motion, _below(motion, limits.min_motion, "static: nothing moves by more than")),
        Finding("camera_motion", camera, _above(camera, limits.max_camera_motion, "the camera moves by")),
        Finding("brightness", brightness, _outside(brightness, limits.min_brightness, limits.max_brightness)),
        Finding("contrast", contrast, _below(contrast, limits.min_contrast, "no contrast: brightness varies by")),
    ]


def measure_motion(frames: NDArray[np.uint8]) -> tuple[float, float]:
    """(motion beyond the camera's, the camera's motion) over a window, both as shares of the width.

    Motion: the 99th percentile over pixels of the way travelled. Camera: the way that the picture's border travels.
    """
    flow_between = DenseFlow(_LONG_SIDE)
    travelled = np.zeros(frames.shape[1:3], np.float32)
    camera = 0.0
    for before, after in zip(frames, frames[1:], strict=False):
        shift, residual = camera_shift(before, flow_between(before, after))
        camera += shift
        travelled += np.linalg.norm(residual, axis=-1)
    width = frames.shape[2]
    return float(np.percentile(travelled, 99)) / width, camera / width


def _below(score: float, limit: float, words: str) -> str:
    return f"{words} {score:.4f} (below {limit})" if score < limit else ""


def _above(score: float, limit: float, words: str) -> str:
    return f"{words} {score:.4f} (above {limit})" if score > limit else ""


def _outside(score: float, low: float, high: float) -> str:
    if low <= score <= high:
        return ""
    return f"too {'dark' if score < low else 'bright'}: brightness {score:.3f} (outside {low} to {high})"
