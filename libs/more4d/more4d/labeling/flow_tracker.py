"""Dense tracks by optical flow chained from frame to frame, lifted by depth.

Suffixes: T frames, H height, W width.
"""

from dataclasses import dataclass

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


@dataclass(frozen=True, eq=False)
class PixelTracks:
    """positions float32 [T, H, W, 2] (u, v; centres at +0.5) of the first frame's pixels; visible bool [T, H, W]."""

    positions: Float
    visible: Bool


def track_pixels(frames: NDArray[np.uint8], params: FlowTrackerParams) -> PixelTracks:
    """Where every first-frame pixel of frames uint8 [T, H, W, 3] goes, and whether it can be seen.

    A point is lost when forward and backward flow disagree, when its colour changes or when it leaves the picture.
    From then on it stays where it was last seen: right for a background that something passes in front of. It is
    seen again when its pixel looks as in the first frame and it had not moved.
    """
    flow_between = DenseFlow()
    home, soft = _pixel_grid(frames.shape[1:3]), _blurred(frames)
    positions, visible = [home], [np.ones(home.shape[:2], bool)]
    lost = np.zeros(home.shape[:2], bool)
    for number, (before, after) in enumerate(zip(frames, frames[1:], strict=False), start=1):
        step, agree = _step(flow_between(before, after), flow_between(after, before), positions[-1], params)
        there = positions[-1] + step
        colour_change = np.abs(sample(soft[number], there) - soft[0]).max(-1)
        lost |= ~agree | ~_inside(there) | (colour_change > params.max_colour_change)
        positions.append(np.where(lost[..., None], positions[-1], there).astype(np.float32))
        visible.append(~lost)
    tracks = PixelTracks(np.stack(positions), np.stack(visible))
    return _rest(tracks, soft, params)


def _step(forward: Float, backward: Float, positions: Float, params: FlowTrackerParams) -> tuple[Float, Bool]:
    """Where the flow takes the positions [H, W, 2], and whether the flow back agrees."""
    step = sample(forward, positions)
    back = sample(backward, positions + step)
    allowed = params.max_inconsistency + params.max_inconsistency_share * (_length(step) + _length(back))
    return step, _length(step + back) <= allowed


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
