"""Trajectory encoder and decoder: relative motion as an RGB motion map and back (paper section 4.2).

Suffixes: B batch, T frames, H height, W width; channels second, as in [B, 3, T, H, W].
"""

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from more4d.settings import Section

_FRAMES_AT_ONCE = 8


class TrajectoryCodecConfig(Section):
    """Width of the codec and how it starts."""

    width: int = Field(default=128, gt=0)
    groups: int = Field(default=32, gt=0)
    blocks: int = Field(default=1, gt=0)
    """Residual blocks of the encoder; the decoder has one more."""
    gain: float = Field(default=1.0, gt=0)
    """Motion is multiplied by this before the sigmoid: small sizes need the motion map's full colour range."""
    starts_as_inverse: bool = False
    """The decoder begins as the encoder's exact inverse and learns a correction; the published one begins anywhere."""


class ResBlock(nn.Module):
    """GroupNorm, swish, conv, twice, beside a skip; on single frames [N, C, H, W]."""

    def __init__(self, width: int, groups: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(groups, width, eps=1e-6)
        self.conv1 = nn.Conv2d(width, width, 3, padding=1)
        self.norm2 = nn.GroupNorm(groups, width, eps=1e-6)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """`x` plus its residual, same shape."""
        hidden = self.conv1(functional.silu(self.norm1(x)))
        return x + self.conv2(functional.silu(self.norm2(hidden)))


class _FrameNet(nn.Module):
    """Conv in, residual blocks, norm, swish, conv out: 3 channels to 3, each frame alone."""

    def __init__(self, config: TrajectoryCodecConfig, blocks: int, *, zero_output: bool) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(3, config.width, 3, padding=1)
        self.blocks = nn.ModuleList(ResBlock(config.width, config.groups) for _ in range(blocks))
        self.norm_out = nn.GroupNorm(config.groups, config.width, eps=1e-6)
        self.conv_out = nn.Conv2d(config.width, 3, 3, padding=1)
        if zero_output:
            nn.init.zeros_(self.conv_out.weight)
            nn.init.zeros_(self.conv_out.bias)  # type: ignore[arg-type]

    def forward(self, x: Tensor) -> Tensor:
        frames = x.shape[2]
        flat = x.transpose(1, 2).flatten(0, 1)
        # Frames know nothing of each other: without a gradient to keep, all of them at once would only cost memory.
        parts = (flat,) if torch.is_grad_enabled() else flat.split(_FRAMES_AT_ONCE)
        return torch.cat([self._frames(part) for part in parts]).unflatten(0, (-1, frames)).transpose(1, 2)

    def _frames(self, x_NCHW: Tensor) -> Tensor:
        hidden = self.conv_in(x_NCHW)
        for block in self.blocks:
            hidden = block(hidden)
        return self.conv_out(functional.silu(self.norm_out(hidden)))


class TrajectoryEncoder(nn.Module):
    """Normalised motion [B, 3, T, H, W] to an RGB motion map in (-1, 1); no motion is mid grey at the start."""

    def __init__(self, config: TrajectoryCodecConfig) -> None:
        super().__init__()
        self.gain = config.gain
        self.net = _FrameNet(config, config.blocks, zero_output=True)

    def forward(self, motion: Tensor) -> Tensor:
        """The motion map: sigmoid of motion plus correction, stretched from (0, 1) to (-1, 1)."""
        scaled = motion * self.gain
        return torch.sigmoid(scaled + self.net(scaled)) * 2 - 1

    @property
    def is_trained(self) -> bool:
        """Whether the network adds anything to the closed form."""
        return bool(self.net.conv_out.weight.any()) or bool(self.net.conv_out.bias.any())  # type: ignore[union-attr]

    def start(self, motion: Tensor) -> Tensor:
        """The motion map before anything is learned: tanh(gain · motion / 2)."""
        return torch.tanh(motion * self.gain / 2)


class TrajectoryDecoder(nn.Module):
    """RGB motion map [B, 3, T, H, W] in [-1, 1] back to normalised motion, unbounded."""

    def __init__(self, config: TrajectoryCodecConfig) -> None:
        super().__init__()
        self.gain = config.gain
        self.starts_as_inverse = config.starts_as_inverse
        self.net = _FrameNet(config, config.blocks + 1, zero_output=config.starts_as_inverse)

    def forward(self, motion_map: Tensor) -> Tensor:
        """The motion: the learned correction, on top of the inverse where the codec starts as one."""
        correction = self.net(motion_map) / self.gain
        return self.inverse(motion_map) + correction if self.starts_as_inverse else correction

    def inverse(self, motion_map: Tensor) -> Tensor:
        """What an untrained encoder would have turned into `motion_map`, in closed form."""
        # 0.995 bounds the slope of atanh at 100: an over-bright pixel must not become a metre of motion.
        return 2 / self.gain * torch.atanh(motion_map.clamp(-0.995, 0.995))
