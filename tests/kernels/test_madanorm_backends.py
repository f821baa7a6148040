"""Every backend of the norms against the float64 twin. Suffixes: B batch, L tokens, S positions of a frame, D width."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from more4d_kernels import madanorm
from more4d_kernels.backends import Backend
from more4d_kernels.launch import Setting
from more4d_kernels.madanorm import cpu, gpu
from more4d_kernels.madanorm.op import Form
from more4d_kernels.madanorm.problem import Normed, Problem, empty_gradients, empty_outputs
from torch import Tensor

from .conftest import BACKENDS, Case, assert_agrees, inputs, outputs, poisoned, results

# Widths: one value, odd ones, powers of two, one past a power of two, more than the kernels' first piece.
SHAPES = {
    "one value": Case(1, 1, 1, 0, 1),
    "odd": Case(3, 2, 3, 1, 5),
    "prefix": Case(2, 3, 4, 2, 33),
    "power of two": Case(1, 2, 5, 0, 64),
    "one past a power of two": Case(2, 2, 2, 3, 65),
    "three quarters": Case(1, 5, 3, 0, 96),
    "wide": Case(1, 2, 3, 1, 1000),
    "one frame": Case(2, 1, 7, 0, 24),
    "one position": Case(2, 7, 1, 2, 24),
    "more frames than a strip": Case(1, 17, 1, 18, 8),
}
VARIANTS = {
    "time per sample": {},
    "time per token": {"scale": "token", "shift": "token"},
    "scale per token": {"scale": "token"},
    "shift per token": {"shift": "token"},
    "paper": {"form": "paper"},
    "update": {"update": "open"},
    "update, gate per sample": {"update": "sample"},
    "update, gate per token": {"update": "token", "scale": "token", "shift": "token"},
    "paper, update": {"form": "paper", "update": "sample"},
    "no motion": {"motion": False},
    "no motion, time per token": {"motion": False, "scale": "token", "shift": "token"},
    "no motion, update": {"motion": False, "update": "sample"},
    "no motion, update per token": {"motion": False, "update": "token", "shift": "token"},
}
BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}
EMPTY = {"no token": Case(2, 3, 0, 0, 8), "no sample": Case(0, 2, 3, 1, 8), "prefix alone": Case(2, 3, 0, 5, 8)}


@pytest.fixture
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_agrees_with_the_twin(backend: Backend, shape: str) -> None:
    assert_agrees(replace(SHAPES[shape], update="sample"), backend, 1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_agrees_with_the_twin(backend: Backend, variant: str) -> None:
    assert_agrees(replace(Case(2, 2, 2, 1, 33), **VARIANTS[variant]), backend, 1e-5)


@pytest.mark.parametrize("programs", [1, 2, 3])
@pytest.mark.parametrize("variant", ["time per sample", "update, gate per sample", "no motion, update"])
def test_programs_that_take_several_strips_agree_with_the_twin(programs: int, variant: str) -> None:
    with patch.object(gpu, "programs_per_sample", lambda problem: programs):
        assert_agrees(replace(Case(2, 2, 5, 4, 20), **VARIANTS[variant]), "triton", 1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_bf16_tokens_with_fp32_modulation_agree_with_the_twin(backend: Backend, variant: str) -> None:
    case = Case(1, 2, 3, 1, 96, dtype=torch.bfloat16, modulation=torch.float32)
    assert_agrees(replace(case, **VARIANTS[variant]), backend, 1e-2)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("variant", ["time per sample", "update, gate per token"])
@pytest.mark.parametrize(("dtype", "modulation"), [("bfloat16", None), ("float16", None), ("float16", "float32")])
def test_any_narrow_dtypes_agree_with_the_twin(
    backend: Backend, variant: str, dtype: str, modulation: str | None
) -> None:
    kind = getattr(torch, dtype)
    case = Case(1, 2, 2, 1, 96, dtype=kind, modulation=modulation and getattr(torch, modulation))
    assert_agrees(replace(case, **VARIANTS[variant]), backend, BOUNDS[kind])


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("update", ["open", "sample", "token"])
def test_the_sum_is_normalised_as_it_is_returned(backend: Backend, update: str) -> None:
    case = Case(2, 2, 2, 1, 33, update=update, dtype=torch.bfloat16)
    leaves = inputs(case)
    y, total = outputs(case, leaves, backend)
    rest = {name: tensor for name, tensor in leaves.items() if not name.startswith("update")}
    assert torch.equal(outputs(replace(case, update=""), rest | {"x": total}, backend)[0], y)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("ignore:var_mean")
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_any_shape_and_variant_agrees_with_the_twin(backend: Backend, data: st.DataObject) -> None:
    draw, row = data.draw, st.sampled_from(("sample", "token"))
    motion = draw(st.booleans())
    case = Case(
        *(draw(st.integers(*ends)) for ends in ((1, 2), (1, 3), (0, 4), (0, 3), (1, 40))),
        motion=motion, form=cast(Form, draw(st.sampled_from(("adaln", "paper"))) if motion else "adaln"),
        scale=draw(row), shift=draw(row), update=draw(st.sampled_from(("", "open", "sample", "token"))),
    )  # fmt: skip
    dtype = draw(st.sampled_from(tuple(BOUNDS)))
    assert_agrees(
        replace(case, dtype=dtype, modulation=torch.float32), backend, BOUNDS[dtype], draw(st.integers(0, 99))
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("variant", ["time per sample", "update, gate per token", "no motion, update"])
@pytest.mark.parametrize("empty", EMPTY)
@pytest.mark.filterwarnings("ignore:var_mean")
def test_with_nothing_to_normalise_gradients_are_zero(backend: Backend, variant: str, empty: str) -> None:
    case = replace(EMPTY[empty], **VARIANTS[variant])
    assert_agrees(case, backend, 1e-5)


def test_a_poisoned_output_that_is_never_written_is_seen() -> None:
    with poisoned():
        assert torch.empty(3).isnan().all() and torch.ones(2).new_empty(3).isnan().all()
        assert cpu.empty_float32((2, 2)).isnan().all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_formula_of_the_backward_passes_gradcheck(variant: str) -> None:
    case = replace(Case(2, 2, 2, 1, 3, dtype=torch.float64), **VARIANTS[variant])
    leaves = inputs(case)
    assert torch.autograd.gradcheck(
        lambda *tensors: outputs(case, dict(zip(leaves, tensors, strict=True)), "plain"), tuple(leaves.values())
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("variant", ["time per sample", "time per token", "update, gate per sample"])
def test_same_inputs_give_the_same_bytes(backend: Backend, variant: str) -> None:
    case = replace(Case(2, 2, 3, 1, 40), **VARIANTS[variant])
    first, second = (results(case, leaves, outputs(case, leaves, backend)) for leaves in (inputs(case), inputs(case)))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.usefixtures("_threads")
def test_bytes_of_the_compiled_loops_do_not_depend_on_the_number_of_threads() -> None:
    # Wide enough for several tasks: fewer values are one task's, whatever the threads.
    case = Case(2, 5, 60, 130, 1024, update="sample")
    assert case.tokens * case.width > 4 * cpu.TASK
    leaves, got = inputs(case), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        got.append(results(case, leaves, outputs(case, leaves, "cpu")))
    assert all(torch.equal(got[0][name], other[name]) for name in got[0] for other in got[1:])


@pytest.mark.parametrize("width", [64, 1000])
def test_many_tasks_of_the_compiled_loops_agree_with_the_twin(width: int) -> None:
    # Cut into frames too, because there are fewer positions than tasks.
    case = Case(2, 300_000 // width, 3, 200_000 // width, width)
    leaves = {name: tensor.detach() for name, tensor in inputs(case).items()}
    regions = cpu._regions(Problem(**leaves, frames=case.frames, prefix=case.prefix))
    assert all(region.frame_parts > 1 for region in regions)
    assert_agrees(case, "cpu", 1e-5)


LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "chunked": lambda t: torch.cat((torch.full_like(t, torch.nan), t), dim=-1)[..., t.shape[-1] :],
    "transposed": lambda t: t.transpose(-1, 0).contiguous().transpose(-1, 0),
    "every other value": lambda t: torch.stack((t, torch.full_like(t, torch.nan)), dim=-1)[..., 0],
    "sliced tokens": lambda t: (
        torch.cat((torch.full_like(t, torch.nan), t, t), dim=-2)[..., t.shape[-2] : -t.shape[-2], :]
        if t.ndim == 3
        else t
    ),
    "one sample for all": lambda t: t[:1].expand_as(t),
    "one row for all": lambda t: t[:, :1].expand_as(t) if t.ndim == 3 else t,
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("variant", ["time per sample", "update, gate per token", "no motion, update"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_strides_give_what_contiguous_inputs_give(backend: Backend, variant: str, layout: str) -> None:
    case = replace(Case(2, 2, 2, 1, 24), **VARIANTS[variant])
    laid_out = {name: LAYOUTS[layout](tensor.detach()) for name, tensor in inputs(case).items()}
    copies = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in laid_out.items()}
    got, expected = (
        results(case, leaves, outputs(case, leaves, backend))
        for leaves in ({name: t.detach().requires_grad_() for name, t in given.items()} for given in (laid_out, copies))
    )
    assert any(not tensor.is_contiguous() for tensor in laid_out.values())
    for name, tensor in got.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6 if backend == "plain" else 0, atol=1e-6)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_gradients_of_outputs_may_have_any_strides(backend: Backend, layout: str) -> None:
    case = Case(2, 2, 2, 1, 24, update="sample")
    leaves = inputs(case)
    made = outputs(case, leaves, backend)
    weights = [LAYOUTS[layout](torch.linspace(-1, 1, made[0].numel()).view_as(made[0])) for _ in made]
    got, expected = (
        torch.autograd.grad(made, tuple(leaves.values()), given, retain_graph=True)
        for given in (weights, [weight.contiguous() for weight in weights])
    )
    for tensor, other in zip(got, expected, strict=True):
        torch.testing.assert_close(tensor, other, rtol=1e-6 if backend == "plain" else 0, atol=1e-6)


def test_a_copy_is_made_only_of_rows_whose_values_do_not_follow_each_other() -> None:
    case = Case(2, 2, 2, 1, 24)
    leaves = {name: tensor.detach() for name, tensor in inputs(case).items()}
    leaves["motion_scale"], leaves["motion_shift"] = torch.randn(2, 2, 48).chunk(2, dim=-1)
    problem = Problem(**leaves, frames=2, prefix=1)
    launch = gpu.forward_launch(problem, empty_outputs(problem), gpu.forward_settings(problem)[0])
    for name, tensor in leaves.items():
        assert launch.arguments[name].data_ptr() == tensor.data_ptr()


FAR = 2**31


@contextmanager
def alone(program: int | None = None) -> Iterator[None]:
    """The interpreter runs one program of each sample, or all, and copies no memory that it may not have touched."""
    from triton.runtime.interpreter import GridExecutor, InterpreterBuilder

    def chosen(self: Any, x: int, y: int, z: int) -> None:
        self.grid_idx = (x if program is None else program, y, z)

    with (
        patch.object(GridExecutor, "_restore_args_dev", lambda *_: None),
        patch.object(InterpreterBuilder, "set_grid_idx", chosen),
    ):
        yield


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("update", ["", "token"])
def test_samples_and_rows_may_lie_more_than_2_31_values_apart(backend: Backend, axis: int, update: str) -> None:
    case = Case(2 - axis, 1, 1 + axis, 0, 24, update=update, dtype=torch.bfloat16)
    near = inputs(case)
    far = {}
    for name, tensor in near.items():
        strides = list(tensor.stride())
        if tensor.ndim == 3:
            strides[axis] = FAR
        memory = torch.empty(FAR + tensor.numel(), dtype=tensor.dtype) if tensor.ndim == 3 else torch.empty_like(tensor)
        far[name] = memory.as_strided(tensor.shape, strides).copy_(tensor.detach()).requires_grad_()
    with alone():
        got, expected = (results(case, leaves, outputs(case, leaves, backend)) for leaves in (far, near))
    for name, tensor in got.items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-6 if backend == "plain" else 0, atol=0)


def long_clip() -> tuple[Problem, Problem, int]:
    """One with more than 2**31 values, of which the last rows alone were ever touched, and those rows."""
    case = Case(1, 1, 8, 0, 2048, dtype=torch.bfloat16, modulation=torch.float32)
    few = Problem(**{name: tensor.detach() for name, tensor in inputs(case).items()}, frames=1)
    rows = FAR // case.width + 8
    many = {}
    for name in ("x", "motion_scale", "motion_shift"):
        many[name] = torch.empty(1, rows, case.width, dtype=case.dtype)
        many[name][:, -8:] = getattr(few, name)
    return few, replace(few, **many), rows


def test_the_forward_writes_rows_past_2_31_values() -> None:
    few, many, rows = long_clip()
    without_motion = {"motion_scale": None, "motion_shift": None, "gate": None}
    few, many = replace(few, **without_motion, prefix=8), replace(many, **without_motion, prefix=rows)
    expected, got = gpu.forward(few), empty_outputs(many)
    launch = gpu.forward_launch(many, got, replace(gpu.forward_settings(many)[0], strip=8))
    with alone(launch.grid[0] - 1):
        replace(launch, grid=(1, 1)).run()
    assert got.y.numel() > FAR and torch.equal(got.y[:, -8:], expected.y)
    assert torch.equal(got.mean[:, -8:], expected.mean) and torch.equal(got.rstd[:, -8:], expected.rstd)


def test_the_backward_writes_rows_and_partial_sums_past_2_31_values() -> None:
    few, many, rows = long_clip()
    normed = gpu.forward(few)
    statistics = {name: torch.empty(1, rows) for name in ("mean", "rstd")}
    for name, tensor in statistics.items():
        tensor[:, -8:] = getattr(normed, name)
    found = []
    for made, mean, rstd, programs in (
        (few, normed.mean, normed.rstd, 8),
        (many, statistics["mean"], statistics["rstd"], rows),
    ):
        gradients, partial = empty_gradients(made), gpu.partial_sums(made, programs)
        with patch.object(gpu, "programs_per_sample", lambda _, programs=programs: programs):
            launch = gpu.backward_launch(
                made, made.x, None, Normed(made.x, made.x, mean, rstd), gradients, partial, Setting(8)
            )
        with alone(programs - 1):
            replace(launch, grid=(1, 1)).run()
        found.append([gradients.x, gradients.motion_scale, gradients.motion_shift, *partial.values()])
    for expected, got in zip(*found, strict=True):
        assert expected is not None and got is not None
        assert got.numel() > FAR and torch.equal(got[0, -1], expected[0, -1])


def test_the_compiled_loops_leave_the_gates_memory_resizable() -> None:
    gate = torch.ones(8, requires_grad=True)
    rows = torch.zeros(1, 2, 8)
    tokens = torch.ones(1, 4, 8)
    time = torch.zeros(1, 8)
    madanorm(tokens, time, time, rows, rows, gate, frames=2, backend="cpu").sum().backward()
    # What FSDP does with a gathered weight when its block has run.
    gate.untyped_storage().resize_(0)
