"""A checkpoint folder: every network that turns a picture into a scene, its shape, its files and their hashes."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor, nn

from more4d.data.hashing import hash_file
from more4d.models.architectures import Architecture, TransformerShape
from more4d.models.conversion.loading import assign, fill_tables
from more4d.models.conversion.stored import places
from more4d.models.depth import DepthNetwork
from more4d.models.image_encoder import ImageEncoder
from more4d.models.motion_encoder import MotionEncoder
from more4d.models.strag import STraGTransformer
from more4d.models.text import TextEncoder
from more4d.models.vae import MotionVAE
from more4d.models.vism import ViSMTransformer

NETWORKS = ("vae", "strag", "vism", "depth", "motion_encoder", "text", "image_encoder")
VIDEO_VAE = "video_vae"
"""A checkpoint may hold Wan's own VAE beside its motion VAE: under diffusers' names, without the trajectory codec."""
CONFIG, TOKENIZER = "config.json", "tokenizer.json"
Loaded = TypeVar("Loaded", bound=nn.Module)


@dataclass(frozen=True)
class Models:
    """The networks of one checkpoint, in evaluation mode."""

    vae: MotionVAE
    strag: STraGTransformer
    vism: ViSMTransformer
    depth: DepthNetwork
    motion_encoder: MotionEncoder
    text: TextEncoder
    image_encoder: ImageEncoder
    config: Architecture
    files: Mapping[str, Path]
    """Each network's weight file; empty for networks that were just made."""
    video_vae: MotionVAE | None = None
    """Wan's own VAE for videos, where the motion VAE's decoder was trained away from them."""

    @property
    def view_vae(self) -> MotionVAE:
        """The VAE of rendered and completed videos."""
        return self.video_vae or self.vae

    @classmethod
    def load(
        cls,
        folder: Path,
        *,
        overrides: Mapping[str, Path] | None = None,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> "Models":
        """The checkpoint in `folder`, with the weights of some networks taken from other files.

        Floating tensors become `dtype`; beside the loaded weights no more is held than one tensor. Raises ValueError
        naming the folder, file, key or shape that does not fit.
        """
        if unknown := sorted(set(overrides or {}) - set(NETWORKS)):
            raise ValueError(f"unknown networks {', '.join(unknown)}; the networks are {', '.join(NETWORKS)}")
        models = build(read_architecture(folder), read_tokenizer(folder), large_on_meta=True)
        files = {name: folder / f"{name}.safetensors" for name in NETWORKS} | dict(overrides or {})
        for name, file in files.items():
            load_exactly(getattr(models, name), file, dtype=dtype, device=device).eval().requires_grad_(False)
        networks = {name: getattr(models, name) for name in NETWORKS}
        video_vae = None
        if (video_file := folder / f"{VIDEO_VAE}.safetensors").is_file():
            video_vae, files = _video_vae(models.vae, video_file, dtype, device), files | {VIDEO_VAE: video_file}
        return Models(**networks, config=models.config, files=files, video_vae=video_vae)

    def save(self, folder: Path, *, dtype: torch.dtype = torch.float16) -> None:
        """Write every network, the architecture and the tokenizer under `folder`."""
        folder.mkdir(parents=True, exist_ok=True)
        files = {name: folder / f"{name}.safetensors" for name in NETWORKS}
        self.save_files(files | {"config": folder / CONFIG, "tokenizer": folder / TOKENIZER}, dtype=dtype)

    def save_files(self, files: Mapping[str, Path], *, dtype: torch.dtype) -> None:
        """Write each network, "config" and "tokenizer" to its file."""
        for name in NETWORKS:
            save_network(getattr(self, name), files[name], dtype=dtype)
        files["config"].write_text(self.config.model_dump_json(indent=2) + "\n")
        assert self.text.tokenizer_json, "a checkpoint's text encoder is made with its tokenizer"
        files["tokenizer"].write_text(self.text.tokenizer_json)

    @cached_property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of each network's file."""
        return {name: hash_file(file) for name, file in sorted(self.files.items())}


def _video_vae(motion_vae: MotionVAE, file: Path, dtype: torch.dtype, device: str) -> MotionVAE:
    """The motion VAE with Wan's own VAE of `file` between its two halves, which are shared."""
    made = MotionVAE(motion_vae.config)
    made.trajectory_encoder, made.trajectory_decoder = motion_vae.trajectory_encoder, motion_vae.trajectory_decoder
    load_exactly(made.vae, file, dtype=dtype, device=device)
    return made.eval().requires_grad_(False)


def build(config: Architecture, tokenizer_json: str, *, large_on_meta: bool = False) -> Models:
    """Networks of the given shapes with random weights; the transformers and the text encoder without any where asked."""
    with torch.device("meta") if large_on_meta else nullcontext():
        strag, vism, text = build_strag(config), build_vism(config), TextEncoder(config.text, tokenizer_json)
    return Models(
        vae=MotionVAE(config.motion_vae),
        strag=strag,
        vism=vism,
        depth=DepthNetwork(config.depth),
        motion_encoder=MotionEncoder(config.motion_encoder),
        text=text,
        image_encoder=ImageEncoder(config.image_encoder),
        config=config,
        files={},
    )


def build_strag(config: Architecture) -> STraGTransformer:
    """A STraG transformer whose conditioning widths follow its neighbours."""
    return STraGTransformer(
        **_transformer(config, config.strag),
        motion_dim=config.motion_encoder.dim,
        motion_grid=config.motion_encoder.grid,
        motion_tokens=config.strag.motion_tokens,
        reference_channels=config.strag.reference_channels,
    )


def build_vism(config: Architecture) -> ViSMTransformer:
    """A ViSM transformer whose conditioning widths follow its neighbours."""
    return ViSMTransformer(**_transformer(config, config.vism))


def _transformer(config: Architecture, shape: TransformerShape) -> dict[str, Any]:
    return {
        "num_attention_heads": shape.heads,
        "attention_head_dim": shape.head_dim,
        "ffn_dim": shape.ffn_dim,
        "num_layers": shape.layers,
        "text_dim": config.text.dim,
        "image_dim": config.image_encoder.dim,
        "image_tokens": config.image_encoder.tokens,
    }


def read_architecture(folder: Path) -> Architecture:
    """The architecture stored in a checkpoint folder. Raises ValueError when there is none or it is not one."""
    try:
        return Architecture.model_validate_json(_read(folder, CONFIG))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise ValueError(f"{folder / CONFIG} is not an architecture: {where} {first['msg']}") from error


def read_tokenizer(folder: Path) -> str:
    """The tokenizer stored in a checkpoint folder, as JSON text. Raises ValueError when there is none."""
    return _read(folder, TOKENIZER)


def _read(folder: Path, name: str) -> str:
    if not (folder / name).is_file():
        raise ValueError(
            f"no checkpoint at {folder}: {name} is missing; give a checkpoint folder or run `make tiny-base`"
        )
    return (folder / name).read_text()


def save_network(network: nn.Module, file: Path, *, dtype: torch.dtype = torch.float32) -> None:
    """Write a network's state dict as safetensors, floating tensors in `dtype`."""
    save_file({k: _stored(v, dtype) for k, v in network.state_dict().items()}, file)


def _stored(value: Tensor, dtype: torch.dtype) -> Tensor:
    return value.detach().to(dtype if value.is_floating_point() else value.dtype).contiguous().clone()


def load_exactly(
    network: Loaded, file: Path, *, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> Loaded:
    """`network` on `device`, filled from `file` tensor by tensor; it may be on the meta device.

    Floating tensors become `dtype`, by default the network's own. Raises ValueError naming the file that cannot be read,
    or every key that is missing, extra or of another shape.
    """
    found, wanted = places(file), network.state_dict()
    require_same_tensors(network, {name: place.shape for name, place in found.items()}, wanted, file)
    if not any(value.is_meta for value in wanted.values()):
        network.to(device)
    for name, place in found.items():
        own = wanted[name].dtype
        assign(network, name, place.read().to(device, dtype if dtype and own.is_floating_point else own))
    fill_tables(network, device)
    return network


def require_same_tensors(
    network: nn.Module, found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, Tensor], file: Path
) -> None:
    """Raises ValueError naming every key of `file` that is missing, extra or of another shape than the network's."""
    problems = [f"missing {k}" for k in sorted(wanted.keys() - found.keys())]
    problems += [f"unexpected {k}" for k in sorted(found.keys() - wanted.keys())]
    problems += [
        f"{k} is {found[k]}, not {tuple(v.shape)}" for k, v in wanted.items() if found.get(k, v.shape) != v.shape
    ]
    if problems:
        raise ValueError(f"{file} does not fit {type(network).__name__}: {'; '.join(problems[:8])}")
