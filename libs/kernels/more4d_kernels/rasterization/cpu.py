"""The CPU rasterizer: compiled kernels that release the GIL, run by plain threads.

A picture does not depend on how the work is cut: projecting is independent per Gaussian, and every tile is
blended by one thread from a list sorted by (float32 depth, index).
"""

from math import ceil
from typing import Any

import numpy as np
import torch
from torch import Tensor

from more4d_kernels.rasterization import cpu_kernel as kernel
from more4d_kernels.threads import spread

# Below this many Gaussians, projecting them costs less than handing them to threads.
SMALL = 4096


def rasterize(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *,
    near_plane: float,
    far_plane: float,
    eps2d: float,
    backgrounds: Tensor | None,
    render_mode: str,
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """What `rasterization` returns, in float32, by `torch.get_num_threads()` threads; inputs are not checked."""
    gaussians = tuple(_float32(t) for t in (means, quats, scales, opacities, colors))
    views, intrinsics = _float32(viewmats), _float32(Ks)
    cameras, count, threads = len(views), len(means), torch.get_num_threads()
    behind = np.zeros((cameras, 3), np.float32) if backgrounds is None else _float32(backgrounds)
    limits = np.array((near_plane, far_plane, eps2d), np.float32)
    image = np.empty((cameras, height, width, 4 if render_mode == "RGB+ED" else 3), np.float32)
    alpha = np.empty((cameras, height, width, 1), np.float32)
    table = np.zeros((cameras, count, kernel.COLUMNS), np.float32)
    boxes = np.zeros((cameras, count, 4), np.int32)
    radii = np.zeros((cameras, count, 2), np.int32)
    for c in range(cameras):
        seen = (*gaussians, views[c], intrinsics[c], limits, width, height)
        drawn = (table[c], boxes[c])
        spread(kernel.project, count, (*seen, *drawn, radii[c]), stretches=threads if count > SMALL else 1)
        # More bands than threads, so that a thread whose bands are crowded does not hold up the others.
        bands = 4 * threads if threads > 1 else 1
        spread(kernel.blend, ceil(height / kernel.TILE), (*drawn, behind[c], image[c], alpha[c]), stretches=bands)
    info = _info(table, radii) | {
        "width": width,
        "height": height,
        "tile_size": kernel.TILE,
        "n_cameras": cameras,
    }
    return torch.from_numpy(image).to(means.device), torch.from_numpy(alpha).to(means.device), info


def _float32(tensor: Tensor) -> kernel.Floats:
    return np.ascontiguousarray(tensor.detach().to("cpu", torch.float32).numpy())


def _info(table: kernel.Floats, radii: kernel.Ints) -> dict[str, Any]:
    """gsplat's by-products of the projection, under gsplat's names."""
    projected = torch.from_numpy(table)
    return {
        "means2d": projected[..., : kernel.CONIC],
        "conics": projected[..., kernel.CONIC : kernel.OPACITY],
        "depths": projected[..., kernel.DEPTH],
        "radii": torch.from_numpy(radii),
    }
