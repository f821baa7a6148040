"""MAdaNorm in plain PyTorch: the definition that every faster form is tested against.

Suffixes: B batch, L tokens (prefix + frames * S), S spatial positions of one frame, D width.
"""

import torch
from torch import Tensor
from torch.nn import functional


def madanorm_reference(
    x_BLD: Tensor,
    time_scale: Tensor,
    time_shift: Tensor,
    motion_scale_BSD: Tensor,
    motion_shift_BSD: Tensor,
    gate_D: Tensor,
    *,
    frames: int,
    prefix: int,
    eps: float,
    form: str,
) -> Tensor:
    """The modulated tokens [B, L, D] in x's dtype, computed in at least fp32; see `madanorm`."""
    dtype = torch.promote_types(x_BLD.dtype, torch.float32)
    gate = gate_D.to(dtype)
    # [B, 1, S, D] against [B, frames, S, D]: the motion rows are the same for every frame and are never
    # repeated.
    scale = gate * motion_scale_BSD.to(dtype).unsqueeze(1)
    shift = gate * motion_shift_BSD.to(dtype).unsqueeze(1)
    normed = functional.layer_norm(x_BLD.to(dtype), x_BLD.shape[-1:], eps=eps)
    if form == "adaln":
        normed = normed * (1 + per_token(time_scale).to(dtype)) + per_token(time_shift).to(dtype)
        scale = 1 + scale
    video = normed[:, prefix:].unflatten(1, (frames, motion_scale_BSD.shape[1]))
    video = (video * scale + shift).flatten(1, 2)
    return torch.cat((normed[:, :prefix], video), dim=1).to(x_BLD.dtype) if prefix else video.to(x_BLD.dtype)


def gated_sum_reference(x_BLD: Tensor, update_BLD: Tensor, update_gate: Tensor | None) -> Tensor:
    """x + update_gate * update [B, L, D] in x's dtype, which is what an update has normalised in x's place."""
    dtype = torch.promote_types(x_BLD.dtype, torch.float32)
    gated = update_BLD.to(dtype)
    if update_gate is not None:
        gated = gated * per_token(update_gate).to(dtype)
    return (x_BLD.to(dtype) + gated).to(x_BLD.dtype)


def per_token(modulation: Tensor) -> Tensor:
    """[B, D] as [B, 1, D]; [B, L, D] as it is."""
    return modulation.unsqueeze(1) if modulation.ndim == 2 else modulation
