"""Memory for what compiled CPU loops write."""

from collections.abc import Sequence

import torch
from torch import Tensor


def empty_float32(shape: Sequence[int]) -> Tensor:
    """A float32 CPU tensor of any content.

    numpy asks the system for huge pages, torch does not, and the first write to a small page is what takes time.
    """
    import numpy as np

    return torch.from_numpy(np.empty(tuple(shape), np.float32))
