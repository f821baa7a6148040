"""Tracks and first-frame depth as integers: quantised pixels and log-depth, relative to frame 0.

A step of 1/16 px bounds the error by 0.03125 px an axis (0.0442 px in all), a log-depth step of 1/1024 by
0.05 % of the depth. Points that this cannot hold (behind the camera, not finite, thousands of pixels away)
are kept as they are. Each frame's difference from the one before is compressed by zstd as byte planes: five times as
fast to restore as what is smallest on noisy tracks, and as small on smooth ones (benchmarks/track_codecs.py).

Shape letters: T frames, H height, W width, N exceptions.
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from more4d.data.inflate import inflate
from more4d.data.planes import pack_planes, unfold, unpack_planes
from more4d.data.tracks_v1 import decode_tracks_v1

PIXELS_PER_STEP = 1 / 16
LOG_DEPTH_PER_STEP = 1 / 1024
CODEC = "zstd-planes"
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
    from more4d.data.tracks_loops import quantise

    k = intrinsics.astype(float)
    camera = (float(k[0, 0]), float(k[1, 1]), float(k[0, 2]), float(k[1, 2]))
    codes, low, step = _encode_depth(depth)
    steps_3THW = np.empty((3, *points.shape[:3]), np.int16)
    exact_THW = np.empty(points.shape[:3], np.bool_)
    scales = (PIXELS_PER_STEP, LOG_DEPTH_PER_STEP)
    points = np.ascontiguousarray(points, np.float32)
    quantise(points, _decode_depth(codes, low, step), camera, scales, steps_3THW, exact_THW)
    files = {
        "depth": pack_planes(np.diff(codes, axis=1, prepend=np.uint16(0)).view(np.int16)),
        "steps": pack_planes(steps_3THW),
        "exact_mask": zlib.compress(np.packbits(exact_THW).tobytes(), 6),
        "exact_points": zlib.compress(np.ascontiguousarray(points[exact_THW], "<f4").tobytes(), 6),
    }
    header = {
        "codec": CODEC,
        "camera": list(camera),
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

    A first-frame depth that was not positive and finite is 0. Reads the deflated tracks of schema version 1 too.
    Raises ValueError where an array is missing, short or damaged, or the codec is unknown.
    """
    from more4d.data.tracks_loops import dequantise

    missing = {"depth", "steps", "exact_mask", "exact_points"} - set(files)
    if missing:
        raise ValueError(f"the sample's tracks lack {', '.join(sorted(missing))}")
    if "codec" not in header:
        return decode_tracks_v1(header, files, shape)
    if header["codec"] != CODEC:
        raise ValueError(
            f"the sample's tracks are compressed by {header['codec']!r}, this code reads {CODEC}: "
            "make the shards again (stage trajscene)"
        )
    differences = unfold(_planes(files, "depth", shape[1:])).reshape(shape[1:])
    codes = np.cumsum(differences, axis=1, dtype=np.int16).view(np.uint16)
    depth = _decode_depth(codes, header["depth_log_low"], header["depth_log_step"])
    steps = _planes(files, "steps", (3, *shape)).reshape(2, 3, *shape)
    points = np.empty((*shape, 3), np.float32)
    # A table instead of an exponential a point: all int16 steps are few beside a sample's points.
    growth = np.exp(np.arange(-(2**15), 2**15) * float(header["log_depth_per_step"])).astype(np.float32)
    dequantise(steps, depth, tuple(header["camera"]), header["pixels_per_step"], growth, points)
    _restore_exact(points, files)
    return depth, points


def _restore_exact(points: NDArray[np.float32], files: Mapping[str, bytes]) -> None:
    count = points[..., 0].size
    try:
        bits = np.frombuffer(inflate(files["exact_mask"], (count + 7) // 8), np.uint8)
        exact = np.unpackbits(bits, count=count).view(np.bool_).reshape(points.shape[:3])
        kept = int(np.count_nonzero(exact))
        points[exact] = np.frombuffer(inflate(files["exact_points"], 12 * kept), "<f4").reshape(-1, 3)
    except ValueError as error:
        raise ValueError(f"the sample's tracks are damaged, their exact points {error}") from error


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


def _planes(files: Mapping[str, bytes], name: str, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    try:
        return unpack_planes(files[name], int(np.prod(shape)))
    except ValueError as error:
        raise ValueError(f"the sample's tracks are damaged, their {name}: {error}") from error
