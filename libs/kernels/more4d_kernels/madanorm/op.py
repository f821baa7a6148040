"""`madanorm`: checks, then the implementation for where the tensors live."""

from typing import Literal

from torch import Tensor

from more4d_kernels.madanorm.reference import madanorm_reference


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
    form: Literal["adaln", "paper"] = "adaln",
) -> Tensor:
    """The modulated tokens [B, L, D] in x's dtype; L = prefix + frames * S.

    y = (LN(x) (1 + time_scale) + time_shift) (1 + gate * motion_scale) + gate * motion_shift, with LN without
    weights and everything inside in fp32. `x` [B, L, D]; `time_*` [B, D] or [B, L, D]; `motion_*` [B, S, D],
    the same for every frame; `gate` [D]. The first `prefix` tokens (a reference image) get no motion part.
    `form="paper"` is the paper's own gate * motion_scale * LN(x) + gate * motion_shift, in which the timestep
    has no part and a prefix is left LN(x). Raises ValueError naming the shape that does not fit. Paper:
    section 4.3, MAdaNorm.
    """
    if form not in ("adaln", "paper"):
        raise ValueError(f"unknown form {form!r}; the forms are 'adaln' and 'paper'")
    _check_shapes(x, time_scale, time_shift, motion_scale, motion_shift, gate, frames=frames, prefix=prefix)
    return madanorm_reference(
        x,
        time_scale,
        time_shift,
        motion_scale,
        motion_shift,
        gate,
        frames=frames,
        prefix=prefix,
        eps=eps,
        form=form,
    )


def _check_shapes(
    x: Tensor,
    time_scale: Tensor,
    time_shift: Tensor,
    motion_scale: Tensor,
    motion_shift: Tensor,
    gate: Tensor,
    *,
    frames: int,
    prefix: int,
) -> None:
    if x.ndim != 3 or not x.is_floating_point():
        raise ValueError(f"x must be floating [B, L, D], not {x.dtype} {tuple(x.shape)}")
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
    for name, time in (("time_scale", time_scale), ("time_shift", time_shift)):
        if time.shape not in ((batch, width), (batch, tokens, width)):
            raise ValueError(f"{name} is {tuple(time.shape)}; it must be {(batch, width)} or {(batch, tokens, width)}")
    if gate.shape != (width,):
        raise ValueError(f"gate is {tuple(gate.shape)}; it must be {(width,)}")
