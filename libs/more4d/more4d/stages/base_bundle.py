"""Tiny base: gathers the trained networks into the checkpoint folder that is committed."""

import json
from pathlib import Path
from typing import Any

import torch

from more4d.data.atomic import atomic_write_json
from more4d.models.architectures import TINY
from more4d.models.bundle import NETWORKS, build, load_exactly
from more4d.models.vae import MotionVAEConfig
from more4d.settings import Section
from more4d.stages.base import Context, Stage, fingerprint


class BaseBundleParams(Section):
    """The bundle has no choices of its own."""


FILES = {
    "vae": "vae/vae.safetensors",
    "strag": "strag/strag.safetensors",
    "vism": "vism/vism.safetensors",
    "depth": "depth/depth.safetensors",
    "motion_encoder": "motion_encoder/motion_encoder.safetensors",
    "text": "strag/text.safetensors",
    "image_encoder": "strag/image_encoder.safetensors",
}


PARTS = ("scenes", "vae", "strag", "vism", "depth", "motion_encoder")


class BaseBundle(Stage[BaseBundleParams]):
    """Trained networks to `models/tiny-base`, stored in half precision."""

    name = "base_bundle"
    section = BaseBundleParams
    inputs = {part: f"infra/tiny-base/build/{part}" for part in PARTS}
    outputs = {name: f"models/tiny-base/{name}.safetensors" for name in NETWORKS} | {
        "config": "models/tiny-base/config.json",
        "tokenizer": "models/tiny-base/tokenizer.json",
        "data": "models/tiny-base/data.json",
    }

    def run(self, context: Context[BaseBundleParams]) -> dict[str, float]:
        """Size of the checkpoint in megabytes."""
        vae = (context.inputs["vae"] / "motion_vae.json").read_text()
        config = TINY.model_copy(update={"motion_vae": MotionVAEConfig.model_validate_json(vae)})
        models = build(config, (context.inputs["strag"] / "tokenizer.json").read_text())
        for name, file in FILES.items():
            load_exactly(getattr(models, name), build_file(context, file))
        models.save_files(context.outputs, dtype=torch.float16)
        atomic_write_json(context.outputs["data"], data_record(context.inputs["scenes"]))
        return {"megabytes": sum(path.stat().st_size for path in context.outputs.values()) / 1e6}


def data_record(scenes: Path) -> dict[str, Any]:
    """What the base learned from: the scenes' own description, and the SHA-256 of their folder (see `fingerprint`)."""
    return {"scenes": json.loads((scenes / "scenes.json").read_text()), "sha256": fingerprint(scenes)}


def build_file(context: Context[BaseBundleParams], file: str) -> Path:
    """The built file `part/name`."""
    part, name = file.split("/")
    return context.inputs[part] / name


STAGE = BaseBundle()
