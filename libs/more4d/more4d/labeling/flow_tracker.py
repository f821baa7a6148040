"""Dense tracks by optical flow over short and long gaps, chained where it agrees best, lifted by depth.

Suffixes: T frames, H height, W width.
"""

from dataclasses import dataclass
from typing import Annotated

import cv2
import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from more4d.curation.flow import DenseFlow
from more4d.settings import Section

Float = NDArray[np.float32]
Bool = NDArray[np.bool_]

_BLUR = 0.8
"""Pixels."""
_COLOUR_DOUBT = 0.1
"""Pixels of disagreement that a colour change of one level of 255 is worth when candidates are compared."""


class FlowTrackerParams(Section):
    """When a flow is believed, and what stands still."""

    max_inconsistency: float = Field(gt=0)
    """Forward and backward flow of a step may disagree by this much, in pixels, ..."""
    max_inconsistency_share: float = Field(ge=0, lt=1)
    """... plus this share of their lengths."""
    max_colour_change: float = Field(gt=0)
    """A point whose (blurred) colour differs from its first by more than this, of 255 levels, is another point: flow
    drags the background along with the edges of what passes before it."""
    still_pixels: float = Field(ge=0)
    """A point that never strays this far from its pixel stands still: it keeps its pixel and its first depth."""
    gaps: tuple[Annotated[int, Field(gt=0)], ...] = Field(default=(1, 2, 4), min_length=1)
    """A point is looked for from so many frames before, and always from the first."""
    flow_side: int = Field(default=384, ge=64)
    """Pictures whose longer side has fewer pixels are enlarged to it for the flow: its patches are 8 pixels wide."""
    flow_smoothness: float = Field(default=5.0, gt=0)
    """The weight of smoothness in the flow's refinement: small things keep a motion of their own where it is low."""


@dataclass(frozen=True, eq=False)
class PixelTracks:
    """positions float32 [T, H, W, 2] (u, v; centres at +0.5) of the first frame's pixels; visible bool [T, H, W]."""

    positions: Float
    visible: Bool


@dataclass(frozen=True, eq=False)
class _Places:
    """Where all points are in one frame: positions [H, W, 2], visible [H, W], and doubt [H, W], the pixels by which
    forward and backward flow disagreed, summed along the way from the first frame."""

    positions: Float
    visible: Bool
    doubt: Float


def track_pixels(frames: NDArray[np.uint8], params: FlowTrackerParams) -> PixelTracks:
    """Where every first-frame pixel of frames uint8 [T, H, W, 3] goes, and whether it can be seen.

    In every frame a point has one candidate for each of `gaps` and one from the first frame: where the flow from there
    takes it. A candidate is out when forward and backward flow disagree, when the point's colour changes, when it leaves
    the picture or could not be seen in the frame it starts from; the one with the least doubt is taken. Without any the
    point is lost: it stays where it was last seen, and a later candidate may find it again (as in Neoral et al. 2024,
    MFT, with DIS for the flow and its disagreement for the uncertainty).
    """
    flow_between = DenseFlow(max(params.flow_side, *frames.shape[1:3]), smoothness=params.flow_smoothness)
    soft, home = _blurred(frames), _pixel_grid(frames.shape[1:3])
    places = [_Places(home, np.ones(home.shape[:2], bool), np.zeros(home.shape[:2], np.float32))]
    for number in range(1, len(frames)):
        starts = sorted({0, *(number - gap for gap in params.gaps if gap < number)}, reverse=True)
        candidates = []
        for start in starts:
            there, back = frames[start], frames[number]
            flows = flow_between(there, back), flow_between(back, there)
            candidates.append(_candidate(places[start], flows, soft[0], soft[number], params))
        places.append(_least_doubtful(places[-1], candidates))
    tracks = PixelTracks(np.stack([p.positions for p in places]), np.stack([p.visible for p in places]))
    return _rest(tracks, soft, params)


def _candidate(
    start: _Places, flows: tuple[Float, Float], soft_first: Float, soft_here: Float, params: FlowTrackerParams
) -> tuple[_Places, Float]:
    """Where the flow takes the points from `start`, and by how much to doubt it, colour included: infinite where out."""
    step = sample(flows[0], start.positions)
    there = (start.positions + step).astype(np.float32)
    back = sample(flows[1], there)
    gap = _length(step + back)
    allowed = params.max_inconsistency + params.max_inconsistency_share * (_length(step) + _length(back))
    colour_change = np.abs(sample(soft_here, there) - soft_first).max(-1)
    believed = start.visible & (gap <= allowed) & _inside(there) & (colour_change <= params.max_colour_change)
    doubt = start.doubt + gap
    return _Places(there, believed, doubt), np.where(believed, doubt + _COLOUR_DOUBT * colour_change, np.inf)


def _least_doubtful(before: _Places, candidates: list[tuple[_Places, Float]]) -> _Places:
    """Each point's best candidate, the first of equals; without any it stays as it was the frame before, unseen."""
    best = np.stack([doubt for _, doubt in candidates]).argmin(0)
    visible = np.choose(best, [places.visible for places, _ in candidates])
    doubt = np.choose(best, [places.doubt for places, _ in candidates])
    positions = np.choose(best[..., None], [places.positions for places, _ in candidates])
    return _Places(
        np.where(visible[..., None], positions, before.positions), visible, np.where(visible, doubt, before.doubt)
    )


def lift(tracks: PixelTracks, depths: Float, intrinsics: Float, still_pixels: float) -> Float:
    """Points float32 [T, H, W, 3] in metres of pixel tracks over depths [T, H, W].

    A point that stands still keeps its first depth; a moving one takes the depth where it is seen, and its last
    one where it is not. Depths are those of the nearest pixel: between two surfaces there is nothing.
    """
    home = tracks.positions[0]
    moves = _length(tracks.positions - home).max(0) > still_pixels
    z = np.repeat(depths[:1], len(depths), 0)
    for frame in range(1, len(depths)):
        here = nearest(depths[frame], tracks.positions[frame])
        known = moves & tracks.visible[frame]
        z[frame] = np.where(known, here, z[frame - 1])
    z[:, moves] = _smoothed(z[:, moves])
    xy = (tracks.positions - intrinsics[:2, 2]) / intrinsics[(0, 1), (0, 1)] * z[..., None]
    return np.concatenate([xy, z[..., None]], -1).astype(np.float32)


def sample(field: Float, positions: Float) -> Float:
    """The field [H, W, C] at positions [H, W, 2] (pixel centres at +0.5), bilinear, edges repeated."""
    where = np.ascontiguousarray(positions - 0.5, np.float32)
    taken = cv2.remap(field, where[..., 0], where[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(taken, np.float32)


def nearest(field: Float, positions: Float) -> Float:
    """The field [H, W] at the pixel that each of positions [..., 2] falls into, edges repeated."""
    height, width = field.shape
    column = np.clip(np.floor(positions[..., 0]), 0, width - 1).astype(np.intp)
    row = np.clip(np.floor(positions[..., 1]), 0, height - 1).astype(np.intp)
    return field[row, column]


def _rest(tracks: PixelTracks, soft: Float, params: FlowTrackerParams) -> PixelTracks:
    """Puts points that never stray back onto their pixels; such a point is seen wherever its pixel looks as at first."""
    home = tracks.positions[0]
    still = _length(tracks.positions - home).max(0) <= params.still_pixels
    positions = np.where(still[None, ..., None], home, tracks.positions)
    alike = np.abs(soft - soft[:1]).max(-1) <= params.max_colour_change
    return PixelTracks(positions, np.where(still, alike, tracks.visible))


def _blurred(frames: NDArray[np.uint8]) -> Float:
    return np.stack([cv2.GaussianBlur(frame.astype(np.float32), (0, 0), _BLUR) for frame in frames]).astype(np.float32)


def _smoothed(z_TN: Float) -> Float:
    """The median of three neighbouring frames; first and last stay: single depth spikes vanish."""
    if len(z_TN) < 3:
        return z_TN
    middle = np.median(np.stack([z_TN[:-2], z_TN[1:-1], z_TN[2:]]), axis=0)
    return np.concatenate([z_TN[:1], middle, z_TN[-1:]])


def _pixel_grid(size: tuple[int, ...]) -> Float:
    height, width = size
    return (np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1) + 0.5).astype(np.float32)


def _length(vectors: Float) -> Float:
    return np.linalg.norm(vectors, axis=-1)


def _inside(positions: Float) -> Bool:
    height, width = positions.shape[:2]
    u, v = positions[..., 0], positions[..., 1]
    return (u >= 0) & (u < width) & (v >= 0) & (v < height)
