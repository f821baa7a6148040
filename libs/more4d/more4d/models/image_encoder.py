"""The image encoder: CLIP's vision transformer, read at its penultimate layer as Wan does.

Suffixes: B batch, H height, W width, L tokens (class token first, then patches row by row), D width.
"""

from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModel

from more4d.settings import Section

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class ImageEncoderConfig(Section):
    """Shape of CLIP's vision transformer."""

    image_size: int = Field(gt=0)
    patch_size: int = Field(gt=0)
    dim: int = Field(gt=0)
    depth: int = Field(ge=2)
    """Layers in the checkpoint; the last one is stored but not run."""
    heads: int = Field(gt=0)
    mlp_dim: int = Field(gt=0)
    activation: str = "gelu"

    @model_validator(mode="after")
    def _divides(self) -> "ImageEncoderConfig":
        if self.image_size % self.patch_size or self.dim % self.heads:
            raise ValueError(
                f"patch_size={self.patch_size} must divide image_size={self.image_size} "
                f"and heads={self.heads} must divide dim={self.dim}"
            )
        return self

    @property
    def tokens(self) -> int:
        """Patches and the class token."""
        return (self.image_size // self.patch_size) ** 2 + 1


CLIP_VIT_H = ImageEncoderConfig(image_size=224, patch_size=14, dim=1280, depth=32, heads=16, mlp_dim=5120)
TINY = CLIP_VIT_H.model_copy(update=dict(image_size=64, patch_size=16, dim=96, depth=2, heads=4, mlp_dim=192))


class ImageEncoder(nn.Module):
    """CLIP's vision transformer behind one method, `encode`."""

    def __init__(self, config: ImageEncoderConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = CLIPVisionModel(_clip_config(config))
        # What comes after the penultimate layer takes no part, so it can have no gradient.
        self.vision.encoder.layers[-1].requires_grad_(False)
        self.vision.post_layernorm.requires_grad_(False)

    @classmethod
    def from_config(cls, config: ImageEncoderConfig) -> "ImageEncoder":
        """An encoder with random weights."""
        return cls(config)

    def forward(self, pixels_B3HW: Tensor) -> Tensor:
        """Penultimate tokens [B,L,D] of images [B,3,image_size,image_size] in CLIP's normalisation."""
        x = self.vision.pre_layrnorm(self.vision.embeddings(pixels_B3HW))
        for layer in self.vision.encoder.layers[:-1]:
            x = layer(x, attention_mask=None)
        return x

    def encode(self, image_B3HW: Tensor) -> Tensor:
        """Penultimate tokens [B,L,D] of images [B,3,H,W] in 0..255 (uint8 or float), squeezed to a square bicubically."""
        size = self.config.image_size
        image = image_B3HW if image_B3HW.is_floating_point() else image_B3HW.float()
        image = functional.interpolate(image / 255, size=(size, size), mode="bicubic", align_corners=False)
        mean, std = (image.new_tensor(v)[:, None, None] for v in (CLIP_MEAN, CLIP_STD))
        return self((image - mean) / std)


def _clip_config(config: ImageEncoderConfig) -> CLIPVisionConfig:
    return CLIPVisionConfig(
        hidden_size=config.dim,
        intermediate_size=config.mlp_dim,
        num_hidden_layers=config.depth,
        num_attention_heads=config.heads,
        image_size=config.image_size,
        patch_size=config.patch_size,
        hidden_act=config.activation,
    )
