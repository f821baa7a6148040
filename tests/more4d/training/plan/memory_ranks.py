"""One of two processes that train a small STraG for a step in bfloat16: what it holds, and what the plan counts.

Arguments: the strategy (fsdp2, zero2 or zero3), the file at which both meet, this process's rank. Prints JSON: bytes of
weights, gradients and optimizer state, `held` and `counted`.
"""

import json
import os
import sys
from typing import Any

import torch
from more4d.models.strag import STraGTransformer
from more4d.training.distributed.fsdp import shard
from more4d.training.distributed.world import World
from more4d.training.plan.activations import ActivationSizes
from more4d.training.plan.memory import Plan, Strategy, memory_of
from more4d.training.plan.sizes import sizes_of
from torch import Tensor, distributed
from torch.distributed.tensor import DTensor

NO_ACTIVATIONS = ActivationSizes(tokens=0, frame=0, width=0, ffn=0, heads=0, context=0, blocks=0)


def network() -> STraGTransformer:
    """The same random weights on both ranks."""
    torch.manual_seed(0)
    return STraGTransformer(
        num_attention_heads=2, attention_head_dim=32, ffn_dim=128, num_layers=2, text_dim=20, image_dim=16,
        image_tokens=5, motion_dim=8, motion_grid=(4, 4),
    )  # fmt: skip


def given() -> dict[str, Tensor]:
    """One sample."""
    draw = torch.Generator().manual_seed(1)
    return {
        "hidden_states": torch.randn(1, 64, 3, 8, 8, generator=draw),
        "timestep": torch.tensor([900.0]),
        "encoder_hidden_states": torch.randn(1, 6, 20, generator=draw),
        "encoder_hidden_states_image": torch.randn(1, 5, 16, generator=draw),
        "motion_features": torch.randn(1, 16, 8, generator=draw),
        "reference": torch.randn(1, 16, 8, 8, generator=draw),
    }


def size(*tensors: Tensor | None) -> int:
    """Bytes of what this rank has of them; the counts of steps are left out."""
    local = (t.to_local() if isinstance(t, DTensor) else t for t in tensors if t is not None and t.ndim)
    return sum(tensor.numel() * tensor.element_size() for tensor in local)


def fully_sharded(rank: int) -> int:
    """What is held after a backward and a step, the gradients not yet forgotten."""
    made = network()
    shard(made, World(rank, 2, torch.device("cpu")), "bf16")
    optimizer = torch.optim.AdamW(made.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        loss = made(**given()).float().square().mean()
    loss.backward()
    optimizer.step()
    moments = [value for state in optimizer.state.values() for value in state.values()]
    return sum(size(p, p.grad) for p in made.parameters()) + size(*moments)


def zero(stage: int) -> int:
    """What DeepSpeed holds between a backward and a step: its weights, its copy and moments, and its gradients."""
    import deepspeed

    config = {
        "train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": True}, "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False, "zero_optimization": {"stage": stage, "stage3_param_persistence_threshold": 0},
    }  # fmt: skip
    made = network()
    engine: Any = deepspeed.initialize(model=made, optimizer=torch.optim.AdamW(made.parameters()), config=config)[0]
    for _ in range(2):
        engine.backward(engine(**{k: v.bfloat16() for k, v in given().items()}).float().square().mean())
        gradients = _zero_gradients(engine.optimizer, stage)
        engine.step()
    copies = "fp32_partitioned_groups_flat" if stage == 3 else "single_partition_of_fp32_groups"
    partitions = list(getattr(engine.optimizer, copies))
    moments = [value for state in engine.optimizer.optimizer.state.values() for value in state.values()]
    weights = [p.ds_tensor if stage == 3 else p for p in made.parameters()]
    # The gradients in float32 live only while it steps.
    return size(*weights, *partitions, *moments) + gradients + size(*partitions)


def _zero_gradients(optimizer: Any, stage: int) -> int:
    if stage == 3:
        return size(optimizer.grad_partitions_flat_buffer)
    return size(*(gradient for group in optimizer.averaged_gradients.values() if group for gradient in group))


def main(strategy: Strategy, store: str, rank: int) -> None:
    """Print what is held and what is counted."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    distributed.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    held = fully_sharded(rank) if strategy == "fsdp2" else zero(int(strategy[-1]))
    counted = memory_of(sizes_of(network()), NO_ACTIVATIONS, Plan(strategy, 2)).state
    print(json.dumps({"held": held, "counted": counted}))  # noqa: T201 - what the test reads
    distributed.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))  # type: ignore[arg-type]
