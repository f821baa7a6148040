"""`madanorm` and `modulated_norm`: checks, then one `torch.library` op that chooses the kernel or its twin.

Backends: "triton" on CUDA tensors (on CPU tensors in Triton's interpreter), "cpu" by numba, "plain" by PyTorch.
"""

from importlib import import_module
from types import ModuleType
from typing import Any, Literal, overload

import torch
from torch import Tensor

from more4d_kernels.backends import Backend, choose
from more4d_kernels.madanorm.problem import Gradients, Problem, empty_gradients, empty_outputs

Form = Literal["adaln", "paper"]
DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
MODULES = {"triton": "gpu", "cpu": "cpu", "plain": "plain"}


@overload
def madanorm(
    x: Tensor,
    time_scale: Tensor,
    time_shift: Tensor,
    motion_scale: Tensor,
    motion_shift: Tensor,
    gate: Tensor,
    *,
    frames: int,
    prefix: int = 0,
    eps: float = 1e-6,
    form: Form = "adaln",
    update: None = None,
    update_gate: None = None,
    backend: Backend = "auto",
) -> Tensor: ...


@overload
def madanorm(
    x: Tensor,
    time_scale: Tensor,
    time_shift: Tensor,
    motion_scale: Tensor,
    motion_shift: Tensor,
    gate: Tensor,
    *,
    frames: int,
    prefix: int = 0,
    eps: float = 1e-6,
    form: Form = "adaln",
    update: Tensor,
    update_gate: Tensor | None = None,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]: ...


def madanorm(
    x: Tensor,
    time_scale: Tensor,
    time_shift: Tensor,
    motion_scale: Tensor,
    motion_shift: Tensor,
    gate: Tensor,
    *,
    frames: int,
    prefix: int = 0,
    eps: float = 1e-6,
    form: Form = "adaln",
    update: Tensor | None = None,
    update_gate: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """The modulated tokens [B, L, D] in x's dtype; L = prefix + frames * S.

    y = (LN(x) (1 + time_scale) + time_shift) (1 + gate * motion_scale) + gate * motion_shift, with LN without
    weights and everything inside in fp32. `x` [B, L, D]; `time_*` [B, D] or [B, L, D]; `motion_*` [B, S, D],
    the same for every frame; `gate` [D]; each of any floating dtype and any strides. The first `prefix` tokens
    (a reference image) get no motion part. `form="paper"` is the paper's own gate * motion_scale * LN(x) +
    gate * motion_shift, in which the timestep has no part and a prefix is left LN(x).

    With `update` [B, L, D] (what the last layer made of an earlier x), x + update_gate * update is normalised in
    x's place, and returned beside y, rounded to x's dtype; `update_gate` [B, D] or [B, L, D], 1 without.

    Every input has a gradient; there are no second derivatives. Same inputs, same bytes, on one device and backend.
    Raises ValueError naming the shape or device that does not fit. Paper: section 4.2, MAdaNorm.
    """
    if form not in ("adaln", "paper"):
        raise ValueError(f"unknown form {form!r}; the forms are 'adaln' and 'paper'")
    _check_motion(x, motion_scale, motion_shift, gate, frames=frames, prefix=prefix)
    _check_modulation(x, time_scale=time_scale, time_shift=time_shift)
    _check_update(x, update, update_gate)
    timed = _alike(time_scale, time_shift, x.shape[1]) if form == "adaln" else (None, None)
    tensors = {
        "x": x, "time_scale": timed[0], "time_shift": timed[1],
        "motion_scale": motion_scale, "motion_shift": motion_shift, "gate": gate,
        "update": update, "update_gate": update_gate,
    }  # fmt: skip
    return _call(tensors, frames, prefix, eps, backend)


@overload
def modulated_norm(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    *,
    eps: float = 1e-6,
    update: None = None,
    update_gate: None = None,
    backend: Backend = "auto",
) -> Tensor: ...


@overload
def modulated_norm(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    *,
    eps: float = 1e-6,
    update: Tensor,
    update_gate: Tensor | None = None,
    backend: Backend = "auto",
) -> tuple[Tensor, Tensor]: ...


def modulated_norm(
    x: Tensor,
    scale: Tensor,
    shift: Tensor,
    *,
    eps: float = 1e-6,
    update: Tensor | None = None,
    update_gate: Tensor | None = None,
    backend: Backend = "auto",
) -> Tensor | tuple[Tensor, Tensor]:
    """LN(x) (1 + scale) + shift [B, L, D] in x's dtype: `madanorm` without motion, and what it says holds here.

    `x` [B, L, D]; `scale` and `shift` [B, D] or [B, L, D]. With `update`, x + update_gate * update is normalised
    and returned too.
    """
    _check_tokens(x)
    _check_modulation(x, scale=scale, shift=shift)
    _check_update(x, update, update_gate)
    scale, shift = _alike(scale, shift, x.shape[1])
    tensors = {"x": x, "time_scale": scale, "time_shift": shift, "update": update, "update_gate": update_gate}
    # Without motion all tokens are prefix.
    return _call(tensors, 1, x.shape[1], eps, backend)


@torch.library.custom_op("more4d::modulated_norm", mutates_args=())
def _forward(
    tensors: list[Tensor], names: str, frames: int, prefix: int, eps: float, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y, x + update_gate * update (empty without), mean and rstd [B, L]; `names` says which inputs `tensors` are."""
    normed = _implementation(backend).forward(_problem(tensors, names, frames, prefix, eps))
    return normed.y, normed.total, normed.mean, normed.rstd


@_forward.register_fake
def _forward_fake(
    tensors: list[Tensor], names: str, frames: int, prefix: int, eps: float, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    normed = empty_outputs(_problem(tensors, names, frames, prefix, eps))
    return normed.y, normed.total, normed.mean, normed.rstd


@torch.library.custom_op("more4d::modulated_norm_backward", mutates_args=())
def _backward(
    dy: Tensor,
    dtotal: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    tensors: list[Tensor],
    names: str,
    frames: int,
    prefix: int,
    eps: float,
    backend: str,
) -> list[Tensor]:
    """The gradient of each of `tensors`, of which x is what was normalised: the sum, where there is an update."""
    problem = _problem(tensors, names, frames, prefix, eps)
    return _present(_implementation(backend).backward(problem, dy, dtotal, mean, rstd))


@_backward.register_fake
def _backward_fake(
    dy: Tensor,
    dtotal: Tensor | None,
    mean: Tensor,
    rstd: Tensor,
    tensors: list[Tensor],
    names: str,
    frames: int,
    prefix: int,
    eps: float,
    backend: str,
) -> list[Tensor]:
    return _present(empty_gradients(_problem(tensors, names, frames, prefix, eps)))


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    tensors, *ctx.settings = inputs
    _, total, mean, rstd = output
    updated = "update" in ctx.settings[0].split()
    # Else an empty sum could come back with an empty gradient, which is not one of x.
    ctx.mark_non_differentiable(mean, rstd, *(() if updated else (total,)))
    normalised = total if updated else tensors[0]
    ctx.update_dtype = None
    if ctx.settings[0].endswith(" update"):
        # Without a gate its gradient is that of x: the update itself need not be kept.
        ctx.update_dtype, tensors = tensors[-1].dtype, tensors[:-1]
        ctx.settings[0] = ctx.settings[0].removesuffix(" update")
    ctx.save_for_backward(mean, rstd, normalised, *tensors[1:])
    ctx.set_materialize_grads(False)


def _gradients(
    ctx: Any, dy: Tensor | None, dtotal: Tensor | None, _dmean: None, _drstd: None
) -> tuple[list[Tensor], None, None, None, None, None]:
    mean, rstd, *tensors = ctx.saved_tensors
    # Only x + gate * update may have been used of the outputs.
    dy = torch.zeros_like(tensors[0]) if dy is None else dy
    gradients = _backward(dy, dtotal, mean, rstd, tensors, *ctx.settings)
    if ctx.update_dtype is not None:
        gradients = [*gradients, gradients[0].to(ctx.update_dtype)]
    return gradients, None, None, None, None, None


_forward.register_autograd(_gradients, setup_context=_save)


def _call(tensors: dict[str, Tensor | None], frames: int, prefix: int, eps: float, backend: Backend) -> Any:
    """y, or y and the sum where there is an update."""
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    chosen = choose(backend, given["x"])
    y, total, _, _ = _forward(list(given.values()), " ".join(given), frames, prefix, eps, chosen)
    return (y, total) if "update" in given else y


def _problem(tensors: list[Tensor], names: str, frames: int, prefix: int, eps: float) -> Problem:
    return Problem(**dict(zip(names.split(), tensors, strict=True)), frames=frames, prefix=prefix, eps=eps)


def _present(gradients: Gradients) -> list[Tensor]:
    return [gradient for gradient in vars(gradients).values() if gradient is not None]


def _implementation(backend: str) -> ModuleType:
    """The module whose `forward` and `backward` compute; each imports what it needs when it is first chosen."""
    return import_module(f"more4d_kernels.madanorm.{MODULES[backend]}")


def _alike(scale: Tensor, shift: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """Both a row a sample, or both a row a token: views, nothing is repeated."""
    if scale.ndim == shift.ndim:
        return scale, shift
    scale, shift = (t if t.ndim == 3 else t.unsqueeze(1).expand(-1, tokens, -1) for t in (scale, shift))
    return scale, shift


def _check_tokens(x: Tensor) -> None:
    if x.ndim != 3 or x.dtype not in DTYPES:
        raise ValueError(f"x must be [B, L, D] of {', '.join(map(str, DTYPES))}, not {x.dtype} {tuple(x.shape)}")


def _check_motion(
    x: Tensor, motion_scale: Tensor, motion_shift: Tensor, gate: Tensor, *, frames: int, prefix: int
) -> None:
    _check_tokens(x)
    batch, tokens, width = x.shape
    if frames < 1 or prefix < 0 or tokens < prefix or (tokens - prefix) % frames:
        raise ValueError(f"{tokens} tokens are not prefix={prefix} + frames={frames} times a whole number of positions")
    positions = (tokens - prefix) // frames
    for name, motion in (("motion_scale", motion_scale), ("motion_shift", motion_shift)):
        if motion.shape != (batch, positions, width):
            raise ValueError(
                f"{name} is {tuple(motion.shape)}, but {tokens} tokens in {frames} frames after a prefix of "
                f"{prefix} need {(batch, positions, width)}: one row per position of a frame, never repeated"
            )
    _check_like(x, "gate", gate, ((width,),))
    _check_like(x, "motion_scale", motion_scale, (motion_scale.shape,))
    _check_like(x, "motion_shift", motion_shift, (motion_shift.shape,))


def _check_modulation(x: Tensor, **modulations: Tensor | None) -> None:
    """Each [B, D] or [B, L, D]."""
    batch, tokens, width = x.shape
    for name, modulation in modulations.items():
        if modulation is not None:
            _check_like(x, name, modulation, ((batch, width), (batch, tokens, width)))


def _check_update(x: Tensor, update: Tensor | None, update_gate: Tensor | None) -> None:
    if update is not None:
        _check_like(x, "update", update, (x.shape,))
    elif update_gate is not None:
        raise ValueError("update_gate is given without the update that it opens")
    _check_modulation(x, update_gate=update_gate)


def _check_like(x: Tensor, name: str, tensor: Tensor, shapes: tuple[tuple[int, ...], ...]) -> None:
    if tensor.shape not in shapes or tensor.dtype not in DTYPES:
        wanted = " or ".join(str(tuple(shape)) for shape in shapes)
        raise ValueError(f"{name} is {tensor.dtype} {tuple(tensor.shape)}; it must be floating {wanted}")
    if tensor.device != x.device:
        raise ValueError(f"{name} is on {tensor.device}, but x is on {x.device}: move one of them")
