"""Published files into one checkpoint folder of ours, which `more4d generate`, the pipelines and training load.

Each network is written before the next is read, one tensor at a time where nothing has to be computed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from more4d.data.atomic import atomic_directory
from more4d.models.architectures import Architecture
from more4d.models.bundle import CONFIG, TOKENIZER, VIDEO_VAE, build_strag, build_vism, require_same_tensors
from more4d.models.conversion import load_published, strag_from_wan_control
from more4d.models.conversion.fitting import require_fit
from more4d.models.conversion.names import part
from more4d.models.conversion.reading import outlines, owned, read_ours
from more4d.models.conversion.stored import places, write_safetensors
from more4d.models.depth import DepthNetwork
from more4d.models.image_encoder import ImageEncoder
from more4d.models.licences import write_licences
from more4d.models.lora import PUBLISHED_WEIGHT, merge, read_lora
from more4d.models.motion_encoder import MaskedAutoencoder
from more4d.models.text import TextEncoder
from more4d.models.vae import MotionVAE


@dataclass(frozen=True)
class Sources:
    """The published files of a checkpoint. Either `strag`, or `strag_base` and `omnimae`, where training starts."""

    motion_vae: Path
    vism: Path
    text: Path
    tokenizer: Path
    image_encoder: Path
    depth: Path
    """Weights of our own depth network; UniDepth and MoGe are not part of a checkpoint."""
    strag: Path | None = None
    """The released STraG, with OmniMAE inside."""
    strag_base: Path | None = None
    """Wan-Fun Control."""
    omnimae: Path | None = None
    vism_lora: Path | None = None
    video_vae: Path | None = None
    """Wan's own VAE: the motion VAE's decoder was trained away from videos."""

    def __post_init__(self) -> None:
        if (self.strag is None) == (self.strag_base is None or self.omnimae is None):
            raise ValueError(
                "give the released STraG, or Wan-Fun Control and OmniMAE for a STraG that is to be trained"
            )


def assemble(
    architecture: Architecture,
    sources: Sources,
    folder: Path,
    *,
    dtype: torch.dtype = torch.bfloat16,
    lora_weight: float = PUBLISHED_WEIGHT,
    licences: Mapping[str, str] | None = None,
) -> None:
    """Write the checkpoint `folder`, whole or not at all: seven networks in `dtype`, the architecture, the tokenizer.

    ViSM is its base with the LoRA merged by `lora_weight`, or the base alone without one. The networks' `licences`, by
    their names, are written beside them. Raises CheckpointError naming the file, keys and shapes that do not fit the
    architecture.
    """
    parts = {
        "strag": _write_strag if sources.strag else _write_untrained_strag,
        "vae": _write_vae,
        "video_vae": _write_video_vae,
        "vism": partial(_write_vism, lora_weight=lora_weight),
        "encoders": _write_encoders,
        "depth": _write_depth,
    }
    with atomic_directory(folder) as made, tqdm(parts.items(), desc=folder.name, unit="part") as bar:
        for name, write in bar:
            bar.set_postfix_str(name)
            write(architecture, sources, made, dtype)
        (made / CONFIG).write_text(architecture.model_dump_json(indent=2) + "\n")
        (made / TOKENIZER).write_text(sources.tokenizer.read_text())
        if licences:
            write_licences(made, licences)


def _write_strag(architecture: Architecture, sources: Sources, folder: Path, dtype: torch.dtype) -> None:
    assert sources.strag is not None
    with torch.device("meta"):
        autoencoder = MaskedAutoencoder(architecture.motion_encoder)
        networks = nn.ModuleDict({"strag": build_strag(architecture), "motion_encoder": autoencoder})
    state = read_ours(sources.strag, "strag")
    headers = outlines(state)
    require_fit(networks, headers, "strag", sources.strag)
    for network, prefix in (("strag", "strag"), ("motion_encoder", "motion_encoder.trunk")):
        made = {name: value.to(dtype) for name, value in part(headers, prefix).items()}
        write_safetensors(
            folder / f"{network}.safetensors", made, lambda name, prefix=prefix: owned(state, f"{prefix}.{name}", dtype)
        )


def _write_untrained_strag(architecture: Architecture, sources: Sources, folder: Path, dtype: torch.dtype) -> None:
    assert sources.strag_base is not None and sources.omnimae is not None
    with torch.device("meta"):
        strag, autoencoder = build_strag(architecture), MaskedAutoencoder(architecture.motion_encoder)
    # Fresh layers are drawn alike every time, whatever was drawn before.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        _write(strag_from_wan_control(strag, read_ours(sources.strag_base, "wan_dit"), dtype=dtype), folder / "strag")
    del strag
    _write(load_published(autoencoder, sources.omnimae, "omnimae", dtype=dtype).trunk, folder / "motion_encoder")


def _write_vae(architecture: Architecture, sources: Sources, folder: Path, dtype: torch.dtype) -> None:
    with torch.device("meta"):
        vae = MotionVAE(architecture.motion_vae)
    _write(load_published(vae, sources.motion_vae, "motion_vae_folder", dtype=dtype), folder / "vae")


def _write_video_vae(architecture: Architecture, sources: Sources, folder: Path, dtype: torch.dtype) -> None:
    if sources.video_vae is None:
        return
    with torch.device("meta"):
        vae = MotionVAE(architecture.motion_vae).vae
    _write(load_published(vae, sources.video_vae, "wan_vae", dtype=dtype), folder / VIDEO_VAE)


@torch.no_grad()
def _write_vism(
    architecture: Architecture, sources: Sources, folder: Path, dtype: torch.dtype, lora_weight: float
) -> None:
    with torch.device("meta"):
        vism = build_vism(architecture)
    load_published(vism, sources.vism, "wan_dit", dtype=dtype)
    if sources.vism_lora is not None:
        merge(vism, read_lora(sources.vism_lora, vism), lora_weight)
    _write(vism, folder / "vism")


def _write_encoders(architecture: Architecture, sources: Sources, folder: Path, dtype: torch.dtype) -> None:
    _write(
        TextEncoder.from_wan(sources.text, sources.tokenizer, config=architecture.text, dtype=dtype), folder / "text"
    )
    image_encoder = ImageEncoder.from_wan(sources.image_encoder, config=architecture.image_encoder, dtype=dtype)
    _write(image_encoder, folder / "image_encoder")


def _write_depth(architecture: Architecture, sources: Sources, folder: Path, dtype: torch.dtype) -> None:
    found = places(sources.depth)
    with torch.device("meta"):
        network = DepthNetwork(architecture.depth)
    require_same_tensors(network, {n: p.shape for n, p in found.items()}, network.state_dict(), sources.depth)
    write_safetensors(
        folder / "depth.safetensors", {n: p.outline() for n, p in found.items()}, lambda name: found[name].read()
    )


def _write(network: nn.Module, stem: Path) -> None:
    """A network's tensors as `<stem>.safetensors`, without a copy of them all."""
    state = network.state_dict()
    write_safetensors(
        stem.with_suffix(".safetensors"), {n: v.to("meta") for n, v in state.items()}, lambda name: state[name]
    )
