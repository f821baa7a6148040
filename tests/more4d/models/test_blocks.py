"""Suffixes: B batch, L tokens, D width."""

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformerBlock
from more4d.models.blocks import ModulatedBlock
from torch import Tensor

B, L, D, HEADS = 2, 6, 16, 2


def blocks(
    *, cross_attn_norm: bool = True, dtype: torch.dtype = torch.float32
) -> tuple[ModulatedBlock, WanTransformerBlock]:
    """Ours and diffusers' own with the same weights."""
    torch.manual_seed(0)
    ours, theirs = (
        kind(D, 32, HEADS, cross_attn_norm=cross_attn_norm, eps=1e-6) for kind in (ModulatedBlock, WanTransformerBlock)
    )
    theirs.load_state_dict(ours.state_dict())
    return ours.to(dtype), theirs.to(dtype)


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Tokens, context, timestep's modulation and rotary embedding."""
    generator = torch.Generator().manual_seed(1)
    tokens, context, temb = (torch.randn(*s, generator=generator) for s in ((B, L, D), (B, 5, D), (B, 6, D)))
    angles = torch.randn(1, L, 1, D // HEADS, generator=generator)
    return tokens.to(dtype).requires_grad_(), context.to(dtype), temb, (angles.cos(), angles.sin())


@pytest.mark.parametrize("cross_attn_norm", [True, False])
def test_a_block_gives_the_numbers_and_gradients_of_wans(cross_attn_norm: bool) -> None:
    results = []
    for block in blocks(cross_attn_norm=cross_attn_norm):
        tokens, *rest = inputs()
        out = block(tokens, *rest)
        weights = dict(block.named_parameters())
        gradients = torch.autograd.grad(out.square().sum(), (tokens, *weights.values()), allow_unused=True)
        results.append((out, *(g for g in gradients if g is not None)))
    for mine, theirs in zip(*results, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-4)


def test_in_bfloat16_a_block_rounds_where_wans_does() -> None:
    ours, theirs = blocks(dtype=torch.bfloat16)
    mine, other = (block(*inputs(torch.bfloat16)) for block in (ours, theirs))
    assert mine.dtype == torch.bfloat16
    torch.testing.assert_close(mine, other, rtol=2**-7, atol=2**-6)


def test_a_block_is_normalised_by_what_it_is_given() -> None:
    ours, _ = blocks()
    tokens, context, temb, rotary = inputs()
    asked: list[tuple[int, bool]] = []

    def norm(x_BLD: Tensor, scale_BD: Tensor, shift_BD: Tensor, *, update: Tensor | None = None) -> object:
        assert scale_BD.shape == shift_BD.shape == (B, D)
        asked.append((x_BLD.shape[1], update is not None))
        return x_BLD if update is None else (x_BLD + update, x_BLD + update)

    ours.run(tokens, context, temb, rotary, norm, norm)
    assert asked == [(L, False), (L, True)]
