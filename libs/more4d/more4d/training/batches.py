"""A rank's parts of every global batch, read ahead by a thread."""

import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from more4d.training.distributed.world import World
from more4d.training.objective import Objective
from more4d.training.order import Order
from more4d.training.settings import TrainSettings


@dataclass(frozen=True, eq=False)
class Part:
    """Some samples of a global batch: their tensors, their numbers, and their places in the batch."""

    tensors: dict[str, Tensor]
    numbers: Sequence[int]
    places: Sequence[int]


class Batches:
    """The parts of one step after the other, from `step` on; `waited` is how long the last one was not ready, in seconds."""

    def __init__(self, objective: Objective, settings: TrainSettings, world: World, *, seed: int, step: int) -> None:
        self._objective, self._steps, self._ahead = objective, settings.steps, settings.prefetch
        self._order = Order(objective.buckets, settings.batch_size, seed)
        self._places = part_places(settings.batch_size, world, settings.accumulate)
        self._next = step
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="batches") if self._ahead else None
        self._coming: deque[Future[list[Part]]] = deque()
        self.waited = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._reader:
            self._reader.shutdown(wait=True, cancel_futures=True)

    def take(self) -> list[Part]:
        """The parts of the next step. What reading them raised is raised here, at the step that they belong to."""
        began = time.perf_counter()
        parts = self._ready() if self._reader else self._read(self._next)
        self._next += 1
        self.waited = time.perf_counter() - began
        if self._reader:
            self._ask()
        return parts

    def _ready(self) -> list[Part]:
        self._ask()
        return self._coming.popleft().result()

    def _ask(self) -> None:
        """Let the thread read on, to `prefetch` steps ahead of the one that is wanted next."""
        assert self._reader is not None
        while len(self._coming) < self._ahead and self._next + len(self._coming) < self._steps:
            self._coming.append(self._reader.submit(self._read, self._next + len(self._coming)))

    def _read(self, step: int) -> list[Part]:
        numbers = self._order.batch(step)
        own = [[numbers[place] for place in places] for places in self._places]
        batches = [self._objective.batch(torch.tensor(part)) for part in own]
        return [Part(*each) for each in zip(batches, own, self._places, strict=True)]


def part_places(batch_size: int, world: World, parts: int) -> list[list[int]]:
    """The places in the global batch that this rank learns from, a list a part.

    Raises ValueError where the batch does not divide among ranks and parts.
    """
    size, rest = divmod(batch_size, world.ranks * parts)
    if rest or not size:
        raise ValueError(
            f"batch_size={batch_size} does not divide among {world.ranks} ranks of accumulate={parts} parts each: "
            f"make it a multiple of {world.ranks * parts}"
        )
    starts = [(part * world.ranks + world.rank) * size for part in range(parts)]
    return [list(range(start, start + size)) for start in starts]
