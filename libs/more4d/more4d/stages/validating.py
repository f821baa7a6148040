"""Validation while a transformer trains: fixed held-out samples generated, measured and shown."""

from pathlib import Path

from more4d.data.shards import TrajSceneDataset
from more4d.inference.motion_video import MotionVideo
from more4d.models.bundle import Models
from more4d.stages.base import Context
from more4d.training.cache.sources import SourceSettings, strag_source, vism_source
from more4d.training.held_out import HeldOutMotions, HeldOutViews
from more4d.training.strag import STraGObjective
from more4d.training.validation import TrajectoryValidation, ValidationSettings, ViewValidation
from more4d.training.vism import ViSMObjective


def trajectory_validation(
    objective: STraGObjective, models: Models, context: Context, source: SourceSettings, settings: ValidationSettings
) -> TrajectoryValidation:
    """Generated against labeled motion of the val split; videos under the run's logs."""
    latents, dataset = context.inputs["latents"], TrajSceneDataset(context.root / source.trajscene, "val")
    given = strag_source(source, latents, models, root=context.root, split="val", decoded=False)
    held_out = HeldOutMotions(given, dataset, models.vae.config.motion_camera)
    draw = MotionVideo(held_out.sample, models.vae)
    generation = models.config.generation
    return TrajectoryValidation(
        objective, held_out, settings, _videos(context), fps=generation.fps, shift=generation.shift, draw=draw
    )


def view_validation(
    objective: ViSMObjective, models: Models, context: Context, source: SourceSettings, settings: ValidationSettings
) -> ViewValidation:
    """Completed against true views of the val split; videos under the run's logs."""
    latents, dataset = context.inputs["latents"], TrajSceneDataset(context.root / source.trajscene, "val")
    given = vism_source(source, latents, models, root=context.root, split="val", decoded=False)
    generation = models.config.generation
    held_out = HeldOutViews(given, dataset)
    return ViewValidation(objective, held_out, settings, _videos(context), fps=generation.fps, shift=generation.shift)


def _videos(context: Context) -> Path | None:
    """One rank writes them."""
    return context.logs / "videos" if context.world.main else None
