"""Held-out rendered scenes: fresh ones by seed, with one novel view each, in parallel processes and in order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from more4d.evaluation.baselines import Clip
from more4d.geometry.paths import CAMERA_NAMES
from more4d.parallel import ordered_map
from more4d.scenes import RenderedScene, SceneConfig, render_scene, sample_scene
from more4d.training.base_scenes import held_out_seeds, training_seeds

VIEW_CAMERAS = tuple(name for name in CAMERA_NAMES if name != "static")


@dataclass(frozen=True)
class Size:
    """Frames, pixels and frames per second of the scenes."""

    frames: int
    height: int
    width: int
    fps: float


@dataclass(frozen=True)
class _Job:
    seed: int
    view: str | None


def held_out_scenes(seed: int, count: int, views: int, size: Size, *, workers: int) -> Iterator[RenderedScene]:
    """`count` scenes that no base was trained on (seeds from 10^9 up); the first `views` have a novel view, cameras in turn."""
    seeds = held_out_seeds(seed, count)
    jobs = [_Job(s, VIEW_CAMERAS[i % len(VIEW_CAMERAS)] if i < views else None) for i, s in enumerate(seeds)]
    return ordered_map(partial(_render, size), jobs, workers=workers, label="held-out scenes")


def training_clips(count: int, size: Size, *, workers: int) -> Iterator[Clip]:
    """The first `count` training scenes of the tiny base with seed 0: what the baselines learn from."""
    jobs: Sequence[_Job] = [_Job(s, None) for s in training_seeds(0, count)]
    for scene in ordered_map(partial(_render, size), jobs, workers=workers, label="training scenes"):
        yield clip_of(scene)


def clip_of(scene: RenderedScene) -> Clip:
    """What the baselines and the errors need of a scene."""
    return Clip(scene.caption, scene.points, np.asarray(scene.visibility, bool), scene.intrinsics)


def _render(size: Size, job: _Job) -> RenderedScene:
    spec = sample_scene(job.seed, SceneConfig(fps=size.fps))
    views = () if job.view is None else (job.view,)
    return render_scene(spec, frames=size.frames, height=size.height, width=size.width, views=views)
