"""A made-up clip whose truth is known by construction."""

from collections.abc import Callable

import numpy as np
import pytest
from more4d.evaluation.baselines import Clip

T, H, W = 5, 16, 24


@pytest.fixture(scope="session")
def make_clip() -> Callable[..., Clip]:
    """Makes a wall at 4 m with a patch at 2 m that goes to one side, 0.2 m a frame."""

    def make(direction: str = "left", kind: str = "ball", speed: float = 0.2) -> Clip:
        camera = np.array([[W, 0, W / 2], [0, W, H / 2], [0, 0, 1]], np.float32)
        depth = np.full((H, W), 4.0)
        depth[4:10, 8:14] = 2.0
        v, u = np.indices((H, W)) + 0.5
        first = np.stack([(u - W / 2) / W * depth, (v - H / 2) / W * depth, depth], -1)
        points = np.tile(first, (T, 1, 1, 1))
        side = -1 if direction == "left" else 1
        points[:, 4:10, 8:14, 0] += side * speed * np.arange(T)[:, None, None]
        visibility = np.ones((T, H, W), bool)
        visibility[2:, 4:7, 8:14] = False
        return Clip(f"a red {kind} rolls to the {direction}", points.astype(np.float32), visibility, camera)

    return make
