"""Stages by name, imported only when asked for: a stage must not pay for another's imports."""

from importlib import import_module

from more4d.stages.base import Stage

LINEAGE = (
    "source", "clips", "captions", "selection", "depth", "tracks", "trajscene", "data_report",
    "motion_vae", "latents", "strag", "vism", "samples", "evaluation", "scenes",
)  # fmt: skip
TINY_BASE = ("base_scenes", "base_depth", "base_motion_encoder", "base_vae", "base_strag", "base_vism", "base_bundle")


def get_stage(name: str) -> Stage:
    """The stage called `name`: the module `more4d.stages.<name>`'s object `STAGE`. Raises ValueError listing the known."""
    if name not in LINEAGE + TINY_BASE:
        raise ValueError(f"unknown stage {name!r}; the stages are {', '.join(LINEAGE + TINY_BASE)}")
    return import_module(f"more4d.stages.{name}").STAGE
