"""Tiny base: the STraG transformer with its text and image encoders, trained together on rendered scenes."""

from collections.abc import Callable
from pathlib import Path

import torch
from pydantic import Field
from torch import Tensor, nn

from more4d.models.architectures import TINY
from more4d.models.bundle import build_strag, load_exactly, save_network
from more4d.models.image_encoder import ImageEncoder
from more4d.models.motion_encoder import MotionEncoder
from more4d.models.text import TextEncoder, build_tokenizer
from more4d.models.vae import MotionVAE, MotionVAEConfig
from more4d.settings import Section
from more4d.stages.base import Context, Stage
from more4d.training.base_scenes import BaseScenes
from more4d.training.base_sources import MotionScenes, STraGScenes
from more4d.training.flow import Conditions, FlowSettings, require_prediction
from more4d.training.loop import TrainSettings, iterate_batches, train
from more4d.training.strag import STraGObjective


class BaseSTraGParams(Section):
    """What the loss weighs, and how long to train."""

    flow: FlowSettings
    train: TrainSettings
    vocabulary: int = Field(gt=0)


class BaseSTraG(Stage[BaseSTraGParams]):
    """Rendered scenes to a STraG transformer, a text encoder and an image encoder."""

    name = "base_strag"
    section = BaseSTraGParams
    inputs = {
        "scenes": "infra/tiny-base/build/scenes",
        "vae": "infra/tiny-base/build/vae",
        "motion_encoder": "infra/tiny-base/build/motion_encoder",
    }
    outputs = {"strag": "infra/tiny-base/build/strag", "history": "results/plots/base_strag.csv"}

    def run(self, context: Context[BaseSTraGParams]) -> dict[str, float]:
        """First and last losses."""
        params = context.params
        require_prediction(params.flow, TINY.generation.prediction)
        torch.manual_seed(context.seed)
        scenes = MotionScenes(BaseScenes(context.inputs["scenes"]))
        tokenizer = build_tokenizer(scenes.captions(torch.arange(scenes.size)), params.vocabulary)
        strag, text = build_strag(TINY), TextEncoder.from_config(TINY.text, tokenizer)
        image_encoder = ImageEncoder(TINY.image_encoder)
        module = nn.ModuleDict({"strag": strag, "text": text, "image_encoder": image_encoder})
        vae = load_vae(context.inputs["vae"])
        features = motion_features(load_motion_encoder(context.inputs["motion_encoder"]), scenes)
        source = STraGScenes(scenes, vae, text, features, TINY.generation.depth_encoding)
        objective = STraGObjective(module, strag, vae, source, text_and_image(text, image_encoder), params.flow)
        result = train(objective, params.train, seed=context.seed, work=context.work)
        result.load_into(module)
        for name, network in module.items():
            save_network(network, context.outputs["strag"] / f"{name}.safetensors")
        (context.outputs["strag"] / "tokenizer.json").write_text(tokenizer)
        return result.write(context.outputs["history"])


def text_and_image(text: TextEncoder, image: ImageEncoder) -> Callable[[dict[str, Tensor]], Conditions]:
    """Conditions from token ids and pictures, through encoders that are trained with the transformer."""

    def conditions(batch: dict[str, Tensor]) -> Conditions:
        return Conditions(text(batch["ids"], batch["ids_mask"]), image.encode(batch["image"]))

    return conditions


def load_vae(folder: Path) -> MotionVAE:
    """The motion VAE that the stage base_vae wrote."""
    vae = MotionVAE(MotionVAEConfig.model_validate_json((folder / "motion_vae.json").read_text()))
    load_exactly(vae, folder / "vae.safetensors")
    return vae.eval().requires_grad_(False)


def load_motion_encoder(folder: Path) -> MotionEncoder:
    """The motion encoder that the stage base_motion_encoder wrote."""
    encoder = MotionEncoder(TINY.motion_encoder)
    load_exactly(encoder, folder / "motion_encoder.safetensors")
    return encoder.eval().requires_grad_(False)


@torch.no_grad()
def motion_features(encoder: MotionEncoder, scenes: MotionScenes) -> Tensor:
    """Patch features float16 [samples, G, C] of every first frame, mirror images included."""
    pictures = (scenes.batch(indices)["image"] for indices in iterate_batches(scenes.size, 64))
    return torch.cat([encoder.encode(picture).half() for picture in pictures])


STAGE = BaseSTraG()
