from typing import Any

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from more4d.models.vism import ViSMTransformer

SHAPE: dict[str, Any] = {
    "num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32, "num_layers": 2, "text_dim": 20, "image_dim": 16,
}  # fmt: skip


def vism() -> ViSMTransformer:
    """A small random ViSM for 5 image tokens."""
    torch.manual_seed(0)
    return ViSMTransformer(**SHAPE, image_tokens=5)


def inputs(text_tokens: int) -> tuple[torch.Tensor, ...]:
    """What the transformer reads, for two samples."""
    generator = torch.Generator().manual_seed(1)
    shapes = (2, 36, 2, 4, 6), (2, text_tokens, 20), (2, 5, 16)
    hidden, text, image = (torch.randn(*shape, generator=generator) for shape in shapes)
    return hidden, torch.tensor([20.0, 900.0]), text, image


@torch.no_grad()
def test_it_is_wan_with_36_input_channels() -> None:
    network = vism()
    twin = WanTransformer3DModel(**SHAPE, added_kv_proj_dim=24, in_channels=36, out_channels=16)
    twin.load_state_dict(network.state_dict())
    (expected,) = twin(*inputs(512), return_dict=False)
    assert torch.allclose(network(*inputs(512)), expected, atol=1e-5)


@torch.no_grad()
def test_a_short_text_conditions_it() -> None:
    network, (hidden, time, text, image) = vism(), inputs(6)
    output = network(hidden, time, text, image)
    assert output.shape == (2, 16, 2, 4, 6)
    assert not torch.allclose(output, network(hidden, time, text * 0, image), atol=1e-4)
    assert not torch.allclose(output, network(hidden, time, text, image * 0), atol=1e-4)


def test_image_tokens_cannot_be_left_out() -> None:
    with pytest.raises(ValueError, match="0 image tokens were given to a transformer that is built for 5"):
        vism()(*inputs(6)[:3])
