"""The exponential moving average of the weights, of what each rank holds."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from more4d.training.distributed.pieces import Piece, Read
from more4d.training.distributed.strategy import Held, Strategy, load_held, owned
from more4d.training.distributed.world import World


class Average:
    """Follows a strategy's module: in single precision, wherever the weights are."""

    def __init__(self, strategy: Strategy) -> None:
        self._strategy = strategy
        self._weights = list(strategy.model())
        self._average = [_copy(held) for held in self._weights]
        floating = [held.values.is_floating_point() for held in self._weights]
        self._moving = [place for place, moves in enumerate(floating) if moves]
        self._fixed = [place for place, moves in enumerate(floating) if not moves]

    @torch.no_grad()
    def update(self, decay: float) -> None:
        """average = decay · average + (1 - decay) · weights; whole numbers are copied."""
        average = [self._average[place].values for place in self._moving]
        weights = [self._weights[place].values.float() for place in self._moving]
        torch._foreach_lerp_(average, weights, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
        for place in self._fixed:
            self._average[place].values.copy_(self._weights[place].values)

    def pieces(self, world: World) -> Iterator[Piece]:
        """This rank's share of the average."""
        return (owned(held, world) for held in self._average)

    def load(self, read: Read) -> None:
        """Take over a saved average."""
        load_held(iter(self._average), read)

    @contextmanager
    @torch.no_grad()
    def in_place(self) -> Iterator[None]:
        """The module with the average as its weights."""
        kept = [held.values.clone() for held in self._weights]
        _write(self._weights, [held.values for held in self._average])
        self._strategy.show()
        try:
            yield
        finally:
            _write(self._weights, kept)
            self._strategy.show()


def _copy(held: Held) -> Held:
    values = held.values.detach().clone()
    name = held.name.replace("model/", "ema/", 1)
    return replace(held, name=name, values=values.float() if values.is_floating_point() else values)


def _write(state: Sequence[Held], values: Sequence[Tensor]) -> None:
    for held, new in zip(state, values, strict=True):
        held.values.copy_(new)
