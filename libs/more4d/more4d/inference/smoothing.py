"""Steadier motion: neighbouring cells on one surface move alike.

On photos unlike anything in training, predicted motion jumps between the transformer's patches, which would tear a surface
apart. Solving for the field that stays near the prediction and changes little within a surface takes the jumps out.

Shape letters: T frames, h, w the model's rows and columns.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csc_matrix, diags
from scipy.sparse.linalg import splu

from more4d.inference.colours import lab

Floats = NDArray[np.float32]

# Two neighbouring cells lie on one surface as far as their depths (log) and colours (Lab) agree.
_DEPTH_SHARE = 0.06
_COLOUR_LAB = 25.0


def smooth_motion(points: Floats, picture: NDArray[np.uint8], strength: float) -> Floats:
    """Points [T,h,w,3] in metres with smoother motion; the first frame stays.

    picture uint8 [h,w,3]. The field m minimises |m - motion|^2 + strength * sum w_ij |m_i - m_j|^2 over neighbouring
    cells, motion as a share of the first-frame depth; w_ij is near 1 within a surface and near 0 between two. It reaches
    about sqrt(strength) cells far; 0 changes nothing. Cells without a point stay without one.
    """
    valid = np.isfinite(points).all((0, -1)) & (points[0, ..., 2] > 0)
    if strength <= 0 or not valid.any():
        return points
    depth = np.where(valid, points[0, ..., 2], 1.0)
    motion = np.where(valid[..., None], (points - points[0]) / depth[..., None], 0)
    frames, rows, columns, _ = motion.shape
    system = _laplacian(np.log(depth), lab(picture), valid) * strength + diags(np.ones(rows * columns))
    flat = motion.transpose(1, 2, 0, 3).reshape(rows * columns, frames * 3).astype(np.float64)
    smooth = splu(csc_matrix(system)).solve(flat).reshape(rows, columns, frames, 3).transpose(2, 0, 1, 3)
    return np.where(valid[..., None], points[0] + smooth * depth[..., None], points).astype(np.float32)


def _laplacian(log_depth: Floats, colours: Floats, valid: NDArray[np.bool_]) -> csc_matrix:
    """The weighted graph Laplacian of the grid of cells, with h·w rows."""
    count = log_depth.size
    index = np.arange(count).reshape(log_depth.shape)
    rows, columns, weights = [], [], []
    for here, there in (((slice(1, None),), (slice(-1),)), ((slice(None), slice(1, None)), (slice(None), slice(-1)))):
        apart = ((log_depth[here] - log_depth[there]) / _DEPTH_SHARE) ** 2
        unlike = (((colours[here] - colours[there]) / _COLOUR_LAB) ** 2).sum(-1)
        rows.append(index[here].ravel())
        columns.append(index[there].ravel())
        weights.append((np.exp(-apart - unlike) * valid[here] * valid[there]).ravel())
    i, j, w = np.concatenate(rows), np.concatenate(columns), np.concatenate(weights).astype(np.float64)
    adjacency = csc_matrix((np.tile(w, 2), (np.concatenate([i, j]), np.concatenate([j, i]))), shape=(count, count))
    return csc_matrix(diags(np.asarray(adjacency.sum(1)).ravel()) - adjacency)
