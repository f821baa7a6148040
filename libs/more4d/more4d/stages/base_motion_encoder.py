"""Stage base_motion_encoder: pretrains the tiny base's motion encoder as a masked autoencoder on rendered clips."""

from pathlib import Path

import numpy as np
import torch
from pydantic import Field

from more4d.data.atomic import atomic_write_json
from more4d.models.architectures import TINY
from more4d.models.bundle import save_network
from more4d.models.motion_encoder import MaskedAutoencoder, MotionEncoder
from more4d.scenes import RenderedScene, render_scenes
from more4d.scenes.movers import FOX_FILE
from more4d.settings import Section
from more4d.stages.base import Context, Stage, VideoSpec
from more4d.training.base_scenes import BaseScenes, held_out_seeds
from more4d.training.loop import TrainSettings, train
from more4d.training.motion_encoder import MotionEncoderObjective, evaluate_reconstruction, probe_moving


class BaseMotionEncoderParams(Section):
    """How long to train, and on how many unseen scenes to measure."""

    train: TrainSettings
    held_out: int = Field(gt=3)


class BaseMotionEncoder(Stage[BaseMotionEncoderParams]):
    """Rendered clips to a motion encoder; the decoder of the pretraining is kept beside it."""

    name = "base_motion_encoder"
    section = BaseMotionEncoderParams
    inputs = {"scenes": "infra/tiny-base/build/scenes", "fox": ".cache/packaged/fox"}
    outputs = {
        "motion_encoder": "infra/tiny-base/build/motion_encoder",
        "history": "results/plots/base_motion_encoder.csv",
    }

    def run(self, context: Context[BaseMotionEncoderParams]) -> dict[str, float]:
        """Losses, and on held-out clips the masked loss and the linear probe, beside those of an untrained encoder."""
        params, folder = context.params, context.outputs["motion_encoder"]
        scenes = BaseScenes(context.inputs["scenes"])
        objective = MotionEncoderObjective(scenes.videos, TINY.motion_encoder, context.seed)
        result = train(objective, params.train, seed=context.seed, work=context.work)
        result.load_into(objective.network)
        fox_file = context.inputs["fox"] / FOX_FILE.name
        held_out = render_clips(held_out_seeds(context.seed, params.held_out), context.video, fox_file)
        metrics = result.write(context.outputs["history"])
        metrics |= measure_motion_encoder(objective.network, held_out, context.seed)
        save_network(objective.network.trunk, folder / "motion_encoder.safetensors")
        save_network(objective.network, folder / "masked_autoencoder.safetensors")
        atomic_write_json(folder / "config.json", TINY.motion_encoder.model_dump(mode="json"))
        atomic_write_json(folder / "metrics.json", metrics)
        return metrics


def render_clips(seeds: range, video: VideoSpec, fox_file: Path) -> list[RenderedScene]:
    """The clips of the scenes of `seeds`."""
    size = {"height": video.height, "width": video.width, "fox_file": fox_file}
    return list(render_scenes(seeds, frames=video.frames, **size))


def measure_motion_encoder(network: MaskedAutoencoder, scenes: list[RenderedScene], seed: int) -> dict[str, float]:
    """Masked loss on clips and images, and R² of the linear probe for moving things, trained and untrained."""
    videos = np.stack([scene.video for scene in scenes])
    moving = np.stack([scene.moving_object for scene in scenes])
    reconstruction = evaluate_reconstruction(network, videos, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        untrained = MotionEncoder.from_config(network.config)
    return {f"held_out_{key}": value for key, value in reconstruction.items()} | {
        "probe_moving": probe_moving(network.trunk, videos[:, 0], moving),
        "probe_moving_untrained": probe_moving(untrained, videos[:, 0], moving),
    }


STAGE = BaseMotionEncoder()
