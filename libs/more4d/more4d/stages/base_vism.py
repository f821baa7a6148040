"""Tiny base: the ViSM transformer, trained to complete splat renders of rendered scenes."""

from collections.abc import Iterator

import numpy as np
import torch
from pydantic import Field
from tqdm import tqdm

from more4d.geometry import denormalize_motion, unproject
from more4d.inference.render import render_path
from more4d.models.architectures import TINY
from more4d.models.bundle import build_vism, load_exactly, save_network
from more4d.models.image_encoder import ImageEncoder
from more4d.models.text import TextEncoder
from more4d.settings import Section
from more4d.stages.base import Context, Stage
from more4d.stages.base_strag import load_vae
from more4d.training.base_scenes import BaseScenes
from more4d.training.flow import FlowSettings, require_prediction
from more4d.training.latents import cached_conditions
from more4d.training.loop import TrainSettings, train
from more4d.training.view_source import ViewPair, ViewPairs
from more4d.training.vism import ViSMObjective


class BaseViSMParams(Section):
    """What the loss weighs, how long to train, and on how much."""

    original_views: int = Field(ge=0)
    """Scenes whose own camera joins the novel views."""
    flow: FlowSettings
    train: TrainSettings


class BaseViSM(Stage[BaseViSMParams]):
    """Rendered scenes and their extra views to a ViSM transformer."""

    name = "base_vism"
    section = BaseViSMParams
    inputs = {
        "scenes": "infra/tiny-base/build/scenes",
        "vae": "infra/tiny-base/build/vae",
        "strag": "infra/tiny-base/build/strag",
    }
    outputs = {"vism": "infra/tiny-base/build/vism", "history": "results/plots/base_vism.csv"}

    def run(self, context: Context[BaseViSMParams]) -> dict[str, float]:
        """First and last losses."""
        params = context.params
        require_prediction(params.flow, TINY.generation.prediction)
        torch.manual_seed(context.seed)
        scenes = BaseScenes(context.inputs["scenes"])
        vae = load_vae(context.inputs["vae"])
        encoders = load_encoders(context)
        pairs = list(tqdm(view_pairs(scenes, params.original_views, *encoders), desc="renders", leave=False))
        vism = build_vism(TINY)
        objective = ViSMObjective(vism, vism, vae, ViewPairs(pairs, vae), cached_conditions, params.flow)
        result = train(objective, params.train, seed=context.seed, work=context.work)
        result.load_into(vism)
        save_network(vism, context.outputs["vism"] / "vism.safetensors")
        return result.write(context.outputs["history"])


def load_encoders(context: Context[BaseViSMParams]) -> tuple[TextEncoder, ImageEncoder]:
    """The text and image encoders that were trained beside STraG."""
    folder = context.inputs["strag"]
    text = TextEncoder.from_config(TINY.text, (folder / "tokenizer.json").read_text())
    image = ImageEncoder(TINY.image_encoder)
    load_exactly(text, folder / "text.safetensors")
    load_exactly(image, folder / "image_encoder.safetensors")
    return text.eval(), image.eval()


@torch.no_grad()
def view_pairs(scenes: BaseScenes, originals: int, text: TextEncoder, image: ImageEncoder) -> Iterator[ViewPair]:
    """A pair for every extra view, then for the own cameras of the first `originals` scenes."""
    still = np.tile(np.eye(4, dtype=np.float32), (scenes.spec.frames, 1, 1))
    novel = zip(scenes.view_scenes, scenes.view_videos, scenes.view_cameras, strict=True)
    own = ((i, scenes.videos[i], still) for i in range(min(originals, len(scenes))))
    for scene, video, cameras in [*novel, *own]:
        index = int(scene)
        picture = np.array(scenes.videos[index, 0])
        render, mask = render_path(
            scene_points(scenes, index), picture, np.array(scenes.intrinsics[index]), np.array(cameras)
        )
        tokens = text.encode([scenes.captions[index]])[0]
        seen = image.encode(torch.from_numpy(picture).permute(2, 0, 1)[None])[0]
        yield ViewPair(np.array(video), render, mask, tokens, seen)


def scene_points(scenes: BaseScenes, index: int) -> np.ndarray:
    """Points float32 [T, H, W, 3] of a stored scene."""
    depth = torch.tensor(scenes.depths[index])[None]
    intrinsics = torch.tensor(scenes.intrinsics[index])[None]
    motion = torch.tensor(scenes.motion[index]).float()[None]
    points0 = unproject(depth, intrinsics)
    return denormalize_motion(motion, points0, intrinsics, image_size=(depth.shape[1], depth.shape[2]))[0].numpy()


STAGE = BaseViSM()
