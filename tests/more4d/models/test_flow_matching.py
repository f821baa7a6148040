from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from more4d.models.flow_matching import (
    TIMESTEPS,
    add_noise,
    flow_scheduler,
    logit_normal,
    seeded_noise,
    shift_sigmas,
    to_sample,
    to_velocity,
)
from scipy.special import logit
from scipy.stats import kstest, norm
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


def test_a_shift_moves_noise_levels_towards_one() -> None:
    uniform = torch.linspace(0, 1, 4001)
    shifted = {shift: shift_sigmas(uniform, shift) for shift in (1.0, 5.0)}
    assert torch.allclose(shifted[1.0][4:], uniform[4:])
    assert float(shifted[5.0].median()) == pytest.approx(5 / 6, abs=1e-4)
    assert all(float(each.min()) > 0 and float(each.max()) <= 1 for each in shifted.values())
    assert bool((shifted[5.0].diff() >= 0).all())


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 0.3)])
def test_logit_normal_levels_have_that_distribution(mean: float, std: float) -> None:
    normal = torch.randn(20_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    levels = logit_normal(normal, mean, std)
    assert kstest(logit(levels.numpy()), norm(mean, std).cdf).pvalue > 0.01
    assert kstest(logit(levels.numpy()), norm(mean + 0.05, std).cdf).pvalue < 0.01


@pytest.mark.parametrize("steps", [1, 4, 50])
def test_the_schedule_falls_from_pure_noise_to_none(steps: int) -> None:
    scheduler = flow_scheduler(5.0)
    scheduler.set_timesteps(steps)
    timesteps, sigmas = cast(Tensor, scheduler.timesteps), cast(Tensor, scheduler.sigmas)
    assert len(timesteps) == steps
    assert float(timesteps[0]) == TIMESTEPS
    assert float(sigmas[-1]) == 0
    assert bool((sigmas.diff() < 0).all())


def test_noise_follows_the_seed() -> None:
    shape = torch.Size((3, 1, 2, 2))
    assert torch.equal(seeded_noise(shape, 5), seeded_noise(shape, 5))
    assert not torch.equal(seeded_noise(shape, 5), seeded_noise(shape, 6))
    assert torch.equal(seeded_noise(shape, 5), torch.randn(shape, generator=torch.Generator().manual_seed(5)))
