"""Motion of one sample in units of the viewing frustum (eq. 1): the kernels' definition, one sample at a time."""

import numpy as np
import torch
from more4d_kernels import denormalize_motion, normalize_motion
from numpy.typing import NDArray
from torch import Tensor

from more4d.geometry.published import MotionCamera, motion_intrinsics

__all__ = [
    "MotionScale",
    "denormalize_motion",
    "metres_per_unit",
    "motion_from_points",
    "normalize_motion",
    "points_from_motion",
    "scaled_motion",
    "unscaled_points",
]

MotionScale = MotionCamera | tuple[float, float, float]
"""What one unit of motion is: the viewing frustum at a point's first depth (eq. 1), by whose intrinsics; or, for the ablation
without that, so many metres along x, y and z for every point alike (min-max over a dataset)."""


def scaled_motion(points: Tensor, intrinsics: Tensor, scale: MotionScale) -> tuple[Tensor, Tensor]:
    """Motion [B, 3, T, H, W] and valid [B, H, W] of trajectories [B, T, H, W, 3] in metres, in units of `scale`.

    `intrinsics` [B, 3, 3] are the samples' own, in pixels. What is not valid does not move.
    """
    size = (points.shape[2], points.shape[3])
    if isinstance(scale, str):
        return normalize_motion(points, motion_intrinsics(scale, intrinsics, size), image_size=size)
    _, valid = normalize_motion(points[:, :1], intrinsics, image_size=size)
    moved = torch.where(valid[:, None, ..., None], points - points[:, :1], 0) / points.new_tensor(scale)
    return moved.permute(0, 4, 1, 2, 3), valid


def unscaled_points(motion: Tensor, points0: Tensor, intrinsics: Tensor, scale: MotionScale) -> Tensor:
    """Trajectories [B, T, H, W, 3] in metres of motion [B, 3, T, H, W] and `points0` [B, H, W, 3]: back from `scaled_motion`."""
    size = (points0.shape[1], points0.shape[2])
    if isinstance(scale, str):
        return denormalize_motion(motion, points0, motion_intrinsics(scale, intrinsics, size), image_size=size)
    return points0[:, None] + motion.permute(0, 2, 3, 4, 1) * motion.new_tensor(scale)


def motion_from_points(points: Tensor, intrinsics: Tensor) -> tuple[Tensor, Tensor]:
    """Motion [3, T, H, W] and valid [H, W] of the trajectories `points` [T, H, W, 3].

    `points` are in metres in the first camera's frame, `intrinsics` [3, 3] in pixels of the H x W image.
    See `more4d_kernels.normalize_motion`.
    """
    height, width = points.shape[1:3]
    motion, valid = normalize_motion(points.unsqueeze(0), intrinsics.unsqueeze(0), image_size=(height, width))
    return motion[0], valid[0]


def points_from_motion(motion: Tensor, points0: Tensor, intrinsics: Tensor) -> Tensor:
    """Trajectories [T, H, W, 3] in metres of `motion` [3, T, H, W] and the first frame's `points0` [H, W, 3]."""
    height, width = points0.shape[:2]
    batched = motion.unsqueeze(0), points0.unsqueeze(0), intrinsics.unsqueeze(0)
    return denormalize_motion(*batched, image_size=(height, width))[0]


def metres_per_unit(
    depth: NDArray[np.float32], intrinsics: NDArray[np.float32], scale: MotionScale = "sample"
) -> NDArray[np.float32]:
    """Metres [3, H, W] of one unit of motion at every first-frame pixel: z0 W/fx, z0 H/fy, z0 in eq. 1's units."""
    height, width = depth.shape
    if not isinstance(scale, str):
        return np.broadcast_to(np.array(scale, np.float32)[:, None, None], (3, height, width)).copy()
    focal = motion_intrinsics(scale, torch.from_numpy(np.array(intrinsics)), (height, width)).numpy()
    return np.stack([depth * width / focal[0, 0], depth * height / focal[1, 1], depth]).astype(np.float32)
