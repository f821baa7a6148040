"""Tracks and first-frame depth as integers: quantised pixels and log-depth, relative to frame 0.

A step of 1/16 px bounds the error by 0.03125 px an axis (0.0442 px in all), a log-depth step of 1/1024 by
0.05 % of the depth. Points that this cannot hold (behind the camera, not finite, thousands of pixels away)
are kept as they are.

Shape letters: T frames, H height, W width, N exceptions.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

PIXELS_PER_STEP = 1 / 16
LOG_DEPTH_PER_STEP = 1 / 1024
_LIMIT = 2**15 - 1
_NEAREST_M = 1e-4


@dataclass(frozen=True)
class EncodedTracks:
    """The scales that undo the quantisation, and the compressed arrays by name."""

    header: dict[str, Any]
    files: dict[str, bytes]


def encode_tracks(
    points: NDArray[np.float32], depth: NDArray[np.float32], intrinsics: NDArray[np.float32]
) -> EncodedTracks:
    """points [T, H, W, 3] and depth [H, W] in metres as integers with their scales; see decode_tracks."""
    camera = [
        float(intrinsics[0, 0]),
        float(intrinsics[1, 1]),
        float(intrinsics[0, 2]),
        float(intrinsics[1, 2]),
    ]
    depth_codes, low, step = _encode_depth(depth)
    base = _decode_depth(depth_codes, low, step)
    steps_THW3, exact_THW = _quantise(points.astype(np.float64), base, camera)
    files = {
        "depth": zlib.compress(_bytes(_differences(depth_codes.astype(np.int32), axes=(1,)).astype("<i4")), 6),
        "steps": zlib.compress(_bytes(_differences(steps_THW3, axes=(0, 2)).astype("<i2")), 6),
        "exact_mask": zlib.compress(np.packbits(exact_THW).tobytes(), 6),
        "exact_points": zlib.compress(np.ascontiguousarray(points[exact_THW], "<f4").tobytes(), 6),
    }
    header = {
        "camera": camera,
        "depth_log_low": low,
        "depth_log_step": step,
        "pixels_per_step": PIXELS_PER_STEP,
        "log_depth_per_step": LOG_DEPTH_PER_STEP,
    }
    return EncodedTracks(header, files)


def decode_tracks(
    header: Mapping[str, Any], files: Mapping[str, bytes], shape: tuple[int, ...]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """(depth float32 [H, W], points float32 [T, H, W, 3]) of the tracks with shape (T, H, W).

    A first-frame depth that was not positive and finite is 0. Raises ValueError where an array is missing or
    short.
    """
    missing = {"depth", "steps", "exact_mask", "exact_points"} - set(files)
    if missing:
        raise ValueError(f"the sample's tracks lack {', '.join(sorted(missing))}")
    frames, height, width = shape
    codes = _restored(_array(files["depth"], "<i4", (height, width)), axes=(1,))
    depth = _decode_depth(codes.astype(np.uint16), header["depth_log_low"], header["depth_log_step"])
    steps = _restored(_array(files["steps"], "<i2", (frames, height, width, 3)), axes=(0, 2))
    points = _dequantise(steps, depth, header)
    exact_bits = np.frombuffer(zlib.decompress(files["exact_mask"]), np.uint8)
    exact = np.unpackbits(exact_bits, count=frames * height * width).astype(bool).reshape(shape)
    points[exact] = np.frombuffer(zlib.decompress(files["exact_points"]), "<f4").reshape(-1, 3)
    return depth, points


def _encode_depth(depth: NDArray[np.float32]) -> tuple[NDArray[np.uint16], float, float]:
    """Codes 1..65535 over the log of the depth's own range; 0 for a depth that is none."""
    good = np.isfinite(depth) & (depth > _NEAREST_M)
    if not good.any():
        return np.zeros(depth.shape, np.uint16), 0.0, 1.0
    logs = np.log(depth[good].astype(np.float64))
    low = float(logs.min())
    step = max(float(logs.max()) - low, 1e-6) / 65534
    codes = np.zeros(depth.shape, np.uint16)
    codes[good] = 1 + np.rint((logs - low) / step).astype(np.uint16)
    return codes, low, step


def _decode_depth(codes: NDArray[np.uint16], low: float, step: float) -> NDArray[np.float32]:
    depth = np.exp(low + (codes.astype(np.float64) - 1) * step)
    return np.where(codes > 0, depth, 0).astype(np.float32)


def _quantise(
    points: NDArray[np.float64], base: NDArray[np.float32], camera: list[float]
) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
    """Steps of (u, v, log z) from the first frame's [T, H, W, 3], and where they cannot hold a point."""
    fx, fy, cx, cy = camera
    z = points[..., 2]
    known = np.isfinite(points).all(-1) & (z > _NEAREST_M) & (base > 0)
    safe = np.where(known[..., None], points, 1.0)
    u, v = _pixel_centres(base.shape)
    offsets = np.stack(
        [
            (fx * safe[..., 0] / safe[..., 2] + cx - u) / PIXELS_PER_STEP,
            (fy * safe[..., 1] / safe[..., 2] + cy - v) / PIXELS_PER_STEP,
            np.log(safe[..., 2] / np.where(base > 0, base, 1.0)) / LOG_DEPTH_PER_STEP,
        ],
        axis=-1,
    )
    held = known & (np.abs(offsets) < _LIMIT).all(-1)
    return np.rint(np.where(held[..., None], offsets, 0)).astype(np.int16), ~held


def _dequantise(steps: NDArray[np.int16], base: NDArray[np.float32], header: Mapping[str, Any]) -> NDArray[np.float32]:
    fx, fy, cx, cy = header["camera"]
    u, v = _pixel_centres(base.shape)
    z = base * np.exp(steps[..., 2] * np.float32(header["log_depth_per_step"]))
    x = (steps[..., 0] * np.float32(header["pixels_per_step"]) + u - np.float32(cx)) / np.float32(fx) * z
    y = (steps[..., 1] * np.float32(header["pixels_per_step"]) + v - np.float32(cy)) / np.float32(fy) * z
    return np.stack([x, y, z], axis=-1).astype(np.float32)


def _pixel_centres(shape: tuple[int, ...]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    height, width = shape
    return np.arange(width, dtype=np.float32) + 0.5, np.arange(height, dtype=np.float32)[:, None] + 0.5


def _differences(values: NDArray[Any], axes: tuple[int, ...]) -> NDArray[Any]:
    """Differences to the neighbour before, along each axis in turn, wrapping round in the integer's range."""
    for axis in axes:
        values = np.diff(values, axis=axis, prepend=np.zeros_like(values.take([0], axis)))
    return values


def _restored(values: NDArray[Any], axes: tuple[int, ...]) -> NDArray[Any]:
    for axis in reversed(axes):
        values = np.cumsum(values, axis=axis, dtype=values.dtype)
    return values


def _bytes(values: NDArray[Any]) -> bytes:
    """The array's bytes with all low bytes first, then the next, ...: small numbers compress better so."""
    flat = np.ascontiguousarray(values).view(np.uint8).reshape(-1, values.itemsize)
    return np.ascontiguousarray(flat.T).tobytes()


def _array(data: bytes, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    planes = np.frombuffer(zlib.decompress(data), np.uint8)
    size = np.dtype(dtype).itemsize
    if planes.size != size * int(np.prod(shape)):
        raise ValueError(f"the sample's tracks hold {planes.size} bytes where {list(shape)} x {size} are wanted")
    return np.ascontiguousarray(planes.reshape(size, -1).T).view(dtype).reshape(shape)
