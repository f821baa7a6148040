"""The walk through the flow, with networks that know the answer."""

import dataclasses
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import pytest
import torch
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from more4d.models.architectures import ARCHITECTURES, Generation
from more4d.models.bundle import Models
from more4d.models.flow_matching import Prediction, to_velocity
from more4d.models.strag import STraGTransformer
from more4d.pipelines import TrajectoryPipeline
from torch import Tensor

from .conftest import quiet

CLEAN = torch.randn((1, 16, 2, 4, 6), generator=torch.Generator().manual_seed(7))


class Exact(torch.nn.Module):
    """The exact answer towards a clean latent, and the texts that it was asked with."""

    device, dtype, config = torch.device("cpu"), torch.float32, {"patch_size": (1, 2, 2)}

    def __init__(self, prediction: Prediction) -> None:
        super().__init__()
        self.prediction: Prediction = prediction
        self.texts: list[Tensor] = []
        self.branches: list[str] = []

    def forward(self, hidden: Tensor, timestep: Tensor, text: Tensor, **given: Any) -> Tensor:
        """The sample, or (noisy - clean) / sigma."""
        self.texts.append(text)
        return CLEAN if self.prediction == "sample" else to_velocity(CLEAN, hidden[:, :16], timestep / 1000, "sample")

    def cache_context(self, branch: str) -> AbstractContextManager[None]:
        """Nothing is cached."""
        self.branches.append(branch)
        return nullcontext()

    def precompute_modulation(self, *given: Any) -> None:
        """Nothing is modulated."""


class Echo(Exact):
    """A velocity that is the text's mean everywhere."""

    def forward(self, hidden: Tensor, timestep: Tensor, text: Tensor, **given: Any) -> Tensor:
        """The mean."""
        return torch.full_like(hidden[:, :16], float(text.mean()))


def walk(models: Models, network: Exact, scene: dict[str, Any], **changes: Any) -> Tensor:
    """The latent at the end."""
    knowing = dataclasses.replace(models, strag=cast(STraGTransformer, network))
    pipeline = quiet(TrajectoryPipeline.from_models(knowing))
    pipeline.generation = pipeline.generation.model_copy(update={"prediction": network.prediction})
    return pipeline(**(scene | {"output_type": "latent"} | changes)).trajectories


@pytest.mark.parametrize("prediction", ["velocity", "sample"])
@pytest.mark.parametrize("steps", [1, 4])
def test_the_exact_answer_leads_to_the_clean_sample(
    models: Models, scene: dict[str, Any], prediction: Prediction, steps: int
) -> None:
    found = walk(models, Exact(prediction), scene, num_inference_steps=steps)
    assert torch.allclose(found, CLEAN, atol=1e-4)


def test_guidance_of_one_asks_once_a_step_and_above_twice_with_an_empty_text(
    models: Models, scene: dict[str, Any]
) -> None:
    plain, guided = Exact("velocity"), Exact("velocity")
    walk(models, plain, scene)
    walk(models, guided, scene, guidance_scale=2.0)
    assert (len(plain.texts), len(guided.texts)) == (3, 6)
    assert all(text.any() for text in plain.texts)
    assert [bool(text.any()) for text in guided.texts] == [True, False] * 3
    assert guided.branches == ["cond", "uncond"] * 3


def leading_away_from_nothing(models: Models) -> Models:
    """The networks of a checkpoint whose text was dropped in training by giving the empty prompt."""
    generation = models.config.generation.model_copy(update={"unguided": "empty"})
    return dataclasses.replace(models, config=models.config.model_copy(update={"generation": generation}))


def test_the_checkpoint_says_whether_the_unguided_branch_reads_zeros_or_the_empty_prompt(
    models: Models, scene: dict[str, Any]
) -> None:
    network, plain = Exact("velocity"), Exact("velocity")
    pictures = {"image": scene["image"][None].repeat(2, 0), "depth": scene["depth"][None].repeat(2, 0)}
    walk(leading_away_from_nothing(models), network, scene | pictures, guidance_scale=2.0)
    walk(leading_away_from_nothing(models), plain, scene)
    empty = models.text.encode([""])
    assert empty.any() and len(network.texts) == 6 and len(plain.texts) == 3
    assert all(torch.equal(text, empty.expand(2, -1, -1)) for text in network.texts[1::2])
    other = Exact("velocity")
    walk(leading_away_from_nothing(models), other, scene, guidance_scale=2.0, negative_prompt="left")
    assert torch.equal(other.texts[1], models.text.encode(["left"]))


def test_the_empty_prompt_needs_a_text_encoder_or_its_embeddings_where_there_is_guidance(
    models: Models, scene: dict[str, Any]
) -> None:
    knowing = dataclasses.replace(models, strag=cast(STraGTransformer, Exact("sample")))
    pipeline = quiet(TrajectoryPipeline.from_models(leading_away_from_nothing(knowing)))
    pipeline.text_encoder = pipeline.tokenizer = None
    given = scene | {"prompt": None, "prompt_embeds": torch.ones(1, 8, 24), "output_type": "latent"}
    with pytest.raises(ValueError, match="give negative_prompt_embeds, or guidance_scale=1"):
        pipeline(**given, guidance_scale=2.0)
    pipeline(**given, guidance_scale=1.0)
    found = pipeline(**given, guidance_scale=2.0, negative_prompt_embeds=torch.zeros(1, 8, 24))
    assert torch.allclose(found.trajectories, CLEAN, atol=1e-4)


def test_the_published_sizes_lead_away_from_the_empty_prompt_and_tiny_and_what_says_nothing_from_zeros() -> None:
    assert {name: a.generation.unguided for name, a in ARCHITECTURES.items()} == {
        "tiny": "zeros", "wan-1.3b": "empty", "wan-14b": "empty",
    }  # fmt: skip
    assert Generation.model_validate({}).unguided == "zeros"


def test_guidance_goes_beyond_the_text_by_its_factor(models: Models, scene: dict[str, Any]) -> None:
    given = {"prompt": None, "prompt_embeds": torch.ones(1, 1, 1), "num_inference_steps": 2}
    ends = [walk(models, Echo("velocity"), scene, guidance_scale=g, **given) for g in (1.0, 3.0)]
    start = scene["latents"]
    assert torch.allclose(ends[1] - start, 3 * (ends[0] - start), atol=1e-5)


def test_the_checkpoint_s_own_steps_and_guidance_are_the_default(models: Models, scene: dict[str, Any]) -> None:
    network = Exact("velocity")
    walk(models, network, scene, num_inference_steps=None)
    assert len(network.texts) == models.config.generation.steps


@pytest.mark.parametrize("prediction", ["sample", "velocity"])
def test_unipc_with_flow_sigmas_swaps_in_and_leads_to_the_same_sample(
    models: Models, scene: dict[str, Any], prediction: Prediction
) -> None:
    knowing = dataclasses.replace(models, strag=cast(STraGTransformer, Exact(prediction)))
    pipeline = quiet(TrajectoryPipeline.from_models(knowing))
    pipeline.generation = pipeline.generation.model_copy(update={"prediction": prediction})
    pipeline.scheduler = UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0
    )
    found = pipeline(**(scene | {"output_type": "latent", "num_inference_steps": 6})).trajectories
    # UniPC rounds the timesteps that the network is told to whole numbers.
    assert float((found - CLEAN).abs().max()) < (0.01 if prediction == "velocity" else 1e-3)
