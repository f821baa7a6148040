from typing import Any, cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from more4d.models.flow_matching import (
    TIMESTEPS,
    Prediction,
    add_noise,
    euler_scheduler,
    integrate,
    sample_sigmas,
    to_sample,
    to_velocity,
)
from torch import Tensor

SHAPE = torch.Size((2, 3, 1, 2, 2))


def random(seed: int) -> Tensor:
    """Standard normal numbers in SHAPE."""
    return torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed))


@given(st.floats(0.02, 1.0), st.floats(0.02, 1.0), st.integers(0, 1000))
@settings(max_examples=25, deadline=None)
def test_sample_and_velocity_are_two_names_of_one_answer(first: float, second: float, seed: int) -> None:
    clean, noise, sigmas = random(seed), random(seed + 1), torch.tensor([first, second])
    noisy = add_noise(clean, noise, sigmas)
    assert torch.allclose(to_velocity(clean, noisy, sigmas, "sample"), noise - clean, atol=1e-3)
    assert torch.allclose(to_sample(noise - clean, noisy, sigmas, "velocity"), clean, atol=1e-5)
    assert torch.equal(to_velocity(noise, noisy, sigmas, "velocity"), noise)
    assert torch.equal(to_sample(clean, noisy, sigmas, "sample"), clean)


def test_noise_runs_from_the_sample_to_pure_noise() -> None:
    clean, noise = random(0), random(1)
    assert torch.equal(add_noise(clean, noise, torch.zeros(2)), clean)
    assert torch.equal(add_noise(clean, noise, torch.ones(2)), noise)


def test_a_shift_moves_noise_levels_towards_one_and_the_generator_alone_draws_them() -> None:
    draws = {shift: sample_sigmas(4000, shift, torch.Generator().manual_seed(0)) for shift in (1.0, 5.0)}
    assert float(draws[1.0].mean()) == pytest.approx(0.5, abs=0.02)
    assert float(draws[5.0].median()) == pytest.approx(5 / 6, abs=0.02)
    assert all(float(d.min()) > 0 and float(d.max()) <= 1 for d in draws.values())
    assert torch.equal(draws[5.0], sample_sigmas(4000, 5.0, torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("steps", [1, 4, 50])
def test_the_schedule_falls_from_pure_noise_to_none(steps: int) -> None:
    scheduler = euler_scheduler(steps, 5.0)
    timesteps, sigmas = cast(Tensor, scheduler.timesteps), cast(Tensor, scheduler.sigmas)
    assert len(timesteps) == steps
    assert float(timesteps[0]) == TIMESTEPS
    assert float(sigmas[-1]) == 0
    assert bool((sigmas.diff() < 0).all())


class Exact:
    """The exact velocity towards a clean sample, and the calls that were made for it."""

    def __init__(self, clean: Tensor, prediction: Prediction) -> None:
        self.clean = clean
        self.prediction: Prediction = prediction
        self.texts: list[Tensor] = []

    def __call__(self, noisy: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
        """(noisy - clean) / sigma, by way of what a network would answer."""
        self.texts.append(text)
        exact = to_velocity(self.clean, noisy, sigma, "sample")
        return exact if self.prediction == "velocity" else to_velocity(self.clean, noisy, sigma, self.prediction)


def run(velocity: Exact, *, steps: int = 4, guidance: float = 1.0, seed: int = 0) -> Tensor:
    """The end of the flow."""
    return integrate(velocity, SHAPE, torch.ones(2, 3, 4), steps=steps, guidance=guidance, shift=5.0, seed=seed)


@pytest.mark.parametrize("prediction", ["velocity", "sample"])
@pytest.mark.parametrize("steps", [1, 4])
def test_the_exact_velocity_leads_to_the_clean_sample(prediction: Prediction, steps: int) -> None:
    clean = random(7)
    assert torch.allclose(run(Exact(clean, prediction), steps=steps), clean, atol=1e-4)


def test_guidance_of_one_asks_once_a_step_and_above_twice_with_an_empty_text() -> None:
    plain, guided = Exact(random(7), "velocity"), Exact(random(7), "velocity")
    run(plain, steps=3)
    run(guided, steps=3, guidance=2.0)
    assert (len(plain.texts), len(guided.texts)) == (3, 6)
    assert all(text.any() for text in plain.texts)
    assert [bool(text.any()) for text in guided.texts] == [True, False] * 3


def test_guidance_goes_beyond_the_text_by_its_factor() -> None:
    def velocity(noisy: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
        return torch.full_like(noisy, float(text.mean()))

    arguments: dict[str, Any] = {"steps": 2, "shift": 1.0, "seed": 0}
    ends = [integrate(velocity, SHAPE, torch.ones(2, 1, 1), guidance=g, **arguments) for g in (1.0, 3.0)]
    start = torch.randn(SHAPE[1:], generator=torch.Generator().manual_seed(0)).expand(SHAPE)
    assert torch.allclose(ends[1] - start, 3 * (ends[0] - start), atol=1e-5)


def test_noise_follows_the_seed_and_is_one_for_all_pictures() -> None:
    class Still(Exact):
        def __call__(self, noisy: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
            return torch.zeros_like(noisy)

    still = Still(random(0), "velocity")
    first = run(still, seed=1)
    assert torch.equal(first, run(still, seed=1))
    assert not torch.equal(first, run(still, seed=2))
    assert torch.equal(first[0], first[1])
