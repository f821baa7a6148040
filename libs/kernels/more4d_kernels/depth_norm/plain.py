"""Forward and backward in plain PyTorch: for float64, and where nothing is compiled. The forward is the definition's.

The backward is the formula that the compiled kernels follow. With u = (W/fx, H/fy, 1), f = z0 u, m = (p - p0) / f in
a valid pixel, e_z = (0, 0, 1), and sums over frames (and pixels, for the focal lengths):

    normalise:    d_p = g / f                d_p0 = -sum g / f - e_z sum g·m / z0        d_fx = sum g_x m_x / fx
    denormalise:  d_m = g f                  d_p0 = sum g + e_z sum g·(m u)              d_fx = -sum g_x m_x f_x / fx

In a pixel that is not valid motion has no part: normalising has no gradient there, and denormalising only that of p0.
"""

import torch
from torch import Tensor

from more4d_kernels.depth_norm.problem import Normalized
from more4d_kernels.depth_norm.reference import (
    computed_in,
    denormalize_motion_reference,
    frustum_size,
    normalize_motion_reference,
    valid_first_points,
)
from more4d_kernels.depth_norm.statistics import measure


def normalize(
    points: Tensor, intrinsics: Tensor, size: tuple[int, int], dtype: torch.dtype, statistics: bool
) -> Normalized:
    """See `normalize_motion`."""
    motion, valid = normalize_motion_reference(points, intrinsics, size)
    outputs = motion.to(dtype).contiguous(), valid
    if not statistics:
        return Normalized(*outputs, motion.new_empty(0), motion.new_empty(0, dtype=torch.int64))
    measured = measure(motion, valid)
    return Normalized(*outputs, measured.maximum, measured.counts)


def normalize_backward(
    gradient: Tensor, points: Tensor, intrinsics: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Gradients of `points` and `intrinsics`, from that of motion [B, 3, T, H, W]."""
    points_inside = points.to(computed_in(points))
    first = points_inside[:, 0]
    valid = valid_first_points(first)
    frustum = frustum_size(first[..., 2], valid, intrinsics, size).unsqueeze(1)
    keep = valid[:, None, ..., None]
    given = torch.where(keep, gradient.to(first.dtype).permute(0, 2, 3, 4, 1), 0)
    scaled = given / frustum
    product = (given * torch.where(keep, points_inside - first.unsqueeze(1), 0) / frustum).sum(1)
    # Frame 0 less itself is always 0: its own gradient is not added only to be taken away again.
    at_first = -scaled[:, 1:].sum(1)
    at_first[..., 2] -= product.sum(-1) / frustum[:, 0, ..., 2]
    dpoints = torch.cat((at_first.unsqueeze(1), scaled[:, 1:]), dim=1)
    return dpoints.to(points.dtype), focal_gradient(product.sum((1, 2)), intrinsics)


def denormalize(motion: Tensor, points0: Tensor, intrinsics: Tensor, size: tuple[int, int]) -> Tensor:
    """See `denormalize_motion`."""
    return denormalize_motion_reference(motion, points0, intrinsics, size).contiguous()


def denormalize_backward(
    gradient: Tensor, motion: Tensor, points0: Tensor, intrinsics: Tensor, size: tuple[int, int], first: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `motion`, `points0` and `intrinsics`, the last two empty unless `first`."""
    inside = computed_in(gradient)
    points0_inside = points0.to(inside)
    valid = valid_first_points(points0_inside)
    frustum = frustum_size(points0_inside[..., 2], valid, intrinsics, size)
    keep = valid[:, None, ..., None]
    given = gradient.to(inside)
    dmotion = torch.where(keep, given * frustum.unsqueeze(1), 0).permute(0, 4, 1, 2, 3)
    dmotion = dmotion.to(motion.dtype).contiguous()
    if not first:
        return dmotion, points0.new_empty(0), intrinsics.new_empty(0)
    moved = torch.where(keep, motion.to(inside).permute(0, 2, 3, 4, 1), 0)
    product = torch.where(keep, given * moved, 0).sum(1) * frustum
    dpoints0 = given.sum(1)
    dpoints0[..., 2] += product.sum(-1) / torch.where(valid, points0_inside[..., 2], 1)
    return dmotion, dpoints0.to(points0.dtype), focal_gradient(-product.sum((1, 2)), intrinsics)


def focal_gradient(product: Tensor, intrinsics: Tensor) -> Tensor:
    """Gradient [B, 3, 3] of intrinsics from its sums [B, 2 or more] of gradient times value, x and y first."""
    gradient = product.new_zeros(intrinsics.shape)
    for axis in range(2):
        gradient[:, axis, axis] = product[:, axis] / intrinsics[:, axis, axis].to(product.dtype)
    return gradient.to(intrinsics.dtype)
