"""Camera paths by name. Every path starts at the first camera, so the image's own pixels start complete."""

import math
from collections.abc import Callable, Sequence
from typing import Annotated

import torch
from pydantic import AfterValidator
from torch import Tensor

from more4d.geometry.cameras import look_at

# Moderate on purpose: what a single photo does not show must stay small enough to be filled in.
ORBIT_DEGREES = 14.0
RISE_DEGREES = 18.0
DOLLY_SHARE = 0.15
SPIRAL_SHARE = 0.08

# A pose takes the time in [0, 1], the scene centre and the amount, and gives a camera-to-world [4, 4].
Pose = Callable[[float, Tensor, float], Tensor]


def camera_path(name: str, frames: int, *, centre: Tensor | Sequence[float], amount: float = 1.0) -> Tensor:
    """Camera-to-world [T, 4, 4] (float64) of the path called `name`; frame 0 is the identity for every path.

    `centre` [3] is the scene centre in the first camera's frame, in metres (see `scene_centre`). `amount`
    scales the path: 1 turns the circles by 14 degrees, top_down by 18, moves forward_backward by +-0.15 of
    the centre's distance and winds the spiral at 0.08 of it. Raises ValueError on an unknown name (listing
    the known), and on a centre that is not in front.
    """
    known_camera(name)
    if frames < 1:
        raise ValueError(f"frames={frames} must be at least 1")
    point = torch.as_tensor(centre, dtype=torch.float64).reshape(-1)
    if point.shape != (3,) or not bool(torch.isfinite(point).all()) or float(point[2]) <= 0:
        raise ValueError(
            f"scene centre {point.tolist()} must be three finite numbers with z > 0: in front of the camera"
        )
    times = [frame / max(frames - 1, 1) for frame in range(frames)]
    return torch.stack([_PATHS[name](time, point, amount) for time in times])


def known_camera(name: str) -> str:
    """The name of a camera path, as it came. Raises ValueError, listing the known, when there is none of that name."""
    if name not in _PATHS:
        raise ValueError(f"unknown camera {name!r}; the cameras are {', '.join(CAMERA_NAMES)}")
    return name


CameraName = Annotated[str, AfterValidator(known_camera)]
"""A settings field that takes the name of a camera path."""


def scene_centre(depth: Tensor) -> Tensor:
    """The point [3] (float64) on the first camera's axis at the median of the valid `depth` [H, W], in metres."""
    valid = depth[torch.isfinite(depth) & (depth > 0)]
    if valid.numel() == 0:
        raise ValueError(f"none of {depth.numel()} depths is finite and positive: there is no scene to look at")
    return torch.tensor((0.0, 0.0, float(valid.median())), dtype=torch.float64)


def _static(time: float, centre: Tensor, amount: float) -> Tensor:
    return torch.eye(4, dtype=torch.float64)


def _circle_left(time: float, centre: Tensor, amount: float) -> Tensor:
    return _orbit(centre, yaw=math.radians(ORBIT_DEGREES) * amount * _ease(time))


def _circle_right(time: float, centre: Tensor, amount: float) -> Tensor:
    return _orbit(centre, yaw=-math.radians(ORBIT_DEGREES) * amount * _ease(time))


def _top_down(time: float, centre: Tensor, amount: float) -> Tensor:
    return _orbit(centre, pitch=math.radians(RISE_DEGREES) * amount * _ease(time))


def _forward_backward(time: float, centre: Tensor, amount: float) -> Tensor:
    """Forward by the share, through the start at half the clip, back by the share, and home at the end."""
    pose = torch.eye(4, dtype=torch.float64)
    pose[2, 3] = DOLLY_SHARE * amount * float(centre.norm()) * math.sin(2 * math.pi * _ease(time))
    return pose


def _spiral(time: float, centre: Tensor, amount: float) -> Tensor:
    """One turn whose radius opens and closes again, drifting forward, looking at the centre throughout."""
    distance = float(centre.norm())
    radius = SPIRAL_SHARE * amount * distance * math.sin(math.pi * time)
    angle = 2 * math.pi * _ease(time)
    ahead = SPIRAL_SHARE * amount * distance * _ease(time)
    offset = torch.tensor((-radius * math.cos(angle), -radius * math.sin(angle), ahead), dtype=torch.float64)
    return _looking(offset, centre)


def _orbit(centre: Tensor, *, yaw: float = 0.0, pitch: float = 0.0) -> Tensor:
    """The first camera turned rigidly about `centre`: by `yaw` to the left, by `pitch` upwards, in radians."""
    cos, sin = math.cos(yaw), math.sin(yaw)
    turn_left = torch.tensor(((cos, 0, sin), (0, 1, 0), (-sin, 0, cos)), dtype=torch.float64)
    cos, sin = math.cos(-pitch), math.sin(-pitch)
    turn_up = torch.tensor(((1, 0, 0), (0, cos, -sin), (0, sin, cos)), dtype=torch.float64)
    pose = torch.eye(4, dtype=torch.float64)
    pose[:3, :3] = turn_left @ turn_up
    # R (0 - c) + c: the centre keeps its place in the image, so a path starts at the identity wherever the
    # centre is.
    pose[:3, 3] = centre - pose[:3, :3] @ centre
    return pose


def _looking(position: Tensor, centre: Tensor) -> Tensor:
    """A camera at `position` turned by as much as its view of `centre` turned; the identity at the origin."""
    pose = look_at(position, centre)
    pose[:3, :3] = pose[:3, :3] @ look_at((0.0, 0.0, 0.0), centre)[:3, :3].T
    return pose


def _ease(time: float) -> float:
    """Smoothstep: starts and stops without a jerk."""
    return time * time * (3 - 2 * time)


_PATHS: dict[str, Pose] = {
    "static": _static,
    "circle_left": _circle_left,
    "circle_right": _circle_right,
    "forward_backward": _forward_backward,
    "top_down": _top_down,
    "spiral": _spiral,
}
CAMERA_NAMES: tuple[str, ...] = tuple(_PATHS)
