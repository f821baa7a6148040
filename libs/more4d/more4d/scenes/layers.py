"""What the cameras see of a stage: depth, owner and exact hit of every pixel of every frame.

Suffixes: T frames, P pixels of one frame, N rays, S background rays (P for a still camera, else T * P).
Flat pixel indices are frame * P + row * width + column.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from more4d.scenes.cameras import Cameras
from more4d.scenes.stage import Hits, Stage

Float = NDArray[np.float64]
Index = NDArray[np.intp]


@dataclass(frozen=True)
class Rays:
    """Rays in the level frame with the frame each is cast in; frames ascend."""

    frames: Index
    origins: Float
    directions: Float


@dataclass(frozen=True)
class Layers:
    """Flat over frames and pixels, but for the background of a still camera, which one frame holds."""

    directions: Float
    """Through the pixel centres, in camera axes."""
    background: Rays
    background_depth: Float
    background_is_ground: NDArray[np.bool_]
    depth: Float
    owner: NDArray[np.int8]
    """Index of the mover that a pixel shows, -1 for ground and backdrop."""
    hits: list[Hits]
    """Per mover, where it is in front; `rays` are flat pixel indices."""


def pixel_rays(cameras: Cameras, background: Rays, flat_N: Index) -> Rays:
    """The background's rays through the pixels, those of a still camera in any frame."""
    frames, pixels = np.divmod(flat_N, cameras.pixels)
    rays = pixels if cameras.static else flat_N
    return Rays(frames, background.origins.take(rays, axis=0), background.directions.take(rays, axis=0))


def cast_layers(stage: Stage, cameras: Cameras) -> Layers:
    """Every pixel's depth and owner; movers are cast only inside their rectangles."""
    directions = cameras.pixel_directions()
    count = cameras.pixels if cameras.static else stage.frames * cameras.pixels
    frames, pixels = np.divmod(np.arange(count), cameras.pixels)
    background = Rays(frames, *cameras.rays(frames, directions[pixels]))
    still_depth, still_ground = stage.background_depth(background.origins, background.directions)
    depth = np.tile(still_depth, stage.frames) if cameras.static else still_depth.copy()
    owner = np.full(len(depth), -1, dtype=np.int8)
    found = []
    for index, mover in enumerate(stage.movers):
        flat = cameras.box_pixels(cameras.boxes(mover.vertices))
        rays = pixel_rays(cameras, background, flat)
        hits = stage.hits(mover, rays.frames, rays.origins, rays.directions)
        pixels = flat[hits.rays]
        front = hits.depth < depth[pixels]
        depth[pixels[front]], owner[pixels[front]] = hits.depth[front], index
        found.append(Hits(pixels, hits.depth, hits.triangles, hits.weights))
    kept = [hits.only(owner[hits.rays] == index) for index, hits in enumerate(found)]
    return Layers(directions, background, still_depth, still_ground, depth, owner, kept)
