"""How well a tracker's dense 3D tracks follow the truth: the measures of TAPVid-3D, and plainer ones in pixels.

TAPVid-3D is Koppula et al. 2024, "TAPVid-3D: A Benchmark for Tracking Any Point in 3D"; the definitions are those of its
section "Metrics" and of the code published with it. A scene's figures are averaged over scenes, never over all points.

Shape letters: T frames, H height, W width, N tracks.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from more4d.evaluation.trajectories import Mask, Truth
from more4d.labeling.tracks import TrackLabel

Floats = NDArray[np.floating]
Scaling = Literal["none", "median", "per_trajectory"]
"""What predicted points are multiplied by before 3D distances are taken: 1; the median distance from the camera of the true
points over that of the predicted, both over positions that are visible in both (1 without any); each track's ratio of
first-frame depths."""

THRESHOLDS = (1, 2, 4, 8, 16)
"""Pixels of a picture whose shorter side has SHORT_SIDE of them."""
SHORT_SIDE = 256


@dataclass(frozen=True)
class Tapvid3d:
    """TAPVid-3D's measures of one scene, each in [0, 1]; NaN where no track was asked for."""

    average_jaccard: float
    """AJ, "3D-AJ": the mean over THRESHOLDS of `jaccard`."""
    average_within: float
    """APD: the mean over THRESHOLDS of `within`."""
    occlusion_accuracy: float
    """OA: the share of all positions whose predicted visibility is the true one."""
    jaccard: tuple[float, ...]
    """At each threshold TP / (TP + FP + FN)."""
    within: tuple[float, ...]
    """At each threshold the share of truly visible positions within it, seen by the tracker or not."""


@dataclass(frozen=True)
class PixelScores:
    """Measures of one scene in its own pixels, over the frames after the first; NaN where there is no such position."""

    median_error: float
    """The median end-point error, in pixels, over truly visible positions."""
    tracked: float
    """The share of truly visible positions that the tracker calls visible and places within the given distance."""


def tapvid3d(
    predicted: TrackLabel, truth: Truth, intrinsics: Floats, *, scaling: Scaling = "median", region: Mask | None = None
) -> Tapvid3d:
    """TAPVid-3D's AJ, APD and OA of one scene, over its first-frame pixels within `region` [H,W] (None: all).

    A position (track n at frame t, the first included) is within threshold d when |predicted - true| < d z / f: z is its
    true depth, f the geometric mean of the true focal lengths in pixels of the picture resized to a shorter side of 256.
    With v and v' the true and the predicted visibility: TP = v and v' and within; FP = v' and not (v and within);
    TP + FN = v. So a visible position that is placed too far counts twice, as FP and as FN. Tracks without a known first
    point are left out, and a position whose truth is unknown is not visible. `intrinsics` [3,3] are the true ones, in
    pixels of the scene. Raises ValueError on shapes that differ, an unknown scaling, positions that are not finite.
    """
    if scaling not in get_args(Scaling):
        raise ValueError(f"unknown scaling {scaling!r}; the scalings are {', '.join(get_args(Scaling))}")
    _check(predicted, truth)
    asked = _asked(truth, region)
    points, true = predicted.points[:, asked].astype(np.float64), truth.points[:, asked].astype(np.float64)
    seen, visible = predicted.visibility[:, asked], truth.counted[:, asked]
    focal = np.sqrt(intrinsics[0, 0] * intrinsics[1, 1]) * SHORT_SIDE / min(asked.shape)
    distance = np.linalg.norm(points * _scale(points, true, seen & visible, scaling) - true, axis=-1)
    # In pixels at the true depth; whatever is not visible is never compared.
    distance = np.divide(distance * focal, true[..., 2], out=np.full_like(distance, np.inf), where=visible)
    hits = [visible & (distance < threshold) for threshold in THRESHOLDS]
    jaccard = tuple(_share((hit & seen).sum(), visible.sum() + (seen & ~hit).sum()) for hit in hits)
    within = tuple(_share(hit.sum(), visible.sum()) for hit in hits)
    accuracy = _share((seen == visible).sum(), visible.size)
    return Tapvid3d(float(np.mean(jaccard)), float(np.mean(within)), accuracy, jaccard, within)


def pixel_scores(
    predicted: TrackLabel, truth: Truth, intrinsics: Floats, *, within_pixels: float = 1.0, region: Mask | None = None
) -> PixelScores:
    """End-point errors of one scene in its picture, over truly visible positions after the first frame within `region`.

    A predicted point is projected by the tracker's intrinsics, a true one by `intrinsics` [3,3]: depth and focal length
    that are wrong do no harm, only a wrong pixel does. Over moving pixels (`truth.moving`), `tracked` is the share of moving
    pixels tracked. Raises ValueError on shapes that differ, positions that are not finite, a distance that is not positive.
    """
    if not within_pixels > 0:
        raise ValueError(f"within_pixels={within_pixels} must be positive")
    _check(predicted, truth)
    counted = truth.counted & _asked(truth, region)
    counted[0] = False
    errors = np.linalg.norm(
        _pixels(predicted.points[counted], predicted.intrinsics) - _pixels(truth.points[counted], intrinsics), axis=-1
    )
    tracked = predicted.visibility[counted] & (errors <= within_pixels)
    return PixelScores(float(np.median(errors)) if errors.size else float("nan"), _share(tracked.sum(), errors.size))


def _asked(truth: Truth, region: Mask | None) -> Mask:
    """[H,W] pixels whose first point is known, within the region."""
    first = truth.points[0]
    known = np.isfinite(first).all(-1) & (first[..., 2] > 0)
    if region is not None and region.shape != known.shape:
        raise ValueError(f"the region is {list(region.shape)}, the picture {list(known.shape)}")
    return known if region is None else known & region


def _scale(points_TN3: Floats, true_TN3: Floats, both_TN: Mask, scaling: Scaling) -> Floats | float:
    if scaling == "median" and both_TN.any():
        return np.median(np.linalg.norm(true_TN3[both_TN], axis=-1)) / _above_zero(
            np.median(np.linalg.norm(points_TN3[both_TN], axis=-1))
        )
    if scaling == "per_trajectory":
        return (true_TN3[0, :, 2] / _above_zero(points_TN3[0, :, 2]))[:, None]
    return 1.0


def _above_zero(values: Floats) -> Floats:
    return np.maximum(values, 1e-12)


def _pixels(points_N3: Floats, intrinsics: Floats) -> Floats:
    """(u, v) [N,2]; a point at or behind the camera is nowhere: infinitely far from everything."""
    points = points_N3.astype(np.float64)
    safe = np.where(points[:, 2] > 0, points[:, 2], np.nan)[:, None]
    uv = points[:, :2] / safe * intrinsics[(0, 1), (0, 1)] + intrinsics[:2, 2]
    return np.where(np.isnan(uv), np.inf, uv)


def _share(part: np.integer, whole: int | np.integer) -> float:
    return float(part) / float(whole) if whole else float("nan")


def _check(predicted: TrackLabel, truth: Truth) -> None:
    shapes = predicted.points.shape, predicted.visibility.shape
    if shapes != (truth.points.shape, truth.visibility.shape):
        raise ValueError(
            f"predicted points and visibility are {list(shapes[0])}, {list(shapes[1])}; "
            f"the truth's {list(truth.points.shape)}, {list(truth.visibility.shape)}"
        )
    bad = int((~np.isfinite(predicted.points[truth.counted])).any(-1).sum())
    if bad:
        raise ValueError(f"{bad} of {int(truth.counted.sum())} predicted positions are not finite")
