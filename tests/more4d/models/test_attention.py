from typing import Any

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanAttention, WanAttnProcessor
from more4d.models.attention import SelfAttention, TextAndImageAttention, require_image_tokens, rotate

IMAGE_TOKENS = 5


def attention(added: int | None) -> WanAttention:
    """Wan's cross-attention of width 24, its norms' weights random too."""
    torch.manual_seed(0)
    made = WanAttention(24, heads=2, dim_head=12, added_kv_proj_dim=added, cross_attention_dim_head=12)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return made.requires_grad_(False)


def run(attn: WanAttention, processor: Any, tokens: int) -> torch.Tensor:
    """The attention's output for 7 queries and `tokens` tokens to attend to."""
    generator = torch.Generator().manual_seed(1)
    attn.set_processor(processor)
    queries, context = (torch.randn(2, n, 24, generator=generator) for n in (7, tokens))
    return attn(queries, context, None, None)


def test_a_text_of_512_tokens_is_attended_to_as_diffusers_does() -> None:
    attn = attention(added=24)
    theirs = run(attn, WanAttnProcessor(), IMAGE_TOKENS + 512)
    assert torch.allclose(run(attn, TextAndImageAttention(IMAGE_TOKENS), IMAGE_TOKENS + 512), theirs, atol=1e-6)


def test_without_an_image_a_text_of_any_length_is_attended_to_as_diffusers_does() -> None:
    attn = attention(added=None)
    assert torch.allclose(run(attn, TextAndImageAttention(0), 9), run(attn, WanAttnProcessor(), 9), atol=1e-6)


def test_a_short_text_is_told_from_the_image() -> None:
    attn = attention(added=24)
    together = run(attn, TextAndImageAttention(IMAGE_TOKENS), IMAGE_TOKENS + 8)
    assert together.shape == (2, 7, 24)
    assert not torch.allclose(together, run(attn, TextAndImageAttention(IMAGE_TOKENS - 1), IMAGE_TOKENS + 8), atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_tokens_attend_to_themselves_as_in_diffusers_with_the_same_gradients(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    attn = WanAttention(24, heads=2, dim_head=12).to(dtype)
    tokens, angles = torch.randn(2, 7, 24, dtype=dtype), torch.randn(1, 7, 1, 6).repeat_interleave(2, dim=-1)
    results = []
    for processor in (SelfAttention(), WanAttnProcessor()):
        attn.set_processor(processor)
        given = tokens.clone().requires_grad_()
        out = attn(given, None, None, (angles.cos(), angles.sin()))
        assert out.dtype == dtype
        results.append((out, *torch.autograd.grad(out.square().sum(), (given, *attn.parameters()))))
    for ours, theirs in zip(*results, strict=True):
        rtol, atol = (1e-5, 1e-6) if dtype == torch.float32 else (2**-6, 2**-7)
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_what_is_compiled_turns_pairs_as_what_is_not(dtype: torch.dtype) -> None:
    torch.compiler.reset()
    angles = torch.randn(1, 7, 1, 6).repeat_interleave(2, dim=-1)
    x = torch.randn(2, 7, 3, 12, dtype=dtype)
    compiled = torch.compile(rotate, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, angles.cos(), angles.sin()), rotate(x, angles.cos(), angles.sin()))


def test_the_backend_that_was_chosen_is_used() -> None:
    attn = attention(added=24)
    for processor in (SelfAttention(), TextAndImageAttention(IMAGE_TOKENS)):
        processor._attention_backend = "no such backend"  # type: ignore[assignment]
        with pytest.raises((ValueError, KeyError)):
            run(attn, processor, IMAGE_TOKENS + 4)


def test_half_precision_in_is_half_precision_out() -> None:
    attn = attention(added=24).to(torch.bfloat16)
    queries, context = (torch.randn(1, n, 24, dtype=torch.bfloat16) for n in (7, 6))
    found = TextAndImageAttention(2)(attn, queries, context)
    assert found.dtype == torch.bfloat16


def test_a_wrong_number_of_image_tokens_is_refused() -> None:
    config = {"image_dim": 24, "image_tokens": 5}
    require_image_tokens(config, torch.zeros(1, 5, 24))
    require_image_tokens({"image_dim": None, "image_tokens": 257}, None)
    with pytest.raises(ValueError, match="4 image tokens were given to a transformer that is built for 5"):
        require_image_tokens(config, torch.zeros(1, 4, 24))
    with pytest.raises(ValueError, match="0 image tokens"):
        require_image_tokens(config, None)
