"""What `madanorm` and `modulated_norm` are asked to compute, and what comes out, in one form for every backend.

Suffixes: B batch, L tokens (prefix + frames * S), S spatial positions of one frame, D width.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Problem:
    """Checked inputs: `time_*` [B, D] or both [B, L, D]; without motion all tokens are prefix."""

    x: Tensor
    time_scale: Tensor | None = None
    time_shift: Tensor | None = None
    motion_scale: Tensor | None = None
    motion_shift: Tensor | None = None
    gate: Tensor | None = None
    update: Tensor | None = None
    update_gate: Tensor | None = None
    frames: int = 1
    prefix: int = 0
    eps: float = 1e-6

    @property
    def positions(self) -> int:
        """S; 0 without motion."""
        return 0 if self.motion_scale is None else self.motion_scale.shape[1]

    @property
    def per_token(self) -> bool:
        """Whether the timestep's modulation has a row for each token."""
        return self.time_scale is not None and self.time_scale.ndim == 3

    @property
    def gate_per_token(self) -> bool:
        """Whether the update's gate has a row for each token."""
        return self.update_gate is not None and self.update_gate.ndim == 3

    @property
    def inside(self) -> torch.dtype:
        """What is computed in: float32, or float64 for float64."""
        return torch.promote_types(self.x.dtype, torch.float32)


@dataclass(frozen=True)
class Normed:
    """y and x + gate * update [B, L, D] (empty without an update) in x's dtype; mean and rstd [B, L], float32 or more."""

    y: Tensor
    total: Tensor
    mean: Tensor
    rstd: Tensor


@dataclass(frozen=True)
class Gradients:
    """One for each tensor of `Problem`, in its shape and dtype; None for what it does not have.

    That of an update without a gate is None too: it is that of x.
    """

    x: Tensor
    time_scale: Tensor | None
    time_shift: Tensor | None
    motion_scale: Tensor | None
    motion_shift: Tensor | None
    gate: Tensor | None
    update: Tensor | None
    update_gate: Tensor | None


def empty_outputs(problem: Problem) -> Normed:
    """Memory for the outputs, contiguous whatever the inputs' strides."""
    x = problem.x
    statistics = x.shape[:2]
    return Normed(
        y=x.new_empty(x.shape),
        total=x.new_empty(0 if problem.update is None else x.shape),
        mean=x.new_empty(statistics, dtype=problem.inside),
        rstd=x.new_empty(statistics, dtype=problem.inside),
    )


def empty_gradients(problem: Problem) -> Gradients:
    """Memory for the gradients, contiguous whatever the inputs' strides."""

    def like(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.new_empty(tensor.shape)

    return Gradients(
        problem.x.new_empty(problem.x.shape),
        *(
            like(tensor)
            for tensor in (
                problem.time_scale, problem.time_shift, problem.motion_scale, problem.motion_shift, problem.gate,
                None if problem.update_gate is None else problem.update, problem.update_gate,
            )
        ),
    )  # fmt: skip
