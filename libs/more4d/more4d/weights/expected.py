"""Which tensors a weight's files must hold, by our names: those of the network that its layout and preset stand for."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from more4d.models.architectures import ARCHITECTURES, Architecture
from more4d.models.bundle import build_strag, build_vism
from more4d.models.conversion import to_ours
from more4d.models.image_encoder import ImageEncoder
from more4d.models.motion_encoder import MaskedAutoencoder
from more4d.models.text import TextEncoder
from more4d.models.vae import MotionVAE
from more4d.weights.registry import CONVERTIBLE, Weight

BASE_CHANNELS = 48
"""What Wan-Fun Control's patch embedding takes; STraG's is widened to 64."""
_ADDED = ("motion_adapter.", ".motion1.", ".motion2.")


@dataclass(frozen=True)
class Expected:
    """A network's tensors on the meta device; of the `tied` names one is enough."""

    network: str
    tensors: Mapping[str, Tensor]
    tied: frozenset[str] = frozenset()


def expected_tensors(weight: Weight, architecture: Architecture) -> Expected | None:
    """What a weight must hold, by our names; None for a network that is not ours."""
    if weight.network is None:
        return None
    with torch.device("meta"):
        return _BUILDERS[weight.network](architecture)


def preset_of(weight: Weight) -> Architecture:
    """The shapes that a weight was made for: of the first preset that needs it."""
    return ARCHITECTURES[weight.presets[0] if weight.presets else "wan-14b"]


def to_our_names(weight: Weight, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a weight's files by our names. Raises ValueError naming those that the layout does not have."""
    if weight.layout in CONVERTIBLE:
        return to_ours(weight.layout, tensors)
    # transformers 5 dropped the wrapper's prefix, and the table of positions is no parameter.
    plain = {name.removeprefix("vision_model."): value for name, value in tensors.items()}
    return {name: value for name, value in plain.items() if not name.endswith(".position_ids")}


def _strag(architecture: Architecture) -> Expected:
    tensors = _prefixed("strag", build_strag(architecture))
    tensors |= _prefixed("motion_encoder", MaskedAutoencoder(architecture.motion_encoder))
    return Expected("STraGTransformer with OmniMAE", tensors)


def _strag_base(architecture: Architecture) -> Expected:
    state = build_strag(architecture).state_dict()
    tensors = {k: v for k, v in state.items() if not any(part in k for part in _ADDED)}
    patch = tensors["patch_embedding.weight"]
    tensors["patch_embedding.weight"] = patch.new_empty((patch.shape[0], BASE_CHANNELS, *patch.shape[2:]))
    return Expected("STraGTransformer's base", tensors)


def _vism(architecture: Architecture) -> Expected:
    return Expected("ViSMTransformer", build_vism(architecture).state_dict())


def _motion_vae(architecture: Architecture) -> Expected:
    return Expected("MotionVAE", MotionVAE(architecture.motion_vae).state_dict())


def _wan_vae(architecture: Architecture) -> Expected:
    return Expected("AutoencoderKLWan", MotionVAE(architecture.motion_vae).vae.state_dict())


def _motion_encoder(architecture: Architecture) -> Expected:
    return Expected("MaskedAutoencoder", MaskedAutoencoder(architecture.motion_encoder).state_dict())


def _text(architecture: Architecture) -> Expected:
    tensors = _prefixed("encoder", TextEncoder(architecture.text).encoder)
    tied = "encoder.embed_tokens.weight", "shared.weight"
    return Expected("UMT5EncoderModel", tensors | {tied[1]: tensors[tied[0]]}, frozenset(tied))


def _image_encoder(architecture: Architecture) -> Expected:
    return Expected("CLIPVisionModel", ImageEncoder(architecture.image_encoder).vision.state_dict())


def _prefixed(prefix: str, network: nn.Module) -> dict[str, Tensor]:
    return {f"{prefix}.{name}": value for name, value in network.state_dict().items()}


_BUILDERS: dict[str, Callable[[Architecture], Expected]] = {
    "strag": _strag,
    "strag-base": _strag_base,
    "vism": _vism,
    "motion_vae": _motion_vae,
    "wan_vae": _wan_vae,
    "motion_encoder": _motion_encoder,
    "text": _text,
    "image_encoder": _image_encoder,
}
