"""Dense 3D point trajectories of a clip behind one interface: exact where it was rendered, optical flow elsewhere.

Suffixes: T frames, H height, W width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
from numpy.typing import NDArray

from more4d.data.tensors import read_arrays
from more4d.labeling.clips import Clip
from more4d.labeling.depth import DepthLabel, LabelerInfo
from more4d.labeling.external import DeltaParams, ExternalTrackers, Site
from more4d.labeling.external_exchange import Arrays, Exchange
from more4d.labeling.flow_tracker import FlowTrackerParams, lift, track_pixels

TRACKERS = ("ground_truth", "flow", *ExternalTrackers.model_fields)


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

    @property
    def depth(self) -> NDArray[np.float32]:
        """float32 [T, H, W]: depth of every point, in metres."""
        return self.points[..., 2]

    @property
    def uv(self) -> NDArray[np.float32]:
        """float32 [T, H, W, 2]: the pixel (u, v; centres at +0.5) of every point; not finite where its depth is 0."""
        with np.errstate(divide="ignore", invalid="ignore"):
            rays = self.points[..., :2] / self.points[..., 2:]
        return rays * self.intrinsics[(0, 1), (0, 1)] + self.intrinsics[:2, 2]


class Tracker(Protocol):
    """Tracks every first-frame pixel of clips: `prepare` once for all of them, then `track` for each, in any process."""

    @property
    def info(self) -> LabelerInfo: ...

    def prepare(self, clips: Sequence[Clip], depths: Path) -> None:
        """What is better done for many clips at once; it may be nothing. `depths` is the output of stage depth."""
        ...

    def track(self, clip: Clip, depth: DepthLabel) -> TrackLabel:
        """The clip's label. Raises ValueError where the clip cannot have one."""
        ...


class GroundTruthTracker:
    """The rendered scene's own tracks. Raises ValueError for a clip that was not rendered."""

    info = LabelerInfo("ground_truth", "1", "Apache-2.0")

    def prepare(self, clips: Sequence[Clip], depths: Path) -> None:
        return

    def track(self, clip: Clip, depth: DepthLabel) -> TrackLabel:
        arrays, _ = clip.truth()
        return TrackLabel(arrays["points"], arrays["visibility"].astype(bool), depth.depths[0], depth.intrinsics)


class FlowTracker:
    """OpenCV's DIS optical flow, chained and lifted by depth."""

    info = LabelerInfo("dis-flow", f"2; OpenCV {cv2.__version__}", "Apache-2.0")

    def __init__(self, params: FlowTrackerParams) -> None:
        self._params = params

    def prepare(self, clips: Sequence[Clip], depths: Path) -> None:
        return

    def track(self, clip: Clip, depth: DepthLabel) -> TrackLabel:
        return track_by_flow(clip.frames(), depth, self._params)


def track_by_flow(frames: NDArray[np.uint8], depth: DepthLabel, params: FlowTrackerParams) -> TrackLabel:
    """Tracks of frames uint8 [T, H, W, 3] by chained optical flow, lifted by their depth."""
    pixels = track_pixels(frames, params)
    points = lift(pixels, depth.depths, depth.intrinsics, params.still_pixels)
    return TrackLabel(points, pixels.visible, depth.depths[0], depth.intrinsics)


class DeltaTracker:
    """DELTA in an environment of its own: one run of its worker for all clips, its answers brought to the one schema.

    Frames are resized, whole and not cropped, to the grid that DELTA tracks (384x512 as published), so the label has the
    clip's own resolution and no pixel of it is outside. A pixel takes the motion of the grid point nearest to it: the
    way in the picture is added to the pixel, the change of depth multiplies the pixel's own depth. So every track starts
    at its pixel's centre and at its depth, exactly. At 384x512 pixels and grid points are the same.

    A point that leaves the picture keeps its position and is not visible there. Where DELTA's own first depth is not
    positive there is no change of depth to follow: that pixel's points are not a number and never visible, which the
    quality criteria count.
    """

    def __init__(self, params: DeltaParams, site: Site) -> None:
        """Raises ValueError where the environment or the weights are not there."""
        self._params = params
        self._exchange = Exchange.of("delta", params, site.root)
        self._licence = site.licences["delta"]
        site.spent.append(self._exchange.folder)

    @property
    def info(self) -> LabelerInfo:
        return LabelerInfo("delta", self._exchange.version, self._licence)

    def prepare(self, clips: Sequence[Clip], depths: Path) -> None:
        """Every clip answered or recorded as failed. Raises WorkerError where the worker cannot be run."""
        named = {clip.name_of_contents(read_depth(depths, clip)[0].depths): clip for clip in clips}
        self._exchange.ask(list(named), lambda name: _delta_inputs(named[name], depths))

    def track(self, clip: Clip, depth: DepthLabel) -> TrackLabel:
        grid = (len(depth.depths), *self._params.resolution)
        name = clip.name_of_contents(depth.depths)
        answer = self._exchange.answer(name, {"uv": (*grid, 2), "depth": grid, "visibility": grid})
        return on_pixels(answer["uv"], answer["depth"], answer["visibility"] > self._params.min_visibility, depth)


def on_pixels(
    uv: NDArray[np.float32], z: NDArray[np.float32], visible: NDArray[np.bool_], depth: DepthLabel
) -> TrackLabel:
    """The label of a clip out of tracks of another grid over the same picture, as DeltaTracker says.

    uv [T, h, w, 2] in the grid's pixels (centres at +0.5), z [T, h, w] in any unit.
    """
    _, height, width = depth.depths.shape
    near = np.ix_(np.arange(len(uv)), _nearest(uv.shape[1], height), _nearest(uv.shape[2], width))
    size = np.array([width, height], np.float32)
    moved = (uv - uv[:1])[near] * (size / np.array([uv.shape[2], uv.shape[1]], np.float32))
    home = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1) + 0.5
    positions = (home + moved).astype(np.float32)
    inside = ((positions >= 0) & (positions < size)).all(-1)
    visibility = visible[near] & inside
    # A first-frame pixel is seen in the first frame.
    visibility[0] = True
    change = np.divide(z, z[:1], out=np.full_like(z, np.nan), where=z[:1] > 0)
    points = _lifted(positions, depth.depths[0] * change[near], depth.intrinsics)
    return TrackLabel(points, visibility & np.isfinite(points[..., 2]), depth.depths[0], depth.intrinsics)


def _nearest(cells: int, pixels: int) -> NDArray[np.intp]:
    """For each of so many pixels, the cell of a grid over the same side that its centre falls into."""
    return np.floor((np.arange(pixels) + 0.5) * cells / pixels).astype(np.intp)


def _lifted(
    positions: NDArray[np.float32], z: NDArray[np.float32], intrinsics: NDArray[np.float32]
) -> NDArray[np.float32]:
    xy = (positions - intrinsics[:2, 2]) / intrinsics[(0, 1), (0, 1)] * z[..., None]
    return np.concatenate([xy, z[..., None]], -1).astype(np.float32)


def _delta_inputs(clip: Clip, depths: Path) -> Arrays:
    measured = read_depth(depths, clip)[0]
    return {"frames": clip.frames(), "depths": measured.depths}


def read_depth(depths: Path, clip: Clip) -> tuple[DepthLabel, dict[str, Any]]:
    """A clip's label in the output folder of stage depth, and what is said there about who made it."""
    arrays, facts = read_arrays(depths / f"{clip.clip_id}.safetensors")
    return DepthLabel(arrays["depths"], arrays["intrinsics"]), facts


def tracker(
    name: str, flow: FlowTrackerParams, *, external: ExternalTrackers | None = None, site: Site | None = None
) -> Tracker:
    """The tracker called `name`; DELTA needs its settings and a place to work.

    Raises ValueError listing the known, or saying what DELTA lacks.
    """
    if name == "ground_truth":
        return GroundTruthTracker()
    if name == "flow":
        return FlowTracker(flow)
    if name != "delta":
        raise ValueError(f"unknown tracker {name!r}; the trackers are {', '.join(TRACKERS)}")
    if external is None or external.delta is None or site is None:
        raise ValueError("delta needs tracks.external.delta (python, weights) in params.yaml; see docs/labeling.md")
    return DeltaTracker(external.delta, site)
