"""Cross-attention to text and image tokens for a text of any length.

Suffixes: B batch, L query tokens, M text tokens, I image tokens, D width.
"""

from collections.abc import Mapping
from typing import Any

from diffusers.models.attention_dispatch import dispatch_attention_fn
from diffusers.models.transformers.transformer_wan import WanAttention
from torch import Tensor


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
        out = _attend(query, _heads(attn, attn.norm_k(attn.to_k(text_BMD))), _heads(attn, attn.to_v(text_BMD)))
        if attn.add_k_proj is not None and attn.norm_added_k is not None and self.image_tokens:
            key = _heads(attn, attn.norm_added_k(attn.add_k_proj(image_BID)))
            out = out + _attend(query, key, _heads(attn, attn.add_v_proj(image_BID)))  # type: ignore[misc]
        return attn.to_out[1](attn.to_out[0](out.type_as(hidden_states)))


def _heads(attn: WanAttention, x_BLD: Tensor) -> Tensor:
    return x_BLD.unflatten(2, (attn.heads, -1))


def _attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    # Under autocast the normalised query and key come out in fp32, the value in half precision.
    return dispatch_attention_fn(query.to(value.dtype), key.to(value.dtype), value).flatten(2, 3)


def require_image_tokens(config: Mapping[str, Any], image_BID: Tensor | None) -> None:
    """Raises ValueError unless the image tokens are as many as the transformer was built for.

    Others would not fail: what is missing would be taken from the text, what is too much read as text.
    """
    expected = config["image_tokens"] if config["image_dim"] is not None else 0
    given = 0 if image_BID is None else image_BID.shape[1]
    if given != expected:
        raise ValueError(f"{given} image tokens were given to a transformer that is built for {expected}")
