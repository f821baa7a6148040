"""Completed videos of any camera: the inference half of 4D-ViSM (paper section 4.4).

Suffixes: B batch, T frames, K latent frames, H height, W width.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from more4d.models.bundle import Models
from more4d.models.flow_matching import seeded_noise
from more4d.models.vae import latent_shape
from more4d.pipelines.views import ViewPipeline


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
    frames, height, width = mask.shape
    pipeline = ViewPipeline.from_models(models)
    pipeline.set_progress_bar_config(disable=True)
    found: Any = pipeline(
        render, mask, prompt, image=first_image, height=height, width=width, num_inference_steps=steps,
        guidance_scale=guidance, latents=seeded_noise(latent_shape(frames, height, width), seed), output_type="uint8",
    )  # fmt: skip
    return found.frames[0]
