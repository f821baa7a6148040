"""`normalize_motion` and `denormalize_motion`: checks, then the op, which runs where the tensors live."""

from typing import Literal, overload

import torch
from torch import Tensor

from more4d_kernels.backends import Backend
from more4d_kernels.depth_norm import library
from more4d_kernels.depth_norm.statistics import MotionStatistics


@overload
def normalize_motion(
    points: Tensor,
    intrinsics: Tensor,
    *,
    image_size: tuple[int, int],
    dtype: torch.dtype | None = None,
    statistics: Literal[False] = False,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]: ...


@overload
def normalize_motion(
    points: Tensor,
    intrinsics: Tensor,
    *,
    image_size: tuple[int, int],
    dtype: torch.dtype | None = None,
    statistics: Literal[True],
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor, MotionStatistics]: ...


def normalize_motion(
    points: Tensor,
    intrinsics: Tensor,
    *,
    image_size: tuple[int, int],
    dtype: torch.dtype | None = None,
    statistics: bool = False,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor] | tuple[Tensor, Tensor, MotionStatistics]:
    """Motion [B, 3, T, H, W] relative to frame 0 in units of the viewing frustum there, and valid [B, H, W].

    (dx fx / (W z0), dy fy / (H z0), dz / z0): 1 is once across the image, or once the initial depth. `points`
    [B, T, H, W, 3] are in the first camera's frame, in metres; `intrinsics` [B, 3, 3] are each sample's own,
    in pixels of `image_size` (height, width). Where the first point is not finite or not in front of the
    camera, motion is 0, valid is False, and there is no gradient. Where a later point alone is not finite, its
    motion is not either, nor are the gradients that are sums over it: of the first z there and of the focal lengths.

    Computed in float32 (float64 of float64) and returned contiguous, in `dtype` or points' own; gradients come
    in the inputs' dtypes, and have no gradients of their own. With `statistics` a third value says how large the
    motion is. `backend` is for tests: "auto" takes Triton's kernel for CUDA tensors, numba's for large ones of a
    CPU, and plain PyTorch for everything else and for float64.
    Strides may be any; where a frame's points do not follow each other in memory, they are copied first.

    Raises ValueError naming the shape, dtype or device that does not fit, or a focal length on a CPU that is
    not positive. Paper: eq. 1.
    """
    if points.ndim != 5 or points.shape[-1] != 3 or points.shape[1] < 1 or not points.is_floating_point():
        raise ValueError(
            f"points must be floating [B, T, H, W, 3] with T >= 1, not {points.dtype} {tuple(points.shape)}"
        )
    dtype = points.dtype if dtype is None else dtype
    if not dtype.is_floating_point:
        raise ValueError(f"motion has fractions: dtype={dtype} must be floating")
    _check_camera(points.shape[0], points.device, intrinsics, image_size)
    motion, valid, maximum, counts = library.normalize(points, intrinsics, *image_size, dtype, statistics, backend)
    return (motion, valid, MotionStatistics(maximum, counts)) if statistics else (motion, valid)


def denormalize_motion(
    motion: Tensor,
    points0: Tensor,
    intrinsics: Tensor,
    *,
    image_size: tuple[int, int],
    backend: Backend = "auto",
) -> Tensor:
    """Points [B, T, H, W, 3] in metres in the first camera's frame: the inverse of `normalize_motion`.

    `motion` [B, 3, T, H, W]; `points0` [B, H, W, 3] is the first frame; `intrinsics` [B, 3, 3] in pixels of
    `image_size` (height, width). A point whose first position is invalid stays where it is, whatever its motion.
    Computed in float32 (float64 of float64) and returned contiguous, in the wider dtype of motion and points0.
    `backend`, strides and gradients as in `normalize_motion`. Raises ValueError naming what does not fit.
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
    if not fits or not motion.is_floating_point():
        raise ValueError(
            f"motion is {motion.dtype} {tuple(motion.shape)}; points0 {tuple(points0.shape)} need floating "
            f"{(batch, 3, 'T', height, width)}"
        )
    if motion.device != points0.device:
        raise ValueError(f"motion is on {motion.device}, but points0 are on {points0.device}; move one to the other")
    _check_camera(batch, points0.device, intrinsics, image_size)
    return library.denormalize(motion, points0, intrinsics, *image_size, backend)


def _check_camera(batch: int, device: torch.device, intrinsics: Tensor, image_size: tuple[int, int]) -> None:
    if intrinsics.shape != (batch, 3, 3):
        raise ValueError(
            f"intrinsics are {tuple(intrinsics.shape)}; {batch} samples need {(batch, 3, 3)}, one camera each"
        )
    if intrinsics.device != device:
        raise ValueError(
            f"intrinsics are on {intrinsics.device}, but the points are on {device}; move one to the other"
        )
    if min(image_size) < 1:
        raise ValueError(f"image_size={image_size} must be (height, width), both at least 1")
    focal = torch.diagonal(intrinsics, dim1=-2, dim2=-1)[:, :2]
    # On an accelerator the check would wait for the device; there the caller's camera is trusted.
    if focal.device.type == "cpu" and not torch.compiler.is_compiling() and not bool((focal > 0).all()):
        # Written so that NaN is found too.
        bad = focal[~(focal > 0).all(-1)][0]
        raise ValueError(f"focal lengths must be positive pixels, not {bad.tolist()}")
