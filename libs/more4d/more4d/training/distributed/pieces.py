"""A rank's share of the state, as every strategy can give it: contiguous runs of flattened tensors.

DDP holds whole tensors, FSDP2 rows of them, ZeRO runs of their numbers: all of these are a start and a length. A state
saved as pieces therefore loads on any number of ranks and under any strategy.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Piece:
    """`values` [n] are the numbers `start` .. `start` + n of the flattened tensor `name`, whose whole shape is `shape`.

    Over all ranks every number of every tensor is in exactly one piece. Names: `model/<key of the state dict>`,
    `ema/<key>`, `optimizer/<parameter>/<entry>`, `rng/<rank>/<generator>`.
    """

    name: str
    shape: tuple[int, ...]
    start: int
    values: Tensor

    @property
    def end(self) -> int:
        """One past the last number."""
        return self.start + self.values.numel()


Read = Callable[[str, int, int], Tensor]
"""The numbers [count] from `start` on of the flattened tensor of that name, in the type it was stored in.

Raises KeyError where the state has no such tensor, ValueError where it is shorter.
"""
