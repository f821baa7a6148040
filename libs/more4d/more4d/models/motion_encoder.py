"""The motion encoder: OmniMAE's ViT trunk, and the masked autoencoder that pretrains it on clips and images.

Suffixes: B batch, T frames, H height, W width, L patches of a clip (time, row, column order), V visible patches, D width.
"""

from typing import Any

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from more4d.models.network import Network
from more4d.settings import Section

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class MotionEncoderConfig(Section):
    """Shape of the trunk and of the light decoder that pretrains it."""

    image_size: int = Field(gt=0)
    patch_size: tuple[int, int, int]
    frames: int = Field(gt=0)
    """Frames that the position table covers; an image counts as one patch of time."""
    dim: int = Field(gt=0)
    depth: int = Field(gt=0)
    heads: int = Field(gt=0)
    decoder_dim: int = Field(gt=0)
    decoder_depth: int = Field(gt=0)
    decoder_heads: int = Field(gt=0)
    mlp_ratio: int = Field(default=4, gt=0)

    @model_validator(mode="after")
    def _divides(self) -> "MotionEncoderConfig":
        time, height, width = self.patch_size
        if self.frames % time or self.image_size % height or self.image_size % width:
            raise ValueError(
                f"patch_size={self.patch_size} must divide frames={self.frames} and image_size={self.image_size}"
            )
        if self.dim % self.heads or self.decoder_dim % self.decoder_heads or self.dim % 2:
            raise ValueError(
                f"heads={self.heads} must divide an even dim={self.dim}, "
                f"decoder_heads={self.decoder_heads} decoder_dim={self.decoder_dim}"
            )
        return self

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of an image's patches."""
        return self.image_size // self.patch_size[1], self.image_size // self.patch_size[2]

    @property
    def table_length(self) -> int:
        """Rows of the position table: patches of a clip of `frames` frames."""
        return self.frames // self.patch_size[0] * self.grid[0] * self.grid[1]


OMNIMAE_VITB = MotionEncoderConfig(
    image_size=224, patch_size=(2, 16, 16), frames=16, dim=768, depth=12, heads=12,
    decoder_dim=384, decoder_depth=4, decoder_heads=16,
)  # fmt: skip
OMNIMAE_VITL = OMNIMAE_VITB.model_copy(update=dict(dim=1024, depth=24, heads=16, decoder_dim=512))
TINY = OMNIMAE_VITB.model_copy(
    update=dict(image_size=64, patch_size=(2, 8, 8), frames=4, dim=96, depth=4, heads=4)
    | dict(decoder_dim=48, decoder_depth=2, decoder_heads=2)
)


def sinusoid_table(length: int, dim: int) -> Tensor:
    """OmniMAE's fixed position table [length, dim]: row p holds sin (even columns j) and cos (odd) of p / 10000^(2⌊j/2⌋/dim)."""
    column = torch.arange(dim, dtype=torch.float64)
    angle = torch.arange(length, dtype=torch.float64)[:, None] / 10000 ** (2 * (column // 2) / dim)
    return torch.where(column % 2 == 0, angle.sin(), angle.cos()).float()


class RepeatImage(nn.Module):
    """An image [B,3,1,H,W] as the shortest clip that one patch of time covers; longer clips unchanged."""

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.frames = frames

    def forward(self, clip_B3THW: Tensor) -> Tensor:
        return clip_B3THW.expand(-1, -1, self.frames, -1, -1) if clip_B3THW.shape[2] == 1 else clip_B3THW


class PatchEmbed(nn.Module):
    """Patches of a clip [B,3,T,H,W] as tokens [B,L,D]; `proj.1` is the published key of the 3-D convolution."""

    def __init__(self, config: MotionEncoderConfig) -> None:
        super().__init__()
        convolution = nn.Conv3d(3, config.dim, config.patch_size, config.patch_size)
        self.proj = nn.Sequential(RepeatImage(config.patch_size[0]), convolution)

    def forward(self, clip_B3THW: Tensor) -> Tensor:
        return self.proj(clip_B3THW).flatten(2).transpose(1, 2)


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection; the published decoder has no bias on it."""

    def __init__(self, dim: int, heads: int, *, qkv_bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x_BLD: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x_BLD).chunk(3, dim=-1))
        mixed = functional.scaled_dot_product_attention(q, k, v)
        return self.proj(mixed.transpose(1, 2).flatten(2))


class Mlp(nn.Module):
    """Two linear layers with an exact GELU between them."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(functional.gelu(self.fc1(x)))


class Block(nn.Module):
    """A pre-norm transformer block, tokens [B,L,D] to [B,L,D]."""

    def __init__(self, dim: int, heads: int, mlp_ratio: int, *, qkv_bias: bool = True) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads, qkv_bias=qkv_bias)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = Mlp(dim, mlp_ratio * dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class MotionEncoder(Network[MotionEncoderConfig]):
    """OmniMAE's trunk, with the published names below its prefix `trunk.`; there is no class token."""

    pos_embed: Tensor

    def __init__(self, config: MotionEncoderConfig | dict[str, Any]) -> None:
        super().__init__(config := MotionEncoderConfig.model_validate(config))
        self.patch_embed = PatchEmbed(config)
        self.register_buffer("pos_embed", sinusoid_table(config.table_length, config.dim)[None])
        self.blocks = nn.ModuleList(Block(config.dim, config.heads, config.mlp_ratio) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.dim, eps=1e-6)
        self.apply(_initialise)

    def forward(self, clip_B3THW: Tensor, visible_BV: Tensor | None = None) -> Tensor:
        """Features [B,L,D] of a normalised clip of `image_size`, or [B,V,D] of the patches numbered `visible_BV` alone."""
        x = self.patch_embed(clip_B3THW)
        x = x + self.pos_embed[:, : x.shape[1]]
        if visible_BV is not None:
            x = take_patches(x, visible_BV)
        for block in self.blocks:
            x = block(x)
        return self.norm(x)

    def encode(self, image_B3HW: Tensor) -> Tensor:
        """Patch features [B, rows*columns, D] in row-major order of images [B,3,H,W] in 0..255 (uint8 or float)."""
        return self(normalise_clip(image_B3HW[:, :, None], self.config.image_size).to(self.dtype))


def normalise_clip(clip_B3THW: Tensor, size: int) -> Tensor:
    """Clip [B,3,T,size,size] in ImageNet's normalisation from one in 0..255: resized bilinearly to a square, as published."""
    frames = clip_B3THW.shape[2]
    flat = clip_B3THW.transpose(1, 2).flatten(0, 1)
    flat = flat.float() if not flat.is_floating_point() else flat
    flat = functional.interpolate(flat / 255, size=(size, size), mode="bilinear", align_corners=False)
    mean, std = (flat.new_tensor(v)[:, None, None] for v in (IMAGENET_MEAN, IMAGENET_STD))
    return ((flat - mean) / std).unflatten(0, (-1, frames)).transpose(1, 2)


def take_patches(x_BLD: Tensor, index_BV: Tensor) -> Tensor:
    """The patches [B,V,D] at `index_BV` of x [B,L,D]."""
    return x_BLD.gather(1, index_BV[..., None].expand(-1, -1, x_BLD.shape[-1]))


class Decoder(nn.Module):
    """The light decoder of the pretraining: tokens [B,L,D] of all patches to [B,L,decoder_dim]."""

    pos_embed: Tensor

    def __init__(self, config: MotionEncoderConfig) -> None:
        super().__init__()
        self.register_buffer("pos_embed", sinusoid_table(config.table_length, config.dim)[None])
        self.decoder_embed = nn.Linear(config.dim, config.decoder_dim)
        self.decoder_blocks = nn.ModuleList(
            Block(config.decoder_dim, config.decoder_heads, config.mlp_ratio, qkv_bias=False)
            for _ in range(config.decoder_depth)
        )
        self.norm = nn.LayerNorm(config.decoder_dim, eps=1e-6)

    def forward(self, x_BLD: Tensor) -> Tensor:
        x = self.decoder_embed(x_BLD + self.pos_embed[:, : x_BLD.shape[1]])
        for block in self.decoder_blocks:
            x = block(x)
        return self.norm(x)


class MaskedAutoencoder(nn.Module):
    """Trunk, mask token, decoder and pixel head: predicts every patch of a clip from the visible ones."""

    def __init__(self, config: MotionEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = MotionEncoder(config)
        self.mask_token = nn.Parameter(torch.zeros(1, config.dim))
        self.decoder = Decoder(config)
        time, height, width = config.patch_size
        self.head = nn.Linear(config.decoder_dim, time * height * width * 3)
        self.decoder.apply(_initialise)
        _initialise(self.head)
        nn.init.normal_(self.mask_token, std=0.02)

    @classmethod
    def from_config(cls, config: MotionEncoderConfig) -> "MaskedAutoencoder":
        """An autoencoder with random weights."""
        return cls(config)

    def forward(self, clip_B3THW: Tensor, visible_BV: Tensor) -> Tensor:
        """Predicted patches [B, L, time*height*width*3] (see `patchify`) of a normalised clip from its visible ones."""
        seen = self.trunk(clip_B3THW, visible_BV)
        batch, _, dim = seen.shape
        patches = self.config.grid[0] * self.config.grid[1] * _patches_of_time(clip_B3THW, self.config)
        full = self.mask_token.to(seen.dtype).expand(batch, patches, dim)
        full = full.scatter(1, visible_BV[..., None].expand(-1, -1, dim), seen)
        return self.head(self.decoder(full))


def patchify(clip_B3THW: Tensor, config: MotionEncoderConfig) -> Tensor:
    """Pixels of every patch, [B, L, time*height*width*3] with the colour last; an image is repeated to one patch of time."""
    time, height, width = config.patch_size
    clip = clip_B3THW.expand(-1, -1, time, -1, -1) if clip_B3THW.shape[2] == 1 else clip_B3THW
    clip = clip.unflatten(4, (-1, width)).unflatten(3, (-1, height)).unflatten(2, (-1, time))
    return clip.permute(0, 2, 4, 6, 3, 5, 7, 1).flatten(4).flatten(1, 3)


def _patches_of_time(clip_B3THW: Tensor, config: MotionEncoderConfig) -> int:
    return max(1, clip_B3THW.shape[2] // config.patch_size[0])


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv3d):
        nn.init.xavier_uniform_(module.weight.view(module.weight.shape[0], -1))
        assert module.bias is not None
        nn.init.zeros_(module.bias)
