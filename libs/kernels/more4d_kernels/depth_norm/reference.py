"""Eq. 1 of the paper in plain PyTorch: the project's one definition of motion normalisation.

Suffixes: B batch, T frames, H height, W width.
"""

import torch
from torch import Tensor


def normalize_motion_reference(
    points_BTHW3: Tensor, intrinsics_B33: Tensor, image_size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Motion [B, 3, T, H, W] and validity [B, H, W]; see `normalize_motion`."""
    first = points_BTHW3[:, :1]
    valid = valid_first_points(first[:, 0])
    frustum = frustum_size(first[:, 0, ..., 2], intrinsics_B33, image_size).unsqueeze(1)
    keep = valid[:, None, ..., None]
    # Both sides of the division are made safe first: a NaN behind a mask still poisons its gradient.
    moved = torch.where(keep, points_BTHW3 - first, 0)
    motion = moved / torch.where(keep, frustum, 1)
    return motion.permute(0, 4, 1, 2, 3), valid


def denormalize_motion_reference(
    motion_B3THW: Tensor, points0_BHW3: Tensor, intrinsics_B33: Tensor, image_size: tuple[int, int]
) -> Tensor:
    """Points [B, T, H, W, 3]; see `denormalize_motion`."""
    frustum = frustum_size(points0_BHW3[..., 2], intrinsics_B33, image_size).unsqueeze(1)
    keep = valid_first_points(points0_BHW3)[:, None, ..., None]
    moved = motion_B3THW.permute(0, 2, 3, 4, 1) * torch.where(keep, frustum, 0)
    return points0_BHW3.unsqueeze(1) + moved


def valid_first_points(points0_BHW3: Tensor) -> Tensor:
    """Where [B, H, W] the first-frame point is finite and in front of the camera."""
    return torch.isfinite(points0_BHW3).all(-1) & (points0_BHW3[..., 2] > 0)


def frustum_size(depth0_BHW: Tensor, intrinsics_B33: Tensor, image_size: tuple[int, int]) -> Tensor:
    """What one unit of motion is [B, H, W, 3] in metres: z0 * W / fx, z0 * H / fy, z0."""
    height, width = image_size
    focal = intrinsics_B33.to(depth0_BHW)
    unit_x = width / focal[:, 0, 0]
    unit_y = height / focal[:, 1, 1]
    units = torch.stack((unit_x, unit_y, torch.ones_like(unit_x)), dim=-1)
    return depth0_BHW.unsqueeze(-1) * units[:, None, None, :]
