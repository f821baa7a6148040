"""Stage scenes: batch inference: the packaged photos, and the first frames of real clips, as moving 4D scenes."""

import dataclasses
import logging
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, field_validator
from tqdm import tqdm

from more4d.data.tables import read_accepted
from more4d.data.video import iter_frames
from more4d.geometry.paths import CameraName
from more4d.inference.checkpoints import load_lineage
from more4d.inference.generate import Request, generate_scene
from more4d.inference.photos import photos
from more4d.inference.scene import Credit, read_scene, write_scene
from more4d.models.bundle import Models
from more4d.report.viewer import scene_page
from more4d.settings import Section
from more4d.stages.base import Context, Stage

log = logging.getLogger(__name__)


class ScenesParams(Section):
    """Which pictures, seen from where, and how they are sampled."""

    photos: tuple[str, ...] | None = None
    """Names of packaged photos; None takes all."""
    clips: int = Field(ge=0)
    """Real clips (of different videos) whose first frames join the photos."""
    clip_cameras: tuple[CameraName, ...] = Field(default=("circle_left",), min_length=1)
    camera_amount: float = Field(default=Request.camera_amount, gt=0, le=3)
    """How far the cameras go, 1 for the whole path."""
    motion_smoothing: float = Field(default=Request.motion_smoothing, ge=0)
    render_scale: int = Field(ge=1)
    steps: int | None = Field(default=None, gt=0)
    guidance: float | None = Field(default=None, ge=1)
    """None takes the checkpoint's own."""

    @field_validator("photos")
    @classmethod
    def _known_photos(cls, names: tuple[str, ...] | None) -> tuple[str, ...] | None:
        known = [photo.name for photo in photos()]
        if unknown := sorted(set(names or ()) - set(known)):
            raise ValueError(f"unknown photos {', '.join(unknown)}; the photos are {', '.join(known)}")
        return names


@dataclass(frozen=True)
class _Task:
    name: str
    picture: NDArray[np.uint8]
    prompt: str
    cameras: tuple[str, ...]
    credit: Credit


class ScenesStage(Stage[ScenesParams]):
    """Photos and first frames to results/scenes/<name>/, each a scene folder with its page."""

    name = "scenes"
    section = ScenesParams
    inputs = {
        "source": "datasets/source",
        "clips": "datasets/clips",
        "vae": "models/motion_vae",
        "strag": "models/strag",
        "vism": "models/vism",
        "base": "models/tiny-base",
    }
    outputs = {"scenes": "results/scenes"}

    def run(self, context: Context[ScenesParams]) -> dict[str, float]:
        """How many scenes, how faithful their first frames are, how much moves."""
        inputs = context.inputs
        models = load_lineage(inputs["base"], vae=inputs["vae"], strag=inputs["strag"], vism=inputs["vism"])
        tasks = [*_photo_tasks(context.params), *_clip_tasks(context)]
        for task in tqdm(tasks, desc="scenes", unit="scene"):
            # Finished scenes wait in the work folder: a run that was killed makes only the others.
            if not (context.work / task.name).exists():
                _make(models, task, context)
        checks = [_move(context.work / task.name, context.outputs["scenes"] / task.name) for task in tasks]
        means = pd.DataFrame(checks)[["first_frame_psnr_db", "moving_share"]].mean()
        return {"scenes": len(tasks), **{f"mean_{key}": round(float(value), 6) for key, value in means.items()}}


def _make(models: Models, task: _Task, context: Context[ScenesParams]) -> None:
    params = context.params
    request = Request(
        prompt=task.prompt,
        cameras=task.cameras,
        seed=context.seed,
        steps=params.steps,
        guidance=params.guidance,
        camera_amount=params.camera_amount,
        motion_smoothing=params.motion_smoothing,
        render_scale=params.render_scale,
    )
    scene = generate_scene(models, task.picture, request, name=task.name, credit=task.credit)
    log.info("%s: %.1f s %s", task.name, scene.timings["total"], dict(scene.timings))
    # The lineage's outputs are compared by their bytes: seconds would make every run differ.
    write_scene(dataclasses.replace(scene, timings={}), context.work / task.name, page=scene_page)


def _move(made: Path, final: Path) -> dict[str, float]:
    checks = read_scene(made).checks
    shutil.copytree(made, final)
    return dict(checks)


def _photo_tasks(params: ScenesParams) -> Iterator[_Task]:
    for photo in photos():
        if params.photos is None or photo.name in params.photos:
            yield _Task(photo.name, photo.load(), photo.prompt, photo.cameras, photo.credit)


def _clip_tasks(context: Context[ScenesParams]) -> Iterator[_Task]:
    """The first accepted window of each real video, at the video's own resolution."""
    clips = read_accepted(context.inputs["clips"] / "clips.parquet").to_dict("records")
    # The first window of each video: a later one shows much the same.
    first = {row["videoid"]: row for row in reversed(clips) if row["origin"] == "real"}
    sources = read_accepted(context.inputs["source"] / "table.parquet").to_dict("records")
    files = {row["videoid"]: context.inputs["source"] / row["contentUrl"] for row in sources}
    chosen = sorted(first.values(), key=lambda row: row["clip_id"])[: context.params.clips]
    for row in chosen:
        picture = frame_at(files[row["videoid"]], float(row["start_seconds"]))
        yield _Task(_folder_name(row), picture, row["name"], context.params.clip_cameras, _credit(row))


def frame_at(path: Path, seconds: float) -> NDArray[np.uint8]:
    """The last frame shown at that time, uint8 [H,W,3]."""
    shown = None
    for time, image in iter_frames(path):
        if shown is not None and time > seconds + 1e-6:
            break
        shown = image
    assert shown is not None, f"{path} has no frame"
    return shown


def _folder_name(row: dict[str, Any]) -> str:
    return "clip-" + re.sub(r"[^A-Za-z0-9_-]+", "-", str(row["videoid"]))


def _credit(row: dict[str, Any]) -> Credit:
    source = f"first frame of clip {row['clip_id']}"
    return Credit(source, attribution=str(row["attribution"]), licence=str(row["licence"]))


STAGE = ScenesStage()
