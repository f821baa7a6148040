"""The networks' shapes by name: the published sizes, and `tiny` for two CPU cores, each derived from the one before.

A checkpoint stores its own, so a change here changes no checkpoint.
"""

from typing import Any, Literal

from pydantic import Field

from more4d.models import depth, image_encoder, motion_encoder, text
from more4d.models.conditions import ClipImage, DepthEncoding, Reference
from more4d.models.flow_matching import Prediction
from more4d.models.trajectory_codec import TrajectoryCodecConfig
from more4d.models.vae import PUBLISHED_MOTION_MEAN, PUBLISHED_MOTION_STD, MotionVAEConfig
from more4d.settings import Section

ArchitectureName = Literal["tiny", "wan-1.3b", "wan-14b"]


class TransformerShape(Section):
    """Depth and width of a Wan transformer; the channels and the conditioning widths follow from its neighbours."""

    heads: int = Field(gt=0)
    head_dim: int = Field(gt=0)
    ffn_dim: int = Field(gt=0)
    layers: int = Field(gt=0)


class STraGShape(TransformerShape):
    """STraG's own additions to the transformer."""

    motion_tokens: Literal["patch", "first", "none"] = "patch"
    """Motion features of every patch; for ablations the encoder's first token alone, or none."""
    reference_channels: int | None = None
    """Latent channels of the reference image that Wan-Fun Control prepends as tokens; None takes none."""


class Generation(Section):
    """How the networks are run: what training and inference must agree on."""

    frames: int = 49
    height: int = 368
    width: int = 512
    fps: float = 8.0
    steps: int = Field(default=50, gt=0)
    guidance: float = Field(default=6.0, ge=1)
    shift: float = Field(default=5.0, gt=0)
    prediction: Prediction = "velocity"
    depth_encoding: DepthEncoding = "linear"
    clip_image: ClipImage = "photo"
    reference: Reference = "none"
    unguided: Literal["zeros", "empty"] = "zeros"
    """What guidance leads away from where no negative prompt is given: no text at all, or the encoding of ""."""


class Architecture(Section):
    """Every network's shape."""

    name: ArchitectureName
    motion_vae: MotionVAEConfig
    strag: STraGShape
    vism: TransformerShape
    text: text.TextEncoderConfig
    image_encoder: image_encoder.ImageEncoderConfig
    motion_encoder: motion_encoder.MotionEncoderConfig
    depth: depth.DepthConfig
    generation: Generation


WAN_14B = Architecture(
    name="wan-14b",
    motion_vae=MotionVAEConfig(
        motion_mean=PUBLISHED_MOTION_MEAN, motion_std=PUBLISHED_MOTION_STD, motion_camera="published"
    ),
    strag=STraGShape(heads=40, head_dim=128, ffn_dim=13824, layers=40, reference_channels=16),
    vism=TransformerShape(heads=40, head_dim=128, ffn_dim=13824, layers=40),
    text=text.UMT5_XXL,
    image_encoder=image_encoder.CLIP_VIT_H,
    motion_encoder=motion_encoder.OMNIMAE_VITB,
    depth=depth.TINY,
    generation=Generation(clip_image="grey", reference="photo", unguided="empty"),
)


def _derived(parent: Architecture, **changes: dict[str, Any] | str) -> Architecture:
    """`parent` with some settings of some networks changed; what is not named stays the parent's."""
    groups = {
        name: change if isinstance(change, str) else getattr(parent, name).model_copy(update=change)
        for name, change in changes.items()
    }
    return parent.model_copy(update=groups)


_1_3B = dict(heads=12, head_dim=128, ffn_dim=8960, layers=30)
WAN_1_3B = _derived(WAN_14B, name="wan-1.3b", strag=_1_3B, vism=_1_3B)
TINY = _derived(
    WAN_14B,
    name="tiny",
    motion_vae=dict(
        codec=TrajectoryCodecConfig(width=16, groups=8, gain=2.0, starts_as_inverse=True),
        vae={"base_dim": 12, "num_res_blocks": 1},
        linear_start=True,
        motion_mean=0.0,
        motion_std=1.0,
        motion_camera="sample",
    ),
    strag=dict(heads=6, head_dim=32, ffn_dim=768, layers=6, reference_channels=None),
    vism=dict(heads=4, head_dim=32, ffn_dim=512, layers=4),
    text=dict(text.TINY),
    image_encoder=dict(image_encoder.TINY),
    motion_encoder=dict(motion_encoder.TINY),
    generation=dict(
        frames=13,
        height=64,
        width=96,
        steps=4,
        guidance=1.0,
        prediction="sample",
        depth_encoding="log",
        clip_image="photo",
        reference="none",
        unguided="zeros",
    ),
)
ARCHITECTURES: dict[str, Architecture] = {a.name: a for a in (TINY, WAN_1_3B, WAN_14B)}
