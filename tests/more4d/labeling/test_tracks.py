"""Claims about more4d.labeling.tracks."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from more4d.data.tensors import write_arrays
from more4d.data.video import write_video
from more4d.labeling.clips import Clip
from more4d.labeling.depth import DepthLabel
from more4d.labeling.external import DeltaParams, ExternalTrackers, Site
from more4d.labeling.external_exchange import WorkerError
from more4d.labeling.flow_tracker import FlowTrackerParams
from more4d.labeling.tracks import Tracker, on_pixels, tracker
from more4d.weights.labelers import labeler_licences
from numpy.typing import NDArray
from pydantic import ValidationError

FLOW = FlowTrackerParams(max_inconsistency=1.0, max_inconsistency_share=0.2, max_colour_change=40, still_pixels=0.8)


def test_both_trackers_answer_in_one_schema(
    tmp_path: Path, sliding_patch: NDArray[np.uint8], intrinsics: NDArray[np.float32]
) -> None:
    write_video(tmp_path / "a.mp4", sliding_patch, 8, lossless=True)
    depths = np.full(sliding_patch.shape[:3], 4, np.float32)
    truth = {"points": np.ones(sliding_patch.shape, np.float32), "visibility": np.ones(depths.shape, np.uint8)}
    write_arrays(tmp_path / "truth.safetensors", truth, {})
    clip = Clip("a-00000", "rendered", tmp_path / "a.mp4", 0, tmp_path / "truth.safetensors")
    for name in ("ground_truth", "flow"):
        label = tracker(name, FLOW).track(clip, DepthLabel(depths, intrinsics))
        assert (label.points.shape, label.points.dtype) == (sliding_patch.shape, np.float32)
        assert (label.visibility.shape, label.visibility.dtype) == (depths.shape, bool)
        np.testing.assert_array_equal(label.depth0, depths[0])


def test_an_unknown_tracker_is_refused_with_the_known() -> None:
    with pytest.raises(ValueError, match="unknown tracker 'raft'; the trackers are ground_truth, flow, delta"):
        tracker("raft", FLOW)


def test_delta_tracks_the_whole_frame_at_the_clips_own_resolution(
    tmp_path: Path, sliding_patch: NDArray[np.uint8], intrinsics: NDArray[np.float32], labeler_environment: Path
) -> None:
    step = torch.tensor([2.0, 1.0])
    torch.save({"model": {"step": step, "from another version": step}}, tmp_path / "weights.pth")
    write_video(tmp_path / "a.mp4", sliding_patch, 8, lossless=True)
    depth = DepthLabel(np.random.default_rng(0).uniform(2, 5, (5, 32, 48)).astype(np.float32), intrinsics)
    write_arrays(tmp_path / "a-00000.safetensors", {"depths": depth.depths, "intrinsics": intrinsics}, {"model": "m"})
    clip = Clip("a-00000", "real", tmp_path / "a.mp4", 0, None)
    delta = _delta(tmp_path, labeler_environment)
    delta.prepare([clip], tmp_path)
    label = delta.track(clip, depth)
    # The grid is twice as fine as the clip: two of its pixels to the right and one down are one pixel and a half.
    v, u = np.mgrid[:32, :48] + 0.5
    t = np.arange(5)[:, None, None]
    np.testing.assert_allclose(label.uv, np.stack([u + t * 1.0, v + t * 0.5], -1), atol=1e-3)
    np.testing.assert_allclose(label.depth, depth.depths[0] * (1 + 0.1 * t), rtol=1e-5)
    inside = (u + t < 48) & (v + 0.5 * t < 32)
    np.testing.assert_array_equal(label.visibility, inside & ~((u < 24) & (t > 1)))
    np.testing.assert_allclose(label.points[0, ..., 2], label.depth0, rtol=1e-6)
    assert (delta.info.model, delta.info.licence) == ("delta", "Snap non-commercial")
    again = _delta(tmp_path, labeler_environment, min_visibility=0.6).track(clip, depth)
    np.testing.assert_array_equal(again.visibility, inside)


def test_a_delta_checkpoint_that_lacks_a_parameter_is_refused(
    tmp_path: Path, sliding_patch: NDArray[np.uint8], intrinsics: NDArray[np.float32], labeler_environment: Path
) -> None:
    torch.save({"table": torch.zeros(3)}, tmp_path / "weights.pth")
    write_video(tmp_path / "a.mp4", sliding_patch, 8, lossless=True)
    depths = np.ones((5, 32, 48), np.float32)
    write_arrays(tmp_path / "a-00000.safetensors", {"depths": depths, "intrinsics": intrinsics}, {"model": "m"})
    delta = _delta(tmp_path, labeler_environment)
    with pytest.raises(WorkerError, match="lacks 1 parameters of the network, first step"):
        delta.prepare([Clip("a-00000", "real", tmp_path / "a.mp4", 0, None)], tmp_path)


def test_tracks_on_the_clips_own_grid_are_passed_on_pixel_by_pixel(intrinsics: NDArray[np.float32]) -> None:
    rng = np.random.default_rng(0)
    home = np.stack(np.meshgrid(np.arange(48), np.arange(32)), -1) + 0.5
    uv = (home + np.concatenate([np.zeros((1, 32, 48, 2)), rng.normal(size=(3, 32, 48, 2))])).astype(np.float32)
    z = rng.uniform(1, 4, (4, 32, 48)).astype(np.float32)
    label = on_pixels(uv, z, np.ones(z.shape, bool), DepthLabel(z, intrinsics))
    np.testing.assert_allclose(label.uv, uv, atol=1e-3)
    np.testing.assert_allclose(label.depth, z, rtol=1e-5)
    leaves = ((uv < 0) | (uv >= (48, 32))).any(-1)
    assert leaves.any()
    np.testing.assert_array_equal(label.visibility, ~leaves)


def test_a_first_depth_that_is_not_positive_costs_its_own_trajectory_alone(intrinsics: NDArray[np.float32]) -> None:
    home = np.stack(np.meshgrid(np.arange(48), np.arange(32)), -1).astype(np.float32) + 0.5
    z = np.full((3, 32, 48), 2, np.float32)
    z[0, 4, 5], z[0, 6, 7] = 0, -1
    depth = DepthLabel(np.full((3, 32, 48), 4, np.float32), intrinsics)
    label = on_pixels(np.repeat(home[None], 3, 0), z, np.ones(z.shape, bool), depth)
    lost = np.zeros((32, 48), bool)
    lost[4, 5] = lost[6, 7] = True
    assert np.isnan(label.points[:, lost]).all() and not label.visibility[:, lost].any()
    np.testing.assert_array_equal(label.depth[:, ~lost], 4)
    assert label.visibility[:, ~lost].all()


def test_delta_that_is_not_set_up_is_refused_with_what_it_needs(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"delta needs tracks.external.delta \(python, weights\) in params.yaml"):
        tracker("delta", FLOW, external=ExternalTrackers(), site=_site(tmp_path))
    with pytest.raises(ValidationError, match="multiples of 32"):
        DeltaParams(python="p", weights="w", resolution=(380, 512))


def _site(tmp_path: Path) -> Site:
    return Site(tmp_path, labeler_licences(["delta"], Path(__file__).parents[3]))


def _delta(tmp_path: Path, python: Path, **changes: Any) -> Tracker:
    given = {"python": str(python), "weights": "weights.pth", "device": "cpu", "resolution": (64, 96)}
    given |= {"upsample_factor": 8, "dtype": "bfloat16"}
    external = ExternalTrackers.model_validate({"delta": given | changes})
    return tracker("delta", FLOW, external=external, site=_site(tmp_path))
