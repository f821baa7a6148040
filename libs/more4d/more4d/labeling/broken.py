"""Sound samples broken on purpose, as depth estimators and trackers fail: what the quality criteria must catch.

Suffixes: T frames, H height, W width.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from more4d.labeling.tracks import TrackLabel

Float = NDArray[np.float32]
Criterion = Literal["anomalous_share", "depth_deviation", "scale_change", "flow_error", "unexplained_change", "any"]

NEAR_INFINITE_M = 1e6


@dataclass(frozen=True, eq=False)
class Labeled:
    """A clip uint8 [T, H, W, 3] and its tracks."""

    video: NDArray[np.uint8]
    tracks: TrackLabel


Break = Callable[[Labeled, Labeled, np.random.Generator, float], Labeled]


@dataclass(frozen=True)
class BreakKind:
    """A way to break a sample, the criterion made for it (or all together), and from which to which strength it happens."""

    function: Break
    criterion: Criterion
    weakest: float
    strongest: float


def break_sample(name: str, sample: Labeled, other: Labeled, *, seed: int, strength: float | None = None) -> Labeled:
    """The sample broken in the way called `name`; the same seed gives the same bytes.

    `other` is another sound sample of the same size, for what mixes up two. Without `strength` it is drawn from the
    kind's range. Raises ValueError listing the known names.
    """
    if name not in BREAKS:
        raise ValueError(f"unknown way to break a sample {name!r}; known are {', '.join(BREAKS)}")
    kind, rng = BREAKS[name], np.random.default_rng([seed, list(BREAKS).index(name)])
    drawn = rng.uniform(kind.weakest, kind.strongest)
    return kind.function(sample, other, rng, drawn if strength is None else strength)


def spike_depth(sample: Labeled, other: Labeled, rng: np.random.Generator, strength: float) -> Labeled:
    """A share `strength` of the trajectories is 2 to 6 times too far, or too near, at one time each.

    A network that sees one frame at a time flickers so at fences, hair, glass and reflections.
    """
    hit = _some(sample, rng, strength)
    factors = rng.uniform(2, 6, hit.sum()) ** rng.choice([-1, 1], hit.sum())
    return _at_random_times(sample, rng, hit, lambda points: points * factors[:, None])


def lose_depth(sample: Labeled, other: Labeled, rng: np.random.Generator, strength: float) -> Labeled:
    """A share `strength` of the trajectories has depth 0 or 1000 km at one time each.

    Where disparity is 0 (sky) or clamped, inverse depth leaves exactly these.
    """
    hit = _some(sample, rng, strength)
    depths = rng.choice(np.array([0.0, NEAR_INFINITE_M]), hit.sum())
    return _at_random_times(sample, rng, hit, lambda points: np.column_stack([points[:, :2], depths]))


def lose_points(sample: Labeled, other: Labeled, rng: np.random.Generator, strength: float) -> Labeled:
    """A share `strength` of the trajectories is not a number from some time on: a tracker's answer for what it lost."""
    hit = _some(sample, rng, strength)
    since = np.full(hit.shape, len(sample.video))
    since[hit] = rng.integers(1, len(sample.video), hit.sum())
    gone = np.arange(len(sample.video))[:, None, None] >= since
    return _with_points(sample, np.where(gone[..., None], np.nan, sample.tracks.points))


def stretch_depth(sample: Labeled, other: Labeled, rng: np.random.Generator, strength: float) -> Labeled:
    """Inverse depth is too small by `strength` of its median, at least 1/500 of the largest, in all frames alike.

    Networks trained on many cameras know inverse depth up to a scale and a shift. With a wrong shift the far half of the
    scene goes off towards infinity.
    """
    inverse = 1 / sample.tracks.points[..., 2:]
    shift, floor = strength * float(np.median(inverse)), float(inverse.max()) / 500
    tracks = sample.tracks
    depth0 = 1 / np.maximum(1 / tracks.depth0 - shift, floor)
    points = tracks.points * inverse / np.maximum(inverse - shift, floor)
    return replace(sample, tracks=replace(tracks, points=points.astype(np.float32), depth0=depth0.astype(np.float32)))


def drift_scale(sample: Labeled, other: Labeled, rng: np.random.Generator, strength: float) -> Labeled:
    """The whole scene grows or shrinks about the camera, by a factor exp(`strength`) until the last frame.

    Depth of single frames has no common scale; chained from frame to frame it drifts by 10 to 40 % over a clip.
    """
    return _with_points(sample, sample.tracks.points * _growth(sample, rng, strength))


def drift_region(sample: Labeled, other: Labeled, rng: np.random.Generator, strength: float) -> Labeled:
    """The same drift of the far (or near) 40 to 60 % of the first frame alone: backgrounds breathe while subjects stay."""
    share = rng.uniform(0.4, 0.6)
    depth0 = sample.tracks.depth0
    region = depth0 > np.quantile(depth0, 1 - share) if rng.random() < 0.5 else depth0 < np.quantile(depth0, share)
    factor = np.where(region[None, ..., None], _growth(sample, rng, strength), 1.0)
    return _with_points(sample, sample.tracks.points * factor)


def shear_tracks(sample: Labeled, other: Labeled, rng: np.random.Generator, strength: float) -> Labeled:
    """Tracks lean more and more, by `strength` pixels a pixel from the centre in the last frame: a rolling shutter or an
    unstable global motion, that a tracker takes for the scene's."""
    pixels, centre = _pixels(sample), sample.tracks.intrinsics[:2, 2]
    axis, lean = int(rng.integers(2)), strength * rng.choice([-1, 1]) * _time(sample)[..., 0]
    pixels[..., axis] += lean * (pixels[..., 1 - axis] - centre[1 - axis])
    return _with_pixels(sample, pixels)


def slide_tracks(sample: Labeled, other: Labeled, rng: np.random.Generator, strength: float) -> Labeled:
    """All tracks slide evenly, in the end by `strength` of the width: templates that are updated drift off like this."""
    angle, way = rng.uniform(0, 2 * np.pi), strength * sample.video.shape[2]
    return _with_pixels(sample, _pixels(sample) + _time(sample) * way * np.array([np.cos(angle), np.sin(angle)]))


def shake_tracks(sample: Labeled, other: Labeled, rng: np.random.Generator, strength: float) -> Labeled:
    """All tracks jump in every frame, by normal steps of `strength` of the width: matches of noise in bad light."""
    steps = rng.normal(0, strength * sample.video.shape[2], (len(sample.video), 1, 1, 2))
    steps[0] = 0
    return _with_pixels(sample, _pixels(sample) + steps)


def swap_frames(sample: Labeled, other: Labeled, rng: np.random.Generator, strength: float) -> Labeled:
    """A share `strength` of the later frames has the tracks of others, in random order; or the other way round, the clip.

    Frames decoded out of order, or batches of a tracker put together wrongly.
    """
    order = np.arange(len(sample.video))
    moved = np.sort(rng.choice(order[1:], max(2, round(strength * (len(order) - 1))), replace=False))
    # A cycle, rather than any permutation: every chosen frame leaves its place.
    chain = rng.permutation(moved)
    order[chain] = np.roll(chain, 1)
    if rng.random() < 0.5:
        return replace(sample, video=sample.video[order])
    tracks = sample.tracks
    return replace(sample, tracks=replace(tracks, points=tracks.points[order], visibility=tracks.visibility[order]))


def swap_tracks(sample: Labeled, other: Labeled, rng: np.random.Generator, strength: float) -> Labeled:
    """The tracks are another clip's: files mixed up."""
    return replace(sample, tracks=other.tracks)


def swap_clip(sample: Labeled, other: Labeled, rng: np.random.Generator, strength: float) -> Labeled:
    """The last `strength` of the frames are another clip's: a cut that was not found."""
    first = len(sample.video) - max(1, round(strength * len(sample.video)))
    return replace(sample, video=np.concatenate([sample.video[:first], other.video[first:]]))


def stop_tracks(sample: Labeled, other: Labeled, rng: np.random.Generator, strength: float) -> Labeled:
    """A share `strength` of the points that move stand still, and are said to be seen: a tracker that lost its subject.

    The share is a connected part: those nearest to one moving point.
    """
    pixels = _pixels(sample)
    moves = np.linalg.norm(pixels - pixels[:1], axis=-1).max(0) > 1
    points, visibility = sample.tracks.points.copy(), sample.tracks.visibility.copy()
    rows, columns = np.nonzero(moves)
    if len(rows):
        middle = rng.integers(len(rows))
        near = np.argsort(np.hypot(rows - rows[middle], columns - columns[middle]), kind="stable")
        lost = near[: int(np.ceil(strength * len(near)))]
        points[:, rows[lost], columns[lost]] = points[0, rows[lost], columns[lost]]
        visibility[:, rows[lost], columns[lost]] = True
    return replace(sample, tracks=replace(sample.tracks, points=points, visibility=visibility))


BREAKS: dict[str, BreakKind] = {
    "depth spikes": BreakKind(spike_depth, "anomalous_share", 0.08, 0.3),
    "depth zero or infinite": BreakKind(lose_depth, "anomalous_share", 0.08, 0.3),
    "points not a number": BreakKind(lose_points, "anomalous_share", 0.08, 0.3),
    "stretched depth": BreakKind(stretch_depth, "depth_deviation", 0.8, 1.2),
    "drifting scale": BreakKind(drift_scale, "scale_change", 0.1, 0.35),
    "drifting scale of a region": BreakKind(drift_region, "scale_change", 0.1, 0.35),
    "sheared tracks": BreakKind(shear_tracks, "flow_error", 0.3, 0.6),
    "sliding tracks": BreakKind(slide_tracks, "flow_error", 0.06, 0.15),
    "shaking tracks": BreakKind(shake_tracks, "flow_error", 0.02, 0.04),
    "swapped frames": BreakKind(swap_frames, "flow_error", 0.5, 1.0),
    "tracks of another clip": BreakKind(swap_tracks, "any", 1.0, 1.0),
    "frames of another clip": BreakKind(swap_clip, "unexplained_change", 0.3, 0.7),
    "tracks that stopped": BreakKind(stop_tracks, "unexplained_change", 0.7, 1.0),
}


def _some(sample: Labeled, rng: np.random.Generator, share: float) -> NDArray[np.bool_]:
    """Which trajectories [H, W]: exactly that share, rounded up."""
    size = sample.tracks.depth0.shape
    hit = np.zeros(size[0] * size[1], bool)
    hit[rng.permutation(hit.size)[: int(np.ceil(share * hit.size))]] = True
    return hit.reshape(size)


def _at_random_times(
    sample: Labeled, rng: np.random.Generator, hit: NDArray[np.bool_], change: Callable[[Float], NDArray[np.floating]]
) -> Labeled:
    """The hit trajectories' points [N, 3] changed at one later time each."""
    points = sample.tracks.points.copy()
    rows, columns = np.nonzero(hit)
    where = (rng.integers(1, len(points), len(rows)), rows, columns)
    points[where] = change(points[where])
    return _with_points(sample, points)


def _growth(sample: Labeled, rng: np.random.Generator, strength: float) -> NDArray[np.float64]:
    """Factors [T, 1, 1, 1] from 1 to exp(+-strength)."""
    return np.exp(strength * rng.choice([-1, 1]) * _time(sample))


def _time(sample: Labeled) -> NDArray[np.float64]:
    """0 to 1, [T, 1, 1, 1]."""
    return np.linspace(0, 1, len(sample.video))[:, None, None, None]


def _pixels(sample: Labeled) -> NDArray[np.float64]:
    """Where the first camera sees the points, [T, H, W, 2]."""
    points, camera = sample.tracks.points.astype(np.float64), sample.tracks.intrinsics
    return points[..., :2] / points[..., 2:] * camera[(0, 1), (0, 1)] + camera[:2, 2]


def _with_pixels(sample: Labeled, pixels: NDArray[np.float64]) -> Labeled:
    """The points at other pixels, at the same depth."""
    camera, z = sample.tracks.intrinsics, sample.tracks.points[..., 2:]
    return _with_points(sample, np.concatenate([(pixels - camera[:2, 2]) / camera[(0, 1), (0, 1)] * z, z], -1))


def _with_points(sample: Labeled, points: NDArray[np.floating]) -> Labeled:
    return replace(sample, tracks=replace(sample.tracks, points=points.astype(np.float32)))
