"""Whether a sample's tracks are fit to train on: the paper's three criteria (section 3, appendix D) and ours.

Suffixes: T frames, H height, W width, N points, M matches of a tracked point with a later frame.
"""

from dataclasses import dataclass

import cv2
import numpy as np
import torch
from more4d_kernels import rasterization
from numpy.typing import NDArray
from pydantic import Field, model_validator

from more4d.labeling.flow_tracker import sample
from more4d.labeling.tracks import TrackLabel
from more4d.settings import Section

Float = NDArray[np.float32]

_SCALE_FRAMES = 7
"""Frames rendered for scale_change, spread over the clip: a drift is slow, and a jump is the first criterion's."""
_SIGMA_PX = 0.6
_SMOOTHING = 0.01
"""Variance added to every splat, in pixels squared: far below a pixel, so that a cloud which spreads shows holes."""
_SAMPLING = 0.62
"""Rendered pixels for one of the clip: no simple fraction, so that pixels fall everywhere between the points."""
_BLOCK = 5
"""Side of the squares over which a change is averaged, in rendered pixels: 8 of the clip's."""
_AREA = 0.7
"""Of the blocks: what moves fills less than the rest, and may turn, hide and stretch."""

_MATCH_FRAMES = 13
_LONG_SIDE = 128
"""Clips are compared at this size at most, so that a limit means the same at any resolution."""
_MOST_POINTS = 4096
_STRAY_PX = 1.0
"""A point that strays further than this from its pixel moves."""
_FAR = 0.34
"""Another frame is at least this share of the clip away: its neighbours show almost the same."""
_BLUR_PX = 0.8
_DARK = 16.0
"""Levels of 255 added before the logarithm: noise in the dark is no colour."""
_BRIGHTNESS = 0.15
"""Weight of brightness beside hue: what turns goes from light to shade and keeps its hue."""
_NOISE, _CLEAR = 0.02, 0.1
"""Colour differences (mean of three channels) above noise, and such as tell two things apart."""
_FEWEST = 50
"""Matches, below which they say nothing."""


class QualityThresholds(Section):
    """When a sample's tracks are refused."""

    min_depth_m: float = Field(gt=0)
    max_depth_m: float = Field(gt=0)
    """A depth outside is anomalous, as is one that is not finite."""
    max_depth_jump: float = Field(gt=1)
    """So is one that changes by more than this factor from one frame to the next."""
    max_anomalous_share: float = Field(ge=0, le=1)
    """Of the trajectories, those anomalous at any time."""
    max_depth_deviation: float = Field(gt=0)
    """Standard deviation of the scene's log depth."""
    scale: float = Field(gt=0)
    """The cloud is rendered at this scale and at 1."""
    max_scale_change: float = Field(gt=0)
    """See scale_change."""
    max_motion_error: float = Field(gt=0, default=1.0)
    """See motion_error: from 1 on, a still picture explains the clip better than the tracks do."""
    max_lost_share: float = Field(gt=0, le=1, default=0.25)
    """See lost_share."""

    @model_validator(mode="after")
    def _compares_something(self) -> "QualityThresholds":
        if self.scale == 1:
            raise ValueError("scale=1 compares a picture with itself; use for example 1.25")
        if self.min_depth_m >= self.max_depth_m:
            raise ValueError(f"min_depth_m={self.min_depth_m} leaves nothing below max_depth_m={self.max_depth_m}")
        return self


@dataclass(frozen=True)
class Quality:
    """The measured values, and why they are refused (no reason: they are not)."""

    anomalous_share: float
    depth_deviation: float
    scale_change: float
    motion_error: float
    lost_share: float
    reasons: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Matches:
    """Colour differences [M] of moving, visible points to their first frame: each at a later time t of its own.

    own: where the tracks put the point, in frame t; other: there, in frames far from t; home: at its first pixel, in
    frame t. Of log colours in which brightness counts 0.15, mean of three channels: twice as red is 0.7 / 3.
    """

    own: Float
    other: Float
    home: Float


def judge_tracks(tracks: TrackLabel, video: NDArray[np.uint8], limits: QualityThresholds) -> Quality:
    """All criteria on the tracks of a clip uint8 [T, H, W, 3]. Raises ValueError if it is not of the tracks' size."""
    if tracks.points.shape != video.shape:
        raise ValueError(f"tracks are {tracks.points.shape}, but the clip is {video.shape}; track this very clip")
    matches = match_colours(tracks, video)
    quality = Quality(
        anomalous_share(tracks.points[..., 2], limits),
        depth_deviation(tracks.points[..., 2]),
        scale_change(tracks, limits.scale),
        motion_error(matches),
        lost_share(matches),
        (),
    )
    return Quality(**{**vars(quality), "reasons": tuple(_reasons(quality, limits))})


def _reasons(found: Quality, limits: QualityThresholds) -> list[str]:
    """Each value that is above its limit or not a number, with both."""
    checks = [
        (found.anomalous_share, limits.max_anomalous_share,
         "{:.2%} of the trajectories have invalid or anomalous depth (above {:.2%})"),
        (found.depth_deviation, limits.max_depth_deviation, "log depth deviates by {:.3f} (above {})"),
        (found.scale_change, limits.max_scale_change,
         f"scaled by {limits.scale}, renders change by another factor than the first: {{:.3f}} (above {{}})"),
        (found.motion_error, limits.max_motion_error,
         "tracks fit the clip worse than standing still: {:.2f} times its colour error (above {})"),
        (found.lost_share, limits.max_lost_share,
         "{:.1%} of the tracked places look like other frames or like what stands still (above {:.1%})"),
    ]  # fmt: skip
    return [text.format(value, limit) for value, limit, text in checks if not value <= limit]


def anomalous_share(depth: NDArray[np.float32], limits: QualityThresholds) -> float:
    """The share of the trajectories [T, H, W] whose depth is ever not finite, out of range, or jumps."""
    with np.errstate(invalid="ignore", divide="ignore"):
        good = np.isfinite(depth) & (depth >= limits.min_depth_m) & (depth <= limits.max_depth_m)
        steps = np.abs(np.diff(np.log(np.where(good, depth, 1.0)), axis=0))
    jumps = (steps > np.log(limits.max_depth_jump)).any(0)
    return float((~good.all(0) | jumps).mean())


def depth_deviation(depth: NDArray[np.float32]) -> float:
    """Standard deviation of the log of all positive, finite depths; infinite where there is none.

    Of the logarithm, so that a scene measured in other units deviates as much.
    """
    good = depth[np.isfinite(depth) & (depth > 0)]
    return float(np.log(good).std()) if good.size else float("inf")


def scale_change(tracks: TrackLabel, scale: float) -> float:
    """How differently later frames take a scaling of the cloud about the first camera than the first frame does.

    The picture from that camera should stay the same. If splats were scaled as well it would, whatever the points are:
    neither a cloud nor its scale shows in one camera. So splats keep the size in metres that they have in the first
    frame. Scaled up, every surface then thins out by an amount that depends on the distances of neighbouring points
    alone: equally in all frames while surfaces move, turn about the axis of view, come nearer or go (their pixels
    spread as their splats grow); not if depth drifts or spreads, because neighbours that keep their pixels are further
    apart in metres. Opacity alone is compared, which knows no texture.

    For every block of the picture, c(t) = mean |alpha(t, 1) - alpha(t, scale)| over visible points; of |ln c(t) / c(0)|
    the 70th percentile over blocks that hold points, the largest over 7 frames. 0 for rigid surfaces under the rest of
    the picture, about 0.3 for a drift of 10 %. Infinite where nothing can be drawn. A drift whose first frame is
    already wrong, or that less than a third of the picture shares, is not seen.
    """
    first, worst = None, 0.0
    for frame in _spread(len(tracks.points), _SCALE_FRAMES):
        one, other = (_opacity(tracks, frame, factor) for factor in (1.0, scale))
        change, filled = _blocks(np.abs(one - other)), _blocks(one) > 0.05
        if first is None:
            first = change
        if not filled.any():
            return float("inf")
        ratio = np.log(np.maximum(change, 1e-4) / np.maximum(first, 1e-4))
        worst = max(worst, float(np.quantile(np.abs(ratio[filled]), _AREA)))
    return worst


def match_colours(tracks: TrackLabel, video: NDArray[np.uint8]) -> Matches:
    """Colours of at most 4096 moving points in at most 13 frames uint8 [T, H, W, 3], where they are visible."""
    frames = _spread(len(video), _MATCH_FRAMES)
    ratio = min(1.0, _LONG_SIDE / max(video.shape[1:3]))
    places, seen = _places(tracks, ratio)
    if not places.shape[1]:
        return Matches(*(np.zeros(0, np.float32),) * 3)
    colours = np.stack([_colours(video[frame], ratio) for frame in frames])
    first, there = sample(colours[0], places[0][None])[0], places[frames]
    found: list[tuple[Float, Float, Float]] = []
    for k, frame in enumerate(frames[1:], start=1):
        ok = seen[frame] & (_length(there[k] - there[0]) > _STRAY_PX / 2)
        far = [j for j in range(len(frames)) if abs(j - k) >= _FAR * (len(frames) - 1)]
        if not ok.any() or not far:
            continue
        others = np.mean([_difference(colours[j], there[k][ok], first[ok]) for j in far], axis=0)
        home = _difference(colours[k], there[0][ok], first[ok])
        found.append((_difference(colours[k], there[k][ok], first[ok]), others, home))
    none = np.zeros(0, np.float32)
    return Matches(*(np.concatenate([none, *(match[part] for match in found)]) for part in range(3)))


def motion_error(matches: Matches) -> float:
    """Colour error of the tracks over that of tracks which stand still, sum of roots; 0 where nothing moves visibly.

    Sound tracks are far below 1. Above it, what is said to move is still at its first pixel: tracks slide or shake.
    """
    clear = np.maximum(matches.own, matches.home) > _NOISE
    if clear.sum() < _FEWEST:
        return 0.0
    home = float(np.sqrt(matches.home[clear]).sum())
    return float(np.sqrt(matches.own[clear]).sum()) / max(home, 1e-6)


def lost_share(matches: Matches) -> float:
    """The share of matches worse than the mean of other frames and home, among those that can be told apart.

    About a half for tracks that belong to other frames. 0 where nothing moves visibly.
    """
    chance = 0.5 * (matches.other + matches.home)
    clear = np.maximum(matches.own, chance) > _CLEAR
    return float((matches.own > chance)[clear].mean()) if clear.sum() >= _FEWEST else 0.0


def render_psnr(render: NDArray[np.uint8], video: NDArray[np.uint8], covered: NDArray[np.bool_]) -> float:
    """PSNR in dB of a render against its clip over the covered pixels of all frames; 0 where none is covered."""
    if not covered.any():
        return 0.0
    error = (render.astype(np.float32) - video.astype(np.float32))[covered]
    return float(10 * np.log10(255**2 / max(float((error**2).mean()), 1e-6)))


def _spread(frames: int, most: int) -> NDArray[np.intp]:
    """At most that many frame numbers, first and last among them."""
    return np.unique(np.rint(np.linspace(0, frames - 1, min(frames, most))).astype(np.intp))


def _opacity(tracks: TrackLabel, frame: int, scale: float) -> Float:
    """Opacity [H * 0.62, W * 0.62] of the visible points, scaled, as the first camera sees them."""
    height, width = (max(_BLOCK, round(side * _SAMPLING)) for side in tracks.depth0.shape)
    ratio = np.array([[width / tracks.depth0.shape[1]], [height / tracks.depth0.shape[0]], [1]], np.float32)
    points_N3 = tracks.points[frame].reshape(-1, 3)
    sizes_N = _SIGMA_PX / tracks.intrinsics[0, 0] * tracks.depth0.reshape(-1)
    keep = tracks.visibility[frame].reshape(-1) & np.isfinite(points_N3).all(-1) & (points_N3[:, 2] > 0) & (sizes_N > 0)
    means = torch.from_numpy(points_N3[keep] * np.float32(scale))
    quats = torch.zeros(len(means), 4)
    quats[:, 0] = 1
    _, alpha, _ = rasterization(
        means,
        quats,
        torch.from_numpy(sizes_N[keep, None].astype(np.float32)).expand(-1, 3).contiguous(),
        torch.full((len(means),), 0.99),
        torch.zeros(len(means), 3),
        torch.eye(4)[None],
        torch.from_numpy(tracks.intrinsics * ratio)[None],
        width,
        height,
        eps2d=_SMOOTHING,
    )
    return alpha[0, ..., 0].numpy()


def _blocks(picture: Float) -> Float:
    """Means over squares; what is left at the right and below is left out."""
    rows, columns = picture.shape[0] // _BLOCK, picture.shape[1] // _BLOCK
    cut = picture[: rows * _BLOCK, : columns * _BLOCK]
    return cut.reshape(rows, _BLOCK, columns, _BLOCK).mean((1, 3))


def _places(tracks: TrackLabel, ratio: float) -> tuple[Float, NDArray[np.bool_]]:
    """Pixels [T, N, 2] of moving points in a picture of `ratio` of the size, and where they are visible in it."""
    camera, size = tracks.intrinsics * ratio, np.array(tracks.depth0.shape[::-1]) * ratio
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        z = tracks.points[..., 2:]
        pixels = tracks.points[..., :2] / z * camera[(0, 1), (0, 1)] + camera[:2, 2]
        seen = tracks.visibility & (z[..., 0] > 0) & (pixels >= 0).all(-1) & (pixels < size).all(-1)
        moves = ((_length(pixels - pixels[:1]) > _STRAY_PX) & seen).any(0) & seen[0]
    every = -(-int(moves.sum()) // _MOST_POINTS) or 1
    # What is not seen is never looked up, but must be a number.
    pixels = np.where(seen[..., None], pixels, 0)
    return pixels[:, moves][:, ::every].astype(np.float32), seen[:, moves][:, ::every]


def _colours(frame: NDArray[np.uint8], ratio: float) -> Float:
    """Log colours float32 [H, W, 3] of a frame made smaller, brightness weakened."""
    size = (round(frame.shape[1] * ratio), round(frame.shape[0] * ratio))
    small = cv2.resize(frame.astype(np.float32), size, interpolation=cv2.INTER_AREA) if ratio < 1 else frame
    soft = cv2.GaussianBlur(np.asarray(small, np.float32), (0, 0), _BLUR_PX)
    logs = np.log(soft + _DARK)
    return (logs - (1 - _BRIGHTNESS) * logs.mean(-1, keepdims=True)).astype(np.float32)


def _difference(colours: Float, places_N2: Float, first_N3: Float) -> Float:
    return np.abs(sample(colours, places_N2[None])[0] - first_N3).mean(-1)


def _length(vectors: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.linalg.norm(vectors, axis=-1)
