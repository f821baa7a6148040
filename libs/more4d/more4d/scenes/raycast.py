"""Which triangle a ray meets first (Embree), and exactly where (float64).

Embree works in float32: it only names the triangle. Depth and barycentric coordinates are recomputed.
Suffixes: N rays, F faces.
"""

import functools

import numpy as np
from embreex.mesh_construction import TriangleMesh
from embreex.rtcore import EmbreeDevice
from embreex.rtcore_scene import EmbreeScene
from numpy.typing import NDArray

Float = NDArray[np.float64]


@functools.cache
def _device() -> EmbreeDevice:
    return EmbreeDevice()


class Caster:
    """Triangles [F, 3, 3] that rays can be cast against."""

    def __init__(self, triangles_F33: Float) -> None:
        self._scene = EmbreeScene(_device(), robust=True)
        TriangleMesh(self._scene, triangles_F33.astype(np.float32))

    def first_hit(self, origins_N3: Float, directions_N3: Float) -> NDArray[np.int32]:
        """Index [N] of the first triangle along each ray, -1 where there is none."""
        return self._scene.run(_single(origins_N3), _single(directions_N3), query="INTERSECT")

    def occluded(self, origins_N3: Float, directions_N3: Float) -> NDArray[np.bool_]:
        """Whether [N] anything lies along each ray."""
        return self._scene.run(_single(origins_N3), _single(directions_N3), query="OCCLUDED") >= 0


def _single(array: Float) -> NDArray[np.float32]:
    return np.ascontiguousarray(array, dtype=np.float32)


def intersect(origins_N3: Float, directions_N3: Float, corners_N9: Float) -> tuple[Float, Float]:
    """Ray parameter [N] and barycentric coordinates [N, 3] where each ray meets its triangle's plane.

    The hit is origin + parameter * direction (Moeller and Trumbore 1997, in float64). Corners are three points
    in a row.
    """
    # Columns first: operations on contiguous rows are twice as fast as on every third number.
    a, b, c = np.ascontiguousarray(corners_N9.T).reshape(3, 3, -1)
    edge1, edge2, offset = b - a, c - a, np.ascontiguousarray(origins_N3.T) - a
    direction = np.ascontiguousarray(directions_N3.T)
    p, q = _cross_rows(direction, edge2), _cross_rows(offset, edge1)
    inverse = 1.0 / _dot_rows(edge1, p)
    u, v = _dot_rows(offset, p) * inverse, _dot_rows(direction, q) * inverse
    return _dot_rows(edge2, q) * inverse, np.stack([1.0 - u - v, u, v], axis=-1)


def _cross_rows(a: Float, b: Float) -> Float:
    return np.stack([a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]])


def _dot_rows(a: Float, b: Float) -> Float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def cross(a: Float, b: Float) -> Float:
    """Cross products [N, 3]; several times faster than np.cross for many short rows."""
    out = np.empty(np.broadcast_shapes(a.shape, b.shape))
    out[..., 0] = a[..., 1] * b[..., 2] - a[..., 2] * b[..., 1]
    out[..., 1] = a[..., 2] * b[..., 0] - a[..., 0] * b[..., 2]
    out[..., 2] = a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0]
    return out


def dot(a: Float, b: Float) -> Float:
    """Dot products [N] of rows of three."""
    return a[..., 0] * b[..., 0] + a[..., 1] * b[..., 1] + a[..., 2] * b[..., 2]
