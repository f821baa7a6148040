"""Whether tracks agree with the clip that they were made of: two measures that need no ground truth.

Suffixes: K frames looked at, H height, W width.
"""

from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from more4d.curation.flow import DenseFlow
from more4d.labeling.flow_tracker import sample
from more4d.labeling.tracks import TrackLabel

Float = NDArray[np.float32]
Bool = NDArray[np.bool_]

_FRAMES = 13
"""Looked at, at most, spread over the clip."""
_LONG_SIDE = 128
"""Clips are looked at in this size at most, so that a limit means the same at any resolution."""
_STEP_PX = 0.5
"""A point that goes further than this from one frame to the next moves, ..."""
_STILL_PX = 1.0
"""... one that is nearer than this to its first pixel stands still."""
_SMOOTHNESS = 5.0
_BLUR_PX = 0.8
_DARK = 16.0
"""Levels of 255 added before the logarithm: noise in the dark is no colour."""
_BRIGHTNESS = 0.15
"""Weight of brightness beside hue: what a shadow falls on keeps its hue."""
_CHANGED = 0.1
"""Difference of log colours (mean of three channels) that only another thing makes."""
_FEWEST = 50
"""Pixels, below which they say nothing."""


@dataclass(frozen=True, eq=False)
class Look:
    """Some frames of a clip, made small, and where the tracks put its first pixels.

    pictures: uint8 [H', W', 3] each; pixels float32 [K, H, W, 2] in the small picture, 0 where not seen; seen bool
    [K, H, W]: visible, ahead of the camera and within the picture.
    """

    pictures: list[NDArray[np.uint8]]
    pixels: Float
    seen: Bool


def look(tracks: TrackLabel, video: NDArray[np.uint8]) -> Look:
    """What the two measures compare, of a clip uint8 [T, H, W, 3]."""
    frames = spread(len(video), _FRAMES)
    chosen = replace(tracks, points=tracks.points[frames], visibility=tracks.visibility[frames])
    ratio = min(1.0, _LONG_SIDE / max(video.shape[1:3]))
    size = (round(video.shape[2] * ratio), round(video.shape[1] * ratio))
    pictures = [np.asarray(cv2.resize(video[f], size, interpolation=cv2.INTER_AREA), np.uint8) for f in frames]
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        pixels = chosen.uv * np.float32(ratio)
        ahead = chosen.visibility & (chosen.depth > 0)
        seen = ahead & (pixels >= 0).all(-1) & (pixels < np.array(size)).all(-1)
    return Look(pictures, np.where(seen[..., None], pixels, 0).astype(np.float32), seen)


def flow_error(found: Look) -> float:
    """How far the steps of moving tracks are from optical flow: 0 the same, 1 as wrong as standing still, 2 opposite.

    The mean of |step - flow| / max(|step|, |flow|) over points that move by more than half a pixel, seen before and
    after. Sound tracks are near 0.3, since flow errs too; sheared, sliding, shaking or swapped ones near 1, on plain
    ground as well: flow stands still there. 0 where nothing moves.
    """
    flow_between = DenseFlow(smoothness=_SMOOTHNESS)
    ratios = []
    for k, (before, after) in enumerate(zip(found.pictures, found.pictures[1:], strict=False)):
        step = found.pixels[k + 1] - found.pixels[k]
        moves = found.seen[k] & found.seen[k + 1] & (_length(step) > _STEP_PX)
        flow = sample(flow_between(before, after), found.pixels[k])
        longer = np.maximum(_length(step), _length(flow))
        ratios.append((_length(step - flow)[moves] / longer[moves]).astype(np.float64))
    every = np.concatenate(ratios)
    return float(every.mean()) if every.size >= _FEWEST else 0.0


def unexplained_change(found: Look) -> float:
    """Of what clearly changes in the picture, the share where the tracks see the first frame's point still in its place.

    Near 0 for sound tracks: a pixel changes because its point moved or something came before it. Near 1 for tracks that
    missed the motion or belong to another clip. Hue counts more than brightness, for shadows. 0 where nothing changes.
    """
    colours = [_colours(picture) for picture in found.pictures]
    changed = unexplained = 0
    for k in range(1, len(colours)):
        differs = np.abs(colours[k] - colours[0]).mean(-1) > _CHANGED
        still = found.seen[k] & (_length(found.pixels[k] - found.pixels[0]) < _STILL_PX)
        changed += int(differs.sum())
        unexplained += int((differs & _shrunk(still, differs.shape)).sum())
    return unexplained / changed if changed >= _FEWEST else 0.0


def spread(frames: int, most: int) -> NDArray[np.intp]:
    """At most that many frame numbers, first and last among them."""
    return np.unique(np.rint(np.linspace(0, frames - 1, min(frames, most))).astype(np.intp))


def _shrunk(mask_HW: Bool, size: tuple[int, ...]) -> Bool:
    """The mask in the small picture, without its rim: a pixel beside what moves is a mixture."""
    small = cv2.resize(mask_HW.astype(np.float32), size[::-1], interpolation=cv2.INTER_AREA) > 0.99
    return cv2.erode(small.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0


def _colours(picture: NDArray[np.uint8]) -> Float:
    """Log colours float32 [H, W, 3], brightness weakened."""
    logs = np.log(cv2.GaussianBlur(picture.astype(np.float32), (0, 0), _BLUR_PX) + _DARK)
    return (logs - (1 - _BRIGHTNESS) * logs.mean(-1, keepdims=True)).astype(np.float32)


def _length(vectors: NDArray[np.floating]) -> NDArray[np.floating]:
    return np.linalg.norm(vectors, axis=-1)
