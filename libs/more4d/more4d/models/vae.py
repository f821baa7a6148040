"""The motion VAE: a Wan causal video VAE between the trajectory encoder and decoder (paper section 4.2).

Suffixes: B batch, C latent channels, T frames, K latent frames = 1 + (T-1)/4, H height, W width; h = H/8, w = W/8.
"""

from pathlib import Path
from typing import Any, Self

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.hooks.group_offloading import apply_group_offloading
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.utils.accelerate_utils import apply_forward_hook
from pydantic import Field, model_validator
from torch import Tensor, nn

from more4d.geometry.motion import MotionScale, scaled_motion, unscaled_points
from more4d.models.network import Network
from more4d.models.trajectory_codec import TrajectoryCodecConfig, TrajectoryDecoder, TrajectoryEncoder
from more4d.settings import Section

CPU = torch.device("cpu")
LATENT_STRIDE = (4, 8, 8)
"""Frames, rows and columns of pixels that one latent cell stands for."""
LATENT_CHANNELS = 16
LINEAR_LOG_VARIANCE = -6.0
"""Log variance of the linear posterior: narrow, since principal components carry no noise of their own."""
PUBLISHED_MOTION_MEAN = (
    0.9336647, -1.5638999, 0.0971676, -0.0003718, -0.4085754, 2.2521055, -1.7826537, 1.4354854,
    -0.9819669, -0.7372986, 1.0731527, -1.6012203, -1.4650977, -0.6404793, -0.2373897, -1.2528336,
)  # fmt: skip
"""Mean of each channel of the released motion VAE's latent, after Wan's own normalisation."""
PUBLISHED_MOTION_STD = (
    0.4107, 0.5508, 0.2565, 0.3021, 0.2372, 0.5350, 0.3000, 0.4359,
    0.2033, 0.4194, 0.2107, 0.3985, 0.3314, 0.4098, 0.3906, 0.2863,
)  # fmt: skip
"""Standard deviation of each channel of the released motion VAE's latent, after Wan's own normalisation."""


class LinearStartWanVAE(AutoencoderKLWan):
    """Wan's causal VAE added to a linear one: training starts from principal components, not from noise.

    Without `encoder_network` the encoder is the linear one alone. The first frame has a basis of its own (8x8x3 pixels),
    every later group of four frames shares one (4x8x8x3). The networks' last layers start at zero, so that a fresh
    instance is exactly the linear codec.
    """

    @register_to_config
    def __init__(
        self,
        base_dim: int = 16,
        z_dim: int = 16,
        dim_mult: tuple[int, ...] = (1, 2, 4),
        num_res_blocks: int = 1,
        temperal_downsample: tuple[bool, ...] = (True, True),
        latents_mean: tuple[float, ...] = (0.0,) * 16,
        latents_std: tuple[float, ...] = (1.0,) * 16,
        patch_size: int | None = 2,
        encoder_network: bool = False,
    ) -> None:
        channels = 3 * (patch_size or 1) ** 2
        super().__init__(
            base_dim=base_dim,
            z_dim=z_dim,
            dim_mult=list(dim_mult),
            num_res_blocks=num_res_blocks,
            temperal_downsample=list(temperal_downsample),
            latents_mean=list(latents_mean),
            latents_std=list(latents_std),
            patch_size=patch_size,
            in_channels=channels,
            out_channels=channels,
        )
        self.first_basis = nn.Parameter(torch.zeros(z_dim, 192), requires_grad=False)
        self.group_basis = nn.Parameter(torch.zeros(z_dim, 768), requires_grad=False)
        self.encoder_network = encoder_network
        if not encoder_network:
            self.encoder, self.quant_conv = None, None
        for layer in filter(None, (self.quant_conv, self.decoder.conv_out)):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]

    def linear_encode(self, x: Tensor) -> Tensor:
        """Principal components [B, C, K, h, w] of a video [B, 3, T, H, W]."""
        # In the basis's own precision: bf16 would round colours to 0.4 %, which is more than most points move.
        with torch.autocast(x.device.type, enabled=False):
            x = x.to(self.first_basis.dtype)
            first = torch.einsum("bhwp,cp->bchw", cell_vectors(x[:, :, :1])[:, 0], self.first_basis)
            groups = torch.einsum("bkhwp,cp->bckhw", cell_vectors(x[:, :, 1:]), self.group_basis)
        return torch.cat([first[:, :, None], groups], dim=2)

    def linear_decode(self, z: Tensor) -> Tensor:
        """The video [B, 3, T, H, W] that principal components [B, C, K, h, w] stand for."""
        with torch.autocast(z.device.type, enabled=False):
            z = z.to(self.first_basis.dtype)
            first = torch.einsum("bchw,cp->bhwp", z[:, :, 0], self.first_basis)[:, None]
            groups = torch.einsum("bckhw,cp->bkhwp", z[:, :, 1:], self.group_basis)
        return torch.cat([cells_to_video(first, 1), cells_to_video(groups, 4)], dim=2)

    def _encode(self, x: Tensor) -> Tensor:
        linear = self.linear_encode(x)
        if not self.encoder_network:
            return torch.cat([linear, torch.full_like(linear, LINEAR_LOG_VARIANCE)], dim=1)
        mean, log_variance = super()._encode(x).chunk(2, dim=1)  # type: ignore[attr-defined]
        return torch.cat([mean + linear, log_variance + LINEAR_LOG_VARIANCE], dim=1)

    def _decode(self, z: Tensor, return_dict: bool = True) -> Any:
        (residual,) = super()._decode(z, return_dict=False)
        video = (residual + self.linear_decode(z)).clamp(-1.0, 1.0)
        return DecoderOutput(sample=video) if return_dict else (video,)


def latent_shape(frames: int, height: int, width: int) -> torch.Size:
    """Shape [C, K, h, w] of the latent of one video."""
    time, rows, columns = LATENT_STRIDE
    return torch.Size((LATENT_CHANNELS, 1 + (frames - 1) // time, height // rows, width // columns))


def cell_vectors(x: Tensor) -> Tensor:
    """Flattened cells [B, K, h, w, 3·t·64] of a video whose frames come in ones (t = 1) or fours (t = 4)."""
    frames = 1 if x.shape[2] == 1 else 4
    cells = x.unflatten(2, (-1, frames)).unflatten(4, (-1, 8)).unflatten(6, (-1, 8))
    return cells.permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)


def cells_to_video(cells: Tensor, frames: int) -> Tensor:
    """The video [B, 3, K·frames, H, W] of flattened cells [B, K, h, w, 3·frames·64]."""
    x = cells.unflatten(4, (3, frames, 8, 8)).permute(0, 4, 1, 5, 2, 6, 3, 7)
    return x.flatten(2, 3).flatten(3, 4).flatten(4, 5)


class MotionVAEConfig(Section):
    """The codec, the Wan VAE between, and the motion latent's own normalisation."""

    codec: TrajectoryCodecConfig = TrajectoryCodecConfig()
    vae: dict[str, Any] = Field(default_factory=dict)
    linear_start: bool = False
    motion_mean: float | tuple[float, ...] = 0.0
    """Of the motion latent alone, on top of the VAE's own normalisation: (z - mean) / std when encoding, and back."""
    motion_std: float | tuple[float, ...] = 1.0
    motion_camera: MotionScale = "sample"
    """Whose intrinsics scale eq. 1's motion: the sample's own, or the published constants; three numbers stand for no
    camera at all, but for metres along x, y and z (the ablation)."""

    @model_validator(mode="after")
    def _can_be_undone(self) -> Self:
        channels = self.vae.get("z_dim", 16)
        for name in ("motion_mean", "motion_std"):
            values = getattr(self, name)
            if isinstance(values, tuple) and len(values) != channels:
                raise ValueError(f"{name} has {len(values)} values for {channels} latent channels")
        if min(self.motion_std if isinstance(self.motion_std, tuple) else (self.motion_std,)) <= 0:
            raise ValueError(f"motion_std={self.motion_std} must be positive: the latent is divided by it")
        if not isinstance(self.motion_camera, str) and min(self.motion_camera) <= 0:
            raise ValueError(f"motion_camera={self.motion_camera} must be positive: motion is divided by it")
        return self


class MotionVAE(Network[MotionVAEConfig]):
    """Encodes relative motion, images and depth to latents, and motion latents back to motion."""

    def __init__(self, config: MotionVAEConfig | dict[str, Any]) -> None:
        super().__init__(config := MotionVAEConfig.model_validate(config))
        self.trajectory_encoder = TrajectoryEncoder(config.codec)
        # Any: diffusers declares what encode and decode return as unions that no caller can use.
        self.vae: Any = (LinearStartWanVAE if config.linear_start else AutoencoderKLWan)(**config.vae)
        self.trajectory_decoder = TrajectoryDecoder(config.codec)

    @apply_forward_hook
    def encode_video(self, video: Tensor) -> Tensor:
        """Normalised latent mean [B, C, K, h, w] of a video [B, 3, T, H, W] in [-1, 1]; deterministic."""
        mean, std = self._statistics(video)
        return (self.vae.encode(video.to(self.vae.dtype)).latent_dist.mode() - mean) / std

    @apply_forward_hook
    def decode_video(self, latent: Tensor) -> Tensor:
        """Video [B, 3, T, H, W] in [-1, 1] of a normalised latent [B, C, K, h, w]."""
        mean, std = self._statistics(latent)
        return self.vae.decode((latent * std + mean).to(self.vae.dtype)).sample

    @apply_forward_hook
    def encode_motion(self, motion: Tensor) -> Tensor:
        """Motion latent [B, C, K, h, w] of normalised motion [B, 3, T, H, W] (eq. 1 units)."""
        return self.encode_motion_map(self.trajectory_encoder(motion))

    def motion_of(self, points: Tensor, intrinsics: Tensor) -> tuple[Tensor, Tensor]:
        """Motion [B, 3, T, H, W] in this checkpoint's units and valid [B, H, W] of `points` [B, T, H, W, 3] in metres.

        `intrinsics` [B, 3, 3] are the samples' own, whatever the units.
        """
        return scaled_motion(points, intrinsics, self.config.motion_camera)

    def points_of(self, motion: Tensor, points0: Tensor, intrinsics: Tensor) -> Tensor:
        """Points [B, T, H, W, 3] in metres of motion in this checkpoint's units and the first frame's [B, H, W, 3]."""
        return unscaled_points(motion, points0, intrinsics, self.config.motion_camera)

    def encode_motion_map(self, motion_map: Tensor) -> Tensor:
        """Motion latent [B, C, K, h, w] of an RGB motion map [B, 3, T, H, W] in [-1, 1]."""
        mean, std = self._motion_statistics(motion_map)
        return (self.encode_video(motion_map) - mean) / std

    def decode_motion(self, latent: Tensor) -> Tensor:
        """Normalised motion [B, 3, T, H, W] of a motion latent; the first frame does not move, by definition."""
        mean, std = self._motion_statistics(latent)
        motion = self.trajectory_decoder(self.decode_video(latent * std + mean))
        return torch.cat([torch.zeros_like(motion[:, :, :1]), motion[:, :, 1:]], dim=2)

    def linear_decode_video(self, latent: Tensor) -> Tensor:
        """Video [B, 3, T, H, W] by the linear part of the decoder alone: cheap enough for a training loss."""
        mean, std = self._statistics(latent)
        return self.vae.linear_decode(latent * std + mean)

    def linear_decode_motion(self, latent: Tensor) -> Tensor:
        """Motion [B, 3, T, H, W] by the linear part of the decoder alone."""
        mean, std = self._motion_statistics(latent)
        return self.trajectory_decoder.inverse(self.linear_decode_video(latent * std + mean))

    def enable_group_offload(
        self, onload_device: torch.device, offload_device: torch.device = CPU, *args: Any, **options: Any
    ) -> None:
        """Group offloading, layer by layer whatever the type asked for; the linear VAE's bases stay on `onload_device`.

        Blocks are brought for their parent's `forward`, and a VAE is entered by its other methods.
        """
        folder = options.pop("offload_to_disk_path", None)
        known = ("non_blocking", "use_stream", "record_stream", "low_cpu_mem_usage")
        options = {name: value for name, value in options.items() if name in known}
        for part in (self, self.vae):
            for parameter in part.parameters(recurse=False):
                parameter.data = parameter.data.to(onload_device)
        # A folder each: the files are named after the layers within a part alone.
        parts = {"trajectory_encoder": self.trajectory_encoder, "trajectory_decoder": self.trajectory_decoder}
        for name, part in {**parts, **dict(self.vae.named_children())}.items():
            path = None if folder is None else str(Path(folder) / name)
            apply_group_offloading(
                part, onload_device, offload_device, "leaf_level", offload_to_disk_path=path, **options
            )

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        config = self.vae.config
        return _channels(config["latents_mean"], like), _channels(config["latents_std"], like)

    def _motion_statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        return _channels(self.config.motion_mean, like), _channels(self.config.motion_std, like)


def _channels(values: Any, like: Tensor) -> Tensor:
    return torch.as_tensor(values, dtype=like.dtype, device=like.device).reshape(1, -1, 1, 1, 1)
