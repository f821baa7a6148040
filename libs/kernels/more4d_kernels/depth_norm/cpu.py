"""The compiled CPU path: float32 arrays for the numba kernels, which release the GIL, on plain threads.

What follows each other in memory is used as it is; tensors of other strides or dtypes are copied first. Results do not
depend on the number of threads: chunks of pixels are cut by the shape alone, and each has sums of its own.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from more4d_kernels.depth_norm.plain import focal_gradient
from more4d_kernels.depth_norm.problem import Normalized
from more4d_kernels.depth_norm.statistics import BINS, LOWEST, SHIFT
from more4d_kernels.memory import empty_float32
from more4d_kernels.threads import spread

# More than there are threads, so that one which is held up does not hold up the others.
STRETCHES = 16


def normalize(
    points: Tensor, intrinsics: Tensor, size: tuple[int, int], dtype: torch.dtype, statistics: bool
) -> Normalized:
    """See `normalize_motion`."""
    from more4d_kernels.depth_norm import cpu_kernel as kernel

    batch, frames, height, width, _ = points.shape
    motion = empty_float32((batch, 3, frames, height, width))
    valid = torch.empty((batch, height, width), dtype=torch.bool)
    arrays = _pixels(points, 2), _units(intrinsics, size), _pixels(motion, 3), _pixels(valid, 1)
    each = kernel.chunks(height * width)
    if not statistics:
        spread(kernel.normalize, batch * each, arrays, stretches=STRETCHES)
        return Normalized(motion.to(dtype), valid, motion.new_empty(0), motion.new_empty(0, dtype=torch.int64))
    largest, counts = np.zeros((batch * each, 3), np.int32), np.zeros((batch * each, 3, BINS), np.int32)
    more = arrays[2].view(np.int32), largest, counts, SHIFT, LOWEST
    spread(kernel.measure, batch * each, (*arrays, *more), stretches=STRETCHES)
    maximum = largest.reshape(batch, each, 3).max(1, initial=0).view(np.float32)
    summed = counts.reshape(batch, each, 3, BINS).sum(1, dtype=np.int64)
    return Normalized(motion.to(dtype), valid, torch.from_numpy(maximum), torch.from_numpy(summed))


def normalize_backward(
    gradient: Tensor, points: Tensor, intrinsics: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Gradients of `points` and `intrinsics`, from that of motion."""
    from more4d_kernels.depth_norm import cpu_kernel as kernel

    batch, _, height, width, _ = points.shape
    dpoints = empty_float32(points.shape)
    partial = np.zeros((batch * kernel.chunks(height * width), 2))
    arrays = _pixels(gradient, 3), _pixels(points, 2), _units(intrinsics, size), _pixels(dpoints, 2), partial
    spread(kernel.normalize_backward, len(partial), arrays, stretches=STRETCHES)
    return dpoints.to(points.dtype), _focal(partial, intrinsics)


def denormalize(motion: Tensor, points0: Tensor, intrinsics: Tensor, size: tuple[int, int]) -> Tensor:
    """See `denormalize_motion`."""
    from more4d_kernels.depth_norm import cpu_kernel as kernel

    batch, _, frames, height, width = motion.shape
    points = empty_float32((batch, frames, height, width, 3))
    arrays = _pixels(motion, 3), _pixels(points0, 1), _units(intrinsics, size), _pixels(points, 2)
    spread(kernel.denormalize, batch * kernel.chunks(height * width), arrays, stretches=STRETCHES)
    return points.to(torch.promote_types(motion.dtype, points0.dtype))


def denormalize_backward(
    gradient: Tensor, motion: Tensor, points0: Tensor, intrinsics: Tensor, size: tuple[int, int], first: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `motion`, `points0` and `intrinsics`, the last two empty unless `first`."""
    from more4d_kernels.depth_norm import cpu_kernel as kernel

    batch, _, _, height, width = motion.shape
    dmotion, dpoints0 = empty_float32(motion.shape), empty_float32(points0.shape)
    partial = np.zeros((batch * kernel.chunks(height * width), 2))
    inputs = _pixels(gradient, 2), _pixels(motion, 3), _pixels(points0, 1), _units(intrinsics, size)
    arrays = *inputs, _pixels(dmotion, 3), _pixels(dpoints0, 1), partial, first
    spread(kernel.denormalize_backward, len(partial), arrays, stretches=STRETCHES)
    if not first:
        return dmotion.to(motion.dtype), points0.new_empty(0), intrinsics.new_empty(0)
    return dmotion.to(motion.dtype), dpoints0.to(points0.dtype), _focal(partial, intrinsics)


def _pixels(tensor: Tensor, place: int) -> np.ndarray[Any, Any]:
    """The tensor as an array with H and W, which begin at dimension `place`, as one; float32 unless it is bool."""
    dtype = torch.bool if tensor.dtype is torch.bool else torch.float32
    tensor = tensor.detach().to(dtype).contiguous()
    shape = tensor.shape
    return tensor.view(*shape[:place], shape[place] * shape[place + 1], *shape[place + 2 :]).numpy()


def _units(intrinsics: Tensor, size: tuple[int, int]) -> np.ndarray[Any, Any]:
    """(W/fx, H/fy, 1) [B, 3] in float32."""
    camera = intrinsics.detach().to(torch.float32).numpy()
    units = np.ones((len(camera), 3), np.float32)
    for axis, pixels in enumerate((size[1], size[0])):
        units[:, axis] = np.float32(pixels) / camera[:, axis, axis]
    return units


def _focal(partial: np.ndarray[Any, Any], intrinsics: Tensor) -> Tensor:
    """Gradient of intrinsics from each chunk's sums."""
    batch = len(intrinsics)
    each = len(partial) // max(batch, 1)
    return focal_gradient(torch.from_numpy(partial).view(batch, each, 2).sum(1).float(), intrinsics)
