"""Published files into files of ours, and ours into published ones."""

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from more4d.models.conversion.fitting import common_dtype, require_fit
from more4d.models.conversion.loading import copied
from more4d.models.conversion.names import part, to_ours
from more4d.models.conversion.reading import VAE_PARTS, outlines, read_ours


def convert_file(
    layout: str,
    source: Path,
    destination: Path,
    *,
    dtype: torch.dtype | None = None,
    network: nn.Module | None = None,
    back: bool = False,
) -> None:
    """Write a published checkpoint as a safetensors file under our names or, going `back`, ours under published names.

    `network`, which may be on the meta device, is what the checkpoint must fit; without it only the names are checked.
    Going back, `.pth`, `.pt`, `.torch` and `.bin` give pickled tensors, and `motion_vae_folder` a folder of three.
    Raises CheckpointError when the file cannot be read or does not fit, and for several dtypes unless one is given.
    """
    state = read_ours(source, layout, back=back)
    headers = outlines(state)
    if network is not None:
        require_fit(network, to_ours(layout, headers) if back else headers, layout, source)
    wanted = dtype or common_dtype(headers, source)
    # Of one dtype the tensors stay what they are: ranges of the file, without a copy.
    renamed = {name: state[name] if headers[name].dtype == wanted else copied(state[name], wanted) for name in state}
    if back and layout == "motion_vae_folder":
        _write_vae_folder(renamed, destination)
    else:
        _write(renamed, destination)


def _write_vae_folder(state: Mapping[str, Tensor], folder: Path) -> None:
    for name in VAE_PARTS:
        _write(part(state, name), folder / name / "pytorch_model.bin")


def _write(state: dict[str, Tensor], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        if file.suffix == ".safetensors":
            save_file({name: value.contiguous() for name, value in state.items()}, partial, metadata={"format": "pt"})
        else:
            torch.save({name: value.clone() for name, value in state.items()}, partial)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
