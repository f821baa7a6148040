"""4D-ViSM: Wan 2.1's inpainting transformer with 36 input channels (paper section 4.3)."""

from typing import Any

from diffusers.configuration_utils import register_to_config
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from torch import Tensor, nn

from more4d.models.attention import SelfAttention, TextAndImageAttention, require_image_tokens
from more4d.models.blocks import ModulatedBlock


class ViSMTransformer(WanTransformer3DModel):
    """Velocity of a video latent from 16 noisy, 4 mask and 16 render channels, text and image tokens."""

    _no_split_modules = ["ModulatedBlock"]
    _repeated_blocks = ["ModulatedBlock"]

    @register_to_config
    def __init__(
        self,
        patch_size: tuple[int, int, int] = (1, 2, 2),
        num_attention_heads: int = 40,
        attention_head_dim: int = 128,
        in_channels: int = 36,
        out_channels: int = 16,
        text_dim: int = 4096,
        freq_dim: int = 256,
        ffn_dim: int = 13824,
        num_layers: int = 40,
        cross_attn_norm: bool = True,
        eps: float = 1e-6,
        image_dim: int | None = 1280,
        image_tokens: int = 257,
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
            ModulatedBlock(
                dim, ffn_dim, num_attention_heads, cross_attn_norm=cross_attn_norm, eps=eps, added_kv_proj_dim=added
            )
            for _ in range(num_layers)
        )
        for block in self.blocks:
            block.attn1.set_processor(SelfAttention())  # type: ignore[operator]
            block.attn2.set_processor(TextAndImageAttention(image_tokens if image_dim is not None else 0))  # type: ignore[operator]

    def forward(  # type: ignore[override]
        self,
        hidden_states: Tensor,
        timestep: Tensor,
        encoder_hidden_states: Tensor,
        encoder_hidden_states_image: Tensor | None = None,
    ) -> Tensor:
        """Output [B, 16, K, h, w] for hidden_states [B, 36, K, h, w] and timestep [B] in [0, 1000]."""
        require_image_tokens(self.config, encoder_hidden_states_image)
        given: tuple[Any, ...] = hidden_states, timestep, encoder_hidden_states, encoder_hidden_states_image
        outputs: Any = super().forward(*given, return_dict=False)
        return outputs[0]
