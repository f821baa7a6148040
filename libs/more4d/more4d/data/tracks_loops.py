"""Compiled loops of `tracks_codec`: between points in metres and steps relative to the first frame.

Shape letters: T frames, H height, W width. One pass over the memory: in NumPy the same takes eight times as long.
"""

import math

import numba
import numpy as np
from numpy.typing import NDArray

LIMIT = 2**15 - 1
NEAREST_M = 1e-4
Camera = tuple[float, float, float, float]
"""fx, fy, cx, cy in pixels."""


@numba.njit(nogil=True, cache=True)
def quantise(
    points_THW3: NDArray[np.float32],
    base_HW: NDArray[np.float32],
    camera: Camera,
    scales: tuple[float, float],
    steps_3THW: NDArray[np.int16],
    exact_THW: NDArray[np.bool_],
) -> None:
    """Fill the steps of (u, v, log z), each frame's difference from the frame before, and what they cannot hold.

    `scales` are pixels and log-depth a step. Where a point is not held the steps repeat the frame before.
    """
    fx, fy, cx, cy = camera
    frames, height, width = exact_THW.shape
    last = np.zeros((3, width), np.int16)
    offsets = np.zeros(3)
    for row in range(height):
        last[:] = 0
        for frame in range(frames):
            for column in range(width):
                x = float(points_THW3[frame, row, column, 0])
                y = float(points_THW3[frame, row, column, 1])
                z = float(points_THW3[frame, row, column, 2])
                base = float(base_HW[row, column])
                held = math.isfinite(x) and math.isfinite(y) and math.isfinite(z) and z > NEAREST_M and base > 0
                if held:
                    offsets[0] = (fx * x / z + cx - (column + 0.5)) / scales[0]
                    offsets[1] = (fy * y / z + cy - (row + 0.5)) / scales[0]
                    offsets[2] = math.log(z / base) / scales[1]
                    held = abs(offsets[0]) < LIMIT and abs(offsets[1]) < LIMIT and abs(offsets[2]) < LIMIT
                exact_THW[frame, row, column] = not held
                for axis in range(3):
                    step = np.int16(np.rint(offsets[axis])) if held else last[axis, column]
                    steps_3THW[axis, frame, row, column] = np.int16(step - last[axis, column])
                    last[axis, column] = step


@numba.njit(nogil=True, cache=True)
def dequantise(
    planes_23THW: NDArray[np.uint8],
    base_HW: NDArray[np.float32],
    camera: Camera,
    pixels_per_step: float,
    growth: NDArray[np.float32],
    points_THW3: NDArray[np.float32],
) -> None:
    """Fill the points that the differences stand for, low and high bytes as `planes.pack_planes` folded them.

    `growth` is z / base of every int16 step from the lowest on.
    """
    fx, fy, cx, cy = camera
    pixel = np.float32(pixels_per_step)
    over_fx, over_fy = np.float32(1 / fx), np.float32(1 / fy)
    _, _, frames, height, width = planes_23THW.shape
    now = np.zeros((3, height, width), np.int16)
    for frame in range(frames):
        for row in range(height):
            # Apart from the points' loop: this one runs on whole vectors of integers.
            for axis in range(3):
                _advance(now[axis, row], planes_23THW[0, axis, frame, row], planes_23THW[1, axis, frame, row])
            v = np.float32(row + 0.5 - cy)
            for column in range(width):
                # Unsigned: numba looks for negative indices otherwise.
                z = base_HW[row, column] * growth[np.uint64(np.int64(now[2, row, column]) + 32768)]
                u = np.float32(column + 0.5 - cx)
                points_THW3[frame, row, column, 0] = (np.float32(now[0, row, column]) * pixel + u) * over_fx * z
                points_THW3[frame, row, column, 1] = (np.float32(now[1, row, column]) * pixel + v) * over_fy * z
                points_THW3[frame, row, column, 2] = z


@numba.njit(nogil=True, cache=True)
def _advance(now_W: NDArray[np.int16], low_W: NDArray[np.uint8], high_W: NDArray[np.uint8]) -> None:
    one = np.uint16(1)
    for column in range(len(now_W)):
        folded = np.uint16(low_W[column]) | (np.uint16(high_W[column]) << np.uint16(8))
        now_W[column] = np.int16(now_W[column] + np.int16((folded >> one) ^ (-(folded & one))))
