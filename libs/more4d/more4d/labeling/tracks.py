"""Dense 3D point trajectories of a clip behind one interface: exact where it was rendered, optical flow elsewhere.

Suffixes: T frames, H height, W width.
"""

from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from more4d.labeling.clips import Clip
from more4d.labeling.depth import DepthLabel, LabelerInfo
from more4d.labeling.flow_tracker import FlowTrackerParams, lift, track_pixels


@dataclass(frozen=True, eq=False)
class TrackLabel:
    """The one schema of every tracker.

    points float32 [T, H, W, 3]: where the point seen by a first-frame pixel is at time t, in metres in the first
    camera's frame; visibility bool [T, H, W]; depth0 float32 [H, W]; intrinsics float32 [3, 3].
    """

    points: NDArray[np.float32]
    visibility: NDArray[np.bool_]
    depth0: NDArray[np.float32]
    intrinsics: NDArray[np.float32]


class Tracker(Protocol):
    """Tracks every first-frame pixel of a clip."""

    @property
    def info(self) -> LabelerInfo: ...

    def track(self, clip: Clip, depth: DepthLabel) -> TrackLabel: ...


class GroundTruthTracker:
    """The rendered scene's own tracks. Raises ValueError for a clip that was not rendered."""

    info = LabelerInfo("ground_truth", "1", "Apache-2.0")

    def track(self, clip: Clip, depth: DepthLabel) -> TrackLabel:
        arrays, _ = clip.truth()
        return TrackLabel(arrays["points"], arrays["visibility"].astype(bool), depth.depths[0], depth.intrinsics)


class FlowTracker:
    """OpenCV's DIS optical flow, chained and lifted by depth."""

    info = LabelerInfo("dis-flow", f"1; OpenCV {cv2.__version__}", "Apache-2.0")

    def __init__(self, params: FlowTrackerParams) -> None:
        self._params = params

    def track(self, clip: Clip, depth: DepthLabel) -> TrackLabel:
        pixels = track_pixels(clip.frames(), self._params)
        points = lift(pixels, depth.depths, depth.intrinsics, self._params.still_pixels)
        return TrackLabel(points, pixels.visible, depth.depths[0], depth.intrinsics)


def tracker(name: str, flow: FlowTrackerParams) -> Tracker:
    """The tracker called `name`. Raises ValueError listing the known."""
    if name == "ground_truth":
        return GroundTruthTracker()
    if name == "flow":
        return FlowTracker(flow)
    raise ValueError(f"unknown tracker {name!r}; the trackers are ground_truth, flow")
