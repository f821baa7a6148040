"""Suffixes: B batch, L tokens, S positions of a frame, D width."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from more4d_kernels import madanorm, modulated_norm
from more4d_kernels.backends import Backend
from more4d_kernels.madanorm.op import _alike
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from . import conftest
from .conftest import BACKENDS, Case

B, FRAMES, S, D = 2, 3, 4, 8


def inputs(
    *, prefix: int = 0, per_token: bool = False, dtype: torch.dtype = torch.float64, gate: float = 0.3
) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()

    time = (B, prefix + FRAMES * S, D) if per_token else (B, D)
    return {
        "x": normal(B, prefix + FRAMES * S, D),
        "time_scale": normal(*time),
        "time_shift": normal(*time),
        "motion_scale": normal(B, S, D),
        "motion_shift": normal(B, S, D),
        "gate": (normal(D) * gate).detach().requires_grad_(),
    }


def repeated(given: dict[str, Tensor], *, prefix: int = 0, form: str = "adaln") -> Tensor:
    """The published formulation: motion rows repeated for every frame."""
    normed = functional.layer_norm(given["x"], (D,), eps=1e-6)
    time_scale, time_shift = (t if t.ndim == 3 else t[:, None] for t in (given["time_scale"], given["time_shift"]))
    scale, shift = (
        torch.cat([torch.zeros(B, prefix, D), *[given[name]] * FRAMES], dim=1) * given["gate"]
        for name in ("motion_scale", "motion_shift")
    )
    if form == "paper":
        return torch.cat((normed[:, :prefix], (scale * normed + shift)[:, prefix:]), dim=1)
    return (normed * (1 + time_scale) + time_shift) * (1 + scale) + shift


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("prefix", [0, 5])
@pytest.mark.parametrize("form", ["adaln", "paper"])
def test_madanorm_equals_the_formula_with_repeated_motion(form: str, prefix: int, per_token: bool) -> None:
    given = inputs(prefix=prefix, per_token=per_token)
    result = madanorm(**given, frames=FRAMES, prefix=prefix, form=form)
    torch.testing.assert_close(result, repeated(given, prefix=prefix, form=form), rtol=1e-12, atol=1e-12)


def test_madanorm_is_plain_adaln_at_zero_gate_yet_the_gate_learns() -> None:
    given = inputs(gate=0)
    result = madanorm(**given, frames=FRAMES)
    adaln = functional.layer_norm(given["x"], (D,), eps=1e-6) * (1 + given["time_scale"][:, None])
    torch.testing.assert_close(result, adaln + given["time_shift"][:, None], rtol=1e-12, atol=1e-12)
    result.square().sum().backward()
    assert given["gate"].grad is not None and (given["gate"].grad.abs() > 1e-3).all()
    assert given["motion_scale"].grad is not None and (given["motion_scale"].grad == 0).all()


def test_an_open_gate_gives_every_input_a_gradient() -> None:
    given = inputs(per_token=True)
    madanorm(**given, frames=FRAMES).square().sum().backward()
    assert all(tensor.grad is not None and tensor.grad.abs().min() > 0 for tensor in given.values())


@pytest.mark.parametrize("form", ["adaln", "paper"])
def test_gradients_of_madanorm_are_right(form: str) -> None:
    given = inputs(prefix=1)
    assert torch.autograd.gradcheck(
        lambda *tensors: madanorm(*tensors, frames=FRAMES, prefix=1, form=form), tuple(given.values()), fast_mode=True
    )


def test_prefix_tokens_do_not_see_the_motion() -> None:
    given = inputs(prefix=2)
    moved = given | {"motion_shift": given["motion_shift"] + 5}
    before, after = (madanorm(**tensors, frames=FRAMES, prefix=2) for tensors in (given, moved))
    assert torch.equal(before[:, :2], after[:, :2])
    assert not torch.isclose(before[:, 2:], after[:, 2:]).any()


def test_bfloat16_is_computed_in_float32() -> None:
    given = inputs(dtype=torch.bfloat16)
    exact = madanorm(**{name: tensor.double() for name, tensor in given.items()}, frames=FRAMES)
    result = madanorm(**given, frames=FRAMES)
    assert result.dtype == torch.bfloat16
    torch.testing.assert_close(result.double(), exact, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("motion_scale", (B, FRAMES * S, D), "never repeated"),
        ("time_shift", (B, S, D), "time_shift is"),
        ("gate", (1,), "gate is"),
        ("x", (B, FRAMES * S + 1, D), "whole number of positions"),
    ],
)
def test_a_shape_that_does_not_fit_is_named(name: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        madanorm(**inputs() | {name: torch.zeros(shape)}, frames=FRAMES)


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(ValueError, match="'adaln' and 'paper'"):
        madanorm(**inputs(), frames=FRAMES, form="film")  # type: ignore[arg-type]


def arguments(case: Case, backend: Backend, *, leaves: bool) -> tuple[list[Tensor], str, int, int, float, str]:
    """What the op is called with."""
    given = {name: tensor.detach() for name, tensor in conftest.inputs(case).items()}
    given["time_scale"], given["time_shift"] = _alike(given["time_scale"], given["time_shift"], case.tokens)
    tensors = [tensor.clone().requires_grad_(leaves) for tensor in given.values()]
    return tensors, " ".join(given), case.frames if case.motion else 1, case.prefix, 1e-6, backend


OPS = [
    Case(2, 2, 2, 1, 8),
    Case(1, 2, 2, 0, 8, scale="token", shift="token", update="open"),
    Case(1, 2, 2, 0, 8, update="sample", dtype=torch.bfloat16, modulation=torch.float32),
    Case(1, 3, 1, 3, 8, motion=False, update="token"),
    Case(1, 2, 2, 0, 8, dtype=torch.float64),
]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", OPS)
def test_the_op_is_what_torch_library_asks_of_it(case: Case, backend: Backend) -> None:
    backend = "plain" if case.dtype == torch.float64 else backend
    prefix = case.tokens if not case.motion else case.prefix
    tensors, names, frames, _, *rest = arguments(case, backend, leaves=True)
    torch.library.opcheck(torch.ops.more4d.modulated_norm.default, (tensors, names, frames, prefix, *rest))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", OPS)
def test_the_backward_op_is_what_torch_library_asks_of_it(case: Case, backend: Backend) -> None:
    backend = "plain" if case.dtype == torch.float64 else backend
    prefix = case.tokens if not case.motion else case.prefix
    tensors, names, frames, _, *rest = arguments(case, backend, leaves=False)
    y, total, mean, rstd = torch.ops.more4d.modulated_norm(tensors, names, frames, prefix, *rest)
    tensors[0] = total if case.update else tensors[0]
    dtotal = torch.ones_like(y) if case.update else None
    torch.library.opcheck(
        torch.ops.more4d.modulated_norm_backward.default,
        (torch.ones_like(y), dtotal, mean, rstd, tensors, names, frames, prefix, *rest),
    )


def layer(x: Tensor, time: Tensor, motion: Tensor, gate: Tensor, weight: Tensor, backend: Backend) -> Tensor:
    """Two norms as a transformer's block calls them: motion and modulation chunked, an update carried over."""
    scale, shift, opening = time.chunk(3, dim=-1)
    y = madanorm(x, scale, shift, *motion.chunk(2, dim=-1), gate, frames=2, prefix=1, backend=backend)
    y, x = modulated_norm(x, scale, shift, update=y @ weight, update_gate=opening, backend=backend)
    return x + y.sin()


def layer_inputs(positions: int = 3, batch: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((batch, 1 + 2 * positions, 8), (batch, 24), (batch, positions, 16), (8,), (8, 8))
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def value_and_gradients(layer_of: Callable[..., Tensor], tensors: list[Tensor], backend: Backend) -> list[Tensor]:
    made = layer_of(*tensors, backend)
    return [made.detach(), *torch.autograd.grad(made.square().sum(), tensors)]


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
def test_norms_are_compiled_into_one_graph_and_change_nothing(backend: Backend) -> None:
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    got, expected = (value_and_gradients(f, layer_inputs(), backend) for f in (compiled, layer))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_a_layer_compiled_once_takes_any_number_of_tokens() -> None:
    torch.compiler.reset()
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, backend=counter, dynamic=True)
    compilations = []
    for positions in (3, 4, 6):
        got, expected = (value_and_gradients(f, layer_inputs(positions), "auto") for f in (compiled, layer))
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        compilations.append(counter.frame_count)
    assert len(set(compilations)) == 1


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["auto", "plain"])
def test_inductor_compiles_norms_into_one_graph(backend: Backend) -> None:
    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True)
    got, expected = (value_and_gradients(f, layer_inputs(), backend) for f in (compiled, layer))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_checkpointed_layer_has_the_same_gradients(backend: Backend) -> None:
    def checkpointed(*given: Any) -> Tensor:
        return checkpoint(layer, *given, use_reentrant=False)

    got, expected = (value_and_gradients(f, layer_inputs(), backend) for f in (checkpointed, layer))
    assert all(torch.equal(*pair) for pair in zip(got, expected, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("update", ["", "sample"])
def test_gradients_of_some_inputs_are_what_they_are_among_all(backend: Backend, update: str) -> None:
    case = Case(1, 2, 2, 1, 8, update=update)
    given = conftest.inputs(case)
    made = conftest.outputs(case, given, backend)
    everything = dict(zip(given, torch.autograd.grad(made[0].sum(), tuple(given.values())), strict=True))
    for name in given:
        alone = {other: tensor.detach().requires_grad_(other == name) for other, tensor in given.items()}
        made = conftest.outputs(case, alone, backend)
        (gradient,) = torch.autograd.grad(made[0].sum(), (alone[name],))
        assert torch.equal(gradient, everything[name]), name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("used", [0, 1])
def test_either_output_alone_may_be_used(backend: Backend, used: int) -> None:
    case = Case(1, 2, 2, 1, 8, update="sample")
    given = conftest.inputs(case)
    exact = {name: tensor.detach().double().requires_grad_() for name, tensor in given.items()}
    names = list(given) if used == 0 else ["x", "update", "update_gate"]
    got, expected = (
        torch.autograd.grad(made[used].square().sum(), [leaves[name] for name in names])
        for made, leaves in ((conftest.outputs(case, given, backend), given), (conftest.twin(case, exact), exact))
    )
    for result, wanted in zip(got, expected, strict=True):
        torch.testing.assert_close(result.double(), wanted, rtol=1e-4, atol=1e-5)


def test_nothing_is_kept_for_a_backward_that_will_not_come() -> None:
    given = {name: tensor.detach() for name, tensor in inputs().items()}
    assert madanorm(**given, frames=FRAMES).grad_fn is None
    with torch.no_grad():
        assert not madanorm(**inputs(), frames=FRAMES).requires_grad


def test_tensors_on_two_devices_are_named() -> None:
    given = inputs()
    with pytest.raises(ValueError, match="gate is on meta, but x is on cpu"):
        madanorm(**given | {"gate": given["gate"].to("meta")}, frames=FRAMES)


def test_a_gate_without_its_update_is_refused() -> None:
    with pytest.raises(ValueError, match="without the update"):
        madanorm(**inputs(), frames=FRAMES, update_gate=torch.ones(B, D))


def test_an_update_without_a_gate_is_not_kept_for_the_backward() -> None:
    x, row = torch.randn(1, 4, 8, requires_grad=True), torch.randn(1, 8)
    update = torch.randn(1, 4, 8, requires_grad=True)
    kept: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        y, total = modulated_norm(x, row, row, update=update)
    assert update.data_ptr() not in [tensor.data_ptr() for tensor in kept]
    (y.sum() + 2 * total.sum()).backward()
    assert x.grad is not None and torch.equal(x.grad, update.grad)


@pytest.mark.parametrize("backend", ["cpu", "plain", "triton"])
def test_a_constant_row_without_eps_is_nan_and_no_error(backend: Backend) -> None:
    x, row = torch.ones(1, 2, 8), torch.zeros(1, 8)
    x[0, 1, 0] = 5
    y = modulated_norm(x, row, row, eps=0, backend=backend)
    assert y[0, 0].isnan().all() and y[0, 1].isfinite().all()


def test_numbers_of_8_bits_are_refused() -> None:
    with pytest.raises(ValueError, match="float8"):
        modulated_norm(torch.zeros(1, 2, 8).to(torch.float8_e4m3fn), torch.zeros(1, 8), torch.zeros(1, 8))
