"""Claims about more4d.labeling.tracks."""

from pathlib import Path

import numpy as np
import pytest
from more4d.data.tensors import write_arrays
from more4d.data.video import write_video
from more4d.labeling.clips import Clip
from more4d.labeling.depth import DepthLabel
from more4d.labeling.flow_tracker import FlowTrackerParams
from more4d.labeling.tracks import tracker
from numpy.typing import NDArray

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
    with pytest.raises(ValueError, match="unknown tracker 'delta'; the trackers are ground_truth, flow"):
        tracker("delta", FLOW)
