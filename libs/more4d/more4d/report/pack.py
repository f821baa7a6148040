"""A scene's dense trajectories as compact text that the browser's viewer unpacks.

Points lie on the photo's pixel grid, so only a depth is stored for each (16 bit, logarithmic); its ray comes from the
intrinsics. Motion is stored in steps of a fifth of a pixel at the scene's median depth, as differences from frame to
frame, low bytes before high bytes, so that a still background deflates to almost nothing.

Shape letters: T frames, R grid rows, C grid columns, N points.
"""

import base64
import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from more4d.inference.scene import Scene

MAX_POINTS = 100_000
MAX_TRAILS = 160
MOVING_SHARE = 0.01
"""A point moves when its displacement at some frame exceeds this share of its first-frame depth."""
_DEPTH_LEVELS = 65_534
_STEP_PIXELS = 0.2
_LEADING_SHARE = 0.25


@dataclass(frozen=True)
class _Grid:
    """The kept rows and columns of a scene: points [T,R,C,3], zero where `valid` [R,C] is False; colour [R,C,3]."""

    stride: int
    points: NDArray[np.float64]
    valid: NDArray[np.bool_]
    colour: NDArray[np.uint8]

    @property
    def depth(self) -> NDArray[np.float64]:
        """[N] first-frame depths of the valid points."""
        return self.points[0, self.valid, 2]


def pack_scene(scene: Scene, *, max_points: int = MAX_POINTS, max_trails: int = MAX_TRAILS) -> dict[str, Any]:
    """The viewer's data as JSON-able values; arrays are base64 of zlib streams, see `viewer.js`.

    Every k-th row and column is kept, with the smallest k that leaves at most `max_points`. Depth is exact to
    1e-4 of its value for a depth range of 1:400, motion to a tenth of a kept pixel at the median depth.
    Raises ValueError where the scene has no point.
    """
    grid = _thin(scene, max_points)
    codes_RC = _depth_codes(grid)
    motion_T3N = _motion_from_codes(scene.intrinsics, grid, codes_RC)
    step = _motion_step(motion_T3N, float(np.median(grid.depth)) * grid.stride, float(scene.intrinsics[0, 0]))
    leading_N = _leading(grid.points)[grid.valid]
    return {
        "name": scene.name,
        "frames": len(scene.points),
        "fps": float(scene.fps),
        "image": [scene.image.shape[1], scene.image.shape[0]],
        "grid": [grid.valid.shape[1], grid.valid.shape[0]],
        "stride": grid.stride,
        "offset": grid.stride // 2,
        "lens": [float(scene.intrinsics[i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2))],
        "depthRange": [float(grid.depth.min()), float(grid.depth.max())],
        "motionStep": step,
        "pivot": _pivot(grid.points[:, grid.valid], leading_N),
        "trails": _spread(np.flatnonzero(leading_N), max_trails),
        "depth": _pack(_byte_planes(codes_RC)),
        "colour": _pack(grid.colour[grid.valid]),
        "motion": _pack(_byte_planes(_differences(motion_T3N, step))),
    }


def moving(points: NDArray[np.floating]) -> NDArray[np.bool_]:
    """[R,C] of points [T,R,C,3]: whether a point's displacement ever passes `MOVING_SHARE` of its first-frame depth."""
    return _travel(points) > MOVING_SHARE


def _travel(points_TRC3: NDArray[np.floating]) -> NDArray[np.floating]:
    """[R,C] the largest displacement as a share of the first-frame depth; 0 where there is no depth."""
    displacement_RC = np.linalg.norm(points_TRC3 - points_TRC3[0], axis=-1).max(0)
    depth_RC = points_TRC3[0, ..., 2]
    return np.divide(displacement_RC, depth_RC, out=np.zeros_like(displacement_RC), where=depth_RC > 0)


def _leading(points_TRC3: NDArray[np.floating]) -> NDArray[np.bool_]:
    """[R,C] the points that move as far as the scene's movers do: a drifting background is not what to look at."""
    travel_RC = _travel(points_TRC3)
    movers = travel_RC[travel_RC > MOVING_SHARE]
    return travel_RC > (max(MOVING_SHARE, _LEADING_SHARE * np.quantile(movers, 0.95)) if len(movers) else np.inf)


def _stride(shape: tuple[int, ...], max_points: int) -> int:
    stride = 1
    while -(-shape[0] // stride) * -(-shape[1] // stride) > max_points:
        stride += 1
    return stride


def _thin(scene: Scene, max_points: int) -> _Grid:
    stride = _stride(scene.valid.shape, max_points)
    kept = (slice(stride // 2, None, stride), slice(stride // 2, None, stride))
    points_TRC3 = scene.points[:, *kept].astype(np.float64)
    valid_RC = scene.valid[kept] & np.isfinite(points_TRC3).all((0, -1))
    if not valid_RC.any():
        raise ValueError(f"scene {scene.name}: no point of {valid_RC.size} has a positive, finite depth")
    return _Grid(stride, np.where(valid_RC[..., None], points_TRC3, 0.0), valid_RC, scene.image[kept])


def _depth_codes(grid: _Grid) -> NDArray[np.uint16]:
    """[R,C], 1 at the nearest depth to 65,535 at the farthest, 0 where there is no point."""
    low, high = grid.depth.min(), grid.depth.max()
    codes_RC = np.zeros(grid.valid.shape, np.uint16)
    codes_RC[grid.valid] = 1 + np.round(np.log(grid.depth / low) / max(np.log(high / low), 1e-9) * _DEPTH_LEVELS)
    return codes_RC


def _motion_from_codes(
    intrinsics: NDArray[np.floating], grid: _Grid, codes_RC: NDArray[np.uint16]
) -> NDArray[np.float64]:
    """[T,3,N] from where the viewer will unpack each first-frame point to where it is: rounding is undone here."""
    low, high = grid.depth.min(), grid.depth.max()
    depth_RC = low * (high / low) ** ((codes_RC.astype(np.float64) - 1) / _DEPTH_LEVELS)
    base_RC3 = _rays(intrinsics, codes_RC.shape, grid.stride) * depth_RC[..., None]
    return (grid.points - base_RC3)[:, grid.valid].transpose(0, 2, 1)


def _rays(intrinsics: NDArray[np.floating], grid: tuple[int, ...], stride: int) -> NDArray[np.float64]:
    """[R,C,3] directions of depth 1 through the centres of the kept pixels."""
    v, u = np.indices(grid) * stride + stride // 2 + 0.5
    fx, fy, cx, cy = (float(intrinsics[i, j]) for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    return np.stack([(u - cx) / fx, (v - cy) / fy, np.ones(grid)], axis=-1)


def _motion_step(motion: NDArray, footprint_depth: float, focal: float) -> float:
    """Metres of one step: a fifth of a grid cell at the median depth, more if the motion would not fit 16 bits."""
    largest = float(np.abs(motion).max())
    return max(_STEP_PIXELS * footprint_depth / focal, largest / 32_767)


def _differences(motion_T3N: NDArray, step: float) -> NDArray[np.uint16]:
    """Differences between frames of the rounded motion, modulo 2**16, so that summing them cannot drift."""
    codes = np.round(motion_T3N / step).astype(np.int32)
    return np.diff(codes, axis=0, prepend=0).astype(np.uint16)


def _pivot(points_TN3: NDArray, leading_N: NDArray[np.bool_]) -> list[float]:
    """The point that the view turns around: the middle of what moves, or of everything."""
    chosen = points_TN3[:, leading_N] if leading_N.sum() >= 20 else points_TN3[:1]
    return [float(x) for x in np.median(chosen.reshape(-1, 3), axis=0)]


def _spread(indices: NDArray[np.intp], count: int) -> list[int]:
    """At most `count` of the indices, evenly over their order."""
    picked = np.linspace(0, len(indices) - 1, min(count, len(indices))).round().astype(int)
    return [int(i) for i in indices[picked]]


def _byte_planes(values: NDArray[np.uint16]) -> NDArray[np.uint8]:
    flat = values.ravel()
    return np.concatenate([(flat & 255).astype(np.uint8), (flat >> 8).astype(np.uint8)])


def _pack(values: NDArray[np.uint8]) -> str:
    return base64.b64encode(zlib.compress(values.tobytes(), 6)).decode("ascii")
