"""Scenes rendered by ray casting, with exact depth, point trajectories and visibility.

Suffixes: T frames, H height, W width, P pixels of one frame, N rays or points.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from more4d.scenes.cameras import Cameras, level_from_world, pinhole_intrinsics
from more4d.scenes.layers import Layers, cast_layers
from more4d.scenes.movers import FOX_FILE
from more4d.scenes.paint import paint
from more4d.scenes.spec import SceneSpec
from more4d.scenes.stage import Stage

Float = NDArray[np.float64]

DEPTH_TOLERANCE = 5e-5
"""A point counts as visible if the ray towards it ends within this share of its depth."""


@dataclass(frozen=True)
class View:
    """The same motion, seen by another camera."""

    video: NDArray[np.uint8]
    """[T, H, W, 3] RGB."""
    camera_to_world: NDArray[np.float32]
    """[T, 4, 4]."""


@dataclass(frozen=True)
class RenderedScene:
    """A clip with its truth. The world is the first frame's camera (OpenCV axes), which does not move."""

    seed: int
    caption: str
    kind: str
    direction: str
    video: NDArray[np.uint8]
    """[T, H, W, 3] RGB."""
    depths: NDArray[np.float32]
    """[T, H, W] metres along the optical axis; finite everywhere."""
    intrinsics: NDArray[np.float32]
    """[3, 3] pixels."""
    points: NDArray[np.float32]
    """[T, H, W, 3] where the point seen by each first-frame pixel is at each time."""
    visibility: NDArray[np.bool_]
    """[T, H, W] whether that point is inside the image and not hidden."""
    moving_object: NDArray[np.bool_]
    """[H, W] first-frame pixels on things that move."""
    views: dict[str, View]

    @property
    def depth(self) -> NDArray[np.float32]:
        """[H, W] the first frame's depth."""
        return self.depths[0]


def render_scene(
    spec: SceneSpec,
    *,
    frames: int,
    height: int,
    width: int,
    views: Sequence[str] | Mapping[str, Float] = (),
    fox_file: Path = FOX_FILE,
) -> RenderedScene:
    """The scene as a clip of `frames` with its truth, and the same motion from other cameras.

    `views` are names of camera paths (`more4d.geometry.paths`), or maps names to camera-to-world poses
    [T, 4, 4] in the world of the first frame's camera. Raises FileNotFoundError if the scene has a fox and
    `fox_file` is missing, ValueError for an unknown path or a wrong number of poses.
    """
    stage = Stage(spec, frames, fox_file)
    intrinsics = pinhole_intrinsics(spec.camera, height, width).astype(np.float32).astype(np.float64)
    level = level_from_world(spec.camera)

    def cameras(poses: Float) -> Cameras:
        return Cameras.of_world(np.asarray(poses, np.float64), level, intrinsics, height, width)

    source = cameras(np.tile(np.eye(4), (frames, 1, 1)))
    layers = cast_layers(stage, source)
    points, visibility, moving = _track(stage, source, layers, level)
    paths = views
    if not isinstance(paths, Mapping):
        first = layers.depth[: height * width]
        paths = _named_paths(paths, first[moving] if moving.any() else first, frames)
    return RenderedScene(
        seed=spec.seed,
        caption=spec.caption,
        kind=spec.kind,
        direction=spec.direction,
        video=paint(stage, source, layers),
        depths=layers.depth.astype(np.float32).reshape(frames, height, width),
        intrinsics=intrinsics.astype(np.float32),
        points=points.reshape(frames, height, width, 3),
        visibility=visibility.reshape(frames, height, width),
        moving_object=moving.reshape(height, width),
        views={name: _view(stage, cameras(path), path) for name, path in paths.items()},
    )


def film_scene(
    spec: SceneSpec, poses: Float, *, height: int, width: int, fox_file: Path = FOX_FILE
) -> NDArray[np.uint8]:
    """The video [T, H, W, 3] alone, through cameras posed [T, 4, 4] in the world of the spec's own camera.

    Raises FileNotFoundError if the scene has a fox and `fox_file` is missing.
    """
    stage = Stage(spec, len(poses), fox_file)
    intrinsics = pinhole_intrinsics(spec.camera, height, width)
    cameras = Cameras.of_world(poses, level_from_world(spec.camera), intrinsics, height, width)
    return paint(stage, cameras, cast_layers(stage, cameras))


def _named_paths(names: Sequence[str], depth_N: Float, frames: int) -> dict[str, Float]:
    """Camera-to-world poses [T, 4, 4] of the named paths around the moving things, whose depths are given."""
    if not names:
        return {}
    # Scenes without extra views need no torch, whose import takes longer than rendering fifty of them.
    import torch

    from more4d.geometry.paths import camera_path, scene_centre

    centre = scene_centre(torch.from_numpy(depth_N))
    return {name: camera_path(name, frames, centre=centre).numpy() for name in names}


def _view(stage: Stage, cameras: Cameras, poses: Float) -> View:
    if len(poses) != stage.frames:
        raise ValueError(f"a view has {len(poses)} poses for {stage.frames} frames; give one a frame")
    return View(paint(stage, cameras, cast_layers(stage, cameras)), np.asarray(poses, dtype=np.float32))


def _track(
    stage: Stage, cameras: Cameras, layers: Layers, level_33: Float
) -> tuple[NDArray[np.float32], NDArray[np.bool_], NDArray[np.bool_]]:
    """Points [T, P, 3] in the world, visibility [T, P], moving [P] for the pixels of the first frame."""
    pixels = cameras.pixels
    first = layers.directions * layers.depth[:pixels, None]
    points = np.tile(first.astype(np.float32), (stage.frames, 1, 1))
    moving = layers.owner[:pixels] >= 0
    # A still point keeps its pixel: it is visible wherever no mover owns that pixel.
    visibility = layers.owner.reshape(stage.frames, pixels) < 0
    for mover, hits in zip(stage.movers, layers.hits, strict=True):
        hits = hits.only(hits.rays < pixels)
        world = (mover.trajectories(hits.triangles, hits.weights) @ level_33).astype(np.float32)
        points[1:, hits.rays] = world[1:]
        visibility[:, hits.rays] = _visible(stage, cameras, world.astype(np.float64) @ level_33.T)
    visibility[0] = True
    return points, visibility, moving


def _visible(stage: Stage, cameras: Cameras, points_TN3: Float) -> NDArray[np.bool_]:
    """Whether [T, N] each point is inside the image and nothing is in front of it."""
    uv, depth = cameras.project(points_TN3)
    inside = (depth > 0) & (uv >= 0).all(-1) & (uv[..., 0] < cameras.width) & (uv[..., 1] < cameras.height)
    frames, _ = np.nonzero(inside)
    seen = stage.depth(frames, *cameras.rays(frames, cameras.directions(uv[inside])))
    visible = np.zeros_like(inside)
    visible[inside] = np.abs(seen - depth[inside]) <= DEPTH_TOLERANCE * depth[inside]
    return visible
