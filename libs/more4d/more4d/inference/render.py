"""A moving point cloud as videos along camera paths, and which of its points a camera sees.

Shape letters: T frames, H height, W width, N points.
"""

import cv2
import numpy as np
import torch
from more4d_kernels import rasterization
from numpy.typing import NDArray
from torch import Tensor, from_numpy

from more4d.geometry.cameras import invert_pose, project

OPACITY = 0.99
POINT_SIGMA = 0.45
"""Standard deviation of a point's splat, in pixels of the photo that it came from."""
SMOOTHING = 0.1
"""Variance added to every splat on the screen, in pixels squared."""
COVERED = 0.5
"""A pixel is covered when the splats on it are at least this opaque."""
MEND_SHARE = 1 / 8000
"""Specks and cracks smaller than this share of the picture are mended: 12 pixels of 256x384, none of 64x96."""
MAX_STRETCH = 8.0
"""Neighbouring points further apart than so many pixels lie on two surfaces."""
HIDDEN_SHARE = 0.03
"""A point is hidden when something is nearer by more than this share of its depth."""

Video = NDArray[np.uint8]


def render_path(
    points: NDArray[np.float32],
    colours: NDArray[np.uint8],
    intrinsics: NDArray[np.float32],
    camera_to_world: NDArray[np.float32],
    *,
    size: tuple[int, int] | None = None,
) -> tuple[Video, NDArray[np.bool_]]:
    """Render uint8 [T,H,W,3], black where nothing is, and covered bool [T,H,W], of a moving cloud along a camera path.

    points [T,H,W,3] in metres (NaN: no point), one for each pixel of `colours` uint8 [H,W,3]; intrinsics [3,3] in pixels of
    that picture; camera_to_world [T,4,4]. `size` (height, width) renders the same view at another resolution.
    """
    height, width = size or colours.shape[:2]
    ratio = (height / colours.shape[0], width / colours.shape[1])
    screen = torch.as_tensor(intrinsics).float() * torch.tensor([[ratio[1]], [ratio[0]], [1.0]])
    worlds_to_camera = invert_pose(torch.as_tensor(camera_to_world).float())
    colour_N3 = from_numpy(colours.reshape(-1, 3).astype(np.float32) / 255)
    renders, masks = [], []
    for frame, viewmat in zip(points, worlds_to_camera, strict=True):
        means, keep = _kept(frame)
        # Of every frame anew: a limb turns, and a surface that is stretched must stay closed.
        scales, quats = surfels(frame, float(intrinsics[0, 0]))
        splats = means, quats[keep], scales[keep], colour_N3[keep]
        image, covered = mend(*_splat(*splats, viewmat, screen, height, width))
        renders.append(image)
        masks.append(covered)
    return np.stack(renders), np.stack(masks)


def visible_points(points: NDArray[np.float32], intrinsics: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Visibility [T,H,W] of points [T,H,W,3] from the first camera: in the image, and with nothing well in front.

    The nearest depth is kept on a grid of the photo's own pixels.
    """
    height, width = points.shape[1:3]
    pixels, depth = project(from_numpy(points), from_numpy(intrinsics))
    u, v, z = pixels[..., 0].numpy(), pixels[..., 1].numpy(), depth.numpy()
    with np.errstate(invalid="ignore"):
        inside = (u >= 0) & (u < width) & (v >= 0) & (v < height) & (z > 0)
    visible = np.zeros(points.shape[:3], bool)
    for frame in range(len(points)):
        seen = inside[frame]
        cell = v[frame][seen].astype(np.intp) * width + u[frame][seen].astype(np.intp)
        nearest = np.full(height * width, np.inf, np.float32)
        np.minimum.at(nearest, cell, z[frame][seen])
        visible[frame][seen] = z[frame][seen] <= nearest[cell] * (1 + HIDDEN_SHARE)
    return visible


def _kept(frame_HW3: NDArray[np.float32]) -> tuple[Tensor, Tensor]:
    """The finite points [N,3], and which of the flattened pixels [H*W] they are."""
    flat = from_numpy(np.ascontiguousarray(frame_HW3.reshape(-1, 3)))
    keep = torch.isfinite(flat).all(-1)
    return flat[keep], keep


def surfels(points: NDArray[np.float32], focal: float) -> tuple[Tensor, Tensor]:
    """Scales [N,3] in metres and quaternions [N,4] (wxyz) of flat splats that tile the surface between pixels.

    points [H,W,3] are those of one frame. A round splat as wide as its pixel leaves gaps once a surface that was seen at a
    grazing angle turns towards the camera; these are as long as the way to the next pixel's point, within limits.
    """
    pixel = torch.as_tensor(points[..., 2] / focal).clamp_min(1e-6).reshape(-1)
    along = [_tangent(points, axis, pixel) for axis in (1, 0)]
    swap = (along[1].norm(dim=-1) > along[0].norm(dim=-1))[:, None]
    first, second = torch.where(swap, along[1], along[0]), torch.where(swap, along[0], along[1])
    length = first.norm(dim=-1, keepdim=True)
    x = first / length
    second = second - (second * x).sum(-1, keepdim=True) * x
    width = second.norm(dim=-1, keepdim=True).clamp_min(1e-12)
    y = second / width
    rotation = torch.stack([x, y, torch.linalg.cross(x, y)], dim=-1)
    width = torch.maximum(width, 0.5 * pixel[:, None])
    scales = POINT_SIGMA * torch.cat([length, width, 0.2 * pixel[:, None]], dim=-1)
    return torch.nan_to_num(scales), torch.nan_to_num(_quaternions(rotation))


def mend(image: Tensor, alpha: Tensor) -> tuple[Video, NDArray[np.bool_]]:
    """Image uint8 [H,W,3] and covered bool [H,W] without specks in holes and cracks in surfaces.

    A patch of few pixels alone in a hole is dropped; a gap of few pixels takes the mean of what lies around it.
    """
    picture, covered = image.numpy(), alpha.numpy() >= COVERED
    least = round(covered.size * MEND_SHARE)
    covered &= ~_small_parts(covered, least)
    gaps = _small_parts(~covered, least)
    for _ in range(4):
        weight = cv2.blur(covered.astype(np.float32), (3, 3))
        fill = gaps & ~covered & (weight > 0.2)
        around = cv2.blur(picture * covered[..., None], (3, 3)) / np.maximum(weight, 1e-6)[..., None]
        picture = np.where(fill[..., None], around, picture)
        covered |= fill
    shown = np.rint(picture * covered[..., None] * 255).clip(0, 255)
    return shown.astype(np.uint8), covered


def _small_parts(mask: NDArray[np.bool_], pixels: int) -> NDArray[np.bool_]:
    """The 4-connected parts of `mask` with fewer than `pixels` pixels."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    small = np.asarray(stats)[:, cv2.CC_STAT_AREA] < pixels
    return small[np.asarray(labels, np.intp)] & mask


def _tangent(points: NDArray[np.float32], axis: int, pixel: Tensor) -> Tensor:
    """The way [N,3] to the next pixel's point along `axis`: the shorter of both sides, at most so many pixels long."""
    step = np.diff(points, axis=axis)
    ends = [np.concatenate(parts, axis=axis) for parts in ((step, step.take([-1], axis)), (step.take([0], axis), step))]
    after, before = (torch.as_tensor(end).reshape(-1, 3) for end in ends)
    shorter = torch.where((after.norm(dim=-1) < before.norm(dim=-1))[:, None], after, before)
    length = shorter.norm(dim=-1).clamp_min(1e-12)
    flat = torch.zeros_like(shorter)
    flat[:, 1 - axis] = pixel
    # A step to another surface is no slope: there the splat faces the camera.
    return torch.where((length < MAX_STRETCH * pixel)[:, None], shorter, flat)


def _quaternions(rotation: Tensor) -> Tensor:
    """Quaternions [N,4] (wxyz) of rotation matrices [N,3,3]: the largest of the four components first found."""
    m = rotation
    diagonal = torch.stack([m[:, 0, 0], m[:, 1, 1], m[:, 2, 2]], dim=-1)
    trace = diagonal.sum(-1)
    squares = torch.cat([(1 + trace)[:, None], 1 - trace[:, None] + 2 * diagonal], dim=-1)
    wx, wy, wz = m[:, 2, 1] - m[:, 1, 2], m[:, 0, 2] - m[:, 2, 0], m[:, 1, 0] - m[:, 0, 1]
    xy, xz, yz = m[:, 1, 0] + m[:, 0, 1], m[:, 2, 0] + m[:, 0, 2], m[:, 2, 1] + m[:, 1, 2]
    w, x, y, z = squares.unbind(-1)
    table = torch.stack(
        [torch.stack(row, -1) for row in ((w, wx, wy, wz), (wx, x, xy, xz), (wy, xy, y, yz), (wz, xz, yz, z))], dim=1
    )
    chosen = table[torch.arange(len(m)), squares.nan_to_num().argmax(-1)]
    return chosen / chosen.norm(dim=-1, keepdim=True).clamp_min(1e-12)


def _splat(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    colours: Tensor,
    viewmat: Tensor,
    screen: Tensor,
    height: int,
    width: int,
) -> tuple[Tensor, Tensor]:
    """Colours [H,W,3], not darkened by what is missing, and opacity [H,W]."""
    opacities = torch.full((len(means),), OPACITY)
    image, alpha, _ = rasterization(
        means, quats, scales, opacities, colours, viewmat[None], screen[None], width, height, eps2d=SMOOTHING
    )
    return image[0] / alpha[0].clamp_min(1e-6), alpha[0, ..., 0]


def stretch(intrinsics: NDArray[np.float32], scale: float) -> NDArray[np.float32]:
    """Intrinsics [3,3] of the same view with `scale` times as many pixels on each side."""
    moved = intrinsics.astype(np.float32).copy()
    moved[:2] *= scale
    return moved
