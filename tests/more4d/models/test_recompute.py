"""Suffixes: B batch, K latent frames, S spatial tokens of one latent frame."""

import json
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from more4d.doctor.trace import LiveBytes
from more4d.models.recompute import Recompute, compile_blocks, recompute
from more4d.models.strag import MotionModulation, STraGTransformer
from more4d.models.vism import ViSMTransformer
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

Transformer = STraGTransformer | ViSMTransformer
MODES: tuple[Recompute, ...] = ("none", "selective", "full")
SHAPE: dict[str, Any] = {
    "num_attention_heads": 2, "attention_head_dim": 12, "ffn_dim": 96, "num_layers": 3, "text_dim": 20,
    "image_dim": 16, "image_tokens": 5,
}  # fmt: skip


def strag() -> STraGTransformer:
    """A small STraG whose gates let the motion features through."""
    torch.manual_seed(0)
    network = STraGTransformer(**SHAPE, motion_dim=8, motion_grid=(4, 4))
    for module in network.modules():
        if isinstance(module, MotionModulation):
            nn.init.normal_(module.gate)
    return network


def vism() -> ViSMTransformer:
    """A small ViSM."""
    torch.manual_seed(0)
    return ViSMTransformer(**SHAPE)


def given(network: Transformer) -> dict[str, Tensor]:
    """Two samples of 3x4x4 tokens; for STraG with motion features and a reference."""
    draw = torch.Generator().manual_seed(1)
    inputs = {
        "hidden_states": torch.randn(2, network.config["in_channels"], 3, 8, 8, generator=draw),
        "timestep": torch.tensor([20.0, 900.0]),
        "encoder_hidden_states": torch.randn(2, 6, 20, generator=draw),
        "encoder_hidden_states_image": torch.randn(2, 5, 16, generator=draw),
    }
    if isinstance(network, ViSMTransformer):
        return inputs
    motion, reference = torch.randn(2, 16, 8, generator=draw), torch.randn(2, 16, 8, 8, generator=draw)
    return inputs | {"motion_features": motion, "reference": reference}


def gradients(network: nn.Module, inputs: dict[str, Tensor]) -> list[Tensor]:
    """The loss and the gradient of every parameter that has one."""
    loss = network(**inputs).square().mean()
    loss.backward()
    return [loss.detach(), *(p.grad for p in network.parameters() if p.grad is not None)]


def held_bytes(network: Transformer) -> int:
    """What lives between the forward and the backward."""
    with LiveBytes() as memory:
        loss = network(**given(network)).square().mean()
        held = memory.live
        loss.backward()
    return held


@pytest.mark.parametrize("make", [strag, vism])
@pytest.mark.parametrize("mode", ["selective", "full"])
def test_recomputing_changes_no_bit_of_a_gradient(make: Any, mode: Recompute) -> None:
    plain, other = make(), make()
    recompute(other, mode)
    for expected, found in zip(gradients(plain, given(plain)), gradients(other, given(other)), strict=True):
        assert torch.equal(expected, found)


@pytest.mark.parametrize("make", [strag, vism])
def test_the_more_is_recomputed_the_less_is_held(make: Any) -> None:
    network, held = make(), []
    for mode in MODES:
        recompute(network, mode)
        held.append(held_bytes(network))
    nothing, selective, full = held
    assert selective < 0.7 * nothing and full < 0.4 * selective
    recompute(network, "none")
    assert held_bytes(network) == nothing


class Counter(TorchDispatchMode):
    """How often each operation ran within."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: dict[str, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name
        self.counts[name] = self.counts.get(name, 0) + 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("mode", "norms", "attentions"), [("none", 1, 1), ("selective", 2, 1), ("full", 2, 2)])
def test_selective_repeats_norms_but_neither_attention_nor_products(
    mode: Recompute, norms: int, attentions: int
) -> None:
    network = strag()
    recompute(network, mode)
    with Counter() as counter:
        network(**given(network)).square().mean().backward()
    ran, blocks = counter.counts, len(network.blocks)
    # Two modulated norms and three attentions (own, text, image) a block, and the last norm once.
    assert ran["more4d::modulated_norm"] == 2 * norms * blocks + 1
    assert ran["aten::_scaled_dot_product_flash_attention_for_cpu"] == 3 * attentions * blocks


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("make", [strag, vism])
def test_compiled_blocks_give_the_same_numbers_in_one_graph_each(make: Any, mode: Recompute) -> None:
    torch.compiler.reset()
    plain, compiled = make(), make()
    recompute(compiled, mode)
    with quiet():
        compile_blocks(compiled, backend="aot_eager")
        results = gradients(compiled, given(compiled))
    for expected, found in zip(gradients(plain, given(plain)), results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert list(compiled.state_dict()) == list(plain.state_dict())
    with torch.no_grad(), quiet():
        torch.testing.assert_close(compiled(**given(compiled)), plain(**given(plain)), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_blocks_compiled_to_machine_code_give_the_same_numbers(mode: Recompute) -> None:
    torch.compiler.reset()
    plain, compiled = strag(), strag()
    recompute(compiled, mode)
    with quiet():
        compile_blocks(compiled)
        results = gradients(compiled, given(compiled))
    for expected, found in zip(gradients(plain, given(plain)), results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("wrapper", ["ddp", "fsdp2"])
def test_recomputed_and_compiled_blocks_train_on_two_ranks_as_on_one(wrapper: str, tmp_path: Path) -> None:
    script = Path(__file__).with_name("recompute_ranks.py")
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), wrapper, str(rank), str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    outputs = [rank.communicate(timeout=300)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    found = [json.loads(output) for output in outputs]
    assert set(found[0]) == {f"{mode} {how}" for mode in MODES for how in ("eager", "compiled")}
    assert max(value for each in found for value in each.values()) < 1e-5


@contextmanager
def quiet() -> Iterator[None]:
    """Without torch's warnings about what it traces."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
