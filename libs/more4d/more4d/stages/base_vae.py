"""Tiny base: the motion VAE, from principal components and a short training of its decoder."""

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor

from more4d.models.architectures import TINY
from more4d.models.bundle import save_network
from more4d.models.conditions import image_latent, to_unit_range
from more4d.models.vae import MotionVAE, MotionVAEConfig
from more4d.settings import Section
from more4d.stages.base import Context, Stage
from more4d.training.base_scenes import BaseScenes
from more4d.training.base_sources import MotionScenes
from more4d.training.loop import TrainSettings, iterate_batches
from more4d.training.vae import MotionVAEObjective, VAELossSettings, fit_linear_start, train_or_keep


class BaseVAEParams(Section):
    """What the linear start weighs, and how the decoder is trained on top of it."""

    fit_scenes: int = Field(gt=0)
    motion_share: float = Field(gt=0, lt=1)
    """Share of the 16 channels' energy for motion maps; the rest is split between video and still pictures."""
    held_out: int = Field(gt=0)
    """Scenes that are not trained on: on them the trained decoder must beat its linear start to be kept."""
    loss: VAELossSettings
    train: TrainSettings


class HeldBack:
    """A source without its first samples and their mirror images."""

    def __init__(self, source: MotionScenes, held_out: int) -> None:
        self.source, self.held_out = source, held_out
        self.half = source.size // 2 - held_out
        self.size = 2 * self.half

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """The samples at `indices` [B] of those that remain."""
        mirrored = indices >= self.half
        return self.source.batch(indices + self.held_out * (1 + mirrored.long()))


class BaseVAE(Stage[BaseVAEParams]):
    """Rendered scenes to a motion VAE."""

    name = "base_vae"
    section = BaseVAEParams
    inputs = {"scenes": "infra/tiny-base/build/scenes"}
    outputs = {"vae": "infra/tiny-base/build/vae", "history": "results/plots/base_vae.csv"}

    def run(self, context: Context[BaseVAEParams]) -> dict[str, float]:
        """Error of the trained codec and of its linear start alone, as trajectory distance in metres."""
        params = context.params
        torch.manual_seed(context.seed)
        source = MotionScenes(BaseScenes(context.inputs["scenes"]))
        vae, config = linear_start(source, params)
        objective = MotionVAEObjective(vae, HeldBack(source, params.held_out), params.loss)
        held_out = source.batch(torch.arange(params.held_out))
        result, errors = train_or_keep(objective, params.train, held_out, seed=context.seed, work=context.work)
        save_vae(vae, config, context.outputs["vae"])
        return result.write(context.outputs["history"]) | errors


def linear_start(source: MotionScenes, params: BaseVAEParams) -> tuple[MotionVAE, MotionVAEConfig]:
    """A VAE that is its principal components alone, and its config with the scales that make latents unit-sized."""
    vae = MotionVAE(TINY.motion_vae)
    fit_linear_start(vae.vae, _weighted_videos(vae, source, params))
    image_scale, motion_scale = _latent_scales(vae, source, params.fit_scenes)
    config = TINY.motion_vae.model_copy(
        update={
            "vae": TINY.motion_vae.vae | {"latents_std": [image_scale] * 16},
            "motion_std": motion_scale / image_scale,
        }
    )
    scaled = MotionVAE(config)
    scaled.load_state_dict(vae.state_dict())
    return scaled, config


def _weighted_videos(vae: MotionVAE, source: MotionScenes, params: BaseVAEParams) -> Iterator[tuple[Tensor, float]]:
    rest = 1 - params.motion_share
    for indices in iterate_batches(min(params.fit_scenes, source.size), 32):
        batch = source.batch(indices)
        still = to_unit_range(batch["image"])[:, :, None].expand_as(batch["video"])
        yield vae.trajectory_encoder.start(batch["motion"]), params.motion_share
        yield batch["video"], rest / 2
        yield still, rest / 2


@torch.no_grad()
def _latent_scales(vae: MotionVAE, source: MotionScenes, scenes: int) -> tuple[float, float]:
    """Root mean square of image and of motion latents."""
    batch = source.batch(torch.arange(min(scenes, 64)))
    frames = batch["motion"].shape[2]
    image = image_latent(vae, to_unit_range(batch["image"]), frames)
    return float(image.square().mean().sqrt()), float(vae.encode_motion(batch["motion"]).square().mean().sqrt())


def save_vae(vae: MotionVAE, config: MotionVAEConfig, folder: Path) -> None:
    """Write weights and config of a motion VAE."""
    save_network(vae, folder / "vae.safetensors")
    (folder / "motion_vae.json").write_text(json.dumps(config.model_dump(mode="json"), indent=2) + "\n")


STAGE = BaseVAE()
