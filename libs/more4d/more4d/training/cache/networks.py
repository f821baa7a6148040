"""A checkpoint's encoders, each loaded when it is first asked for, and what their weights are told apart by."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from more4d.models.bundle import NETWORKS, TOKENIZER, VIDEO_VAE, Models, load_exactly, read_architecture, read_tokenizer
from more4d.models.conversion.stored import Place, places
from more4d.models.image_encoder import ImageEncoder
from more4d.models.motion_encoder import MotionEncoder
from more4d.models.text import TextEncoder
from more4d.models.vae import MotionVAE

_BLOCK = 1 << 24
Loaded = TypeVar("Loaded", bound=nn.Module)


class CheckpointEncoders:
    """The encoders of the checkpoint in `folder` on `device`, in single precision; `vae` is another file of the motion VAE.

    What nobody asks for is never loaded: neither the transformers, nor the text encoder while its outputs are in store.
    """

    def __init__(self, folder: Path, *, vae: Path | None = None, device: str = "cpu") -> None:
        self.folder, self.device = folder, device
        self.config = read_architecture(folder)
        files = {name: folder / f"{name}.safetensors" for name in (*NETWORKS, VIDEO_VAE)} | {
            "tokenizer": folder / TOKENIZER
        }
        self.files: Mapping[str, Path] = files if vae is None else files | {"vae": vae}

    @property
    def has_video_vae(self) -> bool:
        """Whether videos have a VAE of their own, which training the motion VAE leaves alone."""
        return self.files[VIDEO_VAE].is_file()

    @cached_property
    def vae(self) -> MotionVAE:
        """The motion VAE."""
        return self._filled(MotionVAE(self.config.motion_vae), "vae")

    @cached_property
    def view_vae(self) -> MotionVAE:
        """The VAE of videos: the motion VAE, or Wan's own between the motion VAE's two halves."""
        if not self.has_video_vae:
            return self.vae
        made = MotionVAE(self.config.motion_vae)
        made.trajectory_encoder, made.trajectory_decoder = self.vae.trajectory_encoder, self.vae.trajectory_decoder
        self._filled(made.vae, VIDEO_VAE)
        return made.eval().requires_grad_(False)

    @cached_property
    def text(self) -> TextEncoder:
        """The text encoder with its tokenizer."""
        with torch.device("meta"):
            made = TextEncoder(self.config.text, read_tokenizer(self.folder))
        return self._filled(made, "text")

    @cached_property
    def image_encoder(self) -> ImageEncoder:
        """CLIP."""
        return self._filled(ImageEncoder(self.config.image_encoder), "image_encoder")

    @cached_property
    def motion_encoder(self) -> MotionEncoder:
        """OmniMAE's trunk."""
        return self._filled(MotionEncoder(self.config.motion_encoder), "motion_encoder")

    def _filled(self, network: Loaded, name: str) -> Loaded:
        filled = load_exactly(network, self.files[name], dtype=torch.float32, device=self.device)
        return filled.eval().requires_grad_(False)


Networks = Models | CheckpointEncoders
"""What samples are encoded with."""


def hash_weights(file: Path, starts: Sequence[str] = ("",)) -> str:
    """SHA-256 of the tensors whose names start so, whatever else the file holds and wherever they lie in it.

    Raises ValueError where there is none.
    """
    digest, found = hashlib.sha256(), 0
    for name, place in sorted(places(file).items()):
        if name.startswith(tuple(starts)):
            digest.update(f"{name} {place.dtype} {place.shape}\n".encode())
            for block in _blocks(place):
                digest.update(block)
            found += 1
    if not found:
        raise ValueError(f"{file} has no tensor named {' or '.join(starts)}...: it is not what encodes")
    return digest.hexdigest()


def _blocks(place: Place) -> Iterator[bytes]:
    left = prod(place.shape) * place.dtype.itemsize
    with place.file.open("rb", buffering=0) as opened:
        opened.seek(place.start)
        while left and (block := opened.read(min(left, _BLOCK))):
            left -= len(block)
            yield block
