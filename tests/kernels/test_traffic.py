from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from more4d_kernels.launch import Launch
from more4d_kernels.madanorm import gpu
from more4d_kernels.madanorm.op import _alike
from more4d_kernels.madanorm.problem import Problem, empty_gradients, empty_outputs
from more4d_kernels.madanorm.traffic import (
    backward_bytes,
    backward_kernel_bytes,
    final_sum_bytes,
    forward_bytes,
)

from .conftest import Case, inputs

MB = 10**6
CASES = {
    "time per sample": Case(2, 3, 5, 2, 33, dtype=torch.bfloat16, modulation=torch.float32),
    "time per token": Case(1, 2, 3, 1, 20, scale="token", shift="token"),
    "one row for all tokens": Case(1, 2, 3, 1, 20, scale="token"),
    "paper": Case(1, 3, 4, 0, 17, form="paper"),
    "update": Case(2, 2, 3, 1, 20, update="open"),
    "update, gate per sample": Case(2, 2, 3, 1, 20, update="sample"),
    "update, gate per token": Case(1, 2, 3, 1, 20, update="token", scale="token", shift="token"),
    "no motion": Case(2, 2, 3, 1, 20, motion=False),
    "no motion, time per token": Case(2, 1, 5, 0, 20, motion=False, scale="token", shift="token"),
    "no motion, update": Case(2, 1, 5, 0, 20, motion=False, update="sample"),
}


def problem(case: Case) -> Problem:
    """What the op makes of the case's inputs."""
    given = {name: tensor.detach() for name, tensor in inputs(case).items()}
    given["time_scale"], given["time_shift"] = _alike(given["time_scale"], given["time_shift"], case.tokens)
    if case.form == "paper":
        del given["time_scale"], given["time_shift"]
    return Problem(**given, **(case.sizes or {"prefix": case.tokens}))


@contextmanager
def seen_addresses() -> Iterator[dict[int, int]]:
    """Address and bytes of every value that kernels load or store meanwhile, in Triton's interpreter."""
    from triton.runtime.interpreter import InterpreterBuilder

    seen: dict[int, int] = {}
    load, store = InterpreterBuilder.create_masked_load, InterpreterBuilder.create_masked_store

    def note(pointers: Any, mask: Any) -> None:
        size = pointers.get_element_ty().primitive_bitwidth // 8
        addresses, kept = np.broadcast_arrays(pointers.data, mask.data)
        seen.update(dict.fromkeys(addresses[kept].tolist(), size))

    # Releases of Triton differ in what follows the mask.
    def noted_load(self: Any, pointers: Any, mask: Any, *rest: Any) -> Any:
        note(pointers, mask)
        return load(self, pointers, mask, *rest)

    def noted_store(self: Any, pointers: Any, value: Any, mask: Any, *rest: Any) -> Any:
        note(pointers, mask)
        return store(self, pointers, value, mask, *rest)

    with (
        patch.object(InterpreterBuilder, "create_masked_load", noted_load),
        patch.object(InterpreterBuilder, "create_masked_store", noted_store),
    ):
        yield seen


def counted(launch: Launch) -> int:
    with seen_addresses() as seen:
        launch.run()
    return sum(seen.values())


@pytest.mark.parametrize("name", CASES)
def test_the_forward_touches_the_bytes_that_are_derived(name: str) -> None:
    made = problem(CASES[name])
    setting = replace(gpu.forward_settings(made)[0], strip=2)
    assert counted(gpu.forward_launch(made, empty_outputs(made), setting)) == forward_bytes(made)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("programs", [1, 3])
def test_the_backward_touches_the_bytes_that_are_derived(name: str, programs: int) -> None:
    made = problem(CASES[name])
    dy, normed, partial = torch.ones_like(made.x), gpu.forward(made), gpu.partial_sums(made, programs)
    dtotal = None if made.update is None else torch.ones_like(made.x)
    with patch.object(gpu, "programs_per_sample", lambda problem: programs):
        launch = gpu.backward_launch(
            made, dy, dtotal, normed, empty_gradients(made), partial, gpu.backward_settings(made)[0]
        )
    assert counted(launch) == backward_kernel_bytes(made, programs)
    summed = sum(part.nbytes + vars(made)[name].nbytes for name, part in partial.items())
    assert final_sum_bytes(made, programs) == summed


def test_motion_rows_that_all_samples_share_count_once() -> None:
    made = problem(CASES["time per sample"])
    assert made.motion_scale is not None
    shared = replace(made, motion_scale=made.motion_scale[:1].expand_as(made.motion_scale))
    setting = gpu.forward_settings(shared)[0]
    assert counted(gpu.forward_launch(shared, empty_outputs(shared), setting)) == forward_bytes(shared)
    assert forward_bytes(made) - forward_bytes(shared) == made.motion_scale[0].nbytes


def large(scale: str = "sample") -> Problem:
    """A layer of the 14B network: 13 frames of 736 positions."""
    case = Case(1, 13, 736, 0, 5120, scale=scale, shift=scale)
    kind = {name: torch.float32 for name in ("time_scale", "time_shift", "gate")}
    return Problem(
        **{n: torch.empty(s, dtype=kind.get(n, torch.bfloat16), device="meta") for n, s in case.shapes.items()},
        frames=13,
    )


def test_motion_that_frames_share_makes_the_14b_layers_forward_211_mb_and_its_backward_340() -> None:
    made = large()
    assert gpu.programs_per_sample(made) == 132
    assert 211 <= forward_bytes(made) / MB < 212
    assert 340 <= backward_bytes(made, 132) / MB < 342


def test_motion_repeated_for_every_frame_would_make_the_14b_layers_forward_392_mb() -> None:
    made = large()
    assert made.motion_scale is not None
    repeated = forward_bytes(made) + 2 * 12 * made.motion_scale.nbytes
    assert 391 <= repeated / MB < 393
