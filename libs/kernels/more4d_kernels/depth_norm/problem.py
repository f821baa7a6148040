"""What `normalize_motion` returns inside, in one form for every backend."""

from typing import NamedTuple

import torch
from torch import Tensor

from more4d_kernels.depth_norm.reference import computed_in
from more4d_kernels.depth_norm.statistics import BINS


class Normalized(NamedTuple):
    """motion [B, 3, T, H, W], valid [B, H, W], and of the statistics maximum [B, 3] and counts [B, 3, 256]."""

    motion: Tensor
    valid: Tensor
    maximum: Tensor
    """Empty without statistics, like `counts`."""
    counts: Tensor


def empty_outputs(points: Tensor, dtype: torch.dtype, statistics: bool) -> Normalized:
    """Memory for the outputs of `points` [B, T, H, W, 3], contiguous whatever the input's strides."""
    batch, frames, height, width, _ = points.shape
    return Normalized(
        motion=points.new_empty((batch, 3, frames, height, width), dtype=dtype),
        valid=points.new_empty((batch, height, width), dtype=torch.bool),
        maximum=points.new_empty((batch, 3) if statistics else (0,), dtype=computed_in(points)),
        counts=points.new_empty((batch, 3, BINS) if statistics else (0,), dtype=torch.int64),
    )
