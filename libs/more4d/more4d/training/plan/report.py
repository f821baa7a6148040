"""Which GPUs can train a preset's networks, and how, as a Markdown table."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from more4d.models.architectures import Architecture
from more4d.models.lora import LoRASettings
from more4d.models.work import GenerationStep
from more4d.training.plan.activations import activation_sizes
from more4d.training.plan.choose import GB, HEADROOM, Fit, Training, best_fit, smallest
from more4d.training.plan.memory import Precision, Strategy
from more4d.training.plan.shards import sharded_numbers
from more4d.training.plan.sizes import build_on_meta, preset_sizes

PARTS = ("weights", "gradients", "optimizer", "average", "buffers", "activations", "device", "host")


@dataclass(frozen=True)
class Question:
    """What is asked: `batch_size` of 0 is one sample on each GPU."""

    gpus: Sequence[int]
    memory_gb: Sequence[int]
    strategies: Sequence[Strategy]
    batch_size: int = 0
    precision: Precision = "bf16"
    average: bool = False


@dataclass(frozen=True)
class Kind:
    """One training of a preset."""

    name: str
    step: GenerationStep
    lora: LoRASettings | None


KINDS = (
    Kind("4D-STraG", "trajectories", None),
    Kind("4D-STraG, LoRA", "trajectories", LoRASettings()),
    Kind("4D-ViSM", "views", None),
    Kind("4D-ViSM, LoRA", "views", LoRASettings()),
)


def report(architecture: Architecture, question: Question) -> Iterator[str]:
    """The table's lines; every network is built and sharded for every number of GPUs to count what a rank holds.

    Raises ValueError where the batch cannot be divided among the GPUs.
    """
    columns = ["training", "GPUs", "GB each", "plan", "at once", *PARTS[:-2], "GB on a GPU", "host GB a GPU"]
    yield "| " + " | ".join(columns) + " |"
    yield "|" + "---|" * len(columns)
    for kind in KINDS:
        for ranks in question.gpus:
            training = _training(architecture, kind, question, ranks)
            require_shards(architecture, kind, training, ranks)
            for memory in question.memory_gb:
                yield _row(kind, ranks, memory, training, question)
    yield f"\nGB are 10^9 bytes; a plan fits that takes {HEADROOM:.0%} of a GPU or less. Precision {question.precision}."


def require_shards(architecture: Architecture, kind: Kind, training: Training, ranks: int) -> None:
    """Raises AssertionError unless FSDP2 gives the first rank what the plan counts for it."""
    held = sharded_numbers(build_on_meta(architecture, kind.step, kind.lora), ranks)
    assert held == training.sizes.shard(ranks), f"FSDP2 holds {held} numbers, the plan counts otherwise"


def _training(architecture: Architecture, kind: Kind, question: Question, ranks: int) -> Training:
    rank = kind.lora.rank if kind.lora else 0
    return Training(
        preset_sizes(architecture, kind.step, kind.lora),
        activation_sizes(architecture, kind.step, rank=rank),
        question.batch_size or ranks,
        question.precision,
        question.average,
    )


def _row(kind: Kind, ranks: int, memory: int, training: Training, question: Question) -> str:
    fit = best_fit(training, ranks, memory * GB, strategies=question.strategies)
    shown = fit or smallest(training, ranks, strategies=question.strategies)
    numbers = [f"{getattr(shown.memory, part) / GB:.1f}" for part in PARTS]
    cells = [
        kind.name,
        str(ranks),
        str(memory),
        _plan(shown, fits=fit is not None),
        str(shown.plan.part_size),
        *numbers,
    ]
    return "| " + " | ".join(cells) + " |"


def _plan(fit: Fit, *, fits: bool) -> str:
    words = f"{fit.plan.strategy}, recompute {fit.plan.recompute}"
    return words if fits else f"**does not fit**; least: {words}"
