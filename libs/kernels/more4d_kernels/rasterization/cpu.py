"""The CPU rasterizer: compiled kernels that release the GIL, run by plain threads.

Gaussians are projected, counted per tile, entered into the tiles by index, and each tile sorts and blends its own
nearest first. A picture does not depend on how the work is cut: chunks of Gaussians are fixed, and a tile is blended by
one thread in the order (float32 depth, index).
"""

import threading
from math import prod
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
# A thread keeps no array for its next picture that is larger.
KEPT_BYTES = 2**26


class Gaussians(NamedTuple):
    """means [N, 3], quats [N, 4], scales [N, 3], opacities [N] and colors [N, 3], float32 and contiguous."""

    means: kernel.Floats
    quats: kernel.Floats
    scales: kernel.Floats
    opacities: kernel.Floats
    colors: kernel.Floats


class Camera(NamedTuple):
    """World-to-camera [4, 4] and what else projecting needs, as `_lens` lays it out."""

    view: kernel.Floats
    lens: kernel.Floats
    width: int
    height: int


class Projected(NamedTuple):
    """What projecting leaves: see cpu_kernel.py."""

    splats: kernel.Floats
    boxes: kernel.Boxes
    depths: kernel.Floats
    places: kernel.Counts


class _Kept(threading.local):
    """Memory that a thread draws with, kept for its next picture: fresh pages cost as much as projecting into them."""

    def __init__(self) -> None:
        self._buffers: dict[str, np.ndarray] = {}

    def array(self, name: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
        """Not initialised; valid until the thread asks for the same name again."""
        size = prod(shape) * np.dtype(dtype).itemsize
        buffer = self._buffers.get(name)
        if buffer is None or buffer.nbytes < size:
            buffer = np.empty(size, np.uint8)
            if size <= KEPT_BYTES:
                self._buffers[name] = buffer
        return buffer[:size].view(dtype).reshape(shape)


_kept = _Kept()


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
    limits = (near_plane, far_plane, eps2d)
    seen_by = [_camera(view, K, limits, width, height) for view, K in zip(viewmats, Ks, strict=True)]
    cameras, threads = len(seen_by), torch.get_num_threads()
    behind = np.zeros((cameras, 3), np.float32) if backgrounds is None else _float32(backgrounds)
    image = np.empty((cameras, height, width, 4 if render_mode == "RGB+ED" else 3), np.float32)
    alpha = np.empty((cameras, height, width, 1), np.float32)

    projection = np.empty((cameras, len(means), kernel.PROJECTION), np.float32)

    def draw(first: int, last: int, stretches: int) -> None:
        for c in range(first, last):
            _draw(gaussians, seen_by[c], behind[c], image[c], alpha[c], projection[c], stretches=stretches)

    if cameras >= CAMERAS_PER_THREAD * threads:
        spread(draw, cameras, (1,), stretches=cameras)
    else:
        draw(0, cameras, STRETCHES_PER_THREAD * threads if threads > 1 else 1)
    info = _info(projection) | {"width": width, "height": height, "n_cameras": cameras}
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
    camera = _camera(viewmat, K, (near_plane, far_plane, eps2d), width, height)
    starts, entries = _enter(_project(gaussians, camera, stretches=1), camera, stretches=1)
    for first, last in zip(starts[:-1], starts[1:], strict=True):
        listed = entries[first:last]
        listed[:] = kernel.nearest_first(listed, np.empty_like(listed))
    return torch.from_numpy(starts), torch.from_numpy((entries & 0xFFFFFFFF).astype(np.int64))


def _draw(
    gaussians: Gaussians,
    camera: Camera,
    behind: kernel.Floats,
    image: kernel.Floats,
    alpha: kernel.Floats,
    projection: kernel.Floats,
    *,
    stretches: int,
) -> None:
    projected = _project(gaussians, camera, stretches=stretches)
    told = (projected.splats, projected.depths, projection, projection.view(np.int32))
    spread(kernel.tell, len(projection), told, stretches=stretches)
    starts, entries = _enter(projected, camera, stretches=stretches)
    read = (projected.splats, gaussians.opacities, gaussians.colors, projected.depths, starts, entries, behind)
    spread(kernel.blend, len(starts) - 1, (*read, image, alpha), stretches=stretches)


def _project(gaussians: Gaussians, camera: Camera, *, stretches: int) -> Projected:
    """In memory that the thread's next projection overwrites."""
    count = len(gaussians.means)
    chunks, tiles = -(-count // kernel.CHUNK), _tiles_across(camera) * -(-camera.height // kernel.TILE_HEIGHT)
    projected = Projected(
        _kept.array("splats", (count, kernel.SPLAT), np.float32),
        _kept.array("boxes", (count, 4), np.uint16),
        _kept.array("depths", (count,), np.float32),
        np.zeros((chunks, tiles), np.int64),
    )
    spread(kernel.project, chunks, (*gaussians, camera.view, camera.lens, *projected), stretches=stretches)
    return projected


def _enter(projected: Projected, camera: Camera, *, stretches: int) -> tuple[kernel.Counts, kernel.Entries]:
    """Where each tile's entries start, [tiles + 1], and the entries, by index."""
    _, boxes, depths, places = projected
    starts = kernel.lay_out(places)
    entries = _kept.array("entries", (int(starts[-1]),), np.uint64)
    entered = (_tiles_across(camera), boxes, depths.view(np.uint32), places, entries)
    spread(kernel.scatter, len(places), entered, stretches=stretches)
    return starts, entries


def _info(projection: kernel.Floats) -> dict[str, Any]:
    """gsplat's by-products of projecting, under gsplat's names."""
    found = torch.from_numpy(projection)
    return {
        "means2d": found[..., :2],
        "conics": found[..., 2:5],
        "depths": found[..., 5],
        "radii": found[..., 6:].view(torch.int32),
    }


def _camera(viewmat: Tensor, K: Tensor, limits: tuple[float, float, float], width: int, height: int) -> Camera:
    view = _float32(viewmat)
    return Camera(view, _lens(view, _float32(K), limits, width, height), width, height)


def _tiles_across(camera: Camera) -> int:
    return -(-camera.width // kernel.TILE_WIDTH)


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


def _float32(tensor: Tensor) -> kernel.Floats:
    return np.ascontiguousarray(tensor.detach().to("cpu", torch.float32).numpy())
