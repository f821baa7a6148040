"""What the two transformers are given beside noise: image, depth and render latents, and the folded mask.

Suffixes: B batch, T frames, K latent frames, H height, W width; h = H/8, w = W/8.
"""

from typing import Literal

import torch
from torch import Tensor

from more4d.models.vae import MotionVAE, latent_shape

DepthEncoding = Literal["linear", "log", "none"]
"""How depth is scaled before it is encoded; "none" gives no depth at all (the ablation): a latent of zeros."""
ClipImage = Literal["photo", "grey"]
"""What CLIP sees: the photo, or mid grey as in the published code."""
Reference = Literal["none", "zeros", "photo"]
"""The latent that STraG is given as tokens before the video's: none, one of zeros, or the photo's."""
CLIP_GREY = 127
HOLE = 0.0
"""Colour of a hole in [-1, 1]: 0.5 in [0, 1], as Wan's inpainting models expect."""


def to_unit_range(rgb: Tensor) -> Tensor:
    """Colours in [-1, 1] float32 from uint8 or float in 0..255."""
    return rgb.float() / 127.5 - 1


def image_latent(vae: MotionVAE, image: Tensor, frames: int) -> Tensor:
    """Latent [B, 16, K, h, w] of an image [B, 3, H, W] in [-1, 1], repeated over `frames`."""
    return vae.encode_video(image[:, :, None].expand(-1, -1, frames, -1, -1))


def clip_picture(image: Tensor, setting: ClipImage) -> Tensor:
    """The images [B, 3, H, W] in 0..255 that CLIP is shown."""
    return image if setting == "photo" else torch.full_like(image, CLIP_GREY)


def reference_latent(image_latent: Tensor, setting: Reference) -> Tensor | None:
    """The reference [B, 16, h, w] of an image's latent [B, 16, K, h, w]: its first frame, which the causal VAE encodes alone."""
    if setting == "none":
        return None
    first = image_latent[:, :, 0]
    return first if setting == "photo" else torch.zeros_like(first)


def depth_latent(vae: MotionVAE, depth: Tensor, frames: int, encoding: DepthEncoding) -> Tensor:
    """Latent [B, 16, K, h, w] of first-frame depth [B, H, W] in metres, min-max scaled to [-1, 1] per image.

    Depth that is not finite or below 1e-5 counts as 1, depth above 1e4 as 1e4, as the published code has it.
    """
    if encoding == "none":
        return depth.new_zeros((len(depth), *latent_shape(frames, depth.shape[1], depth.shape[2])))
    usable = torch.where(torch.isfinite(depth) & (depth >= 1e-5), depth, torch.ones_like(depth)).clamp(max=1e4)
    values = usable.log() if encoding == "log" else usable
    low, high = values.amin(dim=(1, 2), keepdim=True), values.amax(dim=(1, 2), keepdim=True)
    scaled = (values - low) / (high - low).clamp_min(1e-6) * 2 - 1
    return image_latent(vae, scaled[:, None].expand(-1, 3, -1, -1), frames)


def strag_input(noisy: Tensor, image: Tensor, depth: Tensor) -> Tensor:
    """The 64 input channels in the published order: noise, image, zeros, depth."""
    return torch.cat([noisy, image, torch.zeros_like(image), depth], dim=1)


def fold_mask(mask: Tensor) -> Tensor:
    """Mask channels [B, 4, K, h, w] of a known-pixel mask [B, T, H, W] (1 = known): four frames to a latent frame.

    The first frame stands alone, four times; a cell takes the value of the pixel at its centre (nearest).
    """
    known = torch.nn.functional.interpolate(mask.float(), scale_factor=1 / 8, mode="nearest-exact")
    first = known[:, :1].repeat_interleave(4, dim=1)
    return torch.cat([first, known[:, 1:]], dim=1).unflatten(1, (-1, 4)).transpose(1, 2)


def vism_input(noisy: Tensor, mask: Tensor, render: Tensor) -> Tensor:
    """The 36 input channels: 16 noisy, 4 mask (1 = known), 16 render latent with grey holes."""
    return torch.cat([noisy, mask, render], dim=1)


def render_with_holes(render: Tensor, mask: Tensor) -> Tensor:
    """Render [B, 3, T, H, W] in [-1, 1] with its holes (mask [B, T, H, W] false) at mid grey."""
    return torch.where(mask[:, None], render, torch.full_like(render, HOLE))
