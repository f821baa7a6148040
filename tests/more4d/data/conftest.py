"""Made-up samples for these tests."""

from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from more4d.data.sample import Sample, SampleView
from numpy.typing import NDArray

from .s3_server import KEYS, S3Server

FRAMES, HEIGHT, WIDTH = 5, 32, 48


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A running server with the bucket `shards`; endpoint and credentials are in the environment."""
    running = S3Server(tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", running.endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", KEYS["MINIO_ROOT_USER"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", KEYS["MINIO_ROOT_PASSWORD"])
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    fsspec.filesystem("s3").clear_instance_cache()
    try:
        running.start()
        fsspec.filesystem("s3").mkdir("shards")
        yield running
    finally:
        running.kill()
        fsspec.filesystem("s3").clear_instance_cache()


@pytest.fixture(scope="session")
def intrinsics() -> NDArray[np.float32]:
    """Intrinsics [3, 3] of 53 degrees across 48 x 32 pixels."""
    return np.array([[WIDTH, 0, WIDTH / 2], [0, WIDTH, HEIGHT / 2], [0, 0, 1]], np.float32)


@pytest.fixture(scope="session")
def lift(intrinsics: NDArray[np.float32]) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Lifts depth [..., H, W] to points [..., H, W, 3] at pixel centres."""
    return lambda depth: _lifted(depth, intrinsics)


def _lifted(depth: NDArray[np.float32], intrinsics: NDArray[np.float32]) -> NDArray[np.float32]:
    height, width = depth.shape[-2:]
    v, u = np.mgrid[:height, :width] + 0.5
    x = (u - intrinsics[0, 2]) / intrinsics[0, 0] * depth
    y = (v - intrinsics[1, 2]) / intrinsics[1, 1] * depth
    return np.stack([x, y, depth], -1).astype(np.float32)


@pytest.fixture(scope="session")
def make_sample(intrinsics: NDArray[np.float32]) -> Callable[..., Sample]:
    """Makes a textured slope with a patch that moves right and nearer; exact tracks."""

    def make(name: str = "a-00000", seed: int = 0, split: str = "train") -> Sample:
        return _sample(intrinsics, name, seed, split)

    return make


def _sample(camera: NDArray[np.float32], name: str, seed: int, split: str) -> Sample:
    rng = np.random.default_rng(seed)
    depth = np.broadcast_to(np.linspace(6, 3, HEIGHT)[:, None], (HEIGHT, WIDTH)).astype(np.float32).copy()
    depth[10:20, 10:20] = 2.5
    points = np.repeat(_lifted(depth, camera)[None], FRAMES, 0)
    for frame in range(FRAMES):
        points[frame, 10:20, 10:20] += np.array([0.15, 0, -0.05], np.float32) * frame
    video = rng.integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), dtype=np.uint8)
    mask = rng.random((FRAMES, HEIGHT, WIDTH)) < 0.9
    poses = np.repeat(np.eye(4, dtype=np.float32)[None], FRAMES, 0)
    view = SampleView(video[::-1].copy(), poses, video // 2, ~mask)
    return Sample(
        id=name, video=video, fps=8.0, caption="a patch moves", intrinsics=camera, depth=depth, points=points,
        visibility=mask, render=video // 3, render_mask=mask, split="val" if split == "val" else "train",
        kind="rendered", views={"static": view, "spiral": SampleView(None, poses, video // 4, mask)},
        provenance={"videoid": name, "seed": seed},
    )  # fmt: skip
