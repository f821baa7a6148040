"""`normalize_motion` and `denormalize_motion`: checks, then the implementation for where the tensors live."""

import torch
from torch import Tensor

from more4d_kernels.depth_norm.reference import denormalize_motion_reference, normalize_motion_reference


def normalize_motion(points: Tensor, intrinsics: Tensor, *, image_size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Motion [B, 3, T, H, W] relative to frame 0 in units of the viewing frustum there, and valid [B, H, W].

    (dx fx / (W z0), dy fy / (H z0), dz / z0): 1 is once across the image, or once the initial depth. `points`
    [B, T, H, W, 3] are in the first camera's frame, in metres; `intrinsics` [B, 3, 3] are each sample's own,
    in pixels of `image_size` (height, width). Where the first point is not finite or not in front of the
    camera, motion is 0 and valid is False. Raises ValueError naming the shape that does not fit, or a focal
    length that is not positive. Paper: eq. 1.
    """
    if points.ndim != 5 or points.shape[-1] != 3 or points.shape[1] < 1 or not points.is_floating_point():
        raise ValueError(
            f"points must be floating [B, T, H, W, 3] with T >= 1, not {points.dtype} {tuple(points.shape)}"
        )
    _check_camera(points.shape[0], intrinsics, image_size)
    return normalize_motion_reference(points, intrinsics, image_size)


def denormalize_motion(motion: Tensor, points0: Tensor, intrinsics: Tensor, *, image_size: tuple[int, int]) -> Tensor:
    """Points [B, T, H, W, 3] in metres in the first camera's frame: the inverse of `normalize_motion`.

    `motion` [B, 3, T, H, W]; `points0` [B, H, W, 3] is the first frame; `intrinsics` [B, 3, 3] in pixels of
    `image_size` (height, width). A point whose first position is invalid stays where it is. Raises ValueError
    naming what does not fit.
    """
    batch, height, width = points0.shape[:3] if points0.ndim == 4 else (-1, -1, -1)
    if points0.ndim != 4 or points0.shape[-1] != 3 or not points0.is_floating_point():
        raise ValueError(f"points0 must be floating [B, H, W, 3], not {points0.dtype} {tuple(points0.shape)}")
    fits = motion.ndim == 5 and (motion.shape[0], motion.shape[1], *motion.shape[3:]) == (
        batch,
        3,
        height,
        width,
    )
    if not fits:
        raise ValueError(
            f"motion is {tuple(motion.shape)}; points0 {tuple(points0.shape)} need {(batch, 3, 'T', height, width)}"
        )
    _check_camera(batch, intrinsics, image_size)
    return denormalize_motion_reference(motion, points0, intrinsics, image_size)


def _check_camera(batch: int, intrinsics: Tensor, image_size: tuple[int, int]) -> None:
    if intrinsics.shape != (batch, 3, 3):
        raise ValueError(
            f"intrinsics are {tuple(intrinsics.shape)}; {batch} samples need {(batch, 3, 3)}, one camera each"
        )
    if min(image_size) < 1:
        raise ValueError(f"image_size={image_size} must be (height, width), both at least 1")
    focal = torch.diagonal(intrinsics, dim1=-2, dim2=-1)[:, :2]
    # On an accelerator the check would wait for the device; there the caller's camera is trusted.
    if focal.device.type == "cpu" and not torch.compiler.is_compiling() and not bool((focal > 0).all()):
        raise ValueError(f"focal lengths must be positive pixels, not {focal[(focal <= 0).any(-1)][0].tolist()}")
