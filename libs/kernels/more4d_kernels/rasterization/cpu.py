"""The CPU rasterizer: compiled kernels that release the GIL, run by plain threads.

Gaussians are projected, counted per tile, entered into the tiles by index, and each tile sorts and blends its own
nearest first. A picture does not depend on how the work is cut: chunks of Gaussians are fixed, and a tile is blended by
one thread in the order (float32 depth, index).
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from more4d_kernels.rasterization import cpu_kernel as kernel
from more4d_kernels.threads import spread

# Tiles are crowded differently: more stretches than threads, so that one with a slow stretch does not hold up the others.
STRETCHES_PER_THREAD = 8
# From this many cameras for each thread on, a thread draws whole pictures, which spares waiting for each other.
CAMERAS_PER_THREAD = 4


class Gaussians(NamedTuple):
    """means [N, 3], quats [N, 4], scales [N, 3], opacities [N] and colors [N, 3], float32 and contiguous."""

    means: kernel.Floats
    quats: kernel.Floats
    scales: kernel.Floats
    opacities: kernel.Floats
    colors: kernel.Floats


class Seen(NamedTuple):
    """gsplat's by-products of the projection by one camera: means2d [N, 2], conics [N, 3], depths [N], radii [N, 2]."""

    means2d: kernel.Floats
    conics: kernel.Floats
    depths: kernel.Floats
    radii: kernel.Ints


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
    gaussians = Gaussians(*(_float32(t) for t in (means, quats, scales, opacities, colors)))
    views, intrinsics = _float32(viewmats), _float32(Ks)
    cameras, threads = len(views), torch.get_num_threads()
    behind = np.zeros((cameras, 3), np.float32) if backgrounds is None else _float32(backgrounds)
    image = np.empty((cameras, height, width, 4 if render_mode == "RGB+ED" else 3), np.float32)
    alpha = np.empty((cameras, height, width, 1), np.float32)
    seen = _nothing_seen(len(means), cameras)

    def draw(first: int, last: int, stretches: int) -> None:
        for c in range(first, last):
            lens = _lens(views[c], intrinsics[c], (near_plane, far_plane, eps2d), width, height)
            _draw(gaussians, views[c], lens, Seen(*(of[c] for of in seen)), behind[c], image[c], alpha[c], stretches)

    if cameras >= CAMERAS_PER_THREAD * threads:
        spread(draw, cameras, (1,), stretches=cameras)
    else:
        draw(0, cameras, STRETCHES_PER_THREAD * threads if threads > 1 else 1)
    info = {name: torch.from_numpy(value) for name, value in seen._asdict().items()}
    info |= {"width": width, "height": height, "n_cameras": cameras}
    return torch.from_numpy(image).to(means.device), torch.from_numpy(alpha).to(means.device), info


def tile_lists(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmat: Tensor,
    K: Tensor,
    width: int,
    height: int,
    *,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    eps2d: float = 0.3,
) -> tuple[Tensor, Tensor]:
    """What each tile of TILE_WIDTH x TILE_HEIGHT pixels blends, to look into.

    Where each tile's list begins [tiles + 1], rows of tiles one after the other, and the lists: indices of Gaussians,
    nearest first.
    """
    gaussians = Gaussians(*(_float32(t) for t in (means, quats, scales, opacities, colors)))
    lens = _lens(_float32(viewmat), _float32(K), (near_plane, far_plane, eps2d), width, height)
    seen = Seen(*(of[0] for of in _nothing_seen(len(means), 1)))
    _, starts, entries = _enter(gaussians, _float32(viewmat), lens, seen, width, height, 1)
    for first, last in zip(starts[:-1], starts[1:], strict=True):
        listed = entries[first:last]
        listed[:] = kernel.nearest_first(listed, np.empty_like(listed))
    return torch.from_numpy(starts), torch.from_numpy((entries & 0xFFFFFFFF).astype(np.int64))


def _draw(
    gaussians: Gaussians,
    view: kernel.Floats,
    lens: kernel.Floats,
    seen: Seen,
    behind: kernel.Floats,
    image: kernel.Floats,
    alpha: kernel.Floats,
    stretches: int,
) -> None:
    height, width = alpha.shape[:2]
    splats, starts, entries = _enter(gaussians, view, lens, seen, width, height, stretches)
    read = (splats, gaussians.opacities, gaussians.colors, seen.depths, starts, entries, behind)
    spread(kernel.blend, len(starts) - 1, (*read, image, alpha), stretches=stretches)


def _enter(
    gaussians: Gaussians,
    view: kernel.Floats,
    lens: kernel.Floats,
    seen: Seen,
    width: int,
    height: int,
    stretches: int,
) -> tuple[kernel.Floats, kernel.Counts, kernel.Entries]:
    """The projected Gaussians, and what each tile has of them, by index; fills `seen`."""
    count, columns, rows = len(gaussians.means), -(-width // kernel.TILE_WIDTH), -(-height // kernel.TILE_HEIGHT)
    chunks = -(-count // kernel.CHUNK)
    splats, boxes = np.empty((count, kernel.SPLAT), np.float32), np.empty((count, 4), np.uint16)
    places = np.zeros((chunks, rows * columns), np.int64)
    spread(kernel.project, chunks, (*gaussians, view, lens, splats, boxes, places, *seen), stretches=stretches)
    starts = kernel.lay_out(places)
    entries = np.empty(starts[-1], np.uint64)
    entered = (columns, boxes, seen.depths.view(np.uint32), places, entries)
    spread(kernel.scatter, chunks, entered, stretches=stretches)
    return splats, starts, entries


def _lens(
    view: kernel.Floats, K: kernel.Floats, limits: tuple[float, float, float], width: int, height: int
) -> kernel.Floats:
    """What projecting needs of a camera besides `view`.

    Focal lengths and centre; the slopes, four, between which the projection is linearised; near, far and eps2d; width
    and height; the products of view's rows, six.
    """
    (fx, fy), (cx, cy) = K[[0, 1], [0, 1]], K[:2, 2]
    across, down = 0.15 * width, 0.15 * height
    slopes = (-(cx + across) / fx, (width - cx + across) / fx, -(cy + down) / fy, (height - cy + down) / fy)
    products = (view[:3, :3] @ view[:3, :3].T)[np.triu_indices(3)]
    return np.array((fx, fy, cx, cy, *slopes, *limits, width, height, *products), np.float32)


def _nothing_seen(count: int, cameras: int) -> Seen:
    means2d, conics, depths = (np.empty((cameras, count, *shape), np.float32) for shape in ((2,), (3,), ()))
    return Seen(means2d, conics, depths, np.empty((cameras, count, 2), np.int32))


def _float32(tensor: Tensor) -> kernel.Floats:
    return np.ascontiguousarray(tensor.detach().to("cpu", torch.float32).numpy())
