"""STraG's start from Wan-Fun Control."""

import pytest
import torch
from more4d.models.conversion import CheckpointError, strag_from_wan_control
from more4d.models.strag import STraGTransformer
from torch import Tensor

CONFIG = dict(
    num_attention_heads=2, attention_head_dim=12, ffn_dim=32, num_layers=2, text_dim=16, image_dim=20, image_tokens=5,
    motion_dim=8, motion_grid=(2, 2), reference_channels=16,
)  # fmt: skip


@pytest.fixture
def base() -> STraGTransformer:
    """The network of Wan-Fun Control: 48 channels; its motion guidance is unused."""
    torch.manual_seed(0)
    return STraGTransformer(**CONFIG, in_channels=48).eval()


def control(base: STraGTransformer) -> dict[str, Tensor]:
    return {name: value for name, value in base.state_dict().items() if "motion" not in name}


def run(network: STraGTransformer, video: Tensor, motion: Tensor | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    text, image = torch.randn(1, 7, 16, generator=generator), torch.randn(1, 5, 20, generator=generator)
    reference = torch.randn(1, 16, 4, 6, generator=generator)
    with torch.no_grad():
        return network(video, torch.tensor([400.0]), text, image, motion, reference=reference)


def test_the_output_is_the_bases_whatever_depth_and_motion_are(base: STraGTransformer) -> None:
    network = strag_from_wan_control(STraGTransformer(**CONFIG).eval(), control(base))
    video = torch.randn(1, 48, 2, 4, 6)
    expected = run(base, video)
    for depth in (torch.zeros(1, 16, 2, 4, 6), 100 * torch.randn(1, 16, 2, 4, 6)):
        out = run(network, torch.cat([video, depth], dim=1), torch.randn(1, 4, 8))
        torch.testing.assert_close(out, expected, rtol=1e-5, atol=1e-6)


def test_everything_but_depth_and_guidance_is_the_bases_exactly(base: STraGTransformer) -> None:
    network = strag_from_wan_control(STraGTransformer(**CONFIG), control(base))
    for name, value in control(base).items():
        mine = network.state_dict()[name]
        assert torch.equal(mine[:, :48] if name == "patch_embedding.weight" else mine, value)
    assert not network.patch_embedding.weight[:, 48:].any()


def test_the_guidance_is_fresh_and_every_weight_trains(base: STraGTransformer) -> None:
    used = STraGTransformer(**CONFIG)
    for block in used.blocks:
        torch.nn.init.ones_(block.motion1.gate)
    network = strag_from_wan_control(used, control(base))
    for block in network.blocks:
        for modulation in (block.motion1, block.motion2):
            assert not modulation.gate.any()
            assert modulation.linear.weight.std() > 0.1
    assert all(p.requires_grad for p in network.parameters())


def test_an_empty_network_is_filled_in_one_dtype(base: STraGTransformer) -> None:
    with torch.device("meta"):
        empty = STraGTransformer(**CONFIG)
    network = strag_from_wan_control(empty, control(base), dtype=torch.bfloat16)
    assert {p.dtype for p in network.parameters()} == {torch.bfloat16}
    assert not any(p.is_meta for p in (*network.parameters(), *network.buffers()))
    assert all(p.isfinite().all() for p in network.parameters())
    assert torch.equal(network.rope.freqs_cos, base.rope.freqs_cos)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (dict(reference_channels=None), "2 extra: reference_embedding.bias 24, reference_embedding.weight 24x16x2x2"),
        (
            dict(num_layers=3),
            "32 missing: blocks.2.*the file is 24 wide with 2 blocks, the network 24 wide with 3",
        ),
        (dict(in_channels=36), "48 input channels, not the 36 of the network less 16 of depth"),
    ],
)
def test_a_base_that_does_not_fit_is_refused(config: dict[str, object], message: str, base: STraGTransformer) -> None:
    network = STraGTransformer(**{**CONFIG, **config})
    before = network.patch_embedding.weight.clone()
    with pytest.raises(CheckpointError, match=message):
        strag_from_wan_control(network, control(base))
    assert torch.equal(network.patch_embedding.weight, before)


def test_the_inpainting_base_is_not_taken_for_the_control_base() -> None:
    inp = STraGTransformer(**CONFIG, in_channels=36)
    with pytest.raises(CheckpointError, match="36 input channels, not the 64 of the network less 16"):
        strag_from_wan_control(STraGTransformer(**CONFIG), control(inp))
