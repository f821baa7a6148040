"""Which plan a training should take on given GPUs: the fastest that fits."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from more4d.models.recompute import Recompute
from more4d.training.plan.activations import ActivationSizes
from more4d.training.plan.memory import Memory, Plan, Precision, Strategy, memory_of
from more4d.training.plan.sizes import NetworkSizes

HEADROOM = 0.92
"""Share of a GPU's memory to plan with: the rest goes to the driver, to NCCL and to fragments."""
PREFERRED: tuple[Strategy, ...] = ("ddp", "fsdp2", "zero3-offload")
"""From fastest to smallest; DeepSpeed's other stages hold what FSDP2 holds, or more."""
RECOMPUTE: tuple[Recompute, ...] = ("none", "selective", "full")
GB = 10**9


@dataclass(frozen=True)
class Training:
    """What is planned: the network's sizes, one sample's activations, and how the batch may be divided."""

    sizes: NetworkSizes
    activations: ActivationSizes
    batch_size: int
    precision: Precision = "bf16"
    average: bool = False

    def memory(self, plan: Plan) -> Memory:
        """What a plan holds."""
        return memory_of(self.sizes, self.activations, plan)


@dataclass(frozen=True)
class Fit:
    """A plan with what it holds; `accumulate` parts make the global batch."""

    plan: Plan
    memory: Memory
    accumulate: int


def best_fit(
    training: Training, ranks: int, device_bytes: int, *, strategies: Sequence[Strategy] = PREFERRED
) -> Fit | None:
    """The fastest plan that fits into `device_bytes` on each of `ranks` GPUs; None where none does."""
    fits = (fit for fit in _candidates(training, ranks, strategies) if fit.memory.device <= HEADROOM * device_bytes)
    return next(fits, None)


def smallest(training: Training, ranks: int, *, strategies: Sequence[Strategy] = PREFERRED) -> Fit:
    """The plan that holds least on a GPU, whether it fits or not."""
    return min(_candidates(training, ranks, strategies), key=lambda fit: fit.memory.device)


def require_fit(training: Training, plan: Plan, device_bytes: int) -> Memory:
    """What a plan holds. Raises ValueError, saying what to change, where that is more than the device has."""
    memory = training.memory(plan)
    if memory.device <= HEADROOM * device_bytes:
        return memory
    parts = ", ".join(
        f"{name} {getattr(memory, name) / GB:.1f}"
        for name in ("weights", "gradients", "optimizer", "average", "buffers", "activations")
    )
    raise ValueError(
        f"strategy={plan.strategy} with recompute={plan.recompute} needs {memory.device / GB:.1f} GB on each of "
        f"{plan.ranks} GPUs ({parts}), which have {device_bytes / GB:.1f}: {_advice(training, plan, device_bytes)}"
    )


def _advice(training: Training, plan: Plan, device_bytes: int) -> str:
    fit = best_fit(training, plan.ranks, device_bytes)
    if fit is None:
        return "no strategy fits; train an adapter (lora), a smaller preset or a smaller video, or on larger GPUs"
    settings = f"set strategy={fit.plan.strategy}, recompute={fit.plan.recompute}, accumulate={fit.accumulate}"
    host = f", and {fit.memory.host / GB:.1f} GB of the host's memory for each" if fit.memory.host else ""
    return f"{settings} ({fit.memory.device / GB:.1f} GB{host})"


def _candidates(training: Training, ranks: int, strategies: Iterable[Strategy]) -> Iterator[Fit]:
    """Every plan, fastest first: a strategy that exchanges less, then less recomputation, then larger parts."""
    for strategy in strategies:
        if strategy == "ddp" and ranks == 1:
            strategy = "single"
        for recompute in RECOMPUTE:
            for part_size, accumulate in parts(training.batch_size, ranks):
                plan = Plan(strategy, ranks, recompute, part_size, training.precision, training.average)
                yield Fit(plan, training.memory(plan), accumulate)


def parts(batch_size: int, ranks: int) -> list[tuple[int, int]]:
    """(samples a rank takes at once, parts one after the other), largest parts first. Raises ValueError where none is whole."""
    if batch_size % ranks:
        raise ValueError(
            f"a batch of {batch_size} cannot be divided among {ranks} ranks: make it a multiple of {ranks}"
        )
    own = batch_size // ranks
    return [(own // count, count) for count in range(1, own + 1) if own % count == 0]
