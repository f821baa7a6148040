import dataclasses
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import numpy as np
import torch
from more4d.data.sample import Sample
from more4d.inference.views import complete_view
from more4d.models.bundle import Models
from more4d.models.conditions import vism_input
from more4d.models.vism import ViSMTransformer
from more4d.training.cache.direct import DirectViews
from torch import Tensor


class Oracle(torch.nn.Module):
    """A ViSM that knows the clean video latent, and remembers what it was asked."""

    device, dtype, config = torch.device("cpu"), torch.float32, {"patch_size": (1, 2, 2)}

    def __init__(self, latent: Tensor) -> None:
        super().__init__()
        self.latent, self.asked = latent, []

    def forward(self, *given: Tensor, **named: Any) -> Tensor:
        """The latent."""
        self.asked.append(given)
        return self.latent

    def cache_context(self, branch: str) -> AbstractContextManager[None]:
        """Nothing is cached."""
        return nullcontext()


def complete(models: Models, sample: Sample, *, seed: int = 0) -> np.ndarray:
    """The sample's own render, completed."""
    return complete_view(
        models, sample.render, sample.render_mask, sample.video[0], sample.caption, steps=3, guidance=1.0, seed=seed
    )


def trained(models: Models, sample: Sample) -> dict[str, Tensor]:
    """The sample's own view as training sees it."""
    return DirectViews(models, [sample], dtype="float32").batch(torch.tensor([0]))


def test_a_perfect_latent_becomes_the_video_that_the_vae_makes_of_it(models: Models, samples: list[Sample]) -> None:
    batch = trained(models, samples[0])
    oracle = Oracle(batch["video_latent"])
    found = complete(dataclasses.replace(models, vism=cast(ViSMTransformer, oracle)), samples[0])
    decoded = (models.vae.decode_video(batch["video_latent"])[0].permute(1, 2, 3, 0) + 1) * 127.5
    assert (found.shape, found.dtype) == (samples[0].video.shape, np.uint8)
    assert np.abs(found.astype(float) - decoded.numpy()).max() < 0.6


def test_inference_gives_the_transformer_what_training_does(models: Models, samples: list[Sample]) -> None:
    batch = trained(models, samples[1])
    oracle = Oracle(batch["video_latent"])
    complete(dataclasses.replace(models, vism=cast(ViSMTransformer, oracle)), samples[1])
    hidden, timestep, text, image = oracle.asked[0]
    expected = vism_input(hidden[:, :16], batch["mask"], batch["render_latent"])
    assert torch.allclose(hidden, expected, atol=1e-6)
    assert timestep.tolist() == [1000]
    assert torch.equal(text, batch["text"]) and torch.equal(image, batch["image_tokens"])


def test_the_seed_decides(models: Models, samples: list[Sample]) -> None:
    first = complete(models, samples[0], seed=3)
    assert np.array_equal(first, complete(models, samples[0], seed=3))
    assert not np.array_equal(first, complete(models, samples[0], seed=4))
