"""4D-STraG: Wan's diffusion transformer with depth latents and motion-aware normalisation (paper section 4.2).

Suffixes: B batch, K latent frames, S spatial tokens of one latent frame, L = K·S tokens, D width, C motion width.
"""

from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel, WanTransformerBlock
from more4d_kernels import madanorm
from torch import Tensor, nn
from torch.nn import functional

from more4d.models.attention import TextAndImageAttention, require_image_tokens

Modulation = tuple[Tensor, Tensor]
"""Scale and shift [B, S, D] of one norm: one row for each spatial token, shared by all frames."""


class MotionModulation(nn.Module):
    """Eq. 4 for one norm: motion features to scale and shift, and the gate gamma that opens them."""

    def __init__(self, motion_dim: int, dim: int) -> None:
        super().__init__()
        self.linear = nn.Linear(motion_dim, 2 * dim)
        # Only the gate starts at zero: zeroing the projection too kills both gradients.
        self.gate = nn.Parameter(torch.zeros(dim))

    def forward(self, features_BSC: Tensor) -> Modulation:
        """Scale and shift, each [B, S, D]."""
        scale, shift = self.linear(functional.silu(features_BSC)).chunk(2, dim=-1)
        return scale, shift


class STraGBlock(WanTransformerBlock):
    """Wan's block whose two modulated norms also follow the motion features (MAdaNorm, eq. 5 and 6)."""

    def __init__(
        self,
        dim: int,
        ffn_dim: int,
        num_heads: int,
        cross_attn_norm: bool,
        eps: float,
        added_kv_proj_dim: int | None,
        motion_dim: int,
    ) -> None:
        super().__init__(
            dim, ffn_dim, num_heads, cross_attn_norm=cross_attn_norm, eps=eps, added_kv_proj_dim=added_kv_proj_dim
        )
        self.motion1 = MotionModulation(motion_dim, dim)
        self.motion2 = MotionModulation(motion_dim, dim)
        self.eps = eps

    def forward(  # type: ignore[override]
        self,
        hidden_BLD: Tensor,
        context: Tensor,
        temb: Tensor,
        rotary: tuple[Tensor, Tensor],
        features_BSC: Tensor | None,
        frames: int,
    ) -> Tensor:
        """The block's output [B, L, D]; without features the norms are Wan's own."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.scale_shift_table + temb.float()).unbind(dim=1)
        normed = self._norm(hidden_BLD, scale1, shift1, self.motion1, features_BSC, frames)
        hidden_BLD = _residual(hidden_BLD, self.attn1(normed, None, None, rotary), gate1)
        normed = self.norm2(hidden_BLD.float()).type_as(hidden_BLD)
        hidden_BLD = hidden_BLD + self.attn2(normed, context, None, None)
        normed = self._norm(hidden_BLD, scale2, shift2, self.motion2, features_BSC, frames)
        return _residual(hidden_BLD, self.ffn(normed), gate2)

    def _norm(
        self,
        x_BLD: Tensor,
        scale_BD: Tensor,
        shift_BD: Tensor,
        modulation: MotionModulation,
        features_BSC: Tensor | None,
        frames: int,
    ) -> Tensor:
        if features_BSC is None:
            return (self.norm1(x_BLD.float()) * (1 + scale_BD[:, None]) + shift_BD[:, None]).type_as(x_BLD)
        scale, shift = modulation(features_BSC)
        return madanorm(x_BLD, scale_BD, shift_BD, scale, shift, modulation.gate, frames=frames, eps=self.eps)


def _residual(x: Tensor, update: Tensor, gate_BD: Tensor) -> Tensor:
    return (x.float() + update.float() * gate_BD[:, None]).type_as(x)


class STraGTransformer(WanTransformer3DModel):
    """Velocity of the motion latent from 64 channels: noise 16, image 16, zeros 16, depth 16.

    The motion features stay at the S distinct rows of one frame; nothing here repeats them over frames.
    """

    _no_split_modules = ["STraGBlock"]
    _repeated_blocks = ["STraGBlock"]

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        num_attention_heads: int = 40,
        attention_head_dim: int = 128,
        in_channels: int = 64,
        out_channels: int = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 13824,
        num_layers: int = 40,
        cross_attn_norm: bool = True,
        eps: float = 1e-6,
        image_dim: int | None = 1280,
        image_tokens: int = 257,
        motion_dim: int = 768,
        motion_grid: tuple[int, int] = (14, 14),
    ) -> None:
        dim = num_attention_heads * attention_head_dim
        added = dim if image_dim is not None else None
        super().__init__(
            patch_size=patch_size,
            num_attention_heads=num_attention_heads,
            attention_head_dim=attention_head_dim,
            in_channels=in_channels,
            out_channels=out_channels,
            text_dim=text_dim,
            freq_dim=freq_dim,
            ffn_dim=ffn_dim,
            num_layers=0,
            cross_attn_norm=cross_attn_norm,
            eps=eps,
            image_dim=image_dim,
            added_kv_proj_dim=added,
        )
        self.register_to_config(num_layers=num_layers)
        self.blocks = nn.ModuleList(
            STraGBlock(dim, ffn_dim, num_attention_heads, cross_attn_norm, eps, added, motion_dim)
            for _ in range(num_layers)
        )
        for block in self.blocks:
            block.attn2.set_processor(TextAndImageAttention(image_tokens if image_dim is not None else 0))  # type: ignore[operator]
        self.motion_adapter = nn.Sequential(
            nn.Conv2d(motion_dim, motion_dim, 3, padding=1), nn.SiLU(), nn.Conv2d(motion_dim, motion_dim, 3, padding=1)
        )

    def align_motion(self, features: Tensor, rows: int, columns: int) -> Tensor:
        """Motion features [B, S, C] on the token grid from patch features [B, gh·gw, C] (adapter, then bilinear)."""
        grid = features.transpose(1, 2).unflatten(2, self.config["motion_grid"])
        resized = functional.interpolate(
            self.motion_adapter(grid), (rows, columns), mode="bilinear", align_corners=False
        )
        return resized.flatten(2).transpose(1, 2)

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_hidden_states_image: Tensor | None = None,
        motion_features: Tensor | None = None,
    ) -> Tensor:
        """Output [B, 16, K, h, w].

        hidden_states [B, 64, K, h, w]; timestep [B] in [0, 1000]; encoder_hidden_states [B, M, text_dim];
        encoder_hidden_states_image [B, I, image_dim]; motion_features [B, gh·gw, C], None for no motion guidance.
        """
        require_image_tokens(self.config, encoder_hidden_states_image)
        frames, rows, columns = (
            n // p for n, p in zip(hidden_states.shape[2:], self.config["patch_size"], strict=True)
        )
        rotary = self.rope(hidden_states)
        hidden = self.patch_embedding(hidden_states).flatten(2).transpose(1, 2)
        temb, time_projection, context, image = self.condition_embedder(
            timestep, encoder_hidden_states, encoder_hidden_states_image
        )
        context = context if image is None else torch.cat([image, context], dim=1)
        features = None if motion_features is None else self.align_motion(motion_features, rows, columns)
        given = context, time_projection.unflatten(1, (6, -1)), rotary, features, frames
        for block in self.blocks:
            hidden = self._run_block(block, hidden, *given)
        shift, scale = (self.scale_shift_table + temb.unsqueeze(1)).chunk(2, dim=1)
        hidden = (self.norm_out(hidden.float()) * (1 + scale) + shift).type_as(hidden)
        return self._unpatchify(self.proj_out(hidden), frames, rows, columns)

    def _run_block(self, block: nn.Module, *inputs: Any) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(block, *inputs)  # type: ignore[misc]
        return block(*inputs)

    def _unpatchify(self, tokens: Tensor, frames: int, rows: int, columns: int) -> Tensor:
        patch = self.config["patch_size"]
        cells = tokens.unflatten(2, (*patch, -1)).unflatten(1, (frames, rows, columns))
        return cells.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)
