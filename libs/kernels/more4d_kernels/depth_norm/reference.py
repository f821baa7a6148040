"""Eq. 1 of the paper in plain PyTorch: the project's one definition of motion normalisation.

Suffixes: B batch, T frames, H height, W width.
"""

import torch
from torch import Tensor


def normalize_motion_reference(
    points_BTHW3: Tensor, intrinsics_B33: Tensor, image_size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Motion [B, 3, T, H, W] in float32 or float64, and validity [B, H, W]; see `normalize_motion`."""
    points = points_BTHW3.to(computed_in(points_BTHW3))
    first = points[:, :1]
    valid = valid_first_points(first[:, 0])
    frustum = frustum_size(first[:, 0, ..., 2], valid, intrinsics_B33, image_size).unsqueeze(1)
    # What is divided is made safe first: a NaN behind a mask still poisons its gradient.
    moved = torch.where(valid[:, None, ..., None], points - first, 0)
    return (moved / frustum).permute(0, 4, 1, 2, 3), valid


def denormalize_motion_reference(
    motion_B3THW: Tensor, points0_BHW3: Tensor, intrinsics_B33: Tensor, image_size: tuple[int, int]
) -> Tensor:
    """Points [B, T, H, W, 3] in the wider dtype of motion and points0; see `denormalize_motion`."""
    dtype = torch.promote_types(motion_B3THW.dtype, points0_BHW3.dtype)
    points0 = points0_BHW3.to(torch.promote_types(dtype, torch.float32))
    valid = valid_first_points(points0)
    frustum = frustum_size(points0[..., 2], valid, intrinsics_B33, image_size).unsqueeze(1)
    motion = motion_B3THW.to(points0.dtype).permute(0, 2, 3, 4, 1)
    moved = torch.where(valid[:, None, ..., None], motion, 0) * frustum
    return (points0.unsqueeze(1) + moved).to(dtype)


def valid_first_points(points0_BHW3: Tensor) -> Tensor:
    """Where [B, H, W] the first-frame point is finite and in front of the camera."""
    return torch.isfinite(points0_BHW3).all(-1) & (points0_BHW3[..., 2] > 0)


def frustum_size(depth0_BHW: Tensor, valid_BHW: Tensor, intrinsics_B33: Tensor, image_size: tuple[int, int]) -> Tensor:
    """What one unit of motion is [B, H, W, 3] in metres: z0 * W / fx, z0 * H / fy, z0; where not valid, as at 1 m."""
    height, width = image_size
    focal_x, focal_y = (intrinsics_B33[:, axis, axis].to(depth0_BHW.dtype) for axis in range(2))
    # Divided as a tensor: a number over a tensor is its reciprocal times the number, which rounds twice.
    units = torch.stack(
        (
            torch.full_like(focal_x, width) / focal_x,
            torch.full_like(focal_y, height) / focal_y,
            torch.ones_like(focal_x),
        ),
        dim=-1,
    )
    return torch.where(valid_BHW, depth0_BHW, 1).unsqueeze(-1) * units[:, None, None, :]


def computed_in(points: Tensor) -> torch.dtype:
    """float32, or float64 for float64."""
    return torch.promote_types(points.dtype, torch.float32)
