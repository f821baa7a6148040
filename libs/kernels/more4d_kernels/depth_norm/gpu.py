"""Launches of the Triton kernels: grid, strides and setting, and the memory of the programs' own sums.

Every function takes tensors of any strides; one whose pixels do not follow each other in a frame is copied first.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from more4d_kernels.depth_norm.plain import focal_gradient
from more4d_kernels.depth_norm.problem import Normalized, empty_outputs
from more4d_kernels.depth_norm.statistics import BINS, LOWEST, SHIFT
from more4d_kernels.launch import Launch, Setting
from more4d_kernels.tuning import tuned

# The first is taken where nothing is measured: enough programs for a GPU, few of them reading a first frame again.
FORWARD = (
    Setting(4, strip=16), Setting(4, strip=8), Setting(4, strip=64), Setting(2, strip=16), Setting(8, strip=16),
    Setting(4, num_stages=2, strip=16), Setting(4, num_stages=3, strip=16),
)  # fmt: skip
# With gradients that are sums over frames a program takes all of them.
BACKWARD = (Setting(4), Setting(2), Setting(8), Setting(4, num_stages=2), Setting(2, num_stages=2))


def normalize(
    points: Tensor, intrinsics: Tensor, size: tuple[int, int], dtype: torch.dtype, statistics: bool
) -> Normalized:
    """Outputs by `normalize_kernel`; see `normalize_motion`."""
    outputs = empty_outputs(points, dtype, statistics)

    def launch(setting: Setting) -> Launch:
        own = own_statistics(points, setting) if statistics else (outputs.maximum, outputs.counts)
        return normalize_launch(points, intrinsics, size, outputs._replace(maximum=own[0], counts=own[1]), setting)

    ran = _run_tuned(f"normalize_motion {statistics=} to {dtype}", points, FORWARD, launch)
    if not statistics:
        return outputs
    maximum, counts = ran.arguments["maximum"], ran.arguments["counts"]
    maximum = maximum.amax(1) if maximum.shape[1] else torch.zeros_like(outputs.maximum)
    return outputs._replace(maximum=maximum, counts=counts.sum(1))


def normalize_launch(
    points: Tensor, intrinsics: Tensor, size: tuple[int, int], outputs: Normalized, setting: Setting
) -> Launch:
    """`normalize_kernel` filling `outputs`, whose statistics are each program's own, or empty for none."""
    from more4d_kernels.depth_norm.kernel import normalize_kernel

    points = _whole_frames(points)
    statistics = outputs.counts.ndim > 1
    into = outputs if statistics else outputs._replace(maximum=outputs.motion, counts=outputs.motion)
    arguments = {
        "points": points, **_camera(intrinsics, size), **into._asdict(),
        "points_batch": points.stride(0), "points_frame": points.stride(1),
        **_sizes(points, setting), "strip": setting.strip, "STATISTICS": statistics,
        "BINS": BINS, "LOWEST": LOWEST, "SHIFT": SHIFT,
    }  # fmt: skip
    grid = _programs(points, setting, setting.strip), points.shape[0]
    return Launch(normalize_kernel, grid, arguments, setting.num_warps)


def own_statistics(points: Tensor, setting: Setting) -> tuple[Tensor, Tensor]:
    """Memory for each program's maximum [B, programs, 3] and counts [B, programs, 3, 256]."""
    shape = points.shape[0], _programs(points, setting, setting.strip), 3
    return points.new_empty(shape, dtype=torch.float32), points.new_empty((*shape, BINS), dtype=torch.int32)


def normalize_backward(
    gradient: Tensor, points: Tensor, intrinsics: Tensor, size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Gradients of `points` and `intrinsics` by `normalize_backward_kernel`."""
    dpoints = points.new_empty(points.shape)

    def launch(setting: Setting) -> Launch:
        partial = own_sums(points, setting)
        return normalize_backward_launch(gradient, points, intrinsics, size, dpoints, partial, setting)

    ran = _run_tuned(f"normalize_motion backward of {gradient.dtype}", points, BACKWARD, launch)
    return dpoints, focal_gradient(ran.arguments["partial"].sum(1), intrinsics)


def normalize_backward_launch(
    gradient: Tensor,
    points: Tensor,
    intrinsics: Tensor,
    size: tuple[int, int],
    dpoints: Tensor,
    partial: Tensor,
    setting: Setting,
) -> Launch:
    """`normalize_backward_kernel` filling `dpoints`, and `partial` with each program's own sums."""
    from more4d_kernels.depth_norm.kernel import normalize_backward_kernel

    points, gradient = _whole_frames(points), _whole_planes(gradient)
    arguments = {
        "gradient": gradient, "points": points, **_camera(intrinsics, size), "dpoints": dpoints, "partial": partial,
        **_planes("gradient", gradient), "points_batch": points.stride(0), "points_frame": points.stride(1),
        **_sizes(points, setting),
    }  # fmt: skip
    grid = _programs(points, setting, points.shape[1]), points.shape[0]
    return Launch(normalize_backward_kernel, grid, arguments, setting.num_warps)


def denormalize(motion: Tensor, points0: Tensor, intrinsics: Tensor, size: tuple[int, int]) -> Tensor:
    """Points [B, T, H, W, 3] by `denormalize_kernel`."""
    batch, _, frames, height, width = motion.shape
    dtype = torch.promote_types(motion.dtype, points0.dtype)
    points = motion.new_empty((batch, frames, height, width, 3), dtype=dtype)

    def launch(setting: Setting) -> Launch:
        return denormalize_launch(motion, points0, intrinsics, size, points, setting)

    _run_tuned(f"denormalize_motion of {motion.dtype}", points, FORWARD, launch)
    return points


def denormalize_launch(
    motion: Tensor, points0: Tensor, intrinsics: Tensor, size: tuple[int, int], points: Tensor, setting: Setting
) -> Launch:
    """`denormalize_kernel` filling `points`."""
    from more4d_kernels.depth_norm.kernel import denormalize_kernel

    motion, points0 = _whole_planes(motion), _whole_frames(points0.unsqueeze(1))
    arguments = {
        "motion": motion, "points0": points0, **_camera(intrinsics, size), "points": points,
        **_planes("motion", motion), "points0_batch": points0.stride(0),
        **_sizes(points, setting), "strip": setting.strip,
    }  # fmt: skip
    grid = _programs(points, setting, setting.strip), points.shape[0]
    return Launch(denormalize_kernel, grid, arguments, setting.num_warps)


def denormalize_backward(
    gradient: Tensor, motion: Tensor, points0: Tensor, intrinsics: Tensor, size: tuple[int, int], first: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `motion`, `points0` and `intrinsics`, the last two empty unless `first`."""
    dmotion = motion.new_empty(motion.shape)
    dpoints0 = points0.new_empty(points0.shape if first else (0,))

    def launch(setting: Setting) -> Launch:
        partial = own_sums(gradient, setting)
        into = dmotion, dpoints0, partial
        return denormalize_backward_launch(gradient, motion, points0, intrinsics, size, *into, setting)

    name = f"denormalize_motion backward {first=} of {motion.dtype}"
    ran = _run_tuned(name, gradient, BACKWARD if first else FORWARD, launch)
    if not first:
        return dmotion, dpoints0, intrinsics.new_empty(0)
    return dmotion, dpoints0, focal_gradient(ran.arguments["partial"].sum(1), intrinsics)


def denormalize_backward_launch(
    gradient: Tensor,
    motion: Tensor,
    points0: Tensor,
    intrinsics: Tensor,
    size: tuple[int, int],
    dmotion: Tensor,
    dpoints0: Tensor,
    partial: Tensor,
    setting: Setting,
) -> Launch:
    """`denormalize_backward_kernel` filling `dmotion`, and `dpoints0` and `partial` unless `dpoints0` is 1-dimensional."""
    from more4d_kernels.depth_norm.kernel import denormalize_backward_kernel

    gradient, motion = _whole_frames(gradient), _whole_planes(motion)
    points0 = _whole_frames(points0.unsqueeze(1))
    first = dpoints0.ndim > 1
    # Sums over frames need one program for all of them.
    strip = max(gradient.shape[1], 1) if first else setting.strip
    arguments = {
        "gradient": gradient, "motion": motion, "points0": points0, **_camera(intrinsics, size),
        "dmotion": dmotion, "dpoints0": dpoints0, "partial": partial,
        "gradient_batch": gradient.stride(0), "gradient_frame": gradient.stride(1),
        **_planes("motion", motion), "points0_batch": points0.stride(0),
        **_sizes(gradient, setting), "strip": strip, "FIRST": first,
    }  # fmt: skip
    grid = (_blocks(gradient, setting) if first else _programs(gradient, setting, strip)), gradient.shape[0]
    return Launch(denormalize_backward_kernel, grid, arguments, setting.num_warps)


def _run_tuned(name: str, points: Tensor, candidates: Sequence[Setting], launch: Callable[[Setting], Launch]) -> Launch:
    """The launch in the setting that suits `points` [B, T, H, W, 3], having run."""
    ran = launch(tuned(f"{name}, {points.dtype} {tuple(points.shape)}", points.device, candidates, launch))
    ran.run()
    return ran


def own_sums(points: Tensor, setting: Setting) -> Tensor:
    """Memory for each program's sums of gradient times value in x and y [B, programs, 2]."""
    return points.new_empty((points.shape[0], _blocks(points, setting), 2), dtype=torch.float32)


def _groups(setting: Setting) -> int:
    """Four pixels for each thread."""
    return 32 * setting.num_warps


def _blocks(points: Tensor, setting: Setting) -> int:
    return -(-points.shape[2] * points.shape[3] // (4 * _groups(setting)))


def _programs(points: Tensor, setting: Setting, strip: int) -> int:
    return _blocks(points, setting) * -(-points.shape[1] // strip)


def _sizes(points: Tensor, setting: Setting) -> dict[str, int]:
    _, frames, height, width, _ = points.shape
    return {
        "frames": frames, "pixels": height * width, "GROUPS": _groups(setting), "STAGES": setting.num_stages
    }  # fmt: skip


def _camera(intrinsics: Tensor, size: tuple[int, int]) -> dict[str, Any]:
    names = "intrinsics_batch", "intrinsics_row", "intrinsics_column"
    strides = dict(zip(names, intrinsics.stride(), strict=True))
    return {"intrinsics": intrinsics, **strides, "height": size[0], "width": size[1]}


def _planes(name: str, motion: Tensor) -> dict[str, int]:
    return {f"{name}_{axis}": motion.stride(place) for place, axis in enumerate(("batch", "plane", "frame"))}


def _whole_frames(points: Tensor) -> Tensor:
    """Points [B, T, H, W, 3] with each frame's numbers following each other; a copy only where they do not."""
    return points if points[:1, :1].is_contiguous() else points.contiguous()


def _whole_planes(motion: Tensor) -> Tensor:
    """Motion [B, 3, T, H, W] with each plane's numbers following each other; a copy only where they do not."""
    return motion if motion[:1, :1, :1].is_contiguous() else motion.contiguous()
