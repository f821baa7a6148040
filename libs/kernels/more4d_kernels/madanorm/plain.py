"""Forward and backward of `madanorm` written out in plain PyTorch: for float64, and where nothing is compiled.

The backward is the formula that the compiled kernels follow. With xhat = LN(x), z = xhat (1 + time_scale) +
time_shift, y = z m + n, m = 1 + gate a, n = gate b, and sums over the frames that share a row:

    d_m = sum dy z          d_a = gate d_m        d_gate = sum (a d_m + b sum dy)
    d_n = sum dy            d_b = gate d_n        d_time_scale = sum dy m xhat,  d_time_shift = sum dy m
    d_xhat = dy m (1 + time_scale)                d_x = rstd (d_xhat - mean(d_xhat) - xhat mean(d_xhat xhat))
"""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from more4d_kernels.madanorm.problem import Gradients, Normed, Problem
from more4d_kernels.madanorm.reference import gated_sum_reference, per_token


def forward(problem: Problem) -> Normed:
    """Outputs of any dtype, computed in float32 or float64; see `madanorm`."""
    total = with_update(problem)
    x = (problem.x if problem.update is None else total).to(problem.inside)
    variance, mean = torch.var_mean(x, dim=-1, correction=0)
    rstd = torch.rsqrt(variance + problem.eps)
    xhat = (x - mean[..., None]) * rstd[..., None]
    if problem.time_scale is not None and problem.time_shift is not None:
        xhat = xhat * (1 + _row(problem.time_scale, x)) + _row(problem.time_shift, x)
    return Normed(_guided(problem, xhat).to(problem.x.dtype), total, mean, rstd)


def with_update(problem: Problem) -> Tensor:
    """x + update_gate * update [B, L, D] in x's dtype, empty without an update."""
    if problem.update is None:
        return problem.x.new_empty(0)
    return gated_sum_reference(problem.x, problem.update, problem.update_gate)


def backward(problem: Problem, dy: Tensor, dtotal: Tensor | None, mean: Tensor, rstd: Tensor) -> Gradients:
    """Gradients by the formula above; `problem.x` is what was normalised, so with an update the sum."""
    x, dy = problem.x.to(problem.inside), dy.to(problem.inside)
    xhat = (x - mean[..., None]) * rstd[..., None]
    timed = problem.time_scale is not None and problem.time_shift is not None
    scale = 1 + _row(problem.time_scale, x) if timed else torch.ones_like(x[:1, :1])
    shift = _row(problem.time_shift, x) if timed else torch.zeros_like(x[:1, :1])
    motion = _motion_gradients(problem, dy, xhat * scale + shift)
    dz = _times_motion(problem, dy)
    dxhat = dz * scale
    along, level = (dxhat * xhat).mean(-1, keepdim=True), dxhat.mean(-1, keepdim=True)
    dx = (dxhat - level - xhat * along) * rstd[..., None]
    if dtotal is not None:
        dx = dx + dtotal.to(dx.dtype)
    return Gradients(
        dx.to(problem.x.dtype),
        _reduced(dz * xhat, problem.time_scale),
        _reduced(dz, problem.time_shift),
        *motion,
        *update_gradients(problem, dx),
    )


def _motion_gradients(problem: Problem, dy: Tensor, z: Tensor) -> Sequence[Tensor | None]:
    """Of motion_scale, motion_shift and gate."""
    if problem.motion_scale is None or problem.motion_shift is None or problem.gate is None:
        return None, None, None
    dy_video = _by_frame(problem, dy)
    dm, dn = (dy_video * _by_frame(problem, z)).sum(1), dy_video.sum(1)
    gate, a, b = (t.to(dy.dtype) for t in (problem.gate, problem.motion_scale, problem.motion_shift))
    return (
        (gate * dm).to(problem.motion_scale.dtype),
        (gate * dn).to(problem.motion_shift.dtype),
        (a * dm + b * dn).sum((0, 1)).to(problem.gate.dtype),
    )


def gathered(problem: Problem, dtotal: Tensor, found: dict[str, Tensor]) -> Gradients:
    """Gradients of x, given whole, and of those inputs that are in `found`, in the inputs' dtypes."""
    update, update_gate = update_gradients(problem, dtotal)
    named: dict[str, Tensor | None] = {"x": dtotal, **found, "update": update, "update_gate": update_gate}
    cast: dict[str, Any] = dict.fromkeys(field.name for field in fields(Gradients))
    for name, tensor in vars(problem).items():
        if isinstance(tensor, Tensor) and (gradient := named.get(name)) is not None:
            cast[name] = gradient.to(tensor.dtype)
    return Gradients(**cast)


def update_gradients(problem: Problem, dtotal: Tensor) -> Sequence[Tensor | None]:
    """Of update and update_gate, from the whole gradient of x + gate * update."""
    if problem.update is None or problem.update_gate is None:
        return None, None
    dupdate = (dtotal * _row(problem.update_gate, dtotal)).to(problem.update.dtype)
    return dupdate, _reduced(dtotal * problem.update.to(dtotal.dtype), problem.update_gate)


def _guided(problem: Problem, z: Tensor) -> Tensor:
    if problem.motion_shift is None or problem.gate is None:
        return z
    shift = (problem.gate.to(z.dtype) * problem.motion_shift.to(z.dtype)).unsqueeze(1)
    guided = _times_motion(problem, z)
    video = (_by_frame(problem, guided) + shift).flatten(1, 2)
    return torch.cat((guided[:, : problem.prefix], video), dim=1)


def _times_motion(problem: Problem, z: Tensor) -> Tensor:
    """z m: every token's row times 1 + gate * motion_scale of its position; the prefix as it is."""
    if problem.motion_scale is None or problem.gate is None:
        return z
    m = problem.gate.to(z.dtype) * problem.motion_scale.to(z.dtype)
    if problem.time_scale is not None:
        m = 1 + m
    video = (_by_frame(problem, z) * m.unsqueeze(1)).flatten(1, 2)
    return torch.cat((z[:, : problem.prefix], video), dim=1)


def _by_frame(problem: Problem, tokens: Tensor) -> Tensor:
    """The video's tokens as [B, frames, S, D]: against [B, 1, S, D] nothing is repeated over frames."""
    return tokens[:, problem.prefix :].unflatten(1, (problem.frames, problem.positions))


def _row(modulation: Tensor | None, like: Tensor) -> Tensor:
    """[B, D] as [B, 1, D], [B, L, D] as it is, in `like`'s dtype."""
    assert modulation is not None
    return per_token(modulation).to(like.dtype)


def _reduced(gradient: Tensor, modulation: Tensor | None) -> Tensor | None:
    """A gradient [B, L, D] in the shape of the modulation it belongs to."""
    if modulation is None:
        return None
    # A copy: an op must not return what it was given, and without motion d_time_shift is dy.
    return gradient.sum(1).to(modulation.dtype) if modulation.ndim == 2 else gradient.to(modulation.dtype, copy=True)
