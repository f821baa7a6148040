"""Claims about more4d.labeling.depth."""

from pathlib import Path

import numpy as np
import pytest
from more4d.data.tensors import write_arrays
from more4d.data.video import write_video
from more4d.labeling.clips import Clip
from more4d.labeling.depth import depth_estimator, steady_depth, still_pixels
from more4d.models.architectures import TINY
from more4d.models.bundle import save_network
from more4d.models.depth import DepthNetwork
from numpy.typing import NDArray


def _clip(folder: Path, video: NDArray[np.uint8], *, truth: bool = False, start: int = 0) -> Clip:
    write_video(folder / "a.mp4", video, 8, lossless=True)
    return Clip("a-00000", "real", folder / "a.mp4", start, folder / "truth.safetensors" if truth else None)


def test_ground_truth_is_the_scenes_own_and_only_for_rendered_clips(
    tmp_path: Path, sliding_patch: NDArray[np.uint8], intrinsics: NDArray[np.float32]
) -> None:
    depths = np.random.default_rng(0).uniform(1, 9, sliding_patch.shape[:3]).astype(np.float32)
    write_arrays(tmp_path / "truth.safetensors", {"depths": depths, "intrinsics": intrinsics}, {})
    estimator = depth_estimator("ground_truth", tmp_path)
    label = estimator.estimate(_clip(tmp_path, sliding_patch, truth=True))
    np.testing.assert_array_equal(label.depths, depths)
    np.testing.assert_array_equal(label.intrinsics, intrinsics)
    with pytest.raises(ValueError, match=r"a-00000 \(real\) has no ground truth"):
        estimator.estimate(_clip(tmp_path, sliding_patch))
    with pytest.raises(ValueError, match="starts at frame 5 of its scene, its truth at 0"):
        estimator.estimate(_clip(tmp_path, sliding_patch, truth=True, start=5))


def test_the_network_gives_depth_for_every_frame_and_one_camera(
    tmp_path: Path, sliding_patch: NDArray[np.uint8]
) -> None:
    (tmp_path / "config.json").write_text(TINY.model_dump_json())
    save_network(DepthNetwork(TINY.depth), tmp_path / "depth.safetensors")
    estimator = depth_estimator("network", tmp_path)
    label = estimator.estimate(_clip(tmp_path, sliding_patch))
    assert label.depths.shape == sliding_patch.shape[:3]
    assert (label.depths > 0).all()
    assert label.intrinsics[0, 2] == 24 and label.intrinsics[0, 0] > 0
    assert (estimator.info.model, len(estimator.info.version)) == ("more4d-depth", 12)


def test_a_missing_or_damaged_network_or_name_is_refused(tmp_path: Path, sliding_patch: NDArray[np.uint8]) -> None:
    with pytest.raises(ValueError, match="no depth network at"):
        depth_estimator("network", tmp_path)
    for name in ("config.json", "depth.safetensors"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(ValueError, match="holds no depth network that this code can load"):
        depth_estimator("network", tmp_path).estimate(_clip(tmp_path, sliding_patch))
    with pytest.raises(ValueError, match="unknown depth estimator 'moge'; the estimators are ground_truth, network"):
        depth_estimator("moge", tmp_path)


def test_breathing_depth_becomes_steady_where_nothing_changes(sliding_patch: NDArray[np.uint8]) -> None:
    base = np.random.default_rng(0).uniform(2, 6, (32, 48)).astype(np.float32)
    breath = np.array([1, 1.3, 0.8, 1.1, 0.7], np.float32)[:, None, None]
    steady = steady_depth(base * breath, sliding_patch)
    np.testing.assert_allclose(steady, np.repeat(base[None], 5, 0), rtol=1e-5)


def test_true_depth_changes_of_a_subject_survive(sliding_patch: NDArray[np.uint8]) -> None:
    depths = np.full((5, 32, 48), 5, np.float32)
    for t in range(5):
        depths[t, 8:24, 8 + 2 * t : 24 + 2 * t] = 3 - 0.2 * t
    steady = steady_depth(depths, sliding_patch)
    np.testing.assert_allclose(steady[:, 16, 17], [3, 2.8, 2.6, 2.4, 2.2], rtol=1e-4)
    assert still_pixels(sliding_patch)[:, :5].all()
