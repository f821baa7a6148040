"""Pictures of a stage: textures, one light, shadows on the ground, smooth outlines.

Suffixes: T frames, P pixels of one frame, N rays or samples.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from more4d.scenes.cameras import Cameras
from more4d.scenes.layers import Layers, Rays, pixel_rays
from more4d.scenes.movers import Mover
from more4d.scenes.stage import Hits, Stage

Float = NDArray[np.float64]
Index = NDArray[np.intp]

_OFFSETS = np.array([[-0.125, -0.375], [0.375, -0.125], [-0.375, 0.125], [0.125, 0.375]])
"""Where in a pixel (from its centre) outlines and shadow edges are sampled: a rotated grid."""


def paint(stage: Stage, cameras: Cameras, layers: Layers) -> NDArray[np.uint8]:
    """The video [T, H, W, 3] RGB."""
    background = stage.background_colours(
        cameras, layers.background.origins, layers.background.directions, layers.background_depth
    )
    video = _to_bytes(background)
    video = np.tile(video, (stage.frames, 1)) if cameras.static else video
    shadowed, share = _shadows(stage, cameras, layers)
    dark = _at(background, shadowed) * (1 - share * (1 - stage.shadow_factor))[:, None]
    video[shadowed] = _to_bytes(dark)
    edges = _borders(layers.owner, cameras)
    # What lies behind an outline is read before the movers are painted over it.
    behind = video[edges] / 255.0
    for mover, hits in zip(stage.movers, layers.hits, strict=True):
        video[hits.rays] = _to_bytes(_mover_colours(stage, mover, hits.rays // cameras.pixels, hits))
    video[edges] = _to_bytes(_outlines(stage, cameras, edges, behind))
    return video.reshape(stage.frames, cameras.height, cameras.width, 3)


def _to_bytes(colours_N3: Float) -> NDArray[np.uint8]:
    return (np.clip(colours_N3, 0, 1) * 255 + 0.5).astype(np.uint8)


def _at(background: NDArray[Any], flat_N: Index) -> NDArray[Any]:
    """Background values at flat pixel indices, whether or not one frame holds them all."""
    return background[flat_N % len(background)]


def _mover_colours(stage: Stage, mover: Mover, frames_N: Index, hits: Hits) -> Float:
    base, cosine = mover.colours(frames_N, hits.triangles, hits.weights, stage.to_light)
    return base * stage.shade(cosine)[:, None] * np.asarray(stage.spec.light.tint)


def _borders(labels: NDArray[np.int8], cameras: Cameras) -> Index:
    """Flat indices, ascending, of the pixels with a neighbour of another label."""
    grid = labels.reshape(-1, cameras.height, cameras.width)
    border = np.zeros(grid.shape, dtype=bool)
    for axis in (1, 2):
        ahead = np.moveaxis(border, axis, 0)
        values = np.moveaxis(grid, axis, 0)
        change = values[1:] != values[:-1]
        ahead[1:] |= change
        ahead[:-1] |= change
    return np.flatnonzero(border)


def _subpixel_rays(cameras: Cameras, flat_N: Index) -> Rays:
    """Four rays a pixel, in order."""
    frames, pixels = np.divmod(flat_N, cameras.pixels)
    rows, columns = np.divmod(pixels, cameras.width)
    centres = np.stack([columns + 0.5, rows + 0.5], axis=-1)
    directions = cameras.directions((centres[:, None] + _OFFSETS).reshape(-1, 2))
    frames = frames.repeat(len(_OFFSETS))
    return Rays(frames, *cameras.rays(frames, directions))


def _outlines(stage: Stage, cameras: Cameras, edges_N: Index, behind_N3: Float) -> Float:
    """Colours [N, 3] of the pixels on outlines: each of four samples shows a mover or what is behind."""
    rays = _subpixel_rays(cameras, edges_N)
    samples = behind_N3.repeat(len(_OFFSETS), axis=0)
    nearest, _ = stage.background_depth(rays.origins, rays.directions)
    for mover in stage.movers:
        hits = stage.hits(mover, rays.frames, rays.origins, rays.directions)
        hits = hits.only(hits.depth < nearest[hits.rays])
        nearest[hits.rays] = hits.depth
        samples[hits.rays] = np.clip(_mover_colours(stage, mover, rays.frames[hits.rays], hits), 0, 1)
    return samples.reshape(-1, len(_OFFSETS), 3).mean(axis=1)


def _shadows(stage: Stage, cameras: Cameras, layers: Layers) -> tuple[Index, Float]:
    """Flat indices [N] of the pixels whose ground is in shadow, and how much of each pixel is."""
    shadow = np.zeros(len(layers.owner), dtype=np.int8)
    for mover in stage.movers:
        flat = cameras.box_pixels(cameras.boxes(stage.shadow_points(mover)))
        flat = flat[_at(layers.background_is_ground, flat)]
        rays = pixel_rays(cameras, layers.background, flat)
        points = rays.origins + _at(layers.background_depth, flat)[:, None] * rays.directions
        shadow[flat[_in_shadow(stage, mover, rays.frames, points)]] = 1
    edges = _borders(shadow, cameras)
    edges = edges[_at(layers.background_is_ground, edges)]
    rays = _subpixel_rays(cameras, edges)
    depth, _ = stage.background_depth(rays.origins, rays.directions)
    points = rays.origins + depth[:, None] * rays.directions
    dark = np.zeros(len(depth), dtype=bool)
    for mover in stage.movers:
        dark |= _in_shadow(stage, mover, rays.frames, points)
    share = shadow.astype(np.float64)
    share[edges] = dark.reshape(-1, len(_OFFSETS)).mean(axis=1)
    flat = np.flatnonzero(share)
    return flat, share[flat]


def _in_shadow(stage: Stage, mover: Mover, frames_N: Index, points_N3: Float) -> NDArray[np.bool_]:
    return mover.occluded(frames_N, points_N3, np.broadcast_to(stage.to_light, points_N3.shape))
