"""What the loop asks of a way to spread a training over processes."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from more4d.training.distributed.pieces import Piece, Read
from more4d.training.distributed.world import World
from more4d.training.draws import Draws
from more4d.training.objective import Objective


@dataclass(frozen=True, eq=False)
class Held:
    """A run of a flattened tensor that this rank holds and may write to; `everywhere` where all ranks hold the same."""

    name: str
    shape: tuple[int, ...]
    start: int
    values: Tensor
    everywhere: bool


class Strategy(ABC):
    """A training's module and optimizers, spread over the world's ranks.

    The gradient of every step is the mean over the ranks of the gradients that `backward` was given, summed over parts.
    """

    optimizers: Sequence[Optimizer]

    def __init__(self, world: World, objective: Objective, precision: str) -> None:
        self.world, self.objective = world, objective
        self._autocast = precision == "bf16"

    def loss(self, batch: dict[str, Tensor], draws: Draws) -> dict[str, Tensor]:
        """What the objective's loss is of this rank's part of the batch."""
        with torch.autocast(self.world.device.type, torch.bfloat16, enabled=self._autocast):
            return self._forward(batch, draws)

    def _forward(self, batch: dict[str, Tensor], draws: Draws) -> dict[str, Tensor]:
        return self.objective.loss(batch, draws)

    def part(self, *, last: bool) -> AbstractContextManager[None]:
        """Around forward and backward of one part: before the `last` one, gradients need not be exchanged."""
        del last
        return nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss` to those that are there."""
        loss.backward()

    @abstractmethod
    def clip(self, limit: float) -> float:
        """The norm of the whole gradient, which is no longer than `limit` afterwards (or after `step`)."""

    @abstractmethod
    def step(self) -> None:
        """Move the weights, and forget the gradients."""

    def skip(self) -> None:
        """Forget the gradients without moving a weight."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()

    @abstractmethod
    def model(self) -> Iterator[Held]:
        """What this rank holds of the module's state dict, `model/...`, in the precision that training keeps."""

    @abstractmethod
    def optimizer(self) -> Iterator[Held]:
        """What this rank holds of the optimizers' state, `optimizer/<parameter>/<entry>`; nothing before the first step."""

    @abstractmethod
    def load_optimizer(self, names: Sequence[str], read: Read) -> None:
        """Take over the state of those `names` that begin with `optimizer/`."""

    def show(self) -> None:
        """After `model()` was written to: let the module compute with it on every rank."""
        return

    def pieces(self) -> Iterator[Piece]:
        """This rank's share of the state of model and optimizers, every number on one rank only."""
        for held in (*self.model(), *self.optimizer()):
            yield owned(held, self.world)

    def load(self, names: Sequence[str], read: Read) -> None:
        """Take over a saved state: module and optimizers."""
        load_held(self.model(), read)
        self.show()
        self.load_optimizer(names, read)


def owned(held: Held, world: World) -> Piece:
    """The share of what is held that this rank saves: of what all ranks hold, an equal run; otherwise all of it."""
    if not held.everywhere:
        return Piece(held.name, held.shape, held.start, held.values)
    count = held.values.numel()
    first, end = count * world.rank // world.ranks, count * (world.rank + 1) // world.ranks
    return Piece(held.name, held.shape, held.start + first, held.values[first:end])


@torch.no_grad()
def load_held(state: Iterator[Held], read: Read) -> None:
    """Fill what is held from a saved state."""
    for held in state:
        held.values.copy_(read(held.name, held.start, held.values.numel()))


def tensors_of(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What of a module's state dict training can change: trained parameters and buffers, by name.

    What is frozen stays as its own file has it: under LoRA that is nearly everything.
    """
    for name, tensor in module.state_dict(keep_vars=True).items():
        if tensor.requires_grad or not isinstance(tensor, nn.Parameter):
            yield name, tensor


class LossModule(nn.Module):
    """The objective as a module whose forward is the loss: what wrappers need, since they act when it is called."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.module = objective.module
        self._loss = objective.loss

    def forward(self, batch: dict[str, Tensor], draws: Draws) -> dict[str, Tensor]:
        """The objective's scalars."""
        return self._loss(batch, draws)
