"""Triton's interpreter for all kernels, and random problems of the norms with their float64 twin.

Suffixes: B batch, L tokens, S positions of a frame, D width.
"""

import os

# Asked for before triton is first imported, or never.
os.environ["TRITON_INTERPRET"] = "1"

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

import torch
from more4d_kernels import madanorm, modulated_norm
from more4d_kernels.backends import Backend
from more4d_kernels.madanorm import cpu
from more4d_kernels.madanorm.op import Form
from more4d_kernels.madanorm.reference import madanorm_reference
from torch import Tensor

BACKENDS: list[Backend] = ["triton", "cpu", "plain"]
EPS = 1e-6


@dataclass(frozen=True)
class Case:
    """One problem of the norms: its sizes, which inputs it has, and their dtypes."""

    batch: int = 2
    frames: int = 3
    positions: int = 4
    prefix: int = 0
    width: int = 33
    motion: bool = True
    form: Form = "adaln"
    scale: str = "sample"
    """A row a "sample" or a "token", as for `shift` and `update`."""
    shift: str = "sample"
    update: str = ""
    """"" for none, "open" for one without a gate, or what its gate has a row for."""
    dtype: torch.dtype = torch.float32
    modulation: torch.dtype | None = None
    """Of time_scale, time_shift, gate and update_gate; `dtype` if None."""

    @property
    def tokens(self) -> int:
        return self.prefix + self.frames * self.positions

    @property
    def sizes(self) -> dict[str, int]:
        return {"frames": self.frames, "prefix": self.prefix} if self.motion else {}

    def row(self, per: str) -> tuple[int, ...]:
        return (self.batch, self.tokens, self.width) if per == "token" else (self.batch, self.width)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of every input, by its name in `madanorm`."""
        tokens, rows = self.row("token"), (self.batch, self.positions, self.width)
        shapes = {"x": tokens, "time_scale": self.row(self.scale), "time_shift": self.row(self.shift)}
        if self.motion:
            shapes |= {"motion_scale": rows, "motion_shift": rows, "gate": (self.width,)}
        if self.update:
            shapes["update"] = tokens
        if self.update in ("sample", "token"):
            shapes["update_gate"] = self.row(self.update)
        return shapes


def inputs(case: Case, seed: int = 0) -> dict[str, Tensor]:
    """Normal values that take gradients; x has a mean and a spread that a norm has to remove."""
    generator = torch.Generator().manual_seed(seed)
    made = {}
    for name, shape in case.shapes.items():
        dtype = case.dtype if name in ("x", "update", "motion_scale", "motion_shift") else case.modulation or case.dtype
        values = torch.randn(shape, generator=generator, dtype=torch.float64)
        made[name] = (values * 2 + 1 if name == "x" else values).to(dtype).requires_grad_()
    return made


def outputs(case: Case, given: dict[str, Tensor], backend: Backend) -> tuple[Tensor, ...]:
    """y, and the sum where there is an update."""
    if case.motion:
        made = madanorm(**given, **case.sizes, form=case.form, backend=backend)
    else:
        renamed = {name.removeprefix("time_"): tensor for name, tensor in given.items()}
        made = modulated_norm(**renamed, backend=backend)
    return made if isinstance(made, tuple) else (made,)


def twin(case: Case, given: dict[str, Tensor]) -> tuple[Tensor, ...]:
    """The same by the definition, in float64; the sum is rounded as it is when returned, for no gradient."""
    rest = {name: tensor for name, tensor in given.items() if not name.startswith("update")}
    x, total = rest.pop("x"), ()
    if case.update:
        gate = given["update_gate"] if "update_gate" in given else torch.ones((), dtype=x.dtype)
        gated = given["update"] * (gate[:, None] if gate.ndim == 2 else gate)
        exact = x + gated
        x = exact + (exact.to(case.dtype).to(exact.dtype) - exact).detach()
        total = (x,)
    if not case.motion:
        nothing = torch.zeros(case.batch, case.tokens, case.width, dtype=x.dtype)
        rest |= {"motion_scale": nothing, "motion_shift": nothing, "gate": nothing.new_zeros(case.width)}
    frames = case.frames if case.motion else 1
    motion = (rest.pop("motion_scale"), rest.pop("motion_shift"), rest.pop("gate"))
    y = madanorm_reference(
        x, rest["time_scale"], rest["time_shift"], *motion,
        frames=frames, prefix=case.prefix if case.motion else 0, eps=EPS, form=case.form,
    )  # fmt: skip
    return (y, *total)


def results(case: Case, given: dict[str, Tensor], made: tuple[Tensor, ...], seed: int = 1) -> dict[str, Tensor]:
    """The outputs, and the gradient that each input gets from random ones of the outputs (zero for no gradient)."""
    generator = torch.Generator().manual_seed(seed)
    weights = [torch.randn(output.shape, generator=generator, dtype=torch.float64).to(case.dtype) for output in made]
    got = torch.autograd.grad(
        made, tuple(given.values()), [w.to(o.dtype) for w, o in zip(weights, made, strict=True)], allow_unused=True
    )
    gradients = (
        torch.zeros_like(tensor) if gradient is None else gradient
        for tensor, gradient in zip(given.values(), got, strict=True)
    )
    named = dict(zip(given, gradients, strict=True))
    return {f"output {i}": output.detach() for i, output in enumerate(made)} | named


def relative_error(result: Tensor, exact: Tensor, least: float = 0.1) -> float:
    """Norm of the difference over that of the exact values, or over that of as many of size `least` where it is more."""
    difference = torch.linalg.vector_norm(result.double() - exact)
    scale = max(torch.linalg.vector_norm(exact).item(), least * math.sqrt(exact.numel()), 1e-30)
    return difference.item() / scale


def assert_agrees(case: Case, backend: Backend, bound: float, seed: int = 0) -> None:
    """Forward and all gradients against the float64 twin, everything poisoned that is not written."""
    given = inputs(case, seed)
    exact_given = {name: tensor.detach().double().requires_grad_() for name, tensor in given.items()}
    exact = results(case, exact_given, twin(case, exact_given))
    # One or two values have no gradient through their own norm: terms as large as rstd cancel.
    least = 0.1 if case.width > 2 else EPS**-0.5
    with poisoned():
        got = results(case, given, outputs(case, given, backend))
    for name, tensor in got.items():
        assert tensor.dtype == (given[name].dtype if name in given else case.dtype), name
        assert tensor.shape == exact[name].shape, name
        error = relative_error(tensor, exact[name], least if name in ("x", "update", "update_gate") else 0.1)
        assert error <= bound, f"{name}: {error:.1e}"


@contextmanager
def poisoned() -> Iterator[None]:
    """All memory that is asked for without a content holds NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    try:
        with patch.object(cpu, "empty_float32", lambda shape: torch.full(tuple(shape), math.nan)):
            yield
    finally:
        torch.use_deterministic_algorithms(False)
