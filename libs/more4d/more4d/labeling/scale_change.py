"""Scale consistency, the paper's third criterion: a scaled cloud must render alike from the original camera.

Suffixes: N points.
"""

import numpy as np
import torch
from more4d_kernels import rasterization
from numpy.typing import NDArray

from more4d.labeling.agreement import spread
from more4d.labeling.tracks import TrackLabel

Float = NDArray[np.float32]

_SCALE_FRAMES = 7
"""Frames rendered for scale_change, spread over the clip: a drift is slow, and a jump is the first criterion's."""
_SIGMA_PX = 0.6
_SMOOTHING = 0.01
"""Variance added to every splat, in pixels squared: far below a pixel, so that a cloud which spreads shows holes."""
_SAMPLING = 0.62
"""Rendered pixels for one of the clip: no simple fraction, so that pixels fall everywhere between the points."""
_BLOCK = 5
"""Side of the squares over which a change is averaged, in rendered pixels: 8 of the clip's."""
_AREA = 0.7
"""Of the blocks: what moves fills less than the rest, and may turn, hide and stretch."""


def scale_change(tracks: TrackLabel, scale: float) -> float:
    """How differently later frames take a scaling of the cloud about the first camera than the first frame does.

    The picture from that camera should stay the same. If splats were scaled as well it would, whatever the points are:
    neither a cloud nor its scale shows in one camera. So splats keep the size in metres that they have in the first
    frame. Scaled up, every surface then thins out by an amount that depends on the distances of neighbouring points
    alone: equally in all frames while surfaces move, turn about the axis of view, come nearer or go (their pixels
    spread as their splats grow); not if depth drifts or spreads, because neighbours that keep their pixels are further
    apart in metres. Opacity alone is compared, which knows no texture.

    For every block of the picture, c(t) = mean |alpha(t, 1) - alpha(t, scale)| over visible points; of |ln c(t) / c(0)|
    the 70th percentile over blocks that hold points, the largest over 7 frames. 0 for rigid surfaces under the rest of
    the picture, about 0.3 for a drift of 10 %. Infinite where nothing can be drawn. A drift whose first frame is
    already wrong, or that less than a third of the picture shares, is not seen.
    """
    first, worst = None, 0.0
    for frame in spread(len(tracks.points), _SCALE_FRAMES):
        one, other = (_opacity(tracks, frame, factor) for factor in (1.0, scale))
        change, filled = _blocks(np.abs(one - other)), _blocks(one) > 0.05
        if first is None:
            first = change
        if not filled.any():
            return float("inf")
        ratio = np.log(np.maximum(change, 1e-4) / np.maximum(first, 1e-4))
        worst = max(worst, float(np.quantile(np.abs(ratio[filled]), _AREA)))
    return worst


def _opacity(tracks: TrackLabel, frame: int, scale: float) -> Float:
    """Opacity [H * 0.62, W * 0.62] of the visible points, scaled, as the first camera sees them."""
    height, width = (max(_BLOCK, round(side * _SAMPLING)) for side in tracks.depth0.shape)
    ratio = np.array([[width / tracks.depth0.shape[1]], [height / tracks.depth0.shape[0]], [1]], np.float32)
    points_N3 = tracks.points[frame].reshape(-1, 3)
    sizes_N = _SIGMA_PX / tracks.intrinsics[0, 0] * tracks.depth0.reshape(-1)
    keep = tracks.visibility[frame].reshape(-1) & np.isfinite(points_N3).all(-1) & (points_N3[:, 2] > 0) & (sizes_N > 0)
    means = torch.from_numpy(points_N3[keep] * np.float32(scale))
    quats = torch.zeros(len(means), 4)
    quats[:, 0] = 1
    _, alpha, _ = rasterization(
        means,
        quats,
        torch.from_numpy(sizes_N[keep, None].astype(np.float32)).expand(-1, 3).contiguous(),
        torch.full((len(means),), 0.99),
        torch.zeros(len(means), 3),
        torch.eye(4)[None],
        torch.from_numpy(tracks.intrinsics * ratio)[None],
        width,
        height,
        eps2d=_SMOOTHING,
    )
    return alpha[0, ..., 0].numpy()


def _blocks(picture: Float) -> Float:
    """Means over squares; what is left at the right and below is left out."""
    rows, columns = picture.shape[0] // _BLOCK, picture.shape[1] // _BLOCK
    cut = picture[: rows * _BLOCK, : columns * _BLOCK]
    return cut.reshape(rows, _BLOCK, columns, _BLOCK).mean((1, 3))
