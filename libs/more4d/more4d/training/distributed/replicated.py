"""One process, or DDP: every rank holds all of the model."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import cast

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from more4d.training.distributed.pieces import Read
from more4d.training.distributed.strategy import Held, LossModule, Strategy, tensors_of
from more4d.training.distributed.world import World
from more4d.training.draws import Draws
from more4d.training.objective import Objective
from more4d.training.optimizers import owner


class Replicated(Strategy):
    """The whole module on every rank; with more than one, DDP exchanges gradients."""

    def __init__(
        self,
        world: World,
        objective: Objective,
        optimizers: Sequence[Optimizer],
        precision: str,
        accelerator: Accelerator,
    ) -> None:
        super().__init__(world, objective, precision)
        objective.module.to(world.device)
        self._accelerator = accelerator
        self._wrapped = cast(nn.Module, accelerator.prepare(LossModule(objective)))
        self._prepared = [accelerator.prepare(optimizer) for optimizer in optimizers]
        self.optimizers = optimizers

    def _forward(self, batch: dict[str, Tensor], draws: Draws) -> dict[str, Tensor]:
        return self._wrapped(batch, draws)

    def part(self, *, last: bool) -> AbstractContextManager[None]:
        """DDP exchanges gradients at the last part alone."""
        spread = isinstance(self._wrapped, DistributedDataParallel)
        return nullcontext() if last or not spread else self._accelerator.no_sync(self._wrapped)

    def backward(self, loss: Tensor) -> None:
        """Through accelerate, which knows of gradient scaling."""
        self._accelerator.backward(loss)

    def clip(self, limit: float) -> float:
        """Scale the gradient down to `limit` at once."""
        parameters = self.objective.module.parameters()
        return float(cast(Tensor, self._accelerator.clip_grad_norm_(parameters, limit)))

    def step(self) -> None:
        """Move the weights."""
        for optimizer in self._prepared:
            optimizer.step()
            optimizer.zero_grad()

    def model(self) -> Iterator[Held]:
        """Every tensor, whole."""
        for name, tensor in tensors_of(self.objective.module):
            yield whole(f"model/{name}", tensor)

    def optimizer(self) -> Iterator[Held]:
        """Every entry of every parameter, whole."""
        names: dict[Tensor, str] = {p: name for name, p in self.objective.module.named_parameters()}
        for optimizer in self.optimizers:
            for parameter, state in optimizer.state.items():
                for entry, value in state.items():
                    yield whole(f"optimizer/{names[parameter]}/{entry}", value)

    @torch.no_grad()
    def load_optimizer(self, names: Sequence[str], read: Read) -> None:
        """Entries in the parameter's shape, or a single number."""
        parameters = dict(self.objective.module.named_parameters())
        for name in names:
            if name.startswith("optimizer/"):
                key, entry = name.removeprefix("optimizer/").rsplit("/", 1)
                parameter = parameters[key]
                owner(self.optimizers, parameter).state[parameter][entry] = _entry(name, entry, parameter, read)


def whole(name: str, tensor: Tensor) -> Held:
    """A tensor that every rank holds; its values are the tensor's own memory."""
    return Held(name, tuple(tensor.shape), 0, tensor.detach().view(-1), everywhere=True)


def _entry(name: str, entry: str, parameter: Tensor, read: Read) -> Tensor:
    if entry == "step":
        # AdamW keeps its count of steps on the CPU.
        return read(name, 0, 1).reshape(())
    return read(name, 0, parameter.numel()).reshape(parameter.shape).to(parameter.device)
