"""Pinhole cameras of a rendered scene: rays through pixels and back.

Suffixes: T frames, N rays or points, P pixels of one frame (height * width).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from more4d.scenes.spec import CameraSpec

Float = NDArray[np.float64]
Index = NDArray[np.intp]


def pinhole_intrinsics(camera: CameraSpec, height: int, width: int) -> Float:
    """Intrinsics [3, 3] in pixels: square pixels, principal point in the middle."""
    focal = width / 2 / math.tan(math.radians(camera.fov_x_degrees) / 2)
    return np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])


def level_from_world(camera: CameraSpec) -> Float:
    """Rotation [3, 3] from the first frame's camera axes (the world) to the level frame: pitch alone."""
    pitch = math.radians(camera.pitch_degrees)
    c, s = math.cos(pitch), math.sin(pitch)
    return np.array([[1, 0, 0], [0, c, s], [0, -s, c]])


@dataclass(frozen=True)
class Cameras:
    """One camera a frame, posed in the level frame."""

    intrinsics: Float
    height: int
    width: int
    rotations: Float
    """Camera axes to level axes."""
    origins: Float
    static: bool

    @classmethod
    def of_world(cls, poses_T44: Float, level_33: Float, intrinsics: Float, height: int, width: int) -> "Cameras":
        """Cameras with camera-to-world poses, the world being the first frame's camera."""
        rotations, origins = level_33 @ poses_T44[:, :3, :3], poses_T44[:, :3, 3] @ level_33.T
        return cls(intrinsics, height, width, rotations, origins, bool((poses_T44 == poses_T44[0]).all()))

    @property
    def pixels(self) -> int:
        """Pixels of one frame."""
        return self.height * self.width

    def pixel_directions(self) -> Float:
        """Directions [P, 3] in camera axes through the pixel centres; z = 1, so ray parameters are depths."""
        rows, columns = np.divmod(np.arange(self.pixels), self.width)
        return self.directions(np.stack([columns + 0.5, rows + 0.5], axis=-1))

    def directions(self, uv_N2: Float) -> Float:
        """Directions [N, 3] in camera axes through image positions, z = 1."""
        k = self.intrinsics
        x, y = (uv_N2[:, 0] - k[0, 2]) / k[0, 0], (uv_N2[:, 1] - k[1, 2]) / k[1, 1]
        return np.stack([x, y, np.ones_like(x)], axis=-1)

    def rays(self, frames_N: Index, directions_N3: Float) -> tuple[Float, Float]:
        """Origins and directions [N, 3] in the level frame of directions in camera axes."""
        if self.static:
            origins = np.broadcast_to(self.origins[0], directions_N3.shape)
            return origins, directions_N3 @ self.rotations[0].T
        directions = np.einsum("nij,nj->ni", self.rotations[frames_N], directions_N3)
        return self.origins[frames_N], directions

    def project(self, points_TN3: Float) -> tuple[Float, Float]:
        """Image positions [T, N, 2] and depths [T, N] of level-frame points at each frame."""
        local = (points_TN3 - self.origins[:, None]) @ self.rotations
        depth = local[..., 2]
        with np.errstate(divide="ignore", invalid="ignore"):
            uv = local[..., :2] / depth[..., None]
        k = self.intrinsics
        return uv * [k[0, 0], k[1, 1]] + [k[0, 2], k[1, 2]], depth

    def boxes(self, points_TN3: Float, margin: int = 1) -> NDArray[np.int64]:
        """Pixel rectangles [T, 4] (top, bottom, left, right; half open) that hold the points at each frame.

        The whole frame where a point lies behind the camera.
        """
        uv, depth = self.project(points_TN3)
        low, high = np.floor(uv.min(axis=1)) - margin, np.ceil(uv.max(axis=1)) + margin
        behind = depth.min(axis=1) < 0.05
        low[behind], high[behind] = -1e9, 1e9
        limits = np.array([self.width, self.height])
        low, high = np.clip(low, 0, limits).astype(np.int64), np.clip(high, 0, limits).astype(np.int64)
        return np.stack([low[:, 1], high[:, 1], low[:, 0], high[:, 0]], axis=-1)

    def box_pixels(self, boxes_T4: NDArray[np.int64]) -> Index:
        """Flat indices [N] (frame * P + row * width + column), ascending, of the pixels in the rectangles."""
        parts = []
        for frame, (top, bottom, left, right) in enumerate(boxes_T4):
            rows = frame * self.pixels + np.arange(top, bottom) * self.width
            parts.append((rows[:, None] + np.arange(left, right)).ravel())
        return np.concatenate(parts)
