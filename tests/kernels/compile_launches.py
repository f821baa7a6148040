"""Compile the ops' launches for GPUs that are not there, and write the compiler's reports: python THIS OUT.json.

A process of its own, because kernels imported for Triton's interpreter cannot be compiled. Sizes are those of the
published networks: 13 frames of 736 positions, and depth maps of 49 frames of 336 x 596.
"""

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from more4d_kernels.ahead_of_time import compile_launch
from more4d_kernels.depth_norm import gpu as depth
from more4d_kernels.depth_norm.problem import empty_outputs as depth_outputs
from more4d_kernels.launch import Launch, Setting
from more4d_kernels.madanorm import gpu
from more4d_kernels.madanorm.problem import Problem, empty_gradients, empty_outputs
from torch import Tensor

FRAMES, POSITIONS = 13, 736
WIDTHS = (1536, 5120)
CAPABILITIES = (80, 90, 100)
VARIANTS = ("per sample", "per token", "update", "update per token", "without motion")


@dataclass(frozen=True)
class Job:
    """One kernel to compile, with the place of its setting among the candidates: 0 is the default."""

    op: str
    variant: str
    capability: int
    width: int = 0
    candidate: int = 0


def jobs() -> Iterator[Job]:
    """Every default for every GPU; for one GPU also the candidates of the norms that need the most registers."""
    for capability in CAPABILITIES:
        for width in WIDTHS:
            for variant in VARIANTS:
                made = problem(width, variant)
                for op, settings in (("forward", forward_settings(made)), ("backward", gpu.backward_settings(made))):
                    near_the_limit = op == "backward" or variant == "update per token"
                    candidates = range(len(settings)) if capability == 90 and near_the_limit else (0,)
                    yield from (Job(op, variant, capability, width, candidate) for candidate in candidates)
        yield from (Job("depth", variant, capability) for variant in depth_launches())


def meta(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def problem(width: int, variant: str) -> Problem:
    """bf16 tokens with fp32 modulation."""
    tokens = FRAMES * POSITIONS
    row = (1, tokens, width) if "per token" in variant else (1, width)
    made = Problem(
        meta(1, tokens, width), *(meta(*row, dtype=torch.float32) for _ in range(2)),
        *(meta(1, POSITIONS, width) for _ in range(2)), meta(width, dtype=torch.float32), frames=FRAMES,
    )  # fmt: skip
    if "update" in variant:
        return replace(made, update=meta(1, tokens, width), update_gate=meta(*row, dtype=torch.float32))
    if variant == "without motion":
        return replace(made, motion_scale=None, motion_shift=None, gate=None, frames=1, prefix=tokens)
    return made


def forward_settings(made: Problem) -> list[Setting]:
    """Without those that differ only in how many rows a program works on: their code is the same."""
    settings = gpu.forward_settings(made)
    return [setting for setting in settings if setting.strip == settings[0].strip]


def norm_launch(job: Job) -> Launch:
    made = problem(job.width, job.variant)
    if job.op == "forward":
        return gpu.forward_launch(made, empty_outputs(made), forward_settings(made)[job.candidate])
    dtotal = None if made.update is None else made.x
    partial = gpu.partial_sums(made, gpu.programs_per_sample(made))
    setting = gpu.backward_settings(made)[job.candidate]
    return gpu.backward_launch(made, made.x, dtotal, empty_outputs(made), empty_gradients(made), partial, setting)


def depth_launches() -> dict[str, Launch]:
    """In fp32, with the default settings."""
    size, fp32 = (336, 596), torch.float32
    points, motion, K = meta(1, 49, *size, 3, dtype=fp32), meta(1, 3, 49, *size, dtype=fp32), meta(1, 3, 3, dtype=fp32)
    one, back = depth.FORWARD[0], depth.BACKWARD[0]
    plain, counting = (depth_outputs(points, fp32, statistics) for statistics in (False, True))
    own = depth.own_statistics(points, one)
    counting = counting._replace(maximum=own[0], counts=own[1])
    sums, points0 = depth.own_sums(points, back), points[:, 0]
    both = (points, motion, points0, K, size, motion)
    return {
        "normalize": depth.normalize_launch(points, K, size, plain, one),
        "normalize and count": depth.normalize_launch(points, K, size, counting, one),
        "normalize, backward": depth.normalize_backward_launch(motion, points, K, size, points, sums, back),
        "denormalize": depth.denormalize_launch(motion, points0, K, size, points, one),
        "denormalize, backward": depth.denormalize_backward_launch(*both, points0, sums, back),
        "denormalize, backward of motion": depth.denormalize_backward_launch(*both, meta(0), sums, one),
    }


def report(job: Job) -> dict[str, Any]:
    """What was compiled, and the compiler's numbers."""
    launch = depth_launches()[job.variant] if job.op == "depth" else norm_launch(job)
    compiled = compile_launch(launch, job.capability)
    numbers = asdict(compiled) | {"global_loads": compiled.global_loads(), "num_warps": launch.num_warps}
    del numbers["sass"]
    return asdict(job) | numbers


def main() -> None:
    # Forked after torch has started threads, a child may wait for them for ever.
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        reports = list(pool.map(report, jobs()))
    Path(sys.argv[1]).write_text(json.dumps(reports))


if __name__ == "__main__":
    main()
