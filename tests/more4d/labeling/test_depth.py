"""Claims about more4d.labeling.depth."""

import re
import sys
from pathlib import Path

import numpy as np
import pytest
from more4d.data.tensors import write_arrays
from more4d.data.video import write_video
from more4d.labeling.clips import Clip
from more4d.labeling.depth import DepthEstimator, depth_estimator, steady_depth, still_pixels
from more4d.labeling.external import ExternalDepths, Site, UniDepthParams
from more4d.labeling.external_exchange import Exchange, WorkerError
from more4d.models.architectures import TINY
from more4d.models.bundle import save_network
from more4d.models.depth import DepthNetwork
from more4d.weights.labelers import LABELERS, labeler_licences
from numpy.typing import NDArray

BREATH = np.array([1, 1.3, 0.8, 1.1, 0.7], np.float32)[:, None, None]


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
    known = "ground_truth, network, unidepth_v2, moge"
    with pytest.raises(ValueError, match=f"unknown depth estimator 'midas'; the estimators are {known}"):
        depth_estimator("midas", tmp_path)


def test_breathing_depth_becomes_steady_where_nothing_changes(sliding_patch: NDArray[np.uint8]) -> None:
    base = np.random.default_rng(0).uniform(2, 6, (32, 48)).astype(np.float32)
    steady = steady_depth(base * BREATH, sliding_patch)
    np.testing.assert_allclose(steady, np.repeat(base[None], 5, 0), rtol=1e-5)


def test_true_depth_changes_of_a_subject_survive(sliding_patch: NDArray[np.uint8]) -> None:
    depths = np.full((5, 32, 48), 5, np.float32)
    for t in range(5):
        depths[t, 8:24, 8 + 2 * t : 24 + 2 * t] = 3 - 0.2 * t
    steady = steady_depth(depths, sliding_patch)
    np.testing.assert_allclose(steady[:, 16, 17], [3, 2.8, 2.6, 2.4, 2.2], rtol=1e-4)
    assert still_pixels(sliding_patch)[:, :5].all()


@pytest.mark.parametrize("stray", [0, -1, np.nan, np.inf])
def test_a_stray_depth_stays_one_stray_depth(sliding_patch: NDArray[np.uint8], stray: float) -> None:
    depths = np.full((5, 32, 48), 3, np.float32) * BREATH
    # Twice the same pixel: 0 / 0 is no number.
    depths[:2, 2, 3] = stray
    depths[4, 16, 20] = stray
    steady = steady_depth(depths, sliding_patch)
    hit = np.zeros(depths.shape, bool)
    hit[:2, 2, 3] = hit[4, 16, 20] = True
    np.testing.assert_array_equal(steady[hit], np.float32(stray))
    np.testing.assert_allclose(steady[~hit], 3, rtol=1e-5)


def test_depths_of_which_none_is_a_measurement_stay_as_they_are(sliding_patch: NDArray[np.uint8]) -> None:
    depths = np.zeros((5, 32, 48), np.float32)
    np.testing.assert_array_equal(steady_depth(depths, sliding_patch), depths)


def test_a_still_sky_does_not_hide_that_the_rest_breathes(sliding_patch: NDArray[np.uint8]) -> None:
    depths = np.full((5, 32, 48), 3, np.float32) * BREATH
    depths[:, :28] = 500
    steady = steady_depth(depths, sliding_patch, far_m=500)
    np.testing.assert_array_equal(steady[:, :28], 500)
    np.testing.assert_allclose(steady[:, 28:], 3, rtol=1e-5)


def _answer(tmp_path: Path, clip: Clip) -> Path:
    """Where the one exchange below `tmp_path` keeps a clip's answer; its folder is made."""
    params = UniDepthParams(python=sys.executable, weights="weights", device="cpu", resolution_level=3)
    answers = Exchange.of("unidepth", params, tmp_path).folder / "answers"
    answers.mkdir(parents=True, exist_ok=True)
    return answers / f"{clip.name_of_contents()}.safetensors"


def _site(tmp_path: Path) -> Site:
    return Site(tmp_path, labeler_licences(LABELERS, Path(__file__).parents[3]))


def _external(tmp_path: Path, python: Path, name: str, weights: str, **changes: object) -> DepthEstimator:
    (tmp_path / "weights").write_text(weights)
    given = {"python": str(python), "weights": "weights", "device": "cpu", "resolution_level": 3, "steady": False}
    external = ExternalDepths.model_validate({name: given | changes})
    return depth_estimator(name, tmp_path, external=external, site=_site(tmp_path))


def test_unidepth_is_told_one_camera_for_the_clip_the_median_of_what_it_guesses(
    tmp_path: Path, sliding_patch: NDArray[np.uint8], labeler_environment: Path
) -> None:
    video = sliding_patch.copy()
    # The stand-in guesses a focal length of 48 plus the blue of a frame's first pixel, and fails at red above 200.
    video[:, 0, 0] = [[0, 0, blue] for blue in (5, 4, 30, 4, 3)]
    clip = _clip(tmp_path, video)
    estimator = _external(tmp_path, labeler_environment, "unidepth_v2", "good", camera_frames=3)
    estimator.prepare([clip])
    label = estimator.estimate(clip)
    focal = 48 + np.median([5, 30, 3])
    np.testing.assert_allclose(label.intrinsics, [[focal, 0, 24], [0, focal, 16], [0, 0, 1]])
    np.testing.assert_allclose(label.depths, (1 + clip.frames()[..., 0] / 255) * focal / 48, rtol=1e-6)
    assert (estimator.info.model, estimator.info.licence) == ("unidepth_v2", "CC BY-NC 4.0")
    assert re.fullmatch("[0-9a-f]{12}; torch .*; unidepth unknown", estimator.info.version)


def test_moge_gives_metres_a_camera_in_pixels_and_the_sky_a_distance(
    tmp_path: Path, sliding_patch: NDArray[np.uint8], labeler_environment: Path
) -> None:
    video = sliding_patch // 2
    video[:, :4] = 250
    clip = _clip(tmp_path, video)
    given = {"dtype": "float32", "far_m": 321, "camera_frames": 1}
    estimator = _external(tmp_path, labeler_environment, "moge", "metric", **given)
    estimator.prepare([clip])
    label = estimator.estimate(clip)
    frames = clip.frames()
    share = 0.5 + frames[0, 0, 0, 1] / 255
    np.testing.assert_allclose(label.intrinsics, [[48 * share, 0, 24], [0, 48 * share, 16], [0, 0, 1]], rtol=1e-6)
    np.testing.assert_array_equal(label.depths[:, :4], 321)
    np.testing.assert_allclose(label.depths[:, 4:], (1 + frames[:, 4:, :, 0] / 255) * share, rtol=1e-5)
    assert estimator.info.licence == "MIT"
    steady = _external(tmp_path, Path(sys.executable), "moge", "metric", **given, steady=True).estimate(clip)
    np.testing.assert_array_equal(steady.depths[:, :4], 321)


def test_moge_weights_without_metric_scale_are_refused(
    tmp_path: Path, sliding_patch: NDArray[np.uint8], labeler_environment: Path
) -> None:
    estimator = _external(tmp_path, labeler_environment, "moge", "affine", dtype="float32")
    with pytest.raises(WorkerError, match="has no metric scale; use MoGe-2 weights"):
        estimator.prepare([_clip(tmp_path, sliding_patch)])


def test_external_depth_is_made_steady_where_that_is_asked(
    tmp_path: Path, sliding_patch: NDArray[np.uint8], intrinsics: NDArray[np.float32]
) -> None:
    clip = _clip(tmp_path, sliding_patch)
    estimator = _external(tmp_path, Path(sys.executable), "unidepth_v2", "good", steady=True)
    answer = _answer(tmp_path, clip)
    write_arrays(answer, {"depths": np.full((5, 32, 48), 2, np.float32) * BREATH, "intrinsics": intrinsics}, {})
    np.testing.assert_allclose(estimator.estimate(clip).depths, 2, rtol=1e-5)


def test_an_answer_whose_camera_is_none_is_refused(tmp_path: Path, sliding_patch: NDArray[np.uint8]) -> None:
    clip = _clip(tmp_path, sliding_patch)
    estimator = _external(tmp_path, Path(sys.executable), "unidepth_v2", "good")
    answer = _answer(tmp_path, clip)
    camera = np.diag([48, -48, 1]).astype(np.float32)
    write_arrays(answer, {"depths": np.ones((5, 32, 48), np.float32), "intrinsics": camera}, {})
    with pytest.raises(ValueError, match="unidepth_v2 answered what is no camera"):
        estimator.estimate(clip)


def test_another_video_under_the_same_name_is_another_clip(tmp_path: Path, sliding_patch: NDArray[np.uint8]) -> None:
    estimator = _external(tmp_path, Path(sys.executable), "unidepth_v2", "good")
    first = _answer(tmp_path, _clip(tmp_path, sliding_patch))
    write_arrays(first, {"depths": np.ones((5, 32, 48), np.float32), "intrinsics": np.eye(3, dtype=np.float32)}, {})
    estimator.estimate(_clip(tmp_path, sliding_patch))
    with pytest.raises(ValueError, match="was not asked about clip a-00000-"):
        estimator.estimate(_clip(tmp_path, 255 - sliding_patch))


def test_an_external_estimator_that_is_not_set_up_is_refused_with_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"moge needs depth.external.moge \(python, weights\) in params.yaml"):
        depth_estimator("moge", tmp_path, external=ExternalDepths(), site=_site(tmp_path))
