"""Small made-up clips for these tests."""

from collections.abc import Callable

import cv2
import numpy as np
import pytest
from more4d.labeling.tracks import TrackLabel
from numpy.typing import NDArray

HEIGHT, WIDTH = 32, 48


@pytest.fixture(scope="session")
def intrinsics() -> NDArray[np.float32]:
    """A pinhole camera [3, 3] of 53 degrees across 48 x 32 pixels."""
    return np.array([[WIDTH, 0, WIDTH / 2], [0, WIDTH, HEIGHT / 2], [0, 0, 1]], np.float32)


@pytest.fixture(scope="session")
def sliding_patch() -> NDArray[np.uint8]:
    """Five frames uint8 [T, 32, 48, 3]: a textured patch (rows 8..23, columns 8..23) goes right by 2 pixels a frame."""
    video = np.repeat(_texture(0, HEIGHT, WIDTH)[None], 5, 0)
    for t in range(5):
        video[t, 8:24, 8 + 2 * t : 24 + 2 * t] = _texture(1, 16, 16)
    return video


@pytest.fixture(scope="session")
def lift_points(intrinsics: NDArray[np.float32]) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Lifts depth [T, H, W] to points [T, H, W, 3] at pixel centres."""

    def lift(depth: NDArray[np.float32]) -> NDArray[np.float32]:
        v, u = np.mgrid[: depth.shape[-2], : depth.shape[-1]] + 0.5
        rays = np.stack([(u - intrinsics[0, 2]), (v - intrinsics[1, 2])], -1) / intrinsics[0, 0]
        return np.concatenate([rays * depth[..., None], depth[..., None]], -1).astype(np.float32)

    return lift


@pytest.fixture(scope="module")
def sound(
    intrinsics: NDArray[np.float32], lift_points: Callable[[NDArray[np.float32]], NDArray[np.float32]]
) -> TrackLabel:
    """A slope from 3 m to 8 m, and in front of it the clip's patch, going right by two pixels a frame."""
    depth = np.broadcast_to(np.linspace(8, 3, 32)[:, None], (32, 48)).astype(np.float32).copy()
    depth[8:24, 8:24] = 2.5
    points = lift_points(np.repeat(depth[None], 5, 0))
    points[:, 8:24, 8:24, 0] += np.arange(5)[:, None, None] * 2 * 2.5 / intrinsics[0, 0]
    visible = np.ones((5, 32, 48), bool)
    for frame in range(1, 5):
        visible[frame, 8:24, 24 : 24 + 2 * frame] = False
    return TrackLabel(points, visible, depth, intrinsics)


def _texture(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.float32)
    soft = cv2.GaussianBlur(noise, (0, 0), 1.2)
    return (255 * (soft - soft.min()) / (soft.max() - soft.min())).astype(np.uint8)
