"""One of two processes that share a small STraG: how far its gradients are from those of one process alone.

Arguments: the wrapper (ddp or fsdp2), this process's rank, the file at which both meet. Prints JSON: the largest
difference for each way to recompute, with and without compiled blocks.
"""

import json
import sys
import warnings
from typing import Any

import torch
from more4d.models.recompute import compile_blocks, recompute
from more4d.models.strag import MotionModulation, STraGTransformer
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel


def network() -> STraGTransformer:
    """The same random weights on both ranks."""
    torch.manual_seed(0)
    made = STraGTransformer(
        num_attention_heads=2, attention_head_dim=12, ffn_dim=32, num_layers=2, text_dim=20, image_dim=16,
        image_tokens=5, motion_dim=8, motion_grid=(4, 4),
    )  # fmt: skip
    for module in made.modules():
        if isinstance(module, MotionModulation):
            nn.init.normal_(module.gate)
    return made


def given(rows: slice) -> dict[str, Tensor]:
    """Some of two samples."""
    draw = torch.Generator().manual_seed(1)
    inputs = {
        "hidden_states": torch.randn(2, 64, 3, 8, 8, generator=draw),
        "timestep": torch.tensor([20.0, 900.0]),
        "encoder_hidden_states": torch.randn(2, 6, 20, generator=draw),
        "encoder_hidden_states_image": torch.randn(2, 5, 16, generator=draw),
        "motion_features": torch.randn(2, 16, 8, generator=draw),
        "reference": torch.randn(2, 16, 8, 8, generator=draw),
    }
    return {name: value[rows] for name, value in inputs.items()}


def gradients(module: nn.Module, rows: slice) -> dict[str, Tensor]:
    """The gradient of every parameter, whole."""
    module(**given(rows)).square().mean().backward()
    found = {name.removeprefix("module."): p.grad for name, p in module.named_parameters() if p.grad is not None}
    return {name: grad.full_tensor() if isinstance(grad, DTensor) else grad for name, grad in found.items()}


def wrap(module: STraGTransformer, wrapper: str) -> nn.Module:
    """The network as the ranks share it."""
    if wrapper == "ddp":
        return DistributedDataParallel(module)
    for block in module.blocks:
        fully_shard(block)
    fully_shard(module)
    return module


def main(wrapper: str, rank: int, store: str) -> None:
    """Print the differences."""
    warnings.simplefilter("ignore")
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    expected = gradients(network(), slice(0, 2))
    differences: dict[str, Any] = {}
    for mode in ("none", "selective", "full"):
        for how in ("eager", "compiled"):
            torch.compiler.reset()
            made = network()
            recompute(made, mode)
            if how == "compiled":
                compile_blocks(made, backend="aot_eager")
            found = gradients(wrap(made, wrapper), slice(rank, rank + 1))
            assert found.keys() == expected.keys()
            differences[f"{mode} {how}"] = max(float((found[name] - expected[name]).abs().max()) for name in found)
    print(json.dumps(differences))  # noqa: T201 - what the test reads
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
