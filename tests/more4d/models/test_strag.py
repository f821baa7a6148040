"""Suffixes: B batch, K latent frames, S spatial tokens of one latent frame, C motion width, D width."""

from typing import Any

import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from more4d.models.strag import MotionModulation, STraGTransformer
from torch import Tensor

SHAPE: dict[str, Any] = {
    "num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 32, "num_layers": 2, "text_dim": 20,
}  # fmt: skip
IMAGE: dict[str, Any] = {"image_dim": 16, "image_tokens": 5}
FRAMES, ROWS, COLUMNS = 3, 2, 4


def strag(**changes: Any) -> STraGTransformer:
    """A small random STraG, 3x2x4 tokens for the inputs of `inputs`."""
    torch.manual_seed(0)
    motion: dict[str, Any] = {"motion_dim": 8, "motion_grid": (4, 4)}
    return STraGTransformer(**SHAPE | IMAGE | motion | changes)


def inputs(*, text_tokens: int = 6, image: bool = True) -> dict[str, Any]:
    """What the transformer reads beside motion features, for two samples."""
    generator = torch.Generator().manual_seed(1)
    return {
        "hidden_states": torch.randn(2, 64, FRAMES, 2 * ROWS, 2 * COLUMNS, generator=generator),
        "timestep": torch.tensor([20.0, 900.0]),
        "encoder_hidden_states": torch.randn(2, text_tokens, 20, generator=generator),
        "encoder_hidden_states_image": torch.randn(2, 5, 16, generator=generator) if image else None,
    }


def features() -> Tensor:
    """Motion features [2, 16, 8] on a 4x4 grid."""
    return torch.randn(2, 16, 8, generator=torch.Generator().manual_seed(2))


def wan_twin(network: STraGTransformer, **changes: Any) -> WanTransformer3DModel:
    """diffusers' transformer with the same weights, as far as it has a place for them."""
    added: dict[str, Any] = {"image_dim": 16, "added_kv_proj_dim": 24, "in_channels": 64, "out_channels": 16}
    twin = WanTransformer3DModel(**SHAPE | added | changes)
    own = {k: v for k, v in network.state_dict().items() if "motion" not in k and "reference" not in k}
    assert own.keys() == twin.state_dict().keys()
    twin.load_state_dict(own)
    return twin


@torch.no_grad()
def test_without_motion_features_it_is_wan_of_a_text_alone() -> None:
    network = strag(image_dim=None)
    given = inputs(image=False)
    (expected,) = wan_twin(network, image_dim=None, added_kv_proj_dim=None)(**given, return_dict=False)
    assert torch.allclose(network(**given), expected, atol=1e-5)


@torch.no_grad()
def test_without_motion_features_it_is_wan_of_512_text_tokens_and_an_image() -> None:
    network, given = strag(), inputs(text_tokens=512)
    (expected,) = wan_twin(network)(**given, return_dict=False)
    assert torch.allclose(network(**given), expected, atol=1e-5)


@torch.no_grad()
def test_madanorm_is_the_identity_at_init() -> None:
    network = strag()
    assert torch.allclose(network(**inputs(), motion_features=features()), network(**inputs()), atol=1e-5)


def gates(network: STraGTransformer) -> list[Tensor]:
    """Every gamma of eq. 5 and 6."""
    return [m.gate for m in network.modules() if isinstance(m, MotionModulation)]


def test_madanorm_is_the_identity_at_init_yet_trainable() -> None:
    network = strag()
    network(**inputs(), motion_features=features()).square().mean().backward()
    assert len(gates(network)) == 4
    assert all(gate.grad is not None and gate.grad.abs().min() > 0 for gate in gates(network))


def test_after_ten_steps_the_motion_features_matter() -> None:
    network = strag()
    projection = network.blocks[0].motion1.linear.weight.clone()  # type: ignore[union-attr]
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-2)
    target = torch.randn(2, 16, FRAMES, 4, 8, generator=torch.Generator().manual_seed(3))
    for _ in range(10):
        optimizer.zero_grad()
        (network(**inputs(), motion_features=features()) - target).square().mean().backward()
        optimizer.step()
    assert all(gate.abs().min() > 0 for gate in gates(network))
    assert not torch.equal(network.blocks[0].motion1.linear.weight, projection)  # type: ignore[union-attr]
    with torch.no_grad():
        change = network(**inputs(), motion_features=features()) - network(**inputs())
    assert change.abs().mean() > 1e-4


@torch.no_grad()
def test_motion_rows_are_never_repeated_over_frames() -> None:
    network = strag()
    shapes = []
    for module in network.modules():
        if isinstance(module, MotionModulation):
            module.linear.register_forward_hook(lambda _, given, out: shapes.append((given[0].shape, out.shape)))
    network(**inputs(), motion_features=features())
    assert shapes == [((2, ROWS * COLUMNS, 8), (2, ROWS * COLUMNS, 2 * 24))] * 4


@torch.no_grad()
def test_motion_features_meet_the_tokens_that_they_lie_under() -> None:
    network = strag()
    network.motion_adapter = torch.nn.Sequential()
    row, column = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
    grid = torch.stack([row, column], dim=-1).reshape(1, 16, 2)
    aligned = network.align_motion(grid, 2, 8).reshape(2, 8, 2)
    assert torch.allclose(aligned[..., 0], torch.tensor([[0.5], [2.5]]).expand(2, 8))
    assert torch.allclose(aligned[..., 1], ((torch.arange(8) + 0.5) / 2 - 0.5).clamp(0, 3).expand(2, 8))


@torch.no_grad()
def test_a_motion_feature_acts_on_its_own_place_in_every_frame() -> None:
    network = strag(num_layers=1)
    for gate in gates(network):
        torch.nn.init.ones_(gate)
    network.motion_adapter = torch.nn.Sequential()
    network.blocks[0].attn1.register_forward_hook(lambda _, given, out: torch.zeros_like(out))  # type: ignore[union-attr]
    changed = features()
    # The last patch of the first row.
    changed[:, 3] += 1
    difference = network(**inputs(), motion_features=features()) - network(**inputs(), motion_features=changed)
    touched = difference.abs().amax(dim=(0, 1)) > 1e-6
    assert bool(touched[:, :2, 6:].all())
    assert not touched[:, :, :6].any() and not touched[:, 2:].any()


def test_recomputing_blocks_gives_the_same_gradients() -> None:
    found = []
    for recompute in (False, True):
        network = strag()
        if recompute:
            network.enable_gradient_checkpointing()
        network(**inputs(), motion_features=features()).square().mean().backward()
        found.append(torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None]))
    assert torch.allclose(found[0], found[1], atol=1e-7)


def opened(**changes: Any) -> STraGTransformer:
    """A STraG whose gates let the motion features through."""
    network = strag(**changes)
    for gate in gates(network):
        torch.nn.init.normal_(gate)
    return network


@torch.no_grad()
def test_modulation_made_once_serves_every_timestep_text_and_sample() -> None:
    network, shared = opened(), features()[:1]
    once = network.precompute_modulation(shared, ROWS, COLUMNS)
    assert [part.shape for pair in once for norm in pair for part in norm] == [(1, ROWS * COLUMNS, 24)] * 8
    for timestep in (3.0, 700.0):
        given = inputs(text_tokens=int(timestep) % 7 + 1) | {"timestep": torch.full((2,), timestep)}
        repeated = network(**given, motion_features=shared.expand(2, -1, -1))
        assert torch.allclose(network(**given, modulation=once), repeated, atol=1e-6)
        assert torch.allclose(network(**given, motion_features=shared), repeated, atol=1e-6)


def test_features_and_modulation_together_are_refused() -> None:
    network = strag()
    with pytest.raises(ValueError, match="not both"):
        once = network.precompute_modulation(features(), ROWS, COLUMNS)
        network(**inputs(), motion_features=features(), modulation=once)


@torch.no_grad()
def test_without_motion_tokens_it_is_wan_whatever_it_is_given() -> None:
    network = opened(motion_tokens="none")
    plain = opened()(**inputs())
    assert torch.equal(network(**inputs(), motion_features=features()), plain)
    modulation = network.precompute_modulation(features(), ROWS, COLUMNS)
    assert torch.equal(network(**inputs(), modulation=modulation), plain)


def test_the_first_token_guides_every_position_alike() -> None:
    network = opened(motion_tokens="first")
    rest = features()
    rest[:, 1:] += 1
    output = network(**inputs(), motion_features=features())
    assert torch.equal(output, network(**inputs(), motion_features=rest))
    rest[:, :1] += 1
    assert not torch.allclose(output, network(**inputs(), motion_features=rest), atol=1e-4)
    (once, _), *_ = network.precompute_modulation(features(), ROWS, COLUMNS)
    assert once[0].shape == (2, 1, 24)


REFERENCE = torch.randn(2, 16, 2 * ROWS, 2 * COLUMNS, generator=torch.Generator().manual_seed(4))


@torch.no_grad()
def test_a_reference_is_one_more_frame_before_the_others_and_gets_no_motion() -> None:
    network, seen = opened(), []
    network.blocks[0].register_forward_hook(lambda _, given, out: seen.append(out))
    for guided in (features(), features() + 1):
        network.blocks[0].attn1.register_forward_hook(lambda _, given, out: torch.zeros_like(out))  # type: ignore[union-attr]
        output = network(**inputs(), motion_features=guided, reference=REFERENCE)
        assert output.shape == (2, 16, FRAMES, 2 * ROWS, 2 * COLUMNS)
    tokens = ROWS * COLUMNS
    assert [block.shape for block in seen] == [(2, tokens * (1 + FRAMES), 24)] * 2
    changed = (seen[0] - seen[1]).abs().amax(dim=(0, 2)) > 1e-6
    assert not changed[:tokens].any() and bool(changed[tokens:].all())


@torch.no_grad()
def test_frames_see_the_reference_and_where_it_lies() -> None:
    network = strag()
    output = network(**inputs(), reference=REFERENCE)
    assert not torch.allclose(output, network(**inputs()), atol=1e-4)
    assert not torch.allclose(output, network(**inputs(), reference=REFERENCE.flip(-1)), atol=1e-4)


def test_a_network_without_reference_channels_refuses_a_reference() -> None:
    network = strag(reference_channels=None)
    assert not [key for key in network.state_dict() if "reference" in key]
    with pytest.raises(ValueError, match="built without reference_channels"):
        network(**inputs(), reference=REFERENCE)


@pytest.mark.parametrize("way", ["none", "features", "modulation", "reference"])
@torch.no_grad()
def test_the_forward_compiles_as_one_graph(way: str) -> None:
    network = opened()
    given: dict[str, Any] = {
        "none": {},
        "features": {"motion_features": features()},
        "modulation": {"modulation": network.precompute_modulation(features(), ROWS, COLUMNS)},
        "reference": {"motion_features": features(), "reference": REFERENCE},
    }[way]
    torch.compiler.reset()
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(**inputs(), **given), network(**inputs(), **given), atol=1e-5)


@pytest.mark.slow
@torch.no_grad()
def test_the_compiled_forward_gives_the_same_numbers() -> None:
    network = opened()
    once = network.precompute_modulation(features(), ROWS, COLUMNS)
    torch.compiler.reset()
    compiled = torch.compile(network, fullgraph=True)
    assert torch.allclose(compiled(**inputs(), modulation=once), network(**inputs(), modulation=once), atol=1e-4)


def test_image_tokens_cannot_be_left_out_or_miscounted() -> None:
    with pytest.raises(ValueError, match="0 image tokens were given to a transformer that is built for 5"):
        strag()(**inputs(image=False))
    with pytest.raises(ValueError, match="5 image tokens"):
        strag(image_tokens=257)(**inputs())


def test_its_config_rebuilds_it() -> None:
    network = strag()
    again = STraGTransformer.from_config(dict(network.config))
    assert isinstance(again, STraGTransformer)
    shapes = [{k: v.shape for k, v in n.state_dict().items()} for n in (network, again)]
    assert shapes[0] == shapes[1]
