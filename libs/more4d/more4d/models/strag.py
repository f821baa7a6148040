"""4D-STraG: Wan's diffusion transformer with depth latents and motion-aware normalisation (paper section 4.2).

Suffixes: B batch, K latent frames, S spatial tokens of one latent frame, P tokens of a reference image (0 or S),
L = P + K·S tokens, D width, G motion tokens, C motion width. Where batch sizes are B or 1, 1 serves the whole batch.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from diffusers.utils.accelerate_utils import apply_forward_hook
from more4d_kernels import madanorm, modulated_norm
from torch import Tensor, nn
from torch.nn import functional

from more4d.models.attention import SelfAttention, TextAndImageAttention, require_image_tokens
from more4d.models.blocks import ModulatedBlock, Norm

Modulation = tuple[Tensor, Tensor]
"""Scale and shift [B or 1, S, D] of one norm: one row for each spatial token, shared by all frames."""
BlockModulation = tuple[Modulation, Modulation]
"""What a block's two modulated norms are given: before self-attention, before the feed-forward."""


class MotionModulation(nn.Module):
    """Eq. 4 for one norm: motion features to scale and shift, and the gate gamma that opens them."""

    def __init__(self, motion_dim: int, dim: int, eps: float) -> None:
        super().__init__()
        self.linear = nn.Linear(motion_dim, 2 * dim)
        # Only the gate starts at zero: zeroing the projection too kills both gradients.
        self.gate = nn.Parameter(torch.zeros(dim))
        self.eps = eps

    def modulation(self, features_BSC: Tensor) -> Modulation:
        """Scale and shift, each [B, S, D]."""
        scale, shift = self.linear(functional.silu(features_BSC)).chunk(2, dim=-1)
        return scale, shift

    # The norm is this module's own forward, so that whatever moves weights about brings the gate along.
    def forward(
        self,
        x_BLD: Tensor,
        scale_BD: Tensor,
        shift_BD: Tensor,
        modulation: Modulation,
        frames: int,
        prefix: int,
        update: Tensor | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """`x` normalised under the timestep's scale and shift and, but for its first `prefix` tokens, the motion's.

        With `update`, x + update is, and comes second.
        """
        # Views: neither one image for a whole batch nor one row for all positions is ever repeated in memory.
        rows = x_BLD.shape[0], (x_BLD.shape[1] - prefix) // frames, -1
        scale, shift = (part.expand(rows) for part in modulation)
        norm: Norm = partial(madanorm, x_BLD, scale_BD, shift_BD, scale, shift, self.gate)
        return norm(frames=frames, prefix=prefix, eps=self.eps, update=update)


class STraGBlock(ModulatedBlock):
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
        self.motion1 = MotionModulation(motion_dim, dim, eps)
        self.motion2 = MotionModulation(motion_dim, dim, eps)

    def modulation(self, features_BSC: Tensor) -> BlockModulation:
        """Both norms' modulation by the motion features on the token grid."""
        return self.motion1.modulation(features_BSC), self.motion2.modulation(features_BSC)

    def forward(  # type: ignore[override]
        self,
        hidden_BLD: Tensor,
        context: Tensor,
        temb: Tensor,
        rotary: tuple[Tensor, Tensor],
        motion: Tensor | BlockModulation | None,
        frames: int,
        prefix: int,
    ) -> Tensor:
        """The block's output [B, L, D]; `motion` is features [B or 1, S, C], or the modulation made of them.

        Without it the norms are Wan's own. The first `prefix` tokens (a reference image) never follow the motion.
        """
        if motion is None:
            return super().forward(hidden_BLD, context, temb, rotary)
        modulations = self.modulation(motion) if isinstance(motion, Tensor) else motion
        norms = (
            partial(norm, modulation=modulation, frames=frames, prefix=prefix)
            for norm, modulation in zip((self.motion1, self.motion2), modulations, strict=True)
        )
        return self.run(hidden_BLD, context, temb, rotary, *norms)


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
        motion_tokens: Literal["patch", "first", "none"] = "patch",
        reference_channels: int | None = 16,
    ) -> None:
        """Shapes of the 14B network by default.

        `motion_tokens` are the paper's ablations: "first" reads the encoder's first token alone, for every position,
        "none" nothing, so that the norms stay Wan's own. Without `reference_channels` the network takes no reference latent.
        """
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
            block.attn1.set_processor(SelfAttention())  # type: ignore[operator]
            block.attn2.set_processor(TextAndImageAttention(image_tokens if image_dim is not None else 0))  # type: ignore[operator]
        self.motion_adapter = nn.Sequential(
            nn.Conv2d(motion_dim, motion_dim, 3, padding=1), nn.SiLU(), nn.Conv2d(motion_dim, motion_dim, 3, padding=1)
        )

        self.reference_embedding = (
            None if reference_channels is None else nn.Conv2d(reference_channels, dim, patch_size[1:], patch_size[1:])
        )

    def align_motion(self, features: Tensor, rows: int, columns: int) -> Tensor:
        """Motion features [B, S, C] on the token grid from patch features [B, gh·gw, C] (adapter, then bilinear).

        With `motion_tokens="first"` [B, 1, C], the first of the features [B, G, C]: one row for all positions.
        """
        if self.config["motion_tokens"] == "first":
            return features[:, :1]
        grid = features.transpose(1, 2).unflatten(2, self.config["motion_grid"])
        resized = functional.interpolate(
            self.motion_adapter(grid), (rows, columns), mode="bilinear", align_corners=False
        )
        return resized.flatten(2).transpose(1, 2)

    @apply_forward_hook
    def precompute_modulation(self, features: Tensor, rows: int, columns: int) -> tuple[BlockModulation, ...]:
        """Every block's modulation by the motion features [B or 1, G, C] of one image, on `rows` x `columns` tokens.

        It depends on neither timestep, text nor frame: made once an image, it serves all steps and both branches of
        the guidance. 1.21 GB for the 14B network at 368x512 in bf16.
        """
        if self.config["motion_tokens"] == "none":
            return ()
        aligned = self.align_motion(features, rows, columns)
        return tuple(block.modulation(aligned) for block in self.blocks)  # type: ignore[operator]

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_hidden_states_image: Tensor | None = None,
        motion_features: Tensor | None = None,
        *,
        reference: Tensor | None = None,
        modulation: Sequence[BlockModulation] | None = None,
    ) -> Tensor:
        """Output [B, 16, K, h, w].

        hidden_states [B, 64, K, h, w]; timestep [B] in [0, 1000]; encoder_hidden_states [B, M, text_dim];
        encoder_hidden_states_image [B, I, image_dim]; motion_features [B or 1, G, C], None for no motion guidance, or in
        their place `modulation` of `precompute_modulation`; reference [B, 16, h, w], the latent of a picture that the
        video's frames may look at, prepended as one more frame of tokens.
        """
        require_image_tokens(self.config, encoder_hidden_states_image)
        frames, rows, columns = (
            n // p for n, p in zip(hidden_states.shape[2:], self.config["patch_size"], strict=True)
        )
        motion = self._motion(motion_features, modulation, rows, columns)
        # Contiguous: every sum would keep the convolution's order of memory, and every norm would copy it.
        hidden = self.patch_embedding(hidden_states).flatten(2).transpose(1, 2).contiguous()
        hidden, prefix = self._prepend(hidden, reference)
        temb, time_projection, context, image = self.condition_embedder(
            timestep, encoder_hidden_states, encoder_hidden_states_image
        )
        context = context if image is None else torch.cat([image, context], dim=1)
        times = time_projection.unflatten(1, (6, -1))
        rotary = self._rotary(hidden_states, frames + (prefix > 0))
        for block, own in zip(self.blocks, motion, strict=True):
            hidden = self._run_block(block, hidden, context, times, rotary, own, frames, prefix)
        shift, scale = (self.scale_shift_table + temb.unsqueeze(1)).chunk(2, dim=1)
        hidden = modulated_norm(hidden[:, prefix:], scale[:, 0], shift[:, 0], eps=self.norm_out.eps)
        return self._unpatchify(self.proj_out(hidden), frames, rows, columns)

    def _motion(
        self, features: Tensor | None, modulation: Sequence[BlockModulation] | None, rows: int, columns: int
    ) -> Sequence[Tensor | BlockModulation | None]:
        """What each block is given of the motion."""
        if features is not None and modulation is not None:
            raise ValueError("give motion_features or the modulation made of them, not both")
        if self.config["motion_tokens"] == "none":
            return [None] * len(self.blocks)
        if modulation is not None:
            return modulation
        return [None if features is None else self.align_motion(features, rows, columns)] * len(self.blocks)

    def _prepend(self, hidden_BLD: Tensor, reference: Tensor | None) -> tuple[Tensor, int]:
        """The tokens with those of the reference before them, and how many those are."""
        if reference is None:
            return hidden_BLD, 0
        if self.reference_embedding is None:
            raise ValueError("this transformer was built without reference_channels; give no reference")
        tokens = self.reference_embedding(reference).flatten(2).transpose(1, 2)
        return torch.cat([tokens, hidden_BLD], dim=1), tokens.shape[1]

    def _rotary(self, hidden_states: Tensor, frames: int) -> tuple[Tensor, Tensor]:
        """Positions of `frames` frames of tokens: a reference is the first of them."""
        time = self.config["patch_size"][0]
        return self.rope(hidden_states.new_empty((1, 1, frames * time, *hidden_states.shape[3:])))

    def _run_block(self, block: nn.Module, *inputs: Any) -> Tensor:
        if self.gradient_checkpointing and torch.is_grad_enabled():
            return self._gradient_checkpointing_func(block, *inputs)  # type: ignore[misc]
        return block(*inputs)

    def _unpatchify(self, tokens: Tensor, frames: int, rows: int, columns: int) -> Tensor:
        patch = self.config["patch_size"]
        cells = tokens.unflatten(2, (*patch, -1)).unflatten(1, (frames, rows, columns))
        return cells.permute(0, 7, 1, 4, 2, 5, 3, 6).flatten(6, 7).flatten(4, 5).flatten(2, 3)
