"""A made-up scene and photo for these tests.

Shape letters: T frames, H height, W width.
"""

from collections.abc import Callable

import numpy as np
import pytest
from more4d.inference.scene import CameraView, Credit, ModelRecord, Scene
from numpy.typing import NDArray

T, H, W = 5, 32, 48


@pytest.fixture(scope="session")
def intrinsics() -> NDArray[np.float32]:
    """Intrinsics [3,3] of 53 degrees across."""
    return np.array([[W, 0, W / 2], [0, W, H / 2], [0, 0, 1]], np.float32)


@pytest.fixture(scope="session")
def lift() -> Callable[[NDArray, NDArray], NDArray[np.float32]]:
    """Points [H,W,3] of a depth [H,W] seen by intrinsics [3,3]."""

    def unprojected(depth: NDArray, intrinsics: NDArray) -> NDArray[np.float32]:
        v, u = np.indices(depth.shape) + 0.5
        x = (u - intrinsics[0, 2]) / intrinsics[0, 0] * depth
        y = (v - intrinsics[1, 2]) / intrinsics[1, 1] * depth
        return np.stack([x, y, depth], -1).astype(np.float32)

    return unprojected


@pytest.fixture(scope="session")
def photo() -> NDArray[np.uint8]:
    """Smooth colours, uint8 [H,W,3]: video compression keeps them."""
    v, u = np.indices((H, W))
    return np.stack([u * 4, v * 6, 120 + 60 * np.sin(u / 7)], -1).astype(np.uint8)


@pytest.fixture
def make_scene(photo: NDArray, intrinsics: NDArray, lift: Callable) -> Callable[..., Scene]:
    """Makes a slope with a patch that moves right, a pixel without depth, and one view with a hole."""

    def make(**changes: object) -> Scene:
        depth = np.tile(np.linspace(6, 3, H)[:, None], (1, W))
        points = np.tile(lift(depth, intrinsics), (T, 1, 1, 1))
        points[:, 8:16, 10:20, 0] += np.linspace(0, 0.4, T)[:, None, None]
        points[:, 0, 0] = np.nan
        video = np.tile(photo, (T, 1, 1, 1))
        covered = np.ones((T, H, W), bool)
        covered[:, :, 40:] = False
        view = CameraView(np.tile(np.eye(4, dtype=np.float32), (T, 1, 1)), video, video * covered[..., None], covered)
        fields: dict = {
            "name": "patch", "prompt": "a patch moves", "seed": 3, "fps": 8.0, "image": photo, "intrinsics": intrinsics,
            "points": points, "visibility": np.random.default_rng(0).random((T, H, W)) < 0.9, "views": {"spiral": view},
            "models": (ModelRecord("vae", "00ff", "Apache-2.0"),), "credit": Credit("a test", "nobody", "CC0-1.0"),
            "settings": {"steps": 4}, "timings": {"total": 1.5}, "checks": {"moving_share": 0.05},
        }  # fmt: skip
        return Scene(**(fields | changes))

    return make
