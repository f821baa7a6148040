"""Wan's transformer block with each modulated norm as one op.

Suffixes: B batch, L tokens, D width.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from more4d_kernels import modulated_norm
from torch import Tensor

Norm = Callable[..., Any]
"""x, timestep's scale and shift [B, D] to the normalised x; with `update=`, x + update is normalised and comes second."""


class ModulatedBlock(WanTransformerBlock):
    """Self-attention, cross-attention and feed-forward under one timestep's modulation; the same numbers as Wan's."""

    def forward(self, hidden_BLD: Tensor, context: Tensor, temb: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:  # type: ignore[override]
        """The block's output [B, L, D]; `temb` [B, 6, D]."""
        norm = partial(modulated_norm, eps=self.norm1.eps)
        return self.run(hidden_BLD, context, temb, rotary, norm, norm)

    def run(
        self,
        hidden_BLD: Tensor,
        context: Tensor,
        temb: Tensor,
        rotary: tuple[Tensor, Tensor],
        first: Norm,
        second: Norm,
    ) -> Tensor:
        """`forward` with the norms before self-attention and before the feed-forward given."""
        shift1, scale1, gate1, shift2, scale2, gate2 = (self.scale_shift_table + temb.float()).unbind(dim=1)
        # Nothing that is used once has a name: it would be held until the block ends.
        hidden_BLD = gated_residual(
            hidden_BLD, self.attn1(first(hidden_BLD, scale1, shift1), None, None, rotary), gate1
        )
        update = self.attn2(self.norm2(hidden_BLD.float()).type_as(hidden_BLD), context, None, None)
        normed, hidden_BLD = second(hidden_BLD, scale2, shift2, update=update)
        del update
        return gated_residual(hidden_BLD, self.ffn(normed), gate2)


def gated_residual(x: Tensor, update: Tensor, gate_BD: Tensor) -> Tensor:
    """x + gate · update [B, L, D], in fp32 inside."""
    return (x.float() + update.float() * gate_BD[:, None]).type_as(x)
