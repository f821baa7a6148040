"""How many numbers a transformer's parts are, and how many of them a rank holds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from math import ceil, prod

import torch
from torch import nn

from more4d.models.architectures import Architecture
from more4d.models.bundle import build_strag, build_vism
from more4d.models.lora import LoRASettings, add_adapter
from more4d.models.work import GenerationStep

Shape = tuple[int, ...]


@dataclass(frozen=True)
class NetworkSizes:
    """The shapes of a network's parameters: of each block, and of what is around the blocks."""

    trained_blocks: tuple[tuple[Shape, ...], ...]
    frozen_blocks: tuple[tuple[Shape, ...], ...]
    trained_outside: tuple[Shape, ...]
    frozen_outside: tuple[Shape, ...]

    @property
    def trained(self) -> int:
        """Numbers that are trained."""
        return _count((*self.trained_outside, *_chained(self.trained_blocks)))

    @property
    def frozen(self) -> int:
        """Numbers that stay as they are."""
        return _count((*self.frozen_outside, *_chained(self.frozen_blocks)))

    @property
    def outside(self) -> int:
        """Numbers around the blocks."""
        return _count((*self.trained_outside, *self.frozen_outside))

    @property
    def largest_block(self) -> int:
        """Numbers of the largest block."""
        blocks = zip(self.trained_blocks, self.frozen_blocks, strict=True)
        return max((_count((*trained, *frozen)) for trained, frozen in blocks), default=0)

    @property
    def largest_trained_block(self) -> int:
        """Trained numbers of the block that has the most."""
        return max((_count(block) for block in self.trained_blocks), default=0)

    def shard(self, ranks: int) -> tuple[int, int]:
        """(trained, frozen) numbers that the first rank, which holds the most, has of them under FSDP2."""
        trained = (*self.trained_outside, *_chained(self.trained_blocks))
        frozen = (*self.frozen_outside, *_chained(self.frozen_blocks))
        return shard_numbers(trained, ranks), shard_numbers(frozen, ranks)


def shard_numbers(shapes: Iterable[Shape], ranks: int) -> int:
    """Numbers of the first rank where each tensor is cut by rows: ceil(rows / ranks) of each.

    FSDP2 cuts the first dimension alone: a tensor with one row is the first rank's whole.
    """
    return sum(ceil(shape[0] / ranks) * prod(shape[1:]) if shape else 1 for shape in shapes)


def sizes_of(network: nn.Module) -> NetworkSizes:
    """Sizes of a network with a list `blocks`; on the meta device too."""
    blocks = list(network.get_submodule("blocks").children())
    inside = {id(parameter) for block in blocks for parameter in block.parameters()}
    around = [parameter for parameter in network.parameters() if id(parameter) not in inside]
    return NetworkSizes(
        tuple(_shapes(block.parameters(), trained=True) for block in blocks),
        tuple(_shapes(block.parameters(), trained=False) for block in blocks),
        _shapes(around, trained=True),
        _shapes(around, trained=False),
    )


def build_on_meta(architecture: Architecture, step: GenerationStep, lora: LoRASettings | None = None) -> nn.Module:
    """A step's transformer without numbers, all of it to be trained or, with `lora`, a new adapter alone."""
    with torch.device("meta"):
        network = build_strag(architecture) if step == "trajectories" else build_vism(architecture)
        if lora is not None:
            add_adapter(network, lora)
    return network


def preset_sizes(architecture: Architecture, step: GenerationStep, lora: LoRASettings | None = None) -> NetworkSizes:
    """Sizes of a step's transformer."""
    return _preset_sizes(architecture.model_dump_json(), step, lora and lora.model_dump_json())


@cache
def _preset_sizes(architecture_json: str, step: GenerationStep, lora_json: str | None) -> NetworkSizes:
    lora = LoRASettings.model_validate_json(lora_json) if lora_json else None
    return sizes_of(build_on_meta(Architecture.model_validate_json(architecture_json), step, lora))


def _shapes(parameters: Iterable[nn.Parameter], *, trained: bool) -> tuple[Shape, ...]:
    return tuple(tuple(parameter.shape) for parameter in parameters if parameter.requires_grad == trained)


def _count(shapes: Sequence[Shape]) -> int:
    return sum(prod(shape) for shape in shapes)


def _chained(blocks: Iterable[tuple[Shape, ...]]) -> Iterable[Shape]:
    return (shape for block in blocks for shape in block)
