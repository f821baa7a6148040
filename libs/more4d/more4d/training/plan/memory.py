"""Bytes that each rank holds of weights, gradients, optimizer state, average and buffers, under each strategy.

Letters: T trained and Z frozen numbers, R ranks, O numbers around the blocks, K numbers of the largest block (K' of them
trained). In bfloat16; in float32 what is 2 bytes below is 4, and nothing is kept twice.

| | weights | gradients | optimizer | average | buffers |
|---|---|---|---|---|---|
| single, ddp | 4·(T+Z) | 4·T, ddp 8·T (its buckets) | 8·T | 4·(T+Z) | 2·(T+Z), autocast's copies |
| fsdp2 | 4·(T+Z)/R | 4·T/R | 8·T/R | 4·(T+Z)/R | 4·K + 2·O + 6·K' |
| zero2 | 2·(T+Z) | 2·T/R | 16·T/R | 4·T/R | 6·min(T, bucket) |
| zero3 | 2·(T+Z)/R | 2·T/R | 16·T/R | 4·T/R | 2·min(T+Z, live) + 4·min(T, bucket) |

Under fsdp2 /R means the rows of the first rank, ceil(rows/R) of every tensor; two blocks are gathered in the compute type (one
computes, the next arrives) and one block's gradients are summed in float32. ZeRO's optimizer is the float32 weights, two
moments, and the gradients in float32 when it steps. `-offload` moves ZeRO's gradients, optimizer and average, in the third
stage also the weights, into the host's memory.
"""

from dataclasses import dataclass, replace
from typing import Literal, get_args

from more4d.models.recompute import Recompute
from more4d.training.plan.activations import ActivationSizes
from more4d.training.plan.sizes import NetworkSizes

Strategy = Literal["single", "ddp", "zero2", "zero2-offload", "zero3", "zero3-offload", "fsdp2"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
Precision = Literal["fp32", "bf16"]
ZERO_BUCKET = 5 * 10**8
"""Numbers in each of ZeRO's buckets: reduce_bucket_size and allgather_bucket_size of infra/deepspeed."""
ZERO_LIVE = 10**9
"""Numbers that ZeRO-3 keeps gathered at most: stage3_max_live_parameters of infra/deepspeed."""


@dataclass(frozen=True)
class Plan:
    """How a training is spread and what it computes again."""

    strategy: Strategy
    ranks: int
    recompute: Recompute = "none"
    part_size: int = 1
    """Samples that a rank takes at once."""
    precision: Precision = "bf16"
    average: bool = False


@dataclass(frozen=True)
class Memory:
    """Bytes on each rank's device, and in the host's memory for each rank."""

    weights: int
    gradients: int
    optimizer: int
    average: int
    buffers: int
    activations: int = 0
    host: int = 0

    @property
    def device(self) -> int:
        """All that is on the device."""
        return self.state + self.buffers + self.activations

    @property
    def state(self) -> int:
        """What stays from step to step, and the gradients."""
        return self.weights + self.gradients + self.optimizer + self.average


def memory_of(sizes: NetworkSizes, activations: ActivationSizes, plan: Plan) -> Memory:
    """What the rank that holds the most holds."""
    b = 2 if plan.precision == "bf16" else 4
    if plan.strategy in ("single", "ddp"):
        state = _replicated(sizes, plan, b)
    elif plan.strategy == "fsdp2":
        state = _fully_sharded(sizes, plan, b)
    else:
        state = _zero(sizes, plan, b)
    return replace(state, activations=plan.part_size * activations.peak(plan.recompute, b))


def _replicated(sizes: NetworkSizes, plan: Plan, b: int) -> Memory:
    trained, every = sizes.trained, sizes.trained + sizes.frozen
    return Memory(
        weights=4 * every,
        gradients=(8 if plan.strategy == "ddp" else 4) * trained,
        optimizer=8 * trained,
        average=4 * every * plan.average,
        buffers=2 * every if b == 2 else 0,
    )


def _fully_sharded(sizes: NetworkSizes, plan: Plan, b: int) -> Memory:
    trained, frozen = sizes.shard(plan.ranks)
    gathered = 2 * b * sizes.largest_block + b * sizes.outside
    summed = (b + 4) * sizes.largest_trained_block
    return Memory(
        weights=4 * (trained + frozen),
        gradients=4 * trained,
        optimizer=8 * trained,
        average=4 * (trained + frozen) * plan.average,
        buffers=gathered + summed,
    )


def _zero(sizes: NetworkSizes, plan: Plan, b: int) -> Memory:
    trained, every = sizes.trained, sizes.trained + sizes.frozen
    share = -(-trained // plan.ranks)
    third = plan.strategy.startswith("zero3")
    weights = -(-b * every // plan.ranks) if third else b * every
    # In float32 ZeRO's own copy and the gradients beside it are kept all the same.
    gradients, optimizer, average = b * share, 16 * share, 4 * share * plan.average
    # One bucket is filled while the one before it is summed; the second stage gathers moved weights in a third.
    bucket = b * min(trained, ZERO_BUCKET)
    buffers = 2 * bucket + b * min(every, ZERO_LIVE) if third else 3 * bucket
    if not plan.strategy.endswith("-offload"):
        return Memory(weights, gradients, optimizer, average, buffers)
    moved = gradients + optimizer + average + (weights if third else 0)
    return Memory(0 if third else weights, 0, 0, 0, buffers, host=moved)
