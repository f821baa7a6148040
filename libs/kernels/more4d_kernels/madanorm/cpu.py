"""`madanorm` and `modulated_norm` on a CPU, by compiled loops in float32.

A timestep's modulation with a row for each token leaves nothing for the frames to share: that goes to plain.py.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from more4d_kernels.madanorm import plain
from more4d_kernels.madanorm.problem import Gradients, Normed, Problem
from more4d_kernels.memory import empty_float32
from more4d_kernels.threads import spread

# Below this many values, handing them to another thread costs more than the work.
TASK = 2**16
MOST_TASKS = 32


@dataclass(frozen=True)
class Region:
    """Rows of a sample that follow each other: the video's, or those of the prefix, all modulated alike."""

    first: int
    frames: int
    positions: int
    frame_parts: int
    position_parts: int
    video: bool


def forward(problem: Problem) -> Normed:
    """Outputs [B, L, D] in x's dtype; see `madanorm`."""
    if _is_left_to_plain(problem):
        return plain.forward(problem)
    total = plain.with_update(problem)
    x = _float32(problem.x if problem.update is None else total)
    y, mean, rstd = empty_float32(x.shape), x.new_empty(x.shape[:2]), x.new_empty(x.shape[:2])
    outputs = (_rows(x), _rows(y), mean.flatten().numpy(), rstd.flatten().numpy())
    for region in _regions(problem):
        _run("forward", problem, region, (problem.eps, *_modulation(problem, region), *outputs))
    return Normed(y.to(problem.x.dtype), total, mean, rstd)


def backward(problem: Problem, dy: Tensor, dtotal: Tensor | None, mean: Tensor, rstd: Tensor) -> Gradients:
    """Gradients; `problem.x` is what was normalised."""
    if _is_left_to_plain(problem):
        return plain.backward(problem, dy, dtotal, mean, rstd)
    x, dy, dx = _float32(problem.x), _float32(dy), empty_float32(problem.x.shape)
    batch, _, width = x.shape
    inputs = (_rows(x), _rows(dy), mean.flatten().numpy(), rstd.flatten().numpy(), _rows(dx))
    found: dict[str, Tensor] = {}
    for region in _regions(problem):
        motion = [empty_float32((batch, region.frame_parts, region.positions * region.video, width)) for _ in range(2)]
        shares = x.new_zeros(3, batch, region.frame_parts * region.position_parts, width)
        arguments = (*_modulation(problem, region), *inputs, *map(_rows, motion), *map(_rows, shares))
        _run("backward", problem, region, arguments)
        if region.video:
            found["motion_scale"], found["motion_shift"] = (_sum_of_parts(part) for part in motion)
        for name, share in zip(("gate", "time_scale", "time_shift"), shares, strict=True):
            found[name] = found[name] + share.sum(1) if name in found else share.sum(1)
    found["gate"] = found["gate"].sum(0)
    return plain.gathered(problem, dx if dtotal is None else dx.add_(dtotal), found)


def _is_left_to_plain(problem: Problem) -> bool:
    # A prefix alone has no video whose loop would give motion its (empty) gradients.
    without_video = problem.gate is not None and problem.positions == 0
    return problem.per_token or without_video or problem.x.numel() == 0


def _sum_of_parts(parts: Tensor) -> Tensor:
    return parts[:, 0] if parts.shape[1] == 1 else parts.sum(1)


def _regions(problem: Problem) -> Iterator[Region]:
    _, tokens, width = problem.x.shape
    for video, first, count in ((False, 0, problem.prefix), (True, problem.prefix, tokens - problem.prefix)):
        if count == 0:
            continue
        # Rows of a prefix are like frames of one position.
        frames, positions = (problem.frames, problem.positions) if video else (count, 1)
        tasks = min(max(count * width // TASK, 1), MOST_TASKS)
        position_parts = min(tasks, positions)
        yield Region(first, frames, positions, min(tasks // position_parts, frames), position_parts, video)


def _modulation(problem: Problem, region: Region) -> tuple[Any, ...]:
    """1 + time_scale and time_shift [B, D]; gate, motion_scale, motion_shift and their strides, or nothing for them."""
    batch, _, width = problem.x.shape
    if problem.time_scale is None or problem.time_shift is None:
        scale, shift = torch.ones(batch, width), torch.zeros(batch, width)
    else:
        scale, shift = 1 + problem.time_scale.float(), _float32(problem.time_shift)
    if not region.video or problem.gate is None or problem.motion_scale is None or problem.motion_shift is None:
        nothing = torch.empty(0).numpy()
        return scale.numpy(), shift.numpy(), (nothing, nothing, nothing, (0, 0, 0, 0))
    (moved, moved_strides), (shifted, shifted_strides) = _flat(problem.motion_scale), _flat(problem.motion_shift)
    # A copy: memory that numpy has seen can never be resized, and FSDP frees gathered weights by resizing them.
    gate = problem.gate.to(torch.float32, copy=True).contiguous().numpy()
    return scale.numpy(), shift.numpy(), (gate, moved, shifted, (*moved_strides, *shifted_strides))


def _flat(rows: Tensor) -> tuple[Any, tuple[int, int]]:
    """Memory from the first value to the last, and the strides of samples and rows: repeated rows stay one."""
    rows = rows.float()
    rows = rows if rows.stride(2) == 1 or rows.shape[2] == 1 else rows.contiguous()
    last = sum((size - 1) * stride for size, stride in zip(rows.shape, rows.stride(), strict=True))
    return rows.as_strided((last + 1,), (1,)).numpy(), (rows.stride(0), rows.stride(1))


def _run(name: str, problem: Problem, region: Region, arguments: tuple[Any, ...]) -> None:
    """Call the compiled loop of this name on all samples of a region."""
    # numba is imported, and the loops compiled or read from their cache, by who first computes on a CPU.
    from more4d_kernels.madanorm import cpu_kernel

    batch, tokens, width = problem.x.shape
    rows = (tokens, region.first, region.frames, region.positions, width, problem.time_scale is None)
    cuts = (region.frame_parts, region.position_parts)
    work: Callable[..., None] = getattr(cpu_kernel, name)
    tasks = batch * cuts[0] * cuts[1]
    spread(work, tasks, (rows, cuts, *arguments), stretches=tasks)


def _rows(tensor: Tensor) -> Any:
    return tensor.view(-1, tensor.shape[-1]).numpy()


def _float32(tensor: Tensor) -> Tensor:
    return tensor.to(torch.float32).contiguous()
