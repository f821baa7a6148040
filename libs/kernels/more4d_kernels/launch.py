"""One Triton kernel with all that it is started with: run on a GPU or in the interpreter, or compiled without either.

Triton is imported when something is launched, never by importing this.
"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

MOST_SAMPLES = 65535
"""CUDA's limit for the second dimension of a grid."""


@dataclass(frozen=True)
class Setting:
    """What may be tuned of a launch without changing what it computes beyond rounding."""

    num_warps: int
    num_stages: int = 1
    """Rows in flight: 1 loads a row when it is needed, 2 and more load that many rows ahead."""
    strip: int = 1
    """Rows (or pixels) that one program works on, where the kernel leaves that open."""


@dataclass(frozen=True)
class Launch:
    """A kernel, its grid (programs of a sample, samples) and its arguments by name, constexprs included.

    Tensors may be on the meta device.
    """

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    num_warps: int

    @property
    def options(self) -> dict[str, Any]:
        """What the compiler is told; fusing multiply and add is said, because Triton's default changes."""
        return {"num_warps": self.num_warps, "enable_fp_fusion": True}

    def run(self) -> None:
        """Start it on the device of its tensors; a grid with nothing in it is not started."""
        if 0 in self.grid:
            return
        if max(self.grid[1:], default=0) > MOST_SAMPLES:
            raise ValueError(
                f"{max(self.grid[1:])} samples are more than a GPU takes at once, {MOST_SAMPLES}: split them"
            )
        device = next(value.device for value in self.arguments.values() if isinstance(value, Tensor))
        if device.type == "cuda":
            with torch.cuda.device(device):
                self.kernel[self.grid](**self.arguments, **self.options)
        else:
            self.kernel[self.grid](**self.arguments, **self.options)

    def with_arguments(self, **changed: Any) -> "Launch":
        """The same launch with other arguments."""
        return replace(self, arguments=self.arguments | changed)


def streaming_multiprocessors(device: torch.device) -> int:
    """How many programs a device runs at the least; without a GPU, enough to split the work in tests."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).multi_processor_count
    # An H100's or H200's where a launch is only compiled; few where it is interpreted.
    return 132 if device.type == "meta" else 3


def contiguous_rows(tensor: Tensor) -> Tensor:
    """The tensor with neighbouring elements in its last dimension; a copy only where they are not."""
    return tensor if tensor.stride(-1) == 1 or tensor.shape[-1] <= 1 else tensor.contiguous()
