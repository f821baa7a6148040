"""The formula against what is really held, counted operation by operation on tensors without numbers."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
import torch
from more4d.doctor.trace import LiveBytes
from more4d.models.architectures import WAN_1_3B, WAN_14B
from more4d.models.lora import LoRASettings, add_adapter
from more4d.models.recompute import Recompute, recompute
from more4d.models.strag import STraGTransformer
from more4d.training.plan.activations import ActivationSizes, activation_sizes
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

SIZES = ActivationSizes(tokens=14 * 8 * 10, frame=80, width=512, ffn=1536, heads=8, context=77 + 65, blocks=2)
"""13 latent frames of 16x20 and a reference."""
MODES: tuple[Recompute, ...] = ("none", "selective", "full")


@contextmanager
def without_numbers(dtype: torch.dtype) -> Iterator[None]:
    """Networks made within have shapes alone; their weights are in the compute type, as FSDP2 gathers them."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with FakeTensorMode(allow_non_fake_inputs=True):
            yield
    finally:
        torch.set_default_dtype(before)


def network(sizes: ActivationSizes, blocks: int) -> STraGTransformer:
    """A STraG of these sizes."""
    return STraGTransformer(
        num_attention_heads=sizes.heads, attention_head_dim=sizes.width // sizes.heads, ffn_dim=sizes.ffn,
        num_layers=blocks, text_dim=128, image_dim=128, image_tokens=65, motion_dim=64,
    )  # fmt: skip


def given(sizes: ActivationSizes) -> dict[str, Tensor]:
    """One sample."""
    rows = {80: (16, 20), 736: (46, 64)}[sizes.frame]
    return {
        "hidden_states": torch.zeros(1, 64, 13, *rows), "timestep": torch.zeros(1),
        "encoder_hidden_states": torch.zeros(1, sizes.context - 65, 128),
        "encoder_hidden_states_image": torch.zeros(1, 65, 128), "motion_features": torch.zeros(1, 196, 64),
        "reference": torch.zeros(1, 16, *rows),
    }  # fmt: skip


def traced(sizes: ActivationSizes, blocks: int, mode: Recompute, dtype: torch.dtype) -> tuple[int, int]:
    """(held, peak) bytes of a forward and backward."""
    # Peft cannot make an adapter without numbers.
    with without_numbers(dtype) if not sizes.rank else torch.device("cpu"):
        made, inputs = network(sizes, blocks), given(sizes)
        if sizes.rank:
            add_adapter(made.to(dtype), LoRASettings(rank=sizes.rank))
        recompute(made, mode)
        for parameter in made.parameters():
            parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None
        with LiveBytes() as memory:
            with torch.autocast("cpu", torch.bfloat16, cache_enabled=False, enabled=dtype == torch.bfloat16):
                loss = made(**inputs).float().square().mean()
            held = memory.live
            loss.backward()
    return held, memory.peak


def wide(**changes: Any) -> ActivationSizes:
    """A 14B-shaped block at the published video, with the texts of this file."""
    sizes = activation_sizes(WAN_14B, "trajectories")
    return replace(sizes, context=SIZES.context, **changes)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("sizes", "dtype"), [(SIZES, torch.bfloat16), (SIZES, torch.float32), (wide(), torch.bfloat16)]
)
def test_a_block_holds_what_the_formula_says(sizes: ActivationSizes, mode: Recompute, dtype: torch.dtype) -> None:
    one, two = (traced(sizes, blocks, mode, dtype)[0] for blocks in (1, 2))
    assert two - one == pytest.approx(sizes.held(mode, dtype.itemsize), rel=0.03)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("sizes", "dtype"), [(SIZES, torch.bfloat16), (SIZES, torch.float32), (wide(), torch.bfloat16)]
)
def test_the_peak_is_what_the_formula_says(sizes: ActivationSizes, mode: Recompute, dtype: torch.dtype) -> None:
    _, peak = traced(sizes, 3, mode, dtype)
    assert peak == pytest.approx(replace(sizes, blocks=3).peak(mode, dtype.itemsize), rel=0.1)


@pytest.mark.parametrize("mode", MODES)
def test_an_adapter_adds_the_results_of_its_products(mode: Recompute) -> None:
    sizes = replace(SIZES, rank=16)
    one, two = (traced(sizes, blocks, mode, torch.bfloat16)[0] for blocks in (1, 2))
    assert two - one == pytest.approx(sizes.held(mode, 2), rel=0.03)


def test_what_autograd_saves_is_what_the_formula_says() -> None:
    torch.manual_seed(0)
    saved = [storages(network(SIZES, blocks), given(SIZES)) for blocks in (1, 2)]
    assert saved[1] - saved[0] == pytest.approx(SIZES.held("none", 4), rel=0.03)


def storages(made: STraGTransformer, inputs: dict[str, Tensor]) -> int:
    """Bytes that autograd saves beside weights and inputs, each memory once."""
    known = {tensor.untyped_storage().data_ptr() for tensor in (*made.parameters(), *made.buffers(), *inputs.values())}
    found: dict[int, int] = {}
    kept: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor)
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = made(**inputs).square().mean()
    assert loss.requires_grad
    return sum(size for address, size in found.items() if address not in known)


def test_the_published_sizes() -> None:
    strag, vism = activation_sizes(WAN_14B, "trajectories"), activation_sizes(WAN_1_3B, "views")
    assert (strag.tokens, strag.frame, strag.width, strag.blocks) == (10304, 736, 5120, 40)
    assert (vism.tokens, vism.frame, vism.width, vism.blocks) == (9568, 0, 1536, 30)
