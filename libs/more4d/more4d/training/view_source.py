"""Batches for 4D-ViSM: renders with holes beside the videos that they should become.

Suffixes: B batch, T frames, K latent frames, M text tokens, I image tokens, H height, W width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from more4d.models.conditions import fold_mask, render_with_holes, to_unit_range
from more4d.models.vae import MotionVAE


@dataclass(frozen=True, eq=False)
class ViewPair:
    """One camera's render, the pixels that it covers, and the true video."""

    video: NDArray[np.uint8]
    """[T, H, W, 3]"""
    render: NDArray[np.uint8]
    """[T, H, W, 3]"""
    mask: NDArray[np.bool_]
    """[T, H, W], True where the render is known."""
    text: Tensor
    """[M, D]"""
    image: Tensor
    """[I, D]"""


class ViewPairs:
    """View pairs as batches for ViSMObjective: latents, folded masks, video and holes, text and image tokens."""

    def __init__(self, pairs: Sequence[ViewPair], vae: MotionVAE) -> None:
        self.pairs, self.vae, self.size = pairs, vae, len(pairs)

    @torch.no_grad()
    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """The pairs at `indices` [B]."""
        pairs = [self.pairs[int(i)] for i in indices]
        video = video_tensor(np.stack([pair.video for pair in pairs]))
        mask = torch.from_numpy(np.stack([pair.mask for pair in pairs]))
        render = render_with_holes(video_tensor(np.stack([pair.render for pair in pairs])), mask)
        return {
            "video_latent": self.vae.encode_video(video),
            "render_latent": self.vae.encode_video(render),
            "mask": fold_mask(mask),
            "video": video,
            "holes": ~mask,
            "text": torch.stack([pair.text for pair in pairs]).float(),
            "image_tokens": torch.stack([pair.image for pair in pairs]).float(),
        }


def video_tensor(video: NDArray[np.uint8]) -> Tensor:
    """Colours [B, 3, T, H, W] in [-1, 1] of videos uint8 [B, T, H, W, 3]."""
    return to_unit_range(torch.from_numpy(video).permute(0, 4, 1, 2, 3))
