"""Trajectories from pictures: the inference half of 4D-STraG (paper section 4.4).

Suffixes: B batch, T frames, K latent frames, H height, W width.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from more4d.geometry import denormalize_motion, unproject
from more4d.models.bundle import Models
from more4d.models.conditions import depth_latent, image_latent, strag_input, to_unit_range
from more4d.models.flow_matching import TIMESTEPS, integrate, to_velocity


@torch.no_grad()
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


@torch.no_grad()
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
    motion = generate_motion(models, images, prompts, depths, steps=steps, guidance=guidance, seed=seed)
    points0 = unproject(depths, intrinsics)
    return denormalize_motion(motion, points0, intrinsics, image_size=(images.shape[1], images.shape[2]))


@torch.no_grad()
def generate_motion(
    models: Models, images: Tensor, prompts: Sequence[str], depths: Tensor, *, steps: int, guidance: float, seed: int
) -> Tensor:
    """Normalised motion [B, 3, T, H, W] (eq. 1 units) by Euler steps through the flow."""
    config = models.config.generation
    rgb = images.permute(0, 3, 1, 2)
    picture = image_latent(models.vae, to_unit_range(rgb), config.frames)
    depth = depth_latent(models.vae, depths, config.frames, config.depth_encoding)
    text, image = models.text.encode(prompts), models.image_encoder.encode(rgb)
    features = models.motion_encoder.encode(rgb)

    def velocity(noisy: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
        hidden = strag_input(noisy, picture, depth)
        output = models.strag(hidden, sigma * TIMESTEPS, text, image, features)
        return to_velocity(output, noisy, sigma, config.prediction)

    latent = integrate(velocity, picture.shape, text, steps=steps, guidance=guidance, shift=config.shift, seed=seed)
    return models.vae.decode_motion(latent)
