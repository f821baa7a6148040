"""A made-up clip whose truth is known by construction, and the fox that rendered scenes need."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from more4d.data.packaged import fetch_packaged, read_packaged
from more4d.evaluation.baselines import Clip

ROOT = Path(__file__).parents[3]

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


@pytest.fixture
def fox_file(monkeypatch: pytest.MonkeyPatch) -> Path:
    """The fox out of its wheel, in the workspace that this test runs in."""
    wheels = [w for w in read_packaged(ROOT / "datasets" / "packaged.toml") if w.package == "gradio"]
    (path,) = fetch_packaged(wheels, ROOT / ".cache" / "packaged")
    monkeypatch.chdir(ROOT)
    return path
