"""Compiled CPU loops of `madanorm` and `modulated_norm`: y = xhat · factor + offset, in float32; see plain.py.

A call works on a region: `frames` times `positions` rows of `width` values that follow each other in each sample, from
row `first` of its `tokens`. All are modulated by the timestep's `scale` (1 + time_scale) and `shift` [B, width]; with
a `gate` [width], each position also by its row of `moved` and `shifted` (motion_scale and motion_shift: flat memory,
`strides` from sample to sample and from row to row). Work is cut into `frame_parts` times `position_parts` tasks a
sample. BLOCK neighbouring positions go through the frames together: what they share stays in the nearest caches, and
what is read from memory lies in one piece.

Every function that another one here calls lives in this file, because numba's cache notices changes of this file
alone. A loop runs over one row and names few arrays: with more, LLVM gives up proving that they do not overlap and
leaves it scalar. Sums may be reordered (`reassoc`), or they would not become vector instructions.
"""

import math

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Region = tuple[int, int, int, int, int, bool]
"""tokens, first, frames, positions, width, and whether the timestep has no part (the paper's form)."""
Cuts = tuple[int, int]
"""frame_parts, position_parts."""
Motion = tuple[Floats, Floats, Floats, tuple[int, int, int, int]]
"""gate (empty without motion), moved, shifted, and the strides of the two."""

BLOCK = 8
ZERO, ONE = np.float32(0), np.float32(1)
FAST = {"reassoc", "contract", "nsz"}


@numba.njit(nogil=True, cache=True)
def forward(
    start: int,
    stop: int,
    region: Region,
    cuts: Cuts,
    eps: np.float32,
    scale: Floats,
    shift: Floats,
    motion: Motion,
    x: Floats,
    y: Floats,
    mean: Floats,
    rstd: Floats,
) -> None:
    """Fill rows of y [B · tokens, width], mean and rstd [B · tokens] for tasks start..stop."""
    tokens, origin, _, positions, width, paper = region
    factor, offset = np.empty((BLOCK, width), np.float32), np.empty((BLOCK, width), np.float32)
    for task in range(start, stop):
        batch, first_frame, last_frame, first, last = _task(task, region, cuts)
        for block in range(first, last, BLOCK):
            end = min(block + BLOCK, last)
            for position in range(block, end):
                i = position - block
                _open(batch, position, paper, scale[batch], shift[batch], motion, factor[i], offset[i])
            for frame in range(first_frame, last_frame):
                for position in range(block, end):
                    row, i = batch * tokens + origin + frame * positions + position, position - block
                    mean[row], rstd[row] = _statistics(x[row], eps)
                    _modulate(x[row], mean[row], rstd[row], factor[i], offset[i], y[row])


@numba.njit(nogil=True, cache=True)
def backward(
    start: int,
    stop: int,
    region: Region,
    cuts: Cuts,
    scale: Floats,
    shift: Floats,
    motion: Motion,
    x: Floats,
    dy: Floats,
    mean: Floats,
    rstd: Floats,
    dx: Floats,
    dmoved: Floats,
    dshifted: Floats,
    dgate: Floats,
    dscale: Floats,
    dshift: Floats,
) -> None:
    """Fill rows of dx; of dmoved and dshifted [B · frame_parts · positions, width]; and each task's own share of dgate,
    dscale and dshift [tasks, width], zero so far.
    """
    tokens, origin, _, positions, width, paper = region
    factor, offset = np.empty((BLOCK, width), np.float32), np.empty(width, np.float32)
    product, plain = np.empty((BLOCK, width), np.float32), np.empty((BLOCK, width), np.float32)
    for task in range(start, stop):
        batch, first_frame, last_frame, first, last = _task(task, region, cuts)
        for block in range(first, last, BLOCK):
            end = min(block + BLOCK, last)
            product[:], plain[:] = 0, 0
            for position in range(block, end):
                _open(batch, position, paper, scale[batch], shift[batch], motion, factor[position - block], offset)
            for frame in range(first_frame, last_frame):
                for position in range(block, end):
                    row, i = batch * tokens + origin + frame * positions + position, position - block
                    _through_norm(x[row], dy[row], factor[i], mean[row], rstd[row], dx[row])
                    _add_products(x[row], dy[row], mean[row], rstd[row], product[i], plain[i])
            sums = task // cuts[1] * positions
            for position in range(block, end):
                i = position - block
                if len(motion[0]):
                    _through_motion(
                        batch, position, paper, scale[batch], shift[batch], motion, product[i], plain[i],
                        dmoved[sums + position], dshifted[sums + position], dgate[task],
                    )  # fmt: skip
                _add(product[i], dscale[task])
                _add(plain[i], dshift[task])


@numba.njit(nogil=True, cache=True)
def _task(task: int, region: Region, cuts: Cuts) -> tuple[int, int, int, int, int]:
    """Its sample, and where its frames and its positions begin and end."""
    (_, _, frames, positions, _, _), (frame_parts, position_parts) = region, cuts
    batch, part = task // (frame_parts * position_parts), task % (frame_parts * position_parts)
    frame, position = part // position_parts, part % position_parts
    return (
        batch,
        frames * frame // frame_parts,
        frames * (frame + 1) // frame_parts,
        positions * position // position_parts,
        positions * (position + 1) // position_parts,
    )


@numba.njit(nogil=True, cache=True)
def _motion_rows(batch: int, position: int, motion: Motion) -> tuple[Floats, Floats]:
    gate, moved, shifted, (moved_batch, moved_row, shifted_batch, shifted_row) = motion
    a, b = batch * moved_batch + position * moved_row, batch * shifted_batch + position * shifted_row
    return moved[a : a + len(gate)], shifted[b : b + len(gate)]


@numba.njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def _open(
    batch: int,
    position: int,
    paper: bool,
    scale: Floats,
    shift: Floats,
    motion: Motion,
    factor: Floats,
    offset: Floats,
) -> None:
    """What a position's xhat is multiplied by and what is added."""
    gate = motion[0]
    if len(gate) == 0:
        factor[:], offset[:] = scale, shift
        return
    moved, shifted = _motion_rows(batch, position, motion)
    one = ZERO if paper else ONE
    for i in range(len(gate)):
        factor[i] = one + gate[i] * moved[i]
    for i in range(len(gate)):
        offset[i] = gate[i] * shifted[i]
    for i in range(len(gate)):
        offset[i] += shift[i] * factor[i]
    for i in range(len(gate)):
        factor[i] *= scale[i]


@numba.njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def _statistics(x: Floats, eps: np.float32) -> tuple[np.float32, np.float32]:
    """Mean and reciprocal standard deviation of a row, in two passes: one would cancel where the mean is large."""
    total = ZERO
    for i in range(len(x)):
        total += x[i]
    mean = total / np.float32(len(x))
    squares = ZERO
    for i in range(len(x)):
        squares += (x[i] - mean) * (x[i] - mean)
    return mean, ONE / np.float32(math.sqrt(squares / np.float32(len(x)) + eps))


@numba.njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def _modulate(x: Floats, mean: np.float32, rstd: np.float32, factor: Floats, offset: Floats, y: Floats) -> None:
    for i in range(len(x)):
        y[i] = (x[i] - mean) * rstd * factor[i] + offset[i]


@numba.njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def _through_norm(x: Floats, dy: Floats, factor: Floats, mean: np.float32, rstd: np.float32, dx: Floats) -> None:
    """The gradient of a row through its own mean and variance."""
    along, level = ZERO, ZERO
    for i in range(len(x)):
        given = dy[i] * factor[i]
        level += given
        along += given * ((x[i] - mean) * rstd)
    level, along = level / np.float32(len(x)), along / np.float32(len(x))
    for i in range(len(x)):
        dx[i] = (dy[i] * factor[i] - level - (x[i] - mean) * rstd * along) * rstd


@numba.njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def _add_products(x: Floats, dy: Floats, mean: np.float32, rstd: np.float32, product: Floats, plain: Floats) -> None:
    for i in range(len(x)):
        product[i] += dy[i] * ((x[i] - mean) * rstd)
        plain[i] += dy[i]


@numba.njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def _through_motion(
    batch: int,
    position: int,
    paper: bool,
    scale: Floats,
    shift: Floats,
    motion: Motion,
    product: Floats,
    plain: Floats,
    dmoved: Floats,
    dshifted: Floats,
    dgate: Floats,
) -> None:
    """Gradients of a position's rows and its share of the gate's; `product` and `plain` become those of scale, shift."""
    gate = motion[0]
    moved, shifted = _motion_rows(batch, position, motion)
    one = ZERO if paper else ONE
    for i in range(len(gate)):
        dmoved[i] = scale[i] * product[i] + shift[i] * plain[i]
    for i in range(len(gate)):
        dgate[i] += moved[i] * dmoved[i] + shifted[i] * plain[i]
    for i in range(len(gate)):
        dmoved[i] *= gate[i]
    for i in range(len(gate)):
        dshifted[i] = gate[i] * plain[i]
    for i in range(len(gate)):
        product[i] *= one + gate[i] * moved[i]
    for i in range(len(gate)):
        plain[i] *= one + gate[i] * moved[i]


@numba.njit(nogil=True, cache=True, fastmath=FAST, error_model="numpy")
def _add(row: Floats, total: Floats) -> None:
    for i in range(len(row)):
        total[i] += row[i]
