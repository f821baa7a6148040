"""Trajectory error (paper eq. 7) against exact truth, as a ratio to the error of "nothing moves"; PSNR of pictures.

Shape letters: T frames, H height, W width.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Points = NDArray[np.float32]
Mask = NDArray[np.bool_]
Video = NDArray[np.uint8]

MOVING_SHARE = 0.01
"""A pixel moves when its true displacement at some frame exceeds this share of its first-frame depth."""
REGIONS = ("moving", "all")
PEAK = 255.0


@dataclass(frozen=True)
class Truth:
    """What is known of one scene: points [T,H,W,3] in metres (NaN: unknown) and visibility [T,H,W]."""

    points: Points
    visibility: Mask

    @property
    def counted(self) -> Mask:
        """[T,H,W], M of eq. 7: visible, known, and with a first-frame point in front of the camera."""
        known = np.asarray(np.isfinite(self.points).all(-1))
        return self.visibility & known & known[0] & (self.points[0, ..., 2] > 0)

    @property
    def moving(self) -> Mask:
        """[H,W] pixels that are truly displaced, at some frame, by more than 1 % of their first-frame depth."""
        displacement = np.linalg.norm(self.points - self.points[0], axis=-1)
        return np.nanmax(np.nan_to_num(displacement), axis=0) > MOVING_SHARE * np.nan_to_num(self.points[0, ..., 2])


def trajectory_error(predicted: Points, truth: Truth, region: Mask | None = None) -> float:
    """Mean distance in metres between predicted and true points over visible frames (eq. 7), within `region` [H,W].

    NaN where nothing is visible there. Raises ValueError on shapes that differ or predictions that are not finite.
    """
    total, count = error_sum(predicted, truth, region)
    return total / count if count else float("nan")


def error_sum(predicted: Points, truth: Truth, region: Mask | None = None) -> tuple[float, int]:
    """The sum of distances in metres, and how many positions it is over: numerator and denominator of eq. 7."""
    if predicted.shape != truth.points.shape:
        raise ValueError(f"predicted points are {list(predicted.shape)}, the truth is {list(truth.points.shape)}")
    counted = truth.counted if region is None else truth.counted & region
    distance = np.linalg.norm(predicted[counted].astype(np.float64) - truth.points[counted], axis=-1)
    if not np.isfinite(distance).all():
        bad = int((~np.isfinite(distance)).sum())
        raise ValueError(f"{bad} of {distance.size} predicted positions are not finite")
    return float(distance.sum()), int(distance.size)


def nothing_moves(truth: Truth) -> Points:
    """The first frame's points at every frame."""
    return np.broadcast_to(truth.points[0], truth.points.shape)


def static_sums(truth: Truth) -> dict[str, float]:
    """`<region>_static` (metres, the summed error of "nothing moves") and `<region>_count` over moving and all pixels."""
    sums: dict[str, float] = {}
    for region, mask in _regions(truth):
        sums[f"{region}_static"], sums[f"{region}_count"] = error_sum(nothing_moves(truth), truth, mask)
    return sums


def method_sums(predicted: Points, truth: Truth, method: str) -> dict[str, float]:
    """`<method>_<region>_error` (metres, summed) over moving and over all visible pixels.

    Over `<region>_static` of the same scenes it is the ratio to "nothing moves": the counts of eq. 7 are the same and cancel.
    """
    return {f"{method}_{region}_error": error_sum(predicted, truth, mask)[0] for region, mask in _regions(truth)}


def ratio_to_static(predicted: Points, truth: Truth, region: str) -> float:
    """One scene's error as a share of the error of "nothing moves": 0 is perfect, 1 no better. NaN where nothing moves."""
    static = static_sums(truth)[f"{region}_static"]
    return method_sums(predicted, truth, "model")[f"model_{region}_error"] / static if static > 0 else float("nan")


def squared_error(video: Video, truth: Video, region: Mask | None = None) -> tuple[float, int]:
    """Sum of squared differences of 8-bit values over `region` [T,H,W] (all without one), and of how many values."""
    if video.shape != truth.shape:
        raise ValueError(f"the video is {list(video.shape)}, its truth {list(truth.shape)}")
    difference = video.astype(np.float64) - truth
    chosen = difference if region is None else difference[region]
    return float(np.square(chosen).sum()), int(chosen.size)


def psnr(squared_error_sum: float, values: float) -> float:
    """Peak signal-to-noise ratio in dB of a summed squared error over so many 8-bit values; NaN over none."""
    if not values:
        return float("nan")
    return float(10 * np.log10(PEAK**2 / max(squared_error_sum / values, 1e-10)))


def _regions(truth: Truth) -> Iterator[tuple[str, Mask | None]]:
    yield from zip(REGIONS, (truth.moving, None), strict=True)
