import dataclasses
from contextlib import AbstractContextManager, nullcontext
from typing import Any, cast

import numpy as np
import pytest
import torch
from more4d.data.sample import Sample
from more4d.inference.trajectories import generate_motion, generate_trajectories, generate_trajectories_batch
from more4d.models.bundle import Models
from more4d.models.conditions import strag_input
from more4d.models.strag import STraGTransformer
from more4d.models.vae import MotionVAE
from more4d.training.cache.direct import DirectLatents
from more4d.training.vae import fit_linear_start
from torch import Tensor


class Oracle(torch.nn.Module):
    """A STraG that knows the clean motion latent, and remembers what it was asked."""

    device, dtype, config = torch.device("cpu"), torch.float32, {"patch_size": (1, 2, 2)}

    def __init__(self, latent: Tensor) -> None:
        super().__init__()
        self.latent, self.asked = latent, []

    def forward(self, *given: Tensor, **named: Any) -> Tensor:
        """The latent."""
        self.asked.append((*given, *named.values()))
        return self.latent

    def cache_context(self, branch: str) -> AbstractContextManager[None]:
        """Nothing is cached."""
        return nullcontext()

    def precompute_modulation(self, features: Tensor, rows: int, columns: int) -> Tensor:
        """The features as they are."""
        return features


def encoded(models: Models, samples: list[Sample]) -> dict[str, Tensor]:
    """The samples as training sees them, to the last bit."""
    return DirectLatents(models, samples, dtype="float32", decoded=True).batch(torch.arange(len(samples)))


@pytest.fixture(scope="module")
def fitted(models: Models, samples: list[Sample]) -> Models:
    """The models with a linear VAE whose components are those of the scenes' motion."""
    vae = MotionVAE(models.config.motion_vae).eval().requires_grad_(False)
    motion = encoded(models, samples)["motion"]
    fit_linear_start(vae.vae, [(vae.trajectory_encoder.start(motion), 1.0)])
    return dataclasses.replace(models, vae=vae)


def with_oracle(models: Models, samples: list[Sample]) -> tuple[Models, Oracle]:
    """The models with an oracle in STraG's place."""
    oracle = Oracle(encoded(models, samples)["motion_latent"])
    return dataclasses.replace(models, strag=cast(STraGTransformer, oracle)), oracle


def generate(models: Models, sample: Sample, *, seed: int = 0, prompt: str | None = None) -> np.ndarray:
    """Points of one sample's first frame."""
    return generate_trajectories(
        models, sample.video[0], prompt or sample.caption, depth=sample.depth, intrinsics=sample.intrinsics,
        steps=3, guidance=1.0, seed=seed,
    )  # fmt: skip


def stacked(samples: list[Sample]) -> tuple[Tensor, list[str], Tensor, Tensor]:
    """Pictures, captions, depths and intrinsics."""
    pictures, depths, cameras = (
        torch.from_numpy(np.stack([get(s) for s in samples]))
        for get in (lambda s: s.video[0], lambda s: s.depth, lambda s: s.intrinsics)
    )
    return pictures, [s.caption for s in samples], depths, cameras


def test_a_perfect_latent_becomes_nearly_the_true_trajectories(fitted: Models, samples: list[Sample]) -> None:
    for sample in samples:
        found = generate(with_oracle(fitted, [sample])[0], sample)
        assert (found.shape, found.dtype) == (sample.points.shape, np.float32)
        error = np.linalg.norm(found - sample.points, axis=-1).mean()
        still = np.linalg.norm(sample.points[0] - sample.points, axis=-1).mean()
        assert error < 0.15 * still


def test_the_first_frame_is_the_given_depth(models: Models, samples: list[Sample]) -> None:
    assert np.allclose(generate(models, samples[0])[0], samples[0].points[0], atol=1e-5)


def test_the_seed_decides(models: Models, samples: list[Sample]) -> None:
    first = generate(models, samples[0], seed=3)
    assert np.array_equal(first, generate(models, samples[0], seed=3))
    assert not np.allclose(first, generate(models, samples[0], seed=4), atol=1e-4)


def test_the_prompt_matters(models: Models, samples: list[Sample]) -> None:
    other = generate(models, samples[0], prompt="nothing of the kind")
    assert not np.array_equal(generate(models, samples[0]), other)


def test_a_picture_does_not_depend_on_its_batch(models: Models, samples: list[Sample]) -> None:
    together = generate_trajectories_batch(models, *stacked(samples), steps=3, guidance=1.0, seed=0).numpy()
    for i, sample in enumerate(samples):
        assert np.allclose(together[i], generate(models, sample), atol=1e-4)


def test_inference_gives_the_transformer_what_training_does(models: Models, samples: list[Sample]) -> None:
    knowing, oracle = with_oracle(models, samples)
    pictures, captions, depths, _ = stacked(samples)
    generate_motion(knowing, pictures, captions, depths, steps=2, guidance=1.0, seed=0)
    trained = encoded(models, samples)
    hidden, timestep, text, image, features = oracle.asked[0]
    expected = strag_input(hidden[:, :16], trained["image_latent"], trained["depth_latent"])
    assert torch.allclose(hidden, expected, atol=1e-6)
    assert timestep.tolist() == [1000] * 3
    assert torch.equal(text, trained["text"])
    assert torch.equal(image, trained["image_tokens"])
    assert torch.equal(features, trained["motion_features"])
    assert len(oracle.asked) == 2


def test_guidance_doubles_the_questions(models: Models, samples: list[Sample]) -> None:
    knowing, oracle = with_oracle(models, samples)
    pictures, captions, depths, _ = stacked(samples)
    generate_motion(knowing, pictures, captions, depths, steps=2, guidance=4.0, seed=0)
    assert [bool(given[2].any()) for given in oracle.asked] == [True, False] * 2
