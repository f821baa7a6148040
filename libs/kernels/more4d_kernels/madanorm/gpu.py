"""Launches of the Triton kernels: grid, strides and setting, and the memory of the partial sums."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from more4d_kernels.launch import Launch, Setting, contiguous_rows, streaming_multiprocessors
from more4d_kernels.madanorm import plain
from more4d_kernels.madanorm.problem import Gradients, Normed, Problem, empty_gradients, empty_outputs
from more4d_kernels.tuning import tuned


def forward(problem: Problem) -> Normed:
    """Outputs by `forward_kernel`; see `madanorm`."""
    outputs = empty_outputs(problem)

    def launch(setting: Setting) -> Launch:
        return forward_launch(problem, outputs, setting)

    candidates = forward_settings(problem)
    launch(tuned(_shape("forward", problem), problem.x.device, candidates, launch)).run()
    return outputs


def forward_launch(problem: Problem, outputs: Normed, setting: Setting) -> Launch:
    """`forward_kernel` filling `outputs`: a program for each position and strip of frames, and each strip of prefix."""
    from more4d_kernels.madanorm.kernel import forward_kernel

    batch, _, width = problem.x.shape
    rows = _rows(problem)
    strip = setting.strip if problem.positions == 0 else min(setting.strip, problem.frames)
    strips = problem.positions * _ceil(problem.frames, strip) + _ceil(problem.prefix, strip)
    arguments = {
        **rows,
        "y": outputs.y, "total_out": outputs.total, "mean_out": outputs.mean, "rstd_out": outputs.rstd,
        **_sizes(problem), "eps": problem.eps, "STRIP": strip, "STAGES": setting.num_stages,
        **_pieces(width), **_switches(problem), "UPDATE": problem.update is not None,
        "UPDATE_GATE_PER_TOKEN": problem.gate_per_token,
    }  # fmt: skip
    return Launch(forward_kernel, (strips, batch), arguments, setting.num_warps)


def backward(problem: Problem, dy: Tensor, dtotal: Tensor | None, mean: Tensor, rstd: Tensor) -> Gradients:
    """Gradients by `backward_kernel`, and sums of its programs' partial sums."""
    gradients = empty_gradients(problem)
    partial = partial_sums(problem, programs_per_sample(problem))

    def launch(setting: Setting) -> Launch:
        return backward_launch(problem, dy, dtotal, Normed(dy, dy, mean, rstd), gradients, partial, setting)

    candidates = backward_settings(problem)
    name = "backward" if dtotal is None else "backward with the sum's"
    launch(tuned(_shape(name, problem), problem.x.device, candidates, launch)).run()
    summed = {name: part.sum(1) for name, part in partial.items()}
    if "gate" in summed:
        summed["gate"] = summed["gate"].sum(0)
    named = vars(gradients) | {name: part.to(vars(problem)[name].dtype) for name, part in summed.items()}
    if problem.gate_per_token:
        named["update"], named["update_gate"] = plain.update_gradients(problem, gradients.x)
    return Gradients(**named)


def in_kernel(problem: Problem) -> Problem:
    """What `backward_kernel` is given: the gradients of a gate for each token share no row with others.

    PyTorch makes them from dx; in the kernel they would take registers that rows of 5120 do not leave.
    """
    return replace(problem, update_gate=None) if problem.gate_per_token else problem


def backward_launch(
    problem: Problem,
    dy: Tensor,
    dtotal: Tensor | None,
    normed: Normed,
    gradients: Gradients,
    partial: dict[str, Tensor],
    setting: Setting,
) -> Launch:
    """`backward_kernel` filling `gradients`, or `partial` where all rows of a sample add to one."""
    from more4d_kernels.madanorm.kernel import backward_kernel

    problem = in_kernel(problem)
    batch, _, width = problem.x.shape
    programs = programs_per_sample(problem)
    into = {name: partial.get(name, tensor) for name, tensor in vars(gradients).items()}
    arguments = {
        **_row("dy", dy, problem.x), **_row("dtotal", dtotal, problem.x),
        **_rows(problem), "mean_in": normed.mean, "rstd_in": normed.rstd,
        **{f"d{name}": problem.x if tensor is None else tensor for name, tensor in into.items()},
        **_sizes(problem), "programs": programs, "STAGES": setting.num_stages,
        **_pieces(width), **_switches(problem), "DTOTAL": dtotal is not None,
    }  # fmt: skip
    return Launch(backward_kernel, (programs, batch), arguments, setting.num_warps)


def forward_settings(problem: Problem) -> tuple[Setting, ...]:
    """Candidates, the best guess first: all frames of a position in one program, the next row on its way."""
    counts = _warp_counts(problem.x.shape[2])
    return tuple(Setting(count, stages, strip) for strip in (16, 7) for stages in (2, 3) for count in counts)


def backward_settings(problem: Problem) -> tuple[Setting, ...]:
    """Candidates, the best guess first; with more to hold than x and dy, wide rows leave no registers for others."""
    counts = _warp_counts(problem.x.shape[2])
    if problem.per_token or problem.update_gate is not None:
        return (Setting(counts[0], num_stages=2),)
    return tuple(Setting(count, stages) for stages in (3, 2) for count in counts)


def _warp_counts(width: int) -> tuple[int, ...]:
    """`warps_for` and, where a thread's share of a bf16 row then still is a load of 16 bytes, twice as many."""
    warps = warps_for(width)
    return (warps, 2 * warps) if warps < 16 and pieces(width)[0] >= 2 * warps * 32 * 8 else (warps,)


def warps_for(width: int) -> int:
    """A power of two up to 16 with at most 20 values of a row to a thread, where 16 are enough: 1536 has 4, 5120 has 8."""
    return min(1 << max(_ceil(width, 20 * 32) - 1, 0).bit_length(), 16)


def programs_per_sample(problem: Problem) -> int:
    """How many programs share a sample in the backward: eight warps for each multiprocessor, none without work."""
    programs = streaming_multiprocessors(problem.x.device) * max(8 // warps_for(problem.x.shape[2]), 1)
    share = _ceil(programs, max(problem.x.shape[0], 1))
    return max(min(share, max(problem.positions, problem.prefix)), 1)


def partial_sums(problem: Problem, programs: int) -> dict[str, Tensor]:
    """fp32 memory [B, programs, D] for each gradient that is a sum over a sample's tokens."""
    names = ["gate"] if problem.gate is not None else []
    names += ["time_scale", "time_shift"] if problem.time_scale is not None and not problem.per_token else []
    names += ["update_gate"] if problem.update_gate is not None and not problem.gate_per_token else []
    batch, _, width = problem.x.shape
    return {name: problem.x.new_empty(batch, programs, width, dtype=torch.float32) for name in names}


def pieces(width: int) -> tuple[int, int]:
    """Two powers of two that hold a row, the first full: 5120 is 4096 + 1024, 1536 is 1024 + 512."""
    main = 1 << max((width - 1).bit_length() - 1, 0)
    return main, 1 << max(width - main - 1, 0).bit_length()


def _shape(name: str, problem: Problem) -> str:
    """All that the best setting may depend on."""
    given = {key: value for key, value in vars(problem).items() if isinstance(value, Tensor)}
    kinds = " ".join(f"{key}:{str(value.dtype).removeprefix('torch.')}" for key, value in given.items())
    switches = "".join(str(int(value)) for value in _switches(problem).values())
    sizes = (*problem.x.shape, problem.positions, problem.frames, problem.prefix)
    return f"madanorm {name} {'x'.join(map(str, sizes))} {kinds} {switches}"


def _pieces(width: int) -> dict[str, int]:
    main, tail = pieces(width)
    return {"D": width, "MAIN": main, "TAIL": tail}


def _sizes(problem: Problem) -> dict[str, int]:
    return {
        "tokens": problem.x.shape[1],
        "positions": problem.positions,
        "frames": problem.frames,
        "prefix": problem.prefix,
    }


def _switches(problem: Problem) -> dict[str, bool]:
    return {
        "TIME": problem.time_scale is not None,
        "PER_TOKEN": problem.per_token,
        "MOTION": problem.motion_scale is not None,
        "UPDATE_GATE": problem.update_gate is not None,
    }


def _rows(problem: Problem) -> dict[str, Any]:
    """Pointers and strides of all inputs; x in place of what the problem does not have."""
    named = {name: value for name, value in vars(problem).items() if name not in ("frames", "prefix", "eps", "gate")}
    strided = [_row(name, value, problem.x) for name, value in named.items()]
    gate = problem.x if problem.gate is None else contiguous_rows(problem.gate)
    return {"gate": gate} | {name: value for part in strided for name, value in part.items()}


def _row(name: str, tensor: Tensor | None, absent: Tensor) -> dict[str, Any]:
    """The tensor, and its strides from sample to sample and from row to row (0: all rows are one)."""
    if tensor is None:
        return {name: absent, f"{name}_batch": 0, f"{name}_row": 0}
    tensor = contiguous_rows(tensor)
    return {name: tensor, f"{name}_batch": tensor.stride(0), f"{name}_row": tensor.stride(1) if tensor.ndim == 3 else 0}


def _ceil(count: int, size: int) -> int:
    return -(-count // size)
