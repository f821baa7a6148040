"""Tracks as schema version 1 kept them: the same steps, differences along time and rows, byte planes, deflate.

Read only, so that shards written before still train; `more4d data convert` rewrites them.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from more4d.data.inflate import inflate


def decode_tracks_v1(
    header: Mapping[str, Any], files: Mapping[str, bytes], shape: tuple[int, ...]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """As tracks_codec.decode_tracks, for the files of version 1, none of them missing."""
    frames, height, width = shape
    codes = _restored(_array(files, "depth", "<i4", (height, width)), axes=(1,))
    depth = _decode_depth(codes.astype(np.uint16), header["depth_log_low"], header["depth_log_step"])
    steps = _restored(_array(files, "steps", "<i2", (frames, height, width, 3)), axes=(0, 2))
    points = _dequantise(steps, depth, header)
    count = frames * height * width
    exact_bits = np.frombuffer(_unpacked(files, "exact_mask", (count + 7) // 8), np.uint8)
    exact = np.unpackbits(exact_bits, count=count).astype(bool).reshape(shape)
    kept = int(np.count_nonzero(exact))
    points[exact] = np.frombuffer(_unpacked(files, "exact_points", 12 * kept), "<f4").reshape(-1, 3)
    return depth, points


def _decode_depth(codes: NDArray[np.uint16], low: float, step: float) -> NDArray[np.float32]:
    depth = np.exp(low + (codes.astype(np.float64) - 1) * step)
    return np.where(codes > 0, depth, 0).astype(np.float32)


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


def _restored(values: NDArray[Any], axes: tuple[int, ...]) -> NDArray[Any]:
    for axis in reversed(axes):
        values = np.cumsum(values, axis=axis, dtype=values.dtype)
    return values


def _array(files: Mapping[str, bytes], name: str, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    size = np.dtype(dtype).itemsize
    planes = np.frombuffer(_unpacked(files, name, size * int(np.prod(shape))), np.uint8)
    return np.ascontiguousarray(planes.reshape(size, -1).T).view(dtype).reshape(shape)


def _unpacked(files: Mapping[str, bytes], name: str, size: int) -> bytes:
    try:
        return inflate(files[name], size)
    except ValueError as error:
        raise ValueError(f"the sample's tracks are damaged, their {name} {error}") from error
