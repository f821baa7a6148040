"""Wan's attentions: of the tokens to themselves, and to text and image tokens for a text of any length.

Suffixes: B batch, L query tokens, M text tokens, I image tokens, D width, H heads, d width of a head.
"""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttention
from torch import Tensor


class SelfAttention:
    """Wan's self-attention with positions given by one complex product; diffusers' own copies halves in and out."""

    _attention_backend = None
    _parallel_config = None

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Attention of [B, L, D] to itself; `rotary_emb` is the cosines and sines [1, L, 1, d] of the positions' angles."""
        query, key = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(hidden_states))
        query, key, value = (_heads(attn, x) for x in (query, key, attn.to_v(hidden_states)))
        if rotary_emb is not None:
            query, key = (rotate(x, *rotary_emb) for x in (query, key))
        out = _attend(query, key, value, self._attention_backend)
        return attn.to_out[1](attn.to_out[0](out.type_as(hidden_states)))


def rotate(x_BLHd: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Each pair of neighbouring numbers turned by its angle (rotary position embedding), in at least float32 inside.

    cosines, sines [1, L, 1, d]: each angle's twice, for both of its pair.
    """
    precise = torch.promote_types(torch.promote_types(x_BLHd.dtype, cosines.dtype), torch.float32)
    inside = x_BLHd.to(precise).unflatten(-1, (-1, 2))
    cosines, sines = cosines[..., 0::2].to(precise), sines[..., 1::2].to(precise)
    if torch.compiler.is_compiling():
        # What the compiler fuses; it leaves complex numbers alone.
        real, imaginary = inside.unbind(-1)
        turned = (real * cosines - imaginary * sines, real * sines + imaginary * cosines)
        return torch.stack(turned, dim=-1).flatten(-2).type_as(x_BLHd)
    turned = torch.view_as_complex(inside) * torch.complex(cosines, sines)
    return torch.view_as_real(turned).flatten(-2).type_as(x_BLHd)


class TextAndImageAttention:
    """Wan's cross-attention with the number of image tokens given; diffusers' own takes every text for 512 tokens long."""

    _attention_backend = None
    _parallel_config = None

    def __init__(self, image_tokens: int) -> None:
        self.image_tokens = image_tokens

    def __call__(
        self,
        attn: WanAttention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Attention of [B, L, D] to [B, I + M, D], image tokens first, each kind with its own softmax."""
        image_BID, text_BMD = encoder_hidden_states.tensor_split([self.image_tokens], dim=1)
        query = _heads(attn, attn.norm_q(attn.to_q(hidden_states)))
        backend = self._attention_backend
        key, value = (_heads(attn, x) for x in (attn.norm_k(attn.to_k(text_BMD)), attn.to_v(text_BMD)))
        out = _attend(query, key, value, backend)
        if attn.add_k_proj is not None and attn.norm_added_k is not None and self.image_tokens:
            key = _heads(attn, attn.norm_added_k(attn.add_k_proj(image_BID)))
            out = out + _attend(query, key, _heads(attn, attn.add_v_proj(image_BID)), backend)  # type: ignore[misc]
        return attn.to_out[1](attn.to_out[0](out.type_as(hidden_states)))


def _heads(attn: WanAttention, x_BLD: Tensor) -> Tensor:
    return x_BLD.unflatten(2, (attn.heads, -1))


def _attend(query: Tensor, key: Tensor, value: Tensor, backend: Any) -> Tensor:
    # Under autocast the normalised query and key come out in fp32, the value in half precision.
    return dispatch_attention_fn(query.to(value.dtype), key.to(value.dtype), value, backend=backend).flatten(2, 3)


def require_image_tokens(config: Mapping[str, Any], image_BID: Tensor | None) -> None:
    """Raises ValueError unless the image tokens are as many as the transformer was built for.

    Others would not fail: what is missing would be taken from the text, what is too much read as text.
    """
    expected = config["image_tokens"] if config["image_dim"] is not None else 0
    given = 0 if image_BID is None else image_BID.shape[1]
    if given != expected:
        raise ValueError(f"{given} image tokens were given to a transformer that is built for {expected}")
