"""How large motion is, per sample and channel: the exact maximum, and a histogram that percentiles are read from.

The bins follow the bits of a float32: every octave is cut into 16 bins of equal width, from 2**-12 (0.15 pixels of a
600 pixels wide image) to 2**4. So every implementation finds the same bin for the same float32, without a logarithm.
Bin 0 holds everything down to 0, the last bin everything up to infinity.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

BINS = 256
# Bits below the 4 that cut an octave into 16, and the number that 2**-12 has without them.
SHIFT = 19
LOWEST = (127 - 12) << (23 - SHIFT)
INFINITE = 0x7F800000


@dataclass(frozen=True)
class MotionStatistics:
    """Of |motion| over the valid pixels of all frames, frame 0's zeros among them, before motion is cast.

    Values that are not finite are not counted. Nothing here has a gradient.
    """

    maximum: Tensor
    """[B, 3], exact, in float32 (float64 of float64 points); 0 where nothing was counted."""
    counts: Tensor
    """[B, 3, 256] int64: how many values, rounded to float32, lie in each bin; `bin_edges` says where it begins."""

    def percentile(self, q: float) -> Tensor:
        """The value [B, 3] that q percent of the counted values do not exceed (of rank ceil(q n / 100)).

        Within 1/32 of the true value from 2**-12 to 15.5; exact at q=100. Below 0.00026 it is 0; from 15.5 on it is
        the middle of 15.5 and the maximum. NaN where nothing was counted. Raises ValueError unless 0 <= q <= 100.
        """
        if not 0 <= q <= 100:
            raise ValueError(f"q={q} must be a percentage, from 0 to 100")
        if q == 100:
            return torch.where(self.counts.sum(-1) > 0, self.maximum, math.nan)
        below = self.counts.cumsum(-1)
        rank = torch.ceil(below[..., -1:].double() * q / 100).clamp(min=1)
        found = (below < rank).sum(-1).clamp(max=BINS - 1)
        lower = bin_edges(self.maximum.device).to(self.maximum.dtype)
        upper = torch.cat((lower[1:], lower.new_full((1,), math.inf)))
        middle = (lower[found] + torch.minimum(upper[found], self.maximum)) / 2
        middle = torch.where(found == 0, 0, middle)
        return torch.where(below[..., -1] > 0, middle, math.nan)


def bin_edges(device: torch.device | None = None) -> Tensor:
    """Where [256] each bin begins, in float32: 0, then 2**-12 * 17/16 and on in sixteenths of an octave."""
    bits = (torch.arange(BINS, dtype=torch.int32, device=device) + LOWEST) << SHIFT
    edges = bits.view(torch.float32)
    edges[0] = 0
    return edges


def measure(motion: Tensor, valid: Tensor) -> MotionStatistics:
    """The definition: statistics of `motion` [B, 3, T, H, W] at the pixels that are `valid` [B, H, W]."""
    size = motion.detach().abs()
    counted = torch.isfinite(size) & valid[:, None, None]
    size = torch.where(counted, size, 0).flatten(2)
    maximum = size.amax(-1) if size.shape[-1] else size.new_zeros(size.shape[:2])
    bins = ((size.to(torch.float32).view(torch.int32) >> SHIFT) - LOWEST).clamp(0, BINS - 1).long()
    counts = torch.zeros(*size.shape[:2], BINS, dtype=torch.int64, device=motion.device)
    counts.scatter_add_(-1, bins, counted.flatten(2).long())
    return MotionStatistics(maximum, counts)
