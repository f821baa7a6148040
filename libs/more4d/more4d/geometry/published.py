"""The published code's cameras, a named mode for running released checkpoints as published; nothing here is a default.

What differs from the rest of the project: intrinsics are normalised by the image's width and height and come from its
aspect alone, rays run through both edges of the image (u, v from 0 to 1 inclusive, not pixel centres), and the camera
paths are other ones. Poses are camera-to-world with OpenCV axes, as everywhere.

Shape letters: T frames, H height, W width. Paths are float64; the rest keeps its input's dtype.
"""

import math
from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

REFERENCE_SIZE = (540, 960)
"""Height and width of the images that the published intrinsics were made for."""
PUBLISHED_CAMERAS = ("static", "forward_backward", "circle_rotating", "surrounding", "camera_rotate")
# 2**-23 keeps a depth of zero from being divided by, as published.
_EPSILON = 1.19e-7

MotionCamera = Literal["sample", "published"]
"""Whose intrinsics scale the motion of eq. 1: each sample's own, or the published constants for its image size."""


def normalised_intrinsics(height: int, width: int, reference: tuple[int, int] = REFERENCE_SIZE) -> Tensor:
    """Intrinsics [3, 3] (float32) in units of the image's width and height, by the aspect's relation to `reference`.

    The principal point is 0.5; the focal length is 1 along the side that is shorter relative to `reference`. Raises
    ValueError for a side below one pixel.
    """
    if min(height, width, *reference) < 1:
        raise ValueError(f"a {height}x{width} image and a {reference} reference need sides of at least one pixel")
    reference_height, reference_width = reference
    fx = fy = 1.0
    if reference_width / width > reference_height / height:
        fy = (reference_width / reference_height) / (width / height)
    else:
        fx = (reference_height / reference_width) / (height / width)
    return torch.tensor([[fx, 0, 0.5], [0, fy, 0.5], [0, 0, 1]])


def published_intrinsics(height: int, width: int, reference: tuple[int, int] = REFERENCE_SIZE) -> Tensor:
    """The published constants as intrinsics [3, 3] (float32) in pixels of a height x width image.

    With them `motion_from_points` gives the published motion: dx·fx/z0, dy·fy/z0, dz/z0 with normalised fx and fy.
    """
    scale = torch.tensor([width, height, 1.0])
    return normalised_intrinsics(height, width, reference) * scale[:, None]


def motion_intrinsics(camera: MotionCamera, intrinsics: Tensor, size: tuple[int, int]) -> Tensor:
    """The intrinsics [..., 3, 3] that scale eq. 1's motion in an image of `size` (height, width).

    `intrinsics` [..., 3, 3] are the samples' own, in pixels; "sample" returns them. Points are seen through the samples'
    own in either case: this is the unit of the motion alone, so normalising and its inverse must use the same `camera`.
    """
    if camera == "sample":
        return intrinsics
    return published_intrinsics(*size).to(intrinsics).expand_as(intrinsics)


def unproject(depth: Tensor, intrinsics: Tensor, size: tuple[int, int]) -> Tensor:
    """Points [H, W, 3] in metres in the camera's frame of `depth` [any, any], resized bilinearly to `size` (H, W).

    `intrinsics` [3, 3] are normalised. The first and last pixels' rays run through the image's edges.
    """
    height, width = size
    depth = functional.interpolate(depth[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    u, v = (torch.linspace(0, 1, n, dtype=depth.dtype, device=depth.device) for n in (width, height))
    rays = torch.stack([*torch.meshgrid(u, v, indexing="xy"), torch.ones_like(depth)], dim=-1)
    return rays @ intrinsics.to(depth).inverse().T * depth[..., None]


def project(points: Tensor, intrinsics: Tensor, camera_to_world: Tensor) -> tuple[Tensor, Tensor]:
    """Normalised image positions (u, v) [..., 2] and depth [...] in metres of `points` [..., 3] in the world.

    `intrinsics` [3, 3] are normalised, `camera_to_world` [4, 4]; positions between 0 and 1 are inside the image.
    """
    world_to_camera = camera_to_world.double().inverse().to(points)
    seen = points @ world_to_camera[:3, :3].T + world_to_camera[:3, 3]
    depth = seen[..., 2]
    return (seen / (depth[..., None] + _EPSILON) @ intrinsics.to(points).T)[..., :2], depth


def camera_path(name: str, frames: int, *, centre: Tensor | Sequence[float]) -> Tensor:
    """Camera-to-world [T, 4, 4] of one of `PUBLISHED_CAMERAS` with the published amounts.

    `centre` [3] is the scene's in the first camera's frame, in metres: forward_backward has a radius of 0.4 times its
    depth, circle_rotating of 0.05 times, camera_rotate rolls by up to 30 degrees. Raises ValueError on an unknown name.
    """
    if name not in PUBLISHED_CAMERAS:
        raise ValueError(f"unknown published camera {name!r}; they are {', '.join(PUBLISHED_CAMERAS)}")
    if frames < 1:
        raise ValueError(f"frames={frames} must be at least 1")
    point = torch.as_tensor(centre, dtype=torch.float64)
    distance = abs(float(point[2]))
    paths: dict[str, Callable[[], Tensor]] = {
        "static": lambda: static(frames),
        "forward_backward": lambda: forward_backward(frames, radius=0.4 * distance),
        "circle_rotating": lambda: circle_rotating(frames, centre=point, radius=0.05 * distance),
        "surrounding": lambda: surrounding(frames, centre=point),
        "camera_rotate": lambda: camera_rotate(frames, max_degrees=30.0),
    }
    return paths[name]()


def static(frames: int) -> Tensor:
    """The first camera in every frame, [T, 4, 4]."""
    return torch.eye(4, dtype=torch.float64).repeat(frames, 1, 1)


def forward_backward(frames: int, *, radius: float) -> Tensor:
    """Forward by a quarter of `radius` (metres), back through the start as far behind it, and home, [T, 4, 4]."""
    poses = static(frames)
    for i in range(frames):
        share = i / frames
        if i < frames // 4:
            offset = share
        elif i < 3 * frames // 4:
            offset = 0.5 - share
        else:
            offset = share - 1
        poses[i, 2, 3] = radius * offset
    return poses


def circle_rotating(frames: int, *, centre: Tensor | Sequence[float], radius: float) -> Tensor:
    """A circle of `radius` metres across the view that drifts forward by three of it, looking at `centre`, [T, 4, 4]."""
    poses = []
    for i in range(frames):
        angle = 2 * math.pi * i / frames
        position = radius * math.cos(angle), radius * math.sin(angle), 3 * radius * i / frames
        poses.append(_looking_at(position, centre))
    return torch.stack(poses)


def surrounding(frames: int, *, centre: Tensor | Sequence[float]) -> Tensor:
    """An eighth of a turn about the vertical through `centre`, at the origin's distance, looking at it, [T, 4, 4]."""
    x, _, z = (float(value) for value in centre)
    distance = math.hypot(x, z)
    poses = []
    for i in range(frames):
        angle = -math.pi * i / (4 * frames) - math.atan2(z, x)
        position = x + distance * math.cos(angle), 0.0, z + distance * math.sin(angle)
        poses.append(_looking_at(position, centre))
    return torch.stack(poses)


def camera_rotate(frames: int, *, max_degrees: float) -> Tensor:
    """A roll about the view axis to `max_degrees` and back, without moving, [T, 4, 4]."""
    poses = static(frames)
    for i in range(frames):
        angle = math.radians(max_degrees) * math.sin(math.pi * i / frames)
        cos, sin = math.cos(angle), math.sin(angle)
        poses[i, :2, :2] = torch.tensor([[cos, -sin], [sin, cos]], dtype=torch.float64)
    return poses


def _looking_at(position: Sequence[float], target: Tensor | Sequence[float]) -> Tensor:
    """Camera-to-world [4, 4] of a camera at `position` that looks at `target`, its y axis towards +y."""
    origin, aim = (torch.as_tensor(v, dtype=torch.float64) for v in (position, target))
    forward = functional.normalize(aim - origin, dim=0)
    side = functional.normalize(torch.linalg.cross(forward, forward.new_tensor((0.0, 1.0, 0.0))), dim=0)
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = torch.stack([-side, torch.linalg.cross(side, forward), forward], dim=1)
    pose[:3, 3] = origin
    return pose
