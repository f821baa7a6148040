"""Filters of a window: each a score, a threshold and a verdict.

Suffixes: T frames, H height, W width.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from more4d.curation.camera import CameraTracker, carried, pixel_grid
from more4d.curation.changes import ChangeSince, measure_noise
from more4d.curation.flow import DenseFlow
from more4d.curation.overlay_text import TextDetector, overlay_share
from more4d.curation.windows import Window
from more4d.settings import Section

_LONG_SIDE = 192
"""Coarse flow is enough to see whether things move."""


class FilterThresholds(Section):
    """When a window is kept."""

    min_motion: float = Field(gt=0)
    """Static below: the distance that the fastest hundredth of the pixels travels, as a share of the width."""
    max_camera_motion: float = Field(gt=0)
    """The camera moves above: how far it carries the picture's points on average, as a share of the width."""
    min_brightness: float = Field(ge=0, le=1)
    max_brightness: float = Field(ge=0, le=1)
    min_contrast: float = Field(ge=0, le=1)
    """Standard deviation of the brightness, 0..1."""
    max_repeated: float = Field(ge=0, le=1, default=0.25)
    """Of the frames, those that repeat the one before because the source had no other."""
    max_text: float = Field(ge=0, le=1, default=0.01)
    """Of the picture, what overlay text covers."""

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


def judge_window(window: Window, thresholds: FilterThresholds, text: TextDetector | None = None) -> list[Finding]:
    """A finding of each filter on a window of full length.

    Text is sought last, by `text`, and only in what the other filters keep: it costs more than they do together.
    """
    findings = [*_motion_findings(window, thresholds), *_light_findings(window.frames, thresholds)]
    if text is None or any(finding.reason for finding in findings):
        return findings
    share = overlay_share(window.samples, text)
    return [*findings, Finding("text", share, _above(share, thresholds.max_text, "overlay text covers"))]


def _motion_findings(window: Window, limits: FilterThresholds) -> list[Finding]:
    motion, camera = measure_motion(window.frames)
    words = "too few frames in the source: repeated are"
    return [
        Finding("motion", motion, _below(motion, limits.min_motion, "static: nothing moves by more than")),
        Finding("camera_motion", camera, _above(camera, limits.max_camera_motion, "the camera moves by")),
        Finding("repeated", window.repeated, _above(window.repeated, limits.max_repeated, words)),
    ]


def _light_findings(frames: NDArray[np.uint8], limits: FilterThresholds) -> list[Finding]:
    brightness, contrast = _measure_light(frames)
    return [
        Finding("brightness", brightness, _outside(brightness, limits.min_brightness, limits.max_brightness)),
        Finding("contrast", contrast, _below(contrast, limits.min_contrast, "no contrast: brightness varies by")),
    ]


def _measure_light(frames: NDArray[np.uint8]) -> tuple[float, float]:
    """(mean, standard deviation within a frame) of the brightness, 0..1; one frame at a time as float."""
    weights = np.array([0.299, 0.587, 0.114], np.float32) / 255
    means, deviations = zip(*((luma.mean(), luma.std()) for luma in (frame @ weights for frame in frames)), strict=True)
    return float(np.mean(means)), float(np.mean(deviations))


def measure_motion(frames: NDArray[np.uint8]) -> tuple[float, float]:
    """(motion beyond the camera's, the camera's motion) over a window, both as shares of the width.

    Motion: the 99th percentile over pixels of how far what passed there has moved, where the picture has changed by
    more than its noise since the first frame. Camera: how far its homography carries the first picture's points on
    average, at the worst moment.
    """
    flow_between = DenseFlow(_LONG_SIDE)
    height, width = frames.shape[1:3]
    grid = pixel_grid(height, width)
    moved, farthest, camera = np.zeros((height, width, 2), np.float32), np.zeros((height, width), np.float32), 0.0
    tracker, changed = CameraTracker(frames[0]), ChangeSince(frames[0], measure_noise(frames))
    for before, after in zip(frames, frames[1:], strict=False):
        flow = flow_between(before, after)
        step, since_first = tracker.follow(after, flow)
        # Summed as vectors: what noise moves one way it moves back in the next frame.
        moved += grid + flow - carried(grid, step)
        farthest = np.maximum(farthest, np.linalg.norm(moved, axis=-1) * changed(after, since_first))
        camera = max(camera, float(np.linalg.norm(carried(grid, since_first) - grid, axis=-1).mean()))
    return float(np.percentile(farthest, 99)) / width, camera / width


def _below(score: float, limit: float, words: str) -> str:
    return f"{words} {score:.4f} (below {limit})" if score < limit else ""


def _above(score: float, limit: float, words: str) -> str:
    return f"{words} {score:.4f} (above {limit})" if score > limit else ""


def _outside(score: float, low: float, high: float) -> str:
    if low <= score <= high:
        return ""
    return f"too {'dark' if score < low else 'bright'}: brightness {score:.3f} (outside {low} to {high})"
