"""The compiled CPU kernels: each works on chunks of pixels, frame after frame, with the first frame's points in cache.

`start` and `stop` count chunks through the samples. Arrays are contiguous: points [B, T, P, 3], motion [B, 3, T, P],
`units` [B, 3] (W/fx, H/fy, 1), with P pixels. Every function that another one here calls lives in this file, because
numba's cache notices changes of this file alone. Loops take one coordinate at a time: so LLVM vectorizes them.
"""

import numba
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]

CHUNK = 2048
ZERO, ONE = np.float32(0), np.float32(1)


def chunks(pixels: int) -> int:
    """How many chunks one sample has."""
    return -(-pixels // CHUNK)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def normalize(start: int, stop: int, points: Floats, units: Floats, motion: Floats, valid: NDArray[np.bool_]) -> None:
    """Fill `motion` and `valid` [B, P]."""
    frames, pixels = points.shape[1:3]
    first, frustum = np.empty((3, CHUNK), np.float32), np.empty((3, CHUNK), np.float32)
    for chunk in range(start, stop):
        b, low, high = _place(chunk, pixels)
        keep = valid[b, low:high]
        _first_frame(points[b, 0, low:high], units[b], first, frustum, keep)
        for t in range(frames):
            for c in range(3):
                _divide(points[b, t, low:high], c, first[c], frustum[c], keep, motion[b, c, t, low:high])


@numba.njit(nogil=True, cache=True, error_model="numpy")
def measure(
    start: int,
    stop: int,
    points: Floats,
    units: Floats,
    motion: Floats,
    valid: NDArray[np.bool_],
    bits: NDArray[np.int32],
    largest: NDArray[np.int32],
    counts: NDArray[np.int32],
    shift: int,
    lowest: int,
) -> None:
    """`normalize`, and each chunk's statistics while it is in cache.

    `bits` is motion's memory, as integers; `largest` [chunks, 3] and `counts` [chunks, 3, bins] have a row for each.
    """
    frames, pixels = points.shape[1:3]
    for chunk in range(start, stop):
        b, low, high = _place(chunk, pixels)
        normalize(chunk, chunk + 1, points, units, motion, valid)
        left_out = frames * (high - low - valid[b, low:high].sum())
        for c in range(3):
            largest[chunk, c] = _count(bits[b, c, :, low:high], shift, lowest, counts[chunk, c])
            # What is not valid is 0 in every frame, and was counted as that.
            counts[chunk, c, 0] -= left_out


@numba.njit(nogil=True, cache=True, error_model="numpy")
def normalize_backward(
    start: int,
    stop: int,
    gradient: Floats,
    points: Floats,
    units: Floats,
    dpoints: Floats,
    partial: NDArray[np.float64],
) -> None:
    """Fill `dpoints`, and each chunk's row of `partial` [chunks, 2] with its sums of gradient times motion."""
    frames, pixels = points.shape[1:3]
    first, frustum = np.empty((3, CHUNK), np.float32), np.empty((3, CHUNK), np.float32)
    total, product = np.empty((3, CHUNK), np.float32), np.empty((3, CHUNK), np.float32)
    flags = np.empty(CHUNK, np.bool_)
    for chunk in range(start, stop):
        b, low, high = _place(chunk, pixels)
        keep = flags[: high - low]
        _first_frame(points[b, 0, low:high], units[b], first, frustum, keep)
        total[:], product[:] = ZERO, ZERO
        for t in range(1, frames):
            for c in range(3):
                _divide_backward(
                    gradient[b, c, t, low:high], points[b, t, low:high], c, first[c], frustum[c], keep,
                    dpoints[b, t, low:high], total[c], product[c],
                )  # fmt: skip
        out = dpoints[b, 0, low:high]
        for i in range(high - low):
            out[i, 0], out[i, 1] = -total[0, i], -total[1, i]
            through_depth = (product[0, i] + product[1, i] + product[2, i]) / frustum[2, i]
            out[i, 2] = -total[2, i] - through_depth
        for c in range(2):
            partial[chunk, c] = _sum(product[c], high - low)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def denormalize(start: int, stop: int, motion: Floats, points0: Floats, units: Floats, points: Floats) -> None:
    """Fill `points`, of the first frame's `points0` [B, P, 3]."""
    frames, pixels = points.shape[1:3]
    first, frustum = np.empty((3, CHUNK), np.float32), np.empty((3, CHUNK), np.float32)
    flags = np.empty(CHUNK, np.bool_)
    for chunk in range(start, stop):
        b, low, high = _place(chunk, pixels)
        keep = flags[: high - low]
        _first_frame(points0[b, low:high], units[b], first, frustum, keep)
        for t in range(frames):
            for c in range(3):
                _multiply(motion[b, c, t, low:high], c, first[c], frustum[c], keep, points[b, t, low:high])


@numba.njit(nogil=True, cache=True, error_model="numpy")
def denormalize_backward(
    start: int,
    stop: int,
    gradient: Floats,
    motion: Floats,
    points0: Floats,
    units: Floats,
    dmotion: Floats,
    dpoints0: Floats,
    partial: NDArray[np.float64],
    wanted: bool,
) -> None:
    """Fill `dmotion`, and where `wanted` `dpoints0` [B, P, 3] and `partial` as above; else motion is not read."""
    frames, pixels = gradient.shape[1:3]
    first, frustum = np.empty((3, CHUNK), np.float32), np.empty((3, CHUNK), np.float32)
    total, product = np.empty((3, CHUNK), np.float32), np.empty((3, CHUNK), np.float32)
    flags = np.empty(CHUNK, np.bool_)
    for chunk in range(start, stop):
        b, low, high = _place(chunk, pixels)
        keep = flags[: high - low]
        _first_frame(points0[b, low:high], units[b], first, frustum, keep)
        total[:], product[:] = ZERO, ZERO
        for t in range(frames):
            for c in range(3):
                given = gradient[b, t, low:high]
                _multiply_backward(given, c, frustum[c], keep, dmotion[b, c, t, low:high])
                if wanted:
                    _add_product(given, c, motion[b, c, t, low:high], keep, total[c], product[c])
        if not wanted:
            continue
        product[0] *= frustum[0]
        product[1] *= frustum[1]
        out = dpoints0[b, low:high]
        for i in range(high - low):
            out[i, 0], out[i, 1] = total[0, i], total[1, i]
            out[i, 2] = total[2, i] + (product[0, i] + product[1, i]) / frustum[2, i] + product[2, i]
        for c in range(2):
            partial[chunk, c] = -_sum(product[c], high - low)


@numba.njit(nogil=True, cache=True)
def _place(chunk: int, pixels: int) -> tuple[int, int, int]:
    """Sample, first pixel and last pixel + 1 of a chunk."""
    each = -(-pixels // CHUNK)
    b = chunk // each
    low = (chunk - b * each) * CHUNK
    return b, low, min(low + CHUNK, pixels)


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _first_frame(points0: Floats, units: Floats, first: Floats, frustum: Floats, keep: NDArray[np.bool_]) -> None:
    """Coordinates and one unit of motion [3, CHUNK] of a chunk's points [n, 3]; the unit as at 1 m where not valid."""
    for i in range(len(keep)):
        x, y, z = points0[i, 0], points0[i, 1], points0[i, 2]
        first[0, i], first[1, i], first[2, i] = x, y, z
        keep[i] = np.isfinite(x) and np.isfinite(y) and np.isfinite(z) and z > ZERO
        depth = z if keep[i] else ONE
        frustum[0, i], frustum[1, i], frustum[2, i] = depth * units[0], depth * units[1], depth


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _divide(points: Floats, c: int, first: Floats, frustum: Floats, keep: NDArray[np.bool_], out: Floats) -> None:
    for i in range(len(out)):
        moved = (points[i, c] - first[i]) / frustum[i]
        out[i] = moved if keep[i] else ZERO


@numba.njit(nogil=True, cache=True, error_model="numpy")
def _divide_backward(
    gradient: Floats,
    points: Floats,
    c: int,
    first: Floats,
    frustum: Floats,
    keep: NDArray[np.bool_],
    out: Floats,
    total: Floats,
    product: Floats,
) -> None:
    for i in range(len(gradient)):
        given = gradient[i] / frustum[i]
        given = given if keep[i] else ZERO
        along = given * (points[i, c] - first[i])
        out[i, c] = given
        total[i] += given
        product[i] += along if keep[i] else ZERO


@numba.njit(nogil=True, cache=True)
def _multiply(motion: Floats, c: int, first: Floats, frustum: Floats, keep: NDArray[np.bool_], out: Floats) -> None:
    for i in range(len(motion)):
        moved = motion[i] * frustum[i]
        out[i, c] = first[i] + (moved if keep[i] else ZERO)


@numba.njit(nogil=True, cache=True)
def _multiply_backward(gradient: Floats, c: int, frustum: Floats, keep: NDArray[np.bool_], out: Floats) -> None:
    for i in range(len(out)):
        given = gradient[i, c] * frustum[i]
        out[i] = given if keep[i] else ZERO


@numba.njit(nogil=True, cache=True)
def _add_product(
    gradient: Floats, c: int, motion: Floats, keep: NDArray[np.bool_], total: Floats, product: Floats
) -> None:
    for i in range(len(motion)):
        along = gradient[i, c] * motion[i]
        total[i] += gradient[i, c]
        product[i] += along if keep[i] else ZERO


@numba.njit(nogil=True, cache=True)
def _sum(values: Floats, count: int) -> float:
    total = 0.0
    for i in range(count):
        total += values[i]
    return total


@numba.njit(nogil=True, cache=True)
def _count(bits: NDArray[np.int32], shift: int, lowest: int, counts: NDArray[np.int32]) -> int:
    """Add the sizes [T, n], as bits, to their bins; returns the largest that is finite."""
    bins = len(counts)
    # Four histograms in turn: adding twice in a row to one bin would wait for the first addition.
    apart = np.zeros((4, bins + 1), np.int32)
    largest = 0
    for t in range(bits.shape[0]):
        row = bits[t]
        for i in range(len(row)):
            size = row[i] & 0x7FFFFFFF
            finite = size < 0x7F800000
            place = min(max((size >> shift) - lowest, 0), bins - 1)
            # One more bin, never read, takes what is not counted.
            apart[i & 3, place if finite else bins] += 1
            largest = max(largest, size if finite else 0)
    for lane in range(4):
        for k in range(bins):
            counts[k] += apart[lane, k]
    return largest
