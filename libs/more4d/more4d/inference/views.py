"""Completed videos of any camera: the inference half of 4D-ViSM (paper section 4.4).

Suffixes: B batch, T frames, K latent frames, H height, W width.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from more4d.models.bundle import Models
from more4d.models.conditions import fold_mask, render_with_holes, vism_input
from more4d.models.flow_matching import TIMESTEPS, integrate, to_velocity
from more4d.training.view_source import video_tensor


@torch.no_grad()
def complete_view(
    models: Models,
    render: NDArray[np.uint8],
    mask: NDArray[np.bool_],
    first_image: NDArray[np.uint8],
    prompt: str,
    *,
    steps: int,
    guidance: float,
    seed: int,
) -> NDArray[np.uint8]:
    """The video uint8 [T, H, W, 3] that a render with holes stands for.

    render uint8 [T, H, W, 3] and mask bool [T, H, W] (True where the render is known) are at the model's size;
    first_image uint8 [H, W, 3] is the scene's photo. Known pixels are generated too: keep the render's own there.
    """
    config = models.config.generation
    known = torch.from_numpy(mask)[None]
    render_latent = models.vae.encode_video(render_with_holes(video_tensor(render[None]), known))
    folded = fold_mask(known)
    image = models.image_encoder.encode(torch.from_numpy(first_image).permute(2, 0, 1)[None])

    def velocity(noisy: Tensor, sigma: Tensor, text: Tensor) -> Tensor:
        output = models.vism(vism_input(noisy, folded, render_latent), sigma * TIMESTEPS, text, image)
        return to_velocity(output, noisy, sigma, config.prediction)

    text = models.text.encode([prompt])
    shape = render_latent.shape
    latent = integrate(velocity, shape, text, steps=steps, guidance=guidance, shift=config.shift, seed=seed)
    video = models.vae.decode_video(latent)[0].permute(1, 2, 3, 0)
    return ((video + 1) * 127.5).round().clamp(0, 255).byte().numpy()
