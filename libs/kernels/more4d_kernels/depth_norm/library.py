"""The ops as PyTorch knows them: one node each under torch.compile, with shapes without data, and with gradients."""

from typing import Any, cast

import torch
from torch import Tensor

from more4d_kernels.backends import Backend, choose
from more4d_kernels.depth_norm import plain
from more4d_kernels.depth_norm.problem import empty_outputs

# Below this many numbers plain PyTorch is as fast, and done before numba has read its kernels from disk.
SMALL = 2**17


@torch.library.custom_op("more4d::normalize_motion", mutates_args=())
def normalize(
    points: Tensor, intrinsics: Tensor, height: int, width: int, dtype: torch.dtype, statistics: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Motion, valid, maximum and counts, the last two empty without statistics."""
    run = _implementation(backend, points).normalize
    motion, valid, maximum, counts = run(points, intrinsics, (height, width), dtype, statistics)
    return motion.contiguous(), valid.contiguous(), maximum.contiguous(), counts.contiguous()


@normalize.register_fake
def _(
    points: Tensor, intrinsics: Tensor, height: int, width: int, dtype: torch.dtype, statistics: bool, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    motion, valid, maximum, counts = empty_outputs(points, dtype, statistics)
    return motion, valid, maximum, counts


@torch.library.custom_op("more4d::normalize_motion_backward", mutates_args=())
def normalize_backward(
    gradient: Tensor, points: Tensor, intrinsics: Tensor, height: int, width: int, backend: str
) -> tuple[Tensor, Tensor]:
    """Gradients of points and intrinsics."""
    if points.dtype is not torch.float64:
        # Motion may have been asked for in float64; it was computed in float32.
        gradient = gradient.to(torch.promote_types(points.dtype, torch.float32))
    run = _implementation(backend, points).normalize_backward
    dpoints, dintrinsics = run(gradient, points, intrinsics, (height, width))
    return dpoints.contiguous(), dintrinsics.contiguous()


@normalize_backward.register_fake
def _(
    gradient: Tensor, points: Tensor, intrinsics: Tensor, height: int, width: int, backend: str
) -> tuple[Tensor, Tensor]:
    return points.new_empty(points.shape), intrinsics.new_empty(intrinsics.shape)


def _normalize_saved(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    points, intrinsics, *rest = inputs
    ctx.save_for_backward(points, intrinsics)
    ctx.height, ctx.width, _, _, ctx.backend = rest
    ctx.mark_non_differentiable(*output[1:])


def _normalize_gradients(ctx: Any, gradient: Tensor, *_: Tensor | None) -> tuple[Tensor | None, ...]:
    dpoints, dintrinsics = normalize_backward(gradient, *ctx.saved_tensors, ctx.height, ctx.width, ctx.backend)
    return dpoints, dintrinsics, None, None, None, None, None


normalize.register_autograd(_normalize_gradients, setup_context=_normalize_saved)


@torch.library.custom_op("more4d::denormalize_motion", mutates_args=())
def denormalize(motion: Tensor, points0: Tensor, intrinsics: Tensor, height: int, width: int, backend: str) -> Tensor:
    """Points."""
    run = _implementation(backend, motion, points0).denormalize
    return run(motion, points0, intrinsics, (height, width)).contiguous()


@denormalize.register_fake
def _(motion: Tensor, points0: Tensor, intrinsics: Tensor, height: int, width: int, backend: str) -> Tensor:
    batch, _, frames, rows, columns = motion.shape
    dtype = torch.promote_types(motion.dtype, points0.dtype)
    return motion.new_empty((batch, frames, rows, columns, 3), dtype=dtype)


@torch.library.custom_op("more4d::denormalize_motion_backward", mutates_args=())
def denormalize_backward(
    gradient: Tensor,
    motion: Tensor,
    points0: Tensor,
    intrinsics: Tensor,
    height: int,
    width: int,
    first: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of motion, points0 and intrinsics; the last two empty unless `first`: they cost a pass over motion."""
    run = _implementation(backend, gradient, motion, points0).denormalize_backward
    dmotion, dpoints0, dintrinsics = run(gradient, motion, points0, intrinsics, (height, width), first)
    return dmotion.contiguous(), dpoints0.contiguous(), dintrinsics.contiguous()


@denormalize_backward.register_fake
def _(
    gradient: Tensor,
    motion: Tensor,
    points0: Tensor,
    intrinsics: Tensor,
    height: int,
    width: int,
    first: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    shapes = (points0.shape, intrinsics.shape) if first else ((0,), (0,))
    return motion.new_empty(motion.shape), points0.new_empty(shapes[0]), intrinsics.new_empty(shapes[1])


def _denormalize_saved(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    motion, points0, intrinsics, ctx.height, ctx.width, ctx.backend = inputs
    ctx.save_for_backward(motion, points0, intrinsics)


def _denormalize_gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
    first = any(ctx.needs_input_grad[1:3])
    dmotion, dpoints0, dintrinsics = denormalize_backward(
        gradient, *ctx.saved_tensors, ctx.height, ctx.width, first, ctx.backend
    )
    return dmotion, *((dpoints0, dintrinsics) if first else (None, None)), None, None, None


denormalize.register_autograd(_denormalize_gradients, setup_context=_denormalize_saved)


def _implementation(backend: str, large: Tensor, *others: Tensor) -> Any:
    """The module that computes; Triton and numba are imported when one of theirs first runs."""
    widest = next((tensor for tensor in (large, *others) if tensor.dtype is torch.float64), large)
    name = choose(cast(Backend, backend), widest)
    if name == "triton":
        from more4d_kernels.depth_norm import gpu

        return gpu
    if name == "cpu" and (backend == "cpu" or large.numel() >= SMALL):
        from more4d_kernels.depth_norm import cpu

        return cpu
    return plain
