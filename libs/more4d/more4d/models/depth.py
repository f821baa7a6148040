"""Monocular depth behind UniDepth's interface: a small U-Net that reads camera rays, or finds the field of view itself.

Suffixes: B batch, H height, W width, h and w of a coarser level, C channels.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from more4d.geometry.cameras import unproject
from more4d.models.network import Network
from more4d.settings import Section

DEFAULT_LOG_FOCAL = math.log(1.3)
"""Of focal length over √(height·width), about 50 degrees across: where the field-of-view head starts."""


class DepthConfig(Section):
    """Shape of the U-Net; images of any size are brought to about height x width pixels, keeping their aspect."""

    height: int = Field(ge=16)
    width: int = Field(ge=16)
    channels: tuple[int, ...] = Field(min_length=2)
    """One number a level, each level half the resolution of the one before; the first is at half resolution."""

    @model_validator(mode="after")
    def _divides(self) -> "DepthConfig":
        if self.height % self.stride or self.width % self.stride:
            raise ValueError(
                f"{self.height}x{self.width} must be multiples of {self.stride}: {len(self.channels)} levels"
            )
        if any(c % 8 for c in self.channels):
            raise ValueError(f"channels={self.channels} must be multiples of 8")
        return self

    @property
    def stride(self) -> int:
        """Pixels of the image that one pixel of the coarsest level covers, a side."""
        return 2 ** len(self.channels)


TINY = DepthConfig(height=64, width=96, channels=(24, 40, 64, 72))


@dataclass(frozen=True)
class DepthPrediction:
    """What a depth network says about images [B,3,H,W]."""

    depth: Tensor
    """[B,H,W] metres along the optical axis."""
    points: Tensor
    """[B,H,W,3] metres in the camera's frame: `depth` unprojected with `intrinsics`."""
    intrinsics: Tensor
    """[B,3,3] pixels: the given ones, or the estimated."""
    confidence: Tensor
    """[B,H,W] in 0..1: exp(-expected |log depth error|)."""


@dataclass(frozen=True)
class RawDepth:
    """The network's outputs: log depth = relative + scale."""

    relative: Tensor
    """[B,H,W] log depth with median 0."""
    scale: Tensor
    """[B] the median log depth in metres."""
    log_error: Tensor
    """[B,H,W] log of the expected |log depth error|."""
    log_focal: Tensor
    """[B] log of focal length over √(height·width), found without the intrinsics."""

    @property
    def log_depth(self) -> Tensor:
        """[B,H,W] log of the depth in metres."""
        return self.relative + self.scale[:, None, None]


class Residual(nn.Module):
    """Two normalised 3x3 convolutions beside a skip, [B,C,h,w] to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, channels), nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv1(functional.silu(self.norm1(x)))
        return x + self.conv2(functional.silu(self.norm2(h)))


class Merge(nn.Module):
    """A finer level from the coarser one, its skip and the rays at its resolution."""

    def __init__(self, coarse: int, fine: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(coarse + fine + 2, fine, 3, padding=1)
        self.norm = nn.GroupNorm(8, fine)

    def forward(self, coarse: Tensor, fine: Tensor, rays: Tensor) -> Tensor:
        up = functional.interpolate(coarse, size=fine.shape[-2:], mode="nearest")
        return functional.silu(self.norm(self.conv(torch.cat((up, fine, rays), dim=1))))


class DepthNetwork(Network[DepthConfig]):
    """The encoder sees the image alone and finds the field of view; the decoder sees the camera's rays as well."""

    def __init__(self, config: DepthConfig | dict[str, Any]) -> None:
        super().__init__(config := DepthConfig.model_validate(config))
        widths = (3, *config.channels)
        self.down = nn.ModuleList(
            nn.Conv2d(a, b, 4, stride=2, padding=1) for a, b in zip(widths, widths[1:], strict=False)
        )
        self.encode = nn.ModuleList(Residual(c) for c in config.channels)
        coarse = config.channels[-1]
        self.camera = nn.Conv2d(coarse + 3, coarse, 1)
        self.context = nn.Linear(coarse, coarse)
        self.middle = Residual(coarse)
        levels = config.channels[::-1]
        self.up = nn.ModuleList(Merge(a, b) for a, b in zip(levels, levels[1:], strict=False))
        self.out = nn.Sequential(
            nn.Conv2d(config.channels[0] + 5, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 2, 3, padding=1)
        )
        self.scale = nn.Sequential(nn.Linear(coarse, 64), nn.SiLU(), nn.Linear(64, 1))
        self.focal = nn.Sequential(nn.Linear(coarse, 64), nn.SiLU(), nn.Linear(64, 1))

    def forward(self, image_B3HW: Tensor, intrinsics: Tensor | None = None) -> RawDepth:
        """Relative log depth, scale, expected error and focal length of images in 0..1 with sides multiples of the stride.

        Without `intrinsics` [B,3,3] the decoder uses the focal length that the encoder found.
        """
        x = image_B3HW = image_B3HW * 2 - 1
        skips = []
        for down, encode in zip(self.down, self.encode, strict=True):
            x = encode(down(x))
            skips.append(x)
        log_focal = self.focal(x.mean((-2, -1))).squeeze(-1) + DEFAULT_LOG_FOCAL
        if intrinsics is None:
            # Detached: depth errors must not bend the field of view.
            intrinsics = centred_intrinsics(log_focal.detach(), image_B3HW.shape[-2:])
        rays = camera_rays(intrinsics, image_B3HW.shape[-2:])
        x = self.camera(torch.cat((x, _at(rays, x), _focal_plane(intrinsics, x, image_B3HW)), dim=1))
        x = self.middle(x + self.context(x.mean((-2, -1)))[..., None, None])
        scale = self.scale(x.mean((-2, -1))).squeeze(-1) + 1.5
        for up, skip in zip(self.up, skips[-2::-1], strict=True):
            x = up(x, skip, _at(rays, skip))
        x = functional.interpolate(x, size=image_B3HW.shape[-2:], mode="bilinear", align_corners=False)
        relative, log_error = self.out(torch.cat((x, image_B3HW, rays), dim=1)).unbind(1)
        return RawDepth(relative - relative.flatten(1).median(1).values[:, None, None], scale, log_error, log_focal)

    @torch.no_grad()
    def infer(self, rgb: Tensor, camera: Tensor | None = None) -> DepthPrediction:
        """Depth, points, intrinsics and confidence of images uint8 [B,3,H,W]; `camera` is their intrinsics [B,3,3] in pixels.

        Without `camera` the field of view is estimated, with square pixels and a centred principal point.
        Raises ValueError when a shape or type does not fit.
        """
        _check(rgb, camera)
        size = rgb.shape[-2:]
        small_size = network_size(size, self.config)
        image = functional.interpolate(rgb.float() / 255, size=small_size, mode="bilinear", antialias=True)
        small_camera = None if camera is None else _rescale(camera.float(), size, small_size).to(self.dtype)
        raw = self(image.to(self.dtype), small_camera)
        log_depth, log_error = functional.interpolate(
            torch.stack((raw.log_depth, raw.log_error), dim=1).float(), size=size, mode="bilinear", align_corners=False
        ).unbind(1)
        intrinsics = centred_intrinsics(raw.log_focal.float(), size) if camera is None else camera.float()
        depth = log_depth.exp()
        return DepthPrediction(depth, unproject(depth, intrinsics), intrinsics, (-log_error.exp()).exp())


def camera_rays(intrinsics: Tensor, size: Sequence[int]) -> Tensor:
    """The slopes (x/z, y/z) [B,2,H,W] of the ray through every pixel's centre."""
    ones = torch.ones(intrinsics.shape[0], *size, dtype=intrinsics.dtype, device=intrinsics.device)
    return unproject(ones, intrinsics)[..., :2].movedim(-1, 1)


def centred_intrinsics(log_focal: Tensor, size: Sequence[int]) -> Tensor:
    """Intrinsics [B,3,3] with square pixels, a centred principal point and focal length exp(`log_focal`)·√(H·W)."""
    height, width = size
    intrinsics = torch.zeros(*log_focal.shape, 3, 3, dtype=log_focal.dtype, device=log_focal.device)
    intrinsics[..., 0, 0] = intrinsics[..., 1, 1] = log_focal.exp() * math.sqrt(height * width)
    intrinsics[..., 0, 2], intrinsics[..., 1, 2], intrinsics[..., 2, 2] = width / 2, height / 2, 1
    return intrinsics


def log_focal_of(intrinsics: Tensor, size: Sequence[int]) -> Tensor:
    """[B] log of the geometric mean of both focal lengths over √(H·W): what the field-of-view head predicts."""
    return 0.5 * (intrinsics[..., 0, 0] * intrinsics[..., 1, 1] / (size[0] * size[1])).log()


def network_size(size: Sequence[int], config: DepthConfig) -> tuple[int, int]:
    """The size nearest to an image's aspect with about the config's pixels and sides that its levels divide."""
    shrink = math.sqrt(config.height * config.width / (size[0] * size[1]))
    height, width = (max(1, round(side * shrink / config.stride)) * config.stride for side in size)
    return height, width


def _at(rays: Tensor, level: Tensor) -> Tensor:
    """Rays at a coarser level: slopes are linear in the pixel, so the mean is the ray of the coarse pixel's centre."""
    return functional.adaptive_avg_pool2d(rays, (level.shape[-2], level.shape[-1]))


def _focal_plane(intrinsics: Tensor, level: Tensor, image: Tensor) -> Tensor:
    """The focal length as a constant plane [B,1,h,w], centred on the usual one."""
    focal = log_focal_of(intrinsics, image.shape[-2:]) - DEFAULT_LOG_FOCAL
    return focal[:, None, None, None].expand(-1, 1, *level.shape[-2:])


def _rescale(intrinsics: Tensor, size: Sequence[int], target: Sequence[int]) -> Tensor:
    scale = torch.tensor([target[1] / size[1], target[0] / size[0], 1.0], device=intrinsics.device)
    return intrinsics * scale[:, None]


def _check(rgb: Tensor, camera: Tensor | None) -> None:
    if rgb.dtype != torch.uint8 or rgb.ndim != 4 or rgb.shape[1] != 3:
        raise ValueError(f"rgb must be uint8 [B,3,H,W], not {rgb.dtype} {tuple(rgb.shape)}")
    if camera is not None and camera.shape != (rgb.shape[0], 3, 3):
        raise ValueError(f"camera must be [{rgb.shape[0]},3,3] for {rgb.shape[0]} images, not {tuple(camera.shape)}")
