"""Trajectories from pictures: the inference half of 4D-STraG (paper section 4.4).

Suffixes: B batch, T frames, K latent frames, H height, W width.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from more4d.models.bundle import Models
from more4d.models.flow_matching import seeded_noise
from more4d.models.vae import latent_shape
from more4d.pipelines.trajectories import TrajectoryOutput, TrajectoryPipeline


def generate_trajectories(
    models: Models,
    image: np.ndarray,
    prompt: str,
    *,
    depth: np.ndarray,
    intrinsics: np.ndarray,
    steps: int,
    guidance: float,
    seed: int,
) -> np.ndarray:
    """Points [T, H, W, 3] float32, in metres in the camera of frame 0, of one picture uint8 [H, W, 3].

    depth [H, W] is the first frame's, intrinsics [3, 3] are in pixels; both at the model's own size.
    """
    points = generate_trajectories_batch(
        models,
        torch.from_numpy(image)[None],
        [prompt],
        torch.from_numpy(depth).float()[None],
        torch.from_numpy(intrinsics).float()[None],
        steps=steps,
        guidance=guidance,
        seed=seed,
    )
    return points[0].numpy()


def generate_trajectories_batch(
    models: Models,
    images: Tensor,
    prompts: Sequence[str],
    depths: Tensor,
    intrinsics: Tensor,
    *,
    steps: int,
    guidance: float,
    seed: int,
) -> Tensor:
    """Points [B, T, H, W, 3] float32 of pictures uint8 [B, H, W, 3], depths [B, H, W] and intrinsics [B, 3, 3]."""
    return _sample(models, images, prompts, depths, intrinsics, "pt", steps=steps, guidance=guidance, seed=seed)


def generate_motion(
    models: Models, images: Tensor, prompts: Sequence[str], depths: Tensor, *, steps: int, guidance: float, seed: int
) -> Tensor:
    """Normalised motion [B, 3, T, H, W] (eq. 1 units) by Euler steps through the flow."""
    return _sample(models, images, prompts, depths, None, "motion", steps=steps, guidance=guidance, seed=seed)


def _sample(
    models: Models,
    images: Tensor,
    prompts: Sequence[str],
    depths: Tensor,
    intrinsics: Tensor | None,
    output_type: TrajectoryOutput,
    *,
    steps: int,
    guidance: float,
    seed: int,
) -> Tensor:
    pipeline = TrajectoryPipeline.from_models(models)
    pipeline.set_progress_bar_config(disable=True)
    height, width = images.shape[1:3]
    frames = models.config.generation.frames
    # One draw for all: a picture's noise does not depend on the batch it came in.
    noise = seeded_noise(latent_shape(frames, height, width), seed)
    found: Any = pipeline(
        images.permute(0, 3, 1, 2), prompts, depth=depths, intrinsics=intrinsics, height=height, width=width,
        num_inference_steps=steps, guidance_scale=guidance, latents=noise, output_type=output_type,
    )  # fmt: skip
    return found.trajectories
