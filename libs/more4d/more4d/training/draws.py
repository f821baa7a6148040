"""Random numbers of a training step, a stream a sample: the same however the global batch is cut into ranks and parts.

Shape letters: B samples of this part of the batch.
"""

from collections.abc import Sequence
from functools import cached_property

import torch
from torch import Tensor

from more4d.training.order import step_seed


class Draws:
    """Numbers for the samples at `places` of step `step`'s global batch; drawn on the CPU whatever the device.

    Each call goes on where the one before ended, so a loss that draws in the same order draws the same numbers.
    """

    def __init__(self, seed: int, step: int, places: Sequence[int]) -> None:
        self._seed = step_seed(seed, step)
        self._places = list(places)

    @cached_property
    def _streams(self) -> list[torch.Generator]:
        return [torch.Generator().manual_seed(step_seed(self._seed, place)) for place in self._places]

    @cached_property
    def generator(self) -> torch.Generator:
        """One stream for the whole part, for losses that augment a batch as one: these depend on how it was cut."""
        return torch.Generator().manual_seed(self._seed)

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal numbers of the shape, type and device of `like` [B, ...]."""
        drawn = [torch.randn(like.shape[1:], generator=stream) for stream in self._own(like)]
        return torch.stack(drawn).to(like)

    def uniform(self, like: Tensor) -> Tensor:
        """One number in [0, 1) a sample [B, 1, ...], to be broadcast over `like` [B, ...]."""
        drawn = torch.stack([torch.rand((), generator=stream) for stream in self._own(like)])
        return drawn.to(like).reshape(-1, *[1] * (like.ndim - 1))

    def _own(self, like: Tensor) -> list[torch.Generator]:
        if len(like) != len(self._places):
            raise ValueError(f"draws for {len(self._places)} samples were asked for {len(like)}")
        return self._streams
