"""A checkpoint folder: every network that turns a picture into a scene, its shape, its files and their hashes."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from more4d.models.architectures import Architecture, TransformerShape
from more4d.models.depth import DepthNetwork
from more4d.models.image_encoder import ImageEncoder
from more4d.models.motion_encoder import MotionEncoder
from more4d.models.strag import STraGTransformer
from more4d.models.text import TextEncoder
from more4d.models.vae import MotionVAE
from more4d.models.vism import ViSMTransformer

NETWORKS = ("vae", "strag", "vism", "depth", "motion_encoder", "text", "image_encoder")
CONFIG, TOKENIZER = "config.json", "tokenizer.json"


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

    @classmethod
    def load(cls, folder: Path, *, overrides: Mapping[str, Path] | None = None, device: str = "cpu") -> "Models":
        """The checkpoint in `folder`, with the weights of some networks taken from other files.

        Raises ValueError naming the folder, file, key or shape that does not fit.
        """
        if unknown := sorted(set(overrides or {}) - set(NETWORKS)):
            raise ValueError(f"unknown networks {', '.join(unknown)}; the networks are {', '.join(NETWORKS)}")
        models = build(read_architecture(folder), read_tokenizer(folder))
        files = {name: folder / f"{name}.safetensors" for name in NETWORKS} | dict(overrides or {})
        for name, file in files.items():
            load_exactly(getattr(models, name), file)
            getattr(models, name).to(device).eval().requires_grad_(False)
        return Models(**{n: getattr(models, n) for n in NETWORKS}, config=models.config, files=files)

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
        files["tokenizer"].write_text(self.text.tokenizer_json)

    @cached_property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of each network's file."""
        return {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in sorted(self.files.items())}


def build(config: Architecture, tokenizer_json: str) -> Models:
    """Networks of the given shapes with random weights."""
    return Models(
        vae=MotionVAE(config.motion_vae),
        strag=build_strag(config),
        vism=build_vism(config),
        depth=DepthNetwork(config.depth),
        motion_encoder=MotionEncoder(config.motion_encoder),
        text=TextEncoder(config.text, tokenizer_json),
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


def load_exactly(network: nn.Module, file: Path) -> None:
    """Fill `network` from `file`; raises ValueError naming every key that is missing, extra or of another shape."""
    if not file.is_file():
        raise ValueError(f"checkpoint file {file} is missing")
    try:
        stored = load_file(file)
    except SafetensorError as error:
        raise ValueError(f"{file} is not a readable safetensors file: {error}") from error
    wanted = network.state_dict()
    problems = [f"missing {k}" for k in sorted(wanted.keys() - stored.keys())]
    problems += [f"unexpected {k}" for k in sorted(stored.keys() - wanted.keys())]
    problems += [
        f"{k} is {tuple(stored[k].shape)}, not {tuple(v.shape)}"
        for k, v in wanted.items()
        if k in stored and stored[k].shape != v.shape
    ]
    if problems:
        raise ValueError(f"{file} does not fit {type(network).__name__}: {'; '.join(problems[:8])}")
    network.load_state_dict({k: v.to(wanted[k].dtype) for k, v in stored.items()})
