"""The image encoder: CLIP's vision transformer, read at its penultimate layer as Wan does.

At any size, from Hugging Face's files or from Wan's.

Suffixes: B batch, H height, W width, L tokens (class token first, then patches row by row), D width.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModel

from more4d.models.network import Network
from more4d.models.pretrained import load_renamed, load_transformers, read_config, require_same
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

WAN_NAMES = (
    (r"visual\.cls_embedding$", "embeddings.class_embedding"),
    (r"visual\.pos_embedding$", "embeddings.position_embedding.weight"),
    (r"visual\.patch_embedding\.", "embeddings.patch_embedding."),
    (r"visual\.pre_norm\.", "pre_layrnorm."),
    (r"visual\.post_norm\.", "post_layernorm."),
    (r"visual\.transformer\.(\d+)\.norm([12])\.", r"encoder.layers.\1.layer_norm\2."),
    (r"visual\.transformer\.(\d+)\.attn\.to_([qkv])\.", r"encoder.layers.\1.self_attn.\2_proj."),
    (r"visual\.transformer\.(\d+)\.attn\.proj\.", r"encoder.layers.\1.self_attn.out_proj."),
    (r"visual\.transformer\.(\d+)\.mlp\.0\.", r"encoder.layers.\1.mlp.fc1."),
    (r"visual\.transformer\.(\d+)\.mlp\.2\.", r"encoder.layers.\1.mlp.fc2."),
)
"""Wan's own names of CLIP's vision weights, once the fused to_qkv is taken apart, and transformers'."""
WAN_UNUSED = ("textual.", "log_scale", "visual.head")
"""What Wan's file holds beside the vision transformer's trunk."""


class ImageEncoder(Network[ImageEncoderConfig]):
    """CLIP's vision transformer behind one method, `encode`."""

    def __init__(self, config: ImageEncoderConfig | dict[str, Any]) -> None:
        super().__init__(config := ImageEncoderConfig.model_validate(config))
        self.vision = CLIPVisionModel(_clip_config(config))
        # What comes after the penultimate layer takes no part, so it can have no gradient.
        self.vision.encoder.layers[-1].requires_grad_(False)
        self.vision.post_layernorm.requires_grad_(False)

    @classmethod
    def from_transformers(cls, folder: Path, *, dtype: torch.dtype | None = None) -> Self:
        """The encoder of a CLIP checkpoint in Hugging Face's layout: a vision model's, or a whole CLIP's.

        Weights keep their precision unless `dtype` is given. Raises ValueError naming what is missing or does not fit.
        """
        stored = read_config(folder)
        stored = {**CLIPVisionConfig().to_dict(), **stored.get("vision_config", stored)}
        config = ImageEncoderConfig(
            image_size=stored["image_size"], patch_size=stored["patch_size"], dim=stored["hidden_size"],
            depth=stored["num_hidden_layers"], heads=stored["num_attention_heads"],
            mlp_dim=stored["intermediate_size"], activation=stored["hidden_act"],
        )  # fmt: skip
        require_same(folder, stored, _clip_config(config).to_dict(), ("layer_norm_eps", "num_channels"))
        with torch.device("meta"):
            made = cls(config)
        made.vision = load_transformers(CLIPVisionModel, folder, dtype)
        return made.eval().requires_grad_(False)

    @classmethod
    def from_wan(cls, file: Path, *, config: ImageEncoderConfig = CLIP_VIT_H, dtype: torch.dtype | None = None) -> Self:
        """The encoder in Wan's own file, models_clip_open-clip-xlm-roberta-large-vit-huge-14.pth; its text half is left.

        Raises ValueError naming the keys and shapes that do not fit.
        """
        with torch.device("meta"):
            made = cls(config)
        load_renamed(made.vision, file, WAN_NAMES, dtype, prepare=_separate_projections)
        _fill_positions(made.vision, config.tokens)
        return made.eval().requires_grad_(False)

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
        return self(((image - mean) / std).to(self.dtype))


def _separate_projections(stored: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Wan's vision weights with query, key and value apart and tables in transformers' shapes."""
    ours: dict[str, Tensor] = {}
    for name, value in stored.items():
        if name.startswith(WAN_UNUSED):
            continue
        if ".to_qkv." in name:
            ours |= {name.replace("to_qkv", f"to_{part}"): v for part, v in zip("qkv", value.chunk(3), strict=True)}
        elif name == "visual.cls_embedding":
            ours[name] = value.flatten()
        else:
            ours[name] = value[0] if name == "visual.pos_embedding" else value
    return ours


def _fill_positions(vision: CLIPVisionModel, tokens: int) -> None:
    """The row numbers of the position table: a buffer that no checkpoint stores."""
    vision.embeddings.register_buffer("position_ids", torch.arange(tokens)[None], persistent=False)


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
