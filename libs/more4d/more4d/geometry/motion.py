"""Motion of one sample in units of the viewing frustum (eq. 1): the kernels' definition, one sample at a time."""

import numpy as np
from more4d_kernels import denormalize_motion, normalize_motion
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["denormalize_motion", "metres_per_unit", "motion_from_points", "normalize_motion", "points_from_motion"]


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


def metres_per_unit(depth: NDArray[np.float32], intrinsics: NDArray[np.float32]) -> NDArray[np.float32]:
    """Metres [3, H, W] of one unit of eq. 1's motion at every first-frame pixel: z0 W/fx, z0 H/fy, z0."""
    height, width = depth.shape
    return np.stack([depth * width / intrinsics[0, 0], depth * height / intrinsics[1, 1], depth]).astype(np.float32)
