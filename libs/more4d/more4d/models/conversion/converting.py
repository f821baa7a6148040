"""Published files into files of ours, and ours into published ones."""

from pathlib import Path

import torch
from torch import Tensor, nn

from more4d.data.atomic import atomic_file
from more4d.models.conversion.fitting import common_dtype, require_fit
from more4d.models.conversion.names import part, to_ours
from more4d.models.conversion.reading import PICKLES, VAE_PARTS, outlines, owned, read_ours
from more4d.models.conversion.stored import write_safetensors


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
    A safetensors file is written one tensor at a time, so that its size may exceed the memory.
    Raises CheckpointError when the file cannot be read or does not fit, and for several dtypes unless one is given.
    """
    state = read_ours(source, layout, back=back)
    headers = outlines(state)
    if network is not None:
        require_fit(network, to_ours(layout, headers) if back else headers, layout, source)
    wanted = dtype or common_dtype(headers, source)
    made = {n: v.to(wanted) if v.is_floating_point() else v for n, v in headers.items()}

    def read(name: str) -> Tensor:
        return owned(state, name, wanted)

    if back and layout == "motion_vae_folder":
        for folder in VAE_PARTS:
            _write_pickle(
                destination / folder / "pytorch_model.bin", {n: read(f"{folder}.{n}") for n in part(made, folder)}
            )
    elif back and destination.suffix in PICKLES:
        _write_pickle(destination, {name: read(name) for name in made})
    else:
        write_safetensors(destination, made, read)


def _write_pickle(file: Path, state: dict[str, Tensor]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(file) as partial:
        torch.save(state, partial)
