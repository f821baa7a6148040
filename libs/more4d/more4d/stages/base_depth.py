"""Stage base_depth: trains the tiny base's depth network on rendered scenes."""

from pathlib import Path

import numpy as np
from pydantic import Field

from more4d.data.atomic import atomic_write_json
from more4d.models.architectures import TINY
from more4d.models.bundle import save_network
from more4d.models.depth import DepthNetwork
from more4d.scenes import render_scenes
from more4d.scenes.movers import FOX_FILE
from more4d.settings import Section
from more4d.stages.base import Context, Stage, VideoSpec
from more4d.training.base_scenes import BaseScenes, held_out_seeds
from more4d.training.depth import DepthObjective, DepthSamples, evaluate_depth
from more4d.training.loop import TrainSettings, train


class BaseDepthParams(Section):
    """How long to train, and on how many unseen scenes to measure."""

    train: TrainSettings
    held_out: int = Field(gt=1)


class BaseDepth(Stage[BaseDepthParams]):
    """Rendered scenes to a depth network."""

    name = "base_depth"
    section = BaseDepthParams
    inputs = {"scenes": "infra/tiny-base/build/scenes", "fox": ".cache/packaged/fox"}
    outputs = {"depth": "infra/tiny-base/build/depth", "history": "results/plots/base_depth.csv"}

    def run(self, context: Context[BaseDepthParams]) -> dict[str, float]:
        """Losses, and the error on held-out scenes with and without the camera beside the best constant plane's."""
        params = context.params
        scenes = BaseScenes(context.inputs["scenes"])
        samples = DepthSamples(scenes.videos[:, 0], scenes.depths, scenes.intrinsics)
        objective = DepthObjective(samples, TINY.depth, context.seed)
        result = train(objective, params.train, seed=context.seed, work=context.work)
        result.load_into(objective.network)
        fox_file = context.inputs["fox"] / FOX_FILE.name
        held_out = render_first_frames(held_out_seeds(context.seed, params.held_out), context.video, fox_file)
        metrics = result.write(context.outputs["history"]) | measure_depth(objective.network, held_out)
        save_network(objective.network, context.outputs["depth"] / "depth.safetensors")
        atomic_write_json(context.outputs["depth"] / "config.json", TINY.depth.model_dump(mode="json"))
        atomic_write_json(context.outputs["depth"] / "metrics.json", metrics)
        return metrics


def render_first_frames(seeds: range, video: VideoSpec, fox_file: Path) -> DepthSamples:
    """The first frames of the scenes of `seeds`, with depth and intrinsics."""
    size = {"height": video.height, "width": video.width, "fox_file": fox_file}
    scenes = list(render_scenes(seeds, frames=1, **size))
    return DepthSamples(
        np.stack([scene.video[0] for scene in scenes]),
        np.stack([scene.depth for scene in scenes]),
        np.stack([scene.intrinsics for scene in scenes]),
    )


def measure_depth(network: DepthNetwork, samples: DepthSamples) -> dict[str, float]:
    """`evaluate_depth` with the true camera (camera_*) and without (image_*)."""
    with_camera = evaluate_depth(network, samples, with_camera=True)
    without = evaluate_depth(network, samples, with_camera=False)
    return {f"camera_{k}": v for k, v in with_camera.items()} | {f"image_{k}": v for k, v in without.items()}


STAGE = BaseDepth()
