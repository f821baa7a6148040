"""Flow matching (paper eq. 3): noising, the two things a network may predict, and the Euler sampler's schedule."""

from collections.abc import Callable
from typing import Literal, cast

import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor

Prediction = Literal["velocity", "sample"]
TIMESTEPS = 1000


def sample_sigmas(count: int, shift: float, generator: torch.Generator) -> Tensor:
    """Noise levels [count] in (0, 1): uniform, then moved towards 1 by `shift` as at inference."""
    uniform = torch.rand(count, generator=generator)
    return (shift * uniform / (1 + (shift - 1) * uniform)).clamp(1e-3, 1.0)


def add_noise(clean: Tensor, noise: Tensor, sigmas: Tensor) -> Tensor:
    """z = (1 - sigma) x0 + sigma noise, for a batch [B, ...] and sigmas [B]."""
    sigma = _like(sigmas, clean)
    return (1 - sigma) * clean + sigma * noise


def to_velocity(output: Tensor, noisy: Tensor, sigmas: Tensor, prediction: Prediction) -> Tensor:
    """Velocity noise - x0 from a network's output; `sample` networks answer with x0 itself."""
    return output if prediction == "velocity" else (noisy - output) / _like(sigmas, noisy)


def to_sample(output: Tensor, noisy: Tensor, sigmas: Tensor, prediction: Prediction) -> Tensor:
    """The clean sample x0 that a network's output means."""
    return output if prediction == "sample" else noisy - _like(sigmas, noisy) * output


def euler_scheduler(steps: int, shift: float) -> FlowMatchEulerDiscreteScheduler:
    """A scheduler ready for `steps` Euler steps from noise to sample."""
    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=TIMESTEPS, shift=shift)
    scheduler.set_timesteps(steps)
    return scheduler


@torch.no_grad()
def integrate(
    velocity: Callable[[Tensor, Tensor, Tensor], Tensor],
    shape: torch.Size,
    text: Tensor,
    *,
    steps: int,
    guidance: float,
    shift: float,
    seed: int,
) -> Tensor:
    """The latent `shape` [B, 16, K, h, w] at the end of the flow that starts in noise drawn from `seed`.

    velocity(noisy, sigma [B], text) is called once a step, twice with classifier-free guidance above 1, whose second
    branch sees a text of zeros.
    """
    scheduler = euler_scheduler(steps, shift)
    # One draw for all: a picture's noise does not depend on the batch it came in.
    noise = torch.randn(shape[1:], generator=torch.Generator().manual_seed(seed))
    latent = noise.to(text).expand(shape)
    for timestep in cast(Tensor, scheduler.timesteps):
        sigma = (timestep / TIMESTEPS).to(text).expand(shape[0])
        flow = velocity(latent, sigma, text)
        if guidance > 1:
            unguided = velocity(latent, sigma, torch.zeros_like(text))
            flow = unguided + guidance * (flow - unguided)
        latent = scheduler.step(flow, timestep, latent, return_dict=False)[0]  # type: ignore[arg-type]
    return latent


def _like(sigmas: Tensor, x: Tensor) -> Tensor:
    return sigmas.to(x).reshape(-1, *[1] * (x.ndim - 1))
