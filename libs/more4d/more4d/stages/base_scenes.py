"""Stage base_scenes: renders the scenes that the tiny base is trained on, with their truth."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from pydantic import Field, model_validator

from more4d.geometry.paths import CAMERA_NAMES, camera_path, scene_centre
from more4d.parallel import ordered_map
from more4d.scenes import RenderedScene, SceneConfig, render_scene, sample_scene
from more4d.scenes.movers import FOX_FILE
from more4d.settings import Section
from more4d.stages.base import Context, Stage, VideoSpec
from more4d.training.base_scenes import BaseScenesSpec, training_seeds, write_base_scenes

VIEW_CAMERAS = tuple(name for name in CAMERA_NAMES if name != "static")
VIEW_AMOUNTS = (0.6, 1.3)


class BaseScenesParams(Section):
    """How many scenes, and how many of them with one extra view."""

    scenes: int = Field(gt=0)
    views: int = Field(ge=0)

    @model_validator(mode="after")
    def _one_view_a_scene(self) -> "BaseScenesParams":
        if self.views > self.scenes:
            raise ValueError(
                f"views={self.views} is more than scenes={self.scenes}: a scene has at most one extra view"
            )
        return self


@dataclass(frozen=True)
class _Job:
    seed: int
    view: str | None
    video: VideoSpec
    fox_file: Path


class BaseScenesStage(Stage[BaseScenesParams]):
    """Rendered training scenes, seeds below 10^8."""

    name = "base_scenes"
    section = BaseScenesParams
    inputs = {"fox": ".cache/packaged/fox"}
    outputs = {"scenes": "infra/tiny-base/build/scenes"}

    def run(self, context: Context[BaseScenesParams]) -> dict[str, float]:
        params, video = context.params, context.video
        spec = BaseScenesSpec(
            scenes=params.scenes, views=params.views, frames=video.frames, height=video.height, width=video.width
        )
        jobs = plan_jobs(
            training_seeds(context.seed, params.scenes), params.views, video, context.inputs["fox"] / FOX_FILE.name
        )
        scenes = ordered_map(_render_one, jobs, workers=context.workers, label="scenes")
        moving: list[float] = []
        write_base_scenes(_watch(scenes, moving), context.outputs["scenes"], spec)
        return {
            "scenes": params.scenes,
            "views": params.views,
            "moving_pixels": float(np.mean(moving)),
        }


def plan_jobs(seeds: Sequence[int], views: int, video: VideoSpec, fox_file: Path) -> list[_Job]:
    """One job a scene; `views` of them, evenly spread, render an extra view, the cameras taking turns."""
    scenes = len(seeds)
    jobs = []
    for i, seed in enumerate(seeds):
        number = (i + 1) * views // scenes
        has_view = number > i * views // scenes
        jobs.append(_Job(seed, VIEW_CAMERAS[number % len(VIEW_CAMERAS)] if has_view else None, video, fox_file))
    return jobs


def _render_one(job: _Job) -> RenderedScene:
    spec = sample_scene(job.seed, SceneConfig(fps=job.video.fps))
    render = functools.partial(
        render_scene, spec, height=job.video.height, width=job.video.width, fox_file=job.fox_file
    )
    views: dict[str, np.ndarray] = {}
    if job.view is not None:
        first = render(frames=1)
        amount = np.random.default_rng([job.seed, 5]).uniform(*VIEW_AMOUNTS)
        centre = scene_centre(torch.from_numpy(first.depth))
        views[job.view] = camera_path(job.view, job.video.frames, centre=centre, amount=amount).numpy()
    scene = render(frames=job.video.frames, views=views)
    # The later frames' depth is not stored, and need not travel between processes.
    return dataclasses.replace(scene, depths=scene.depths[:1])


def _watch(scenes: Iterator[RenderedScene], moving: list[float]) -> Iterator[RenderedScene]:
    for scene in scenes:
        moving.append(float(scene.moving_object.mean()))
        yield scene


STAGE = BaseScenesStage()
