"""Suffixes: B batch, L tokens, S positions of a frame, D width."""

import pytest
import torch
from more4d_kernels import madanorm
from torch import Tensor
from torch.nn import functional

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
