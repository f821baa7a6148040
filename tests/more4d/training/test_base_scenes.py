from pathlib import Path

import numpy as np
import pytest
import torch
from more4d.scenes import RenderedScene, View
from more4d.training.base_scenes import (
    HELD_OUT_SEEDS,
    TRAINING_SEEDS,
    BaseScenes,
    BaseScenesSpec,
    held_out_seeds,
    training_seeds,
    write_base_scenes,
)
from more4d_kernels import denormalize_motion

T, H, W = 5, 16, 20
SPEC = BaseScenesSpec(scenes=3, views=1, frames=T, height=H, width=W)


def invented_scene(seed: int, *, view: str | None = None) -> RenderedScene:
    """Random arrays in the shape of a rendered scene; the points start at the depth of frame 0."""
    rng = np.random.default_rng(seed)
    camera = np.array([[20, 0, 10], [0, 22, 8], [0, 0, 1]], np.float32)
    depth = rng.uniform(2, 6, (H, W)).astype(np.float32)
    u, v = np.meshgrid(np.arange(W) + 0.5, np.arange(H) + 0.5)
    points = np.stack(((u - 10) / 20 * depth, (v - 8) / 22 * depth, depth), axis=-1)
    drift = np.cumsum(rng.normal(0, 0.1, (T, H, W, 3)), axis=0)
    drift[0] = 0
    video = rng.integers(0, 256, (T, H, W, 3), np.uint8)
    poses = np.tile(np.eye(4, dtype=np.float32), (T, 1, 1))
    return RenderedScene(
        seed=seed,
        caption=f"a fox runs {seed}",
        kind="fox",
        direction="left",
        video=video,
        depths=np.tile(depth, (T, 1, 1)),
        intrinsics=camera,
        points=(points + drift).astype(np.float32),
        visibility=rng.random((T, H, W)) < 0.8,
        moving_object=rng.random((H, W)) < 0.1,
        views={} if view is None else {view: View(video[::-1], poses)},
    )


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    written = [invented_scene(0), invented_scene(1, view="spiral"), invented_scene(2)]
    write_base_scenes(written, tmp_path, SPEC)
    scenes = BaseScenes(tmp_path)
    assert len(scenes) == 3
    assert scenes.captions == ["a fox runs 0", "a fox runs 1", "a fox runs 2"]
    assert scenes.seeds.tolist() == [0, 1, 2]
    for i, scene in enumerate(written):
        assert np.array_equal(scenes.videos[i], scene.video)
        assert np.array_equal(scenes.depths[i], scene.depth)
        assert np.array_equal(scenes.visibility(i), scene.visibility)
        assert np.array_equal(scenes.moving(i), scene.moving_object)
    assert (scenes.view_scenes.tolist(), scenes.view_names) == ([1], ["spiral"])
    assert np.array_equal(scenes.view_videos[0], written[1].views["spiral"].video)


def test_motion_gives_the_points_back_to_half_precision(tmp_path: Path) -> None:
    scene = invented_scene(4)
    write_base_scenes([scene], tmp_path, SPEC.model_copy(update={"scenes": 1, "views": 0}))
    scenes = BaseScenes(tmp_path)
    motion = torch.from_numpy(np.array(scenes.motion[:1])).float()
    camera = torch.from_numpy(np.array(scenes.intrinsics[:1]))
    found = denormalize_motion(motion, torch.from_numpy(scene.points[:1]), camera, image_size=(H, W))[0]
    assert np.abs(found.numpy() - scene.points).max() < 2e-3


def test_a_count_that_is_not_the_announced_one_is_refused(tmp_path: Path) -> None:
    few = [invented_scene(0), invented_scene(1, view="spiral")]
    with pytest.raises(ValueError, match="2 scenes, 1 views: not the 3, 1 announced"):
        write_base_scenes(few, tmp_path, SPEC)
    with pytest.raises(ValueError, match=r"scenes\.json is missing"):
        BaseScenes(tmp_path)
    many = [invented_scene(i) for i in range(4)]
    with pytest.raises(ValueError, match="more than the announced 3 scenes"):
        write_base_scenes(many, tmp_path, SPEC)
    twice = [invented_scene(0, view="spiral"), invented_scene(1, view="top_down"), invented_scene(2)]
    with pytest.raises(ValueError, match="more than the announced 1 views"):
        write_base_scenes(twice, tmp_path, SPEC)


def test_training_and_held_out_seeds_never_meet() -> None:
    for run_seed in (0, 1, 12345, 10**9):
        training, held_out = training_seeds(run_seed, 100), held_out_seeds(run_seed, 100)
        assert training[0] >= 0
        assert training[-1] < TRAINING_SEEDS
        assert held_out[0] >= HELD_OUT_SEEDS
    assert not set(training_seeds(0, 100_000)) & set(training_seeds(1, 100_000))
    with pytest.raises(ValueError, match="scenes=100001"):
        training_seeds(0, 100_001)
