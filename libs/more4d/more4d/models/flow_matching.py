"""Flow matching (paper eq. 3): noising, the two things a network may predict, and what a sampler starts from."""

from typing import Literal

import torch
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor

Prediction = Literal["velocity", "sample"]
TIMESTEPS = 1000


def shift_sigmas(sigmas: Tensor, shift: float) -> Tensor:
    """Noise levels in (0, 1] of numbers in [0, 1), moved towards 1 by `shift` as at inference."""
    return (shift * sigmas / (1 + (shift - 1) * sigmas)).clamp(1e-3, 1.0)


def logit_normal(normal: Tensor, mean: float, std: float) -> Tensor:
    """Numbers in (0, 1) whose logits are normal: Stable Diffusion 3's noise levels, dense where the task is hardest."""
    return torch.sigmoid(mean + std * normal)


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


def flow_scheduler(shift: float) -> FlowMatchEulerDiscreteScheduler:
    """The Euler sampler from noise to sample, its noise levels moved towards 1 by `shift`."""
    return FlowMatchEulerDiscreteScheduler(num_train_timesteps=TIMESTEPS, shift=shift)


def seeded_noise(shape: torch.Size, seed: int) -> Tensor:
    """Standard normal noise `shape` [C, K, h, w] drawn from `seed`, on the CPU whatever the device."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _like(sigmas: Tensor, x: Tensor) -> Tensor:
    return sigmas.to(x).reshape(-1, *[1] * (x.ndim - 1))
