"""Pinhole cameras: projection, unprojection, poses, and what resizing an image does to its intrinsics.

OpenCV axes (x right, y down, z forward); camera-to-world 4x4; intrinsics in pixels with pixel centres at
+0.5, so pixel (row i, column j) is seen along the ray through (u, v) = (j + 0.5, i + 0.5). Depth is z in
metres, not ray length. Float in, the same float out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class CoverCrop:
    """Resize by `scale`, then keep `height` x `width` pixels from (`top`, `left`) on, fractions included.

    One scale for both axes, so square pixels stay square.
    """

    scale: float
    top: float
    left: float
    height: int
    width: int

    @property
    def box(self) -> tuple[float, float, float, float]:
        """What is kept, in the original image's pixels: left, top, right, bottom."""
        left, top = self.left / self.scale, self.top / self.scale
        return left, top, left + self.width / self.scale, top + self.height / self.scale


def pixel_centres(
    height: int, width: int, *, device: torch.device | None = None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """The (u, v) of every pixel's centre, [H, W, 2], in pixels: u in [0.5, W - 0.5], v in [0.5, H - 0.5]."""
    v = torch.arange(height, device=device, dtype=dtype) + 0.5
    u = torch.arange(width, device=device, dtype=dtype) + 0.5
    return torch.stack(torch.meshgrid(u, v, indexing="xy"), dim=-1)


def unproject(depth: Tensor, intrinsics: Tensor) -> Tensor:
    """Points in the camera's frame, [..., H, W, 3], of every pixel of `depth` [..., H, W] in metres.

    `intrinsics` is [3, 3] or [..., 3, 3] with depth's leading dimensions. The exact inverse of `project`.
    """
    intrinsics = intrinsics.to(depth)
    uv = pixel_centres(depth.shape[-2], depth.shape[-1], device=depth.device, dtype=depth.dtype)
    focal, centre, skew = _pinhole(intrinsics, spatial_dims=2)
    y = (uv[..., 1] - centre[..., 1]) / focal[..., 1]
    x = (uv[..., 0] - centre[..., 0] - skew * y) / focal[..., 0]
    return torch.stack((x, y, torch.ones_like(x)), dim=-1) * depth.unsqueeze(-1)


def project(points: Tensor, intrinsics: Tensor, camera_to_world: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Pixels (u, v) [..., 2] and depth [...] in metres of `points` [..., 3].

    `intrinsics` is [3, 3], or [B..., 3, 3] for points [B..., any, 3]; `camera_to_world` likewise, and without
    it the points are already in the camera's frame. A point at or behind the camera keeps its depth (<= 0);
    its pixel means nothing.
    """
    if camera_to_world is not None:
        points = transform(points, invert_pose(camera_to_world))
    spatial_dims = points.ndim - 1 - (intrinsics.ndim - 2)
    focal, centre, skew = _pinhole(intrinsics.to(points), spatial_dims=spatial_dims)
    x, y, depth = points.unbind(-1)
    # A zero depth would turn finite pixels' gradients into NaN; the sign is kept.
    safe = torch.where(depth.abs() < torch.finfo(depth.dtype).tiny, torch.finfo(depth.dtype).eps, depth)
    x, y = x / safe, y / safe
    u = focal[..., 0] * x + skew * y + centre[..., 0]
    v = focal[..., 1] * y + centre[..., 1]
    return torch.stack((u, v), dim=-1), depth


def transform(points: Tensor, matrix: Tensor) -> Tensor:
    """`points` [..., 3] moved by the 4x4 `matrix`; a batch [B..., 4, 4] moves points [B..., any, 3]."""
    batch = matrix.ndim - 2
    if batch > points.ndim - 1:
        raise ValueError(f"{batch} batch dimensions of the matrix, but points are {tuple(points.shape)}")
    matrix = matrix.to(points)
    spread = matrix.reshape(*matrix.shape[:-2], *(1,) * (points.ndim - 1 - batch), 4, 4)
    return (spread[..., :3, :3] @ points.unsqueeze(-1)).squeeze(-1) + spread[..., :3, 3]


def invert_pose(pose: Tensor) -> Tensor:
    """The inverse of a rigid 4x4 `pose` [..., 4, 4]: camera-to-world becomes world-to-camera and back."""
    rotation = pose[..., :3, :3].transpose(-1, -2)
    inverse = torch.zeros_like(pose)
    inverse[..., :3, :3] = rotation
    inverse[..., :3, 3] = -(rotation @ pose[..., :3, 3:]).squeeze(-1)
    inverse[..., 3, 3] = 1
    return inverse


def look_at(
    position: Tensor | Sequence[float],
    target: Tensor | Sequence[float],
    up: Tensor | Sequence[float] = (0.0, -1.0, 0.0),
) -> Tensor:
    """Camera-to-world [4, 4] (float64) of a camera at `position` looking at `target`; `up` is the world's up.

    The default up is -y, as the first camera's y axis points down. Raises ValueError when the camera stands
    on its target or looks along `up`.
    """
    position, target, up = (torch.as_tensor(v, dtype=torch.float64) for v in (position, target, up))
    forward = target - position
    right = torch.linalg.cross(forward, up)
    if forward.norm() < 1e-12 or right.norm() < 1e-9 * forward.norm() * up.norm():
        raise ValueError(
            f"no camera at {position.tolist()} can look at {target.tolist()} with up {up.tolist()}: "
            "move the camera off its target, or choose an up that is not along the view"
        )
    forward, right = forward / forward.norm(), right / right.norm()
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, 0], pose[:3, 1], pose[:3, 2] = right, torch.linalg.cross(forward, right), forward
    pose[:3, 3] = position
    return pose


def intrinsics_from_fov(height: int, width: int, fov_x_degrees: float, *, dtype: torch.dtype = torch.float32) -> Tensor:
    """Intrinsics [3, 3] in pixels: square pixels, centred principal point, horizontal field of view in degrees."""
    if not 0 < fov_x_degrees < 180:
        raise ValueError(f"fov_x_degrees={fov_x_degrees} must lie between 0 and 180")
    focal = width / 2 / math.tan(math.radians(fov_x_degrees) / 2)
    return torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]], dtype=dtype)


def resize_cover(size: tuple[int, int], target: tuple[int, int]) -> CoverCrop:
    """How an image of `size` (height, width) covers `target` (height, width) and is cropped about its centre."""
    if min(*size, *target) < 1:
        raise ValueError(f"cannot resize {size} to {target}: every side must be at least one pixel")
    scale = max(target[0] / size[0], target[1] / size[1])
    top, left = (max(0.0, (scale * side - wanted) / 2) for side, wanted in zip(size, target, strict=True))
    return CoverCrop(scale=scale, top=top, left=left, height=target[0], width=target[1])


def move_intrinsics(intrinsics: Tensor, crop: CoverCrop) -> Tensor:
    """Intrinsics [..., 3, 3] of the image after `crop`, in its pixels.

    With centres at +0.5 a resize is u -> u * scale exactly, and a crop is u -> u - left.
    """
    moved = intrinsics.clone()
    moved[..., :2, :] = intrinsics[..., :2, :] * crop.scale
    moved[..., 0, 2] -= crop.left
    moved[..., 1, 2] -= crop.top
    return moved


def _pinhole(intrinsics: Tensor, *, spatial_dims: int) -> tuple[Tensor, Tensor, Tensor]:
    """Focal lengths [..., 2], principal point [..., 2] and skew [...], with ones for `spatial_dims` after the batch."""
    if spatial_dims < 0 or intrinsics.shape[-2:] != (3, 3):
        raise ValueError(f"intrinsics {tuple(intrinsics.shape)} must be [3, 3] or have the points' batch dimensions")
    spread = intrinsics.reshape(*intrinsics.shape[:-2], *(1,) * spatial_dims, 3, 3)
    return spread[..., (0, 1), (0, 1)], spread[..., (0, 1), (2, 2)], spread[..., 0, 1]
