"""Published files read without running anything of theirs: safetensors, one file or shards, and pickled tensors."""

import json
import pickle
import re
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from more4d.models.conversion.names import CheckpointError, listed, rename
from more4d.models.conversion.stored import Place, first_bytes, places, require_file

PICKLES = (".pth", ".pt", ".torch", ".bin")
INDEX = ".safetensors.index.json"
WRAPPERS = ("model", "state_dict")
"""Keys under which a pickled file may hold its tensors."""
VAE_PARTS = ("encoder_prompt", "decoder_prompt", "vae")
"""Folders of the released motion VAE."""
_TORN = (
    RuntimeError,
    OSError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    struct.error,
)
"""What torch.load raises over a damaged file, as random damage showed."""


class ShardedState(Mapping[str, Tensor]):
    """The tensors of safetensors files, each read when it is asked for, into memory that nobody else holds."""

    def __init__(self, places: Mapping[str, Place]) -> None:
        self._places = places

    def __getitem__(self, name: str) -> Tensor:
        return self.read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def read(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """A tensor, in `dtype` where that is given and the tensor floating."""
        return self._places[name].read(dtype)

    def outlines(self) -> dict[str, Tensor]:
        """Every tensor on the meta device: shapes and dtypes, no values."""
        return {name: place.outline() for name, place in self._places.items()}

    def renamed(self, names: Mapping[str, str]) -> "ShardedState":
        """The same tensors by their new names."""
        return ShardedState({names[name]: place for name, place in self._places.items()})


def outlines(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every tensor of a state on the meta device: shapes and dtypes, no values."""
    return state.outlines() if isinstance(state, ShardedState) else {n: t.to("meta") for n, t in state.items()}


def read_ours(path: Path, layout: str, *, back: bool = False) -> Mapping[str, Tensor]:
    """A published file's tensors by our names or, going `back`, those of a file of ours by published names.

    Safetensors are read one by one as they are asked for. Raises CheckpointError like `read_published` and `rename`.
    """
    state = read_published(path)
    names = rename(layout, state, back=back)
    return state.renamed(names) if isinstance(state, ShardedState) else {names[n]: v for n, v in state.items()}


def owned(state: Mapping[str, Tensor], name: str, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
    """A tensor on `device`, in `dtype` where it is floating, that neither `state` nor a file holds."""
    if isinstance(state, ShardedState):
        return state.read(name, dtype).to(device)
    value = state[name]
    return value.to(device, dtype if value.is_floating_point() else None, copy=True)


def read_published(path: Path) -> Mapping[str, Tensor]:
    """Tensors by their published names; safetensors are read one by one as they are asked for.

    `path` is a safetensors file, an index of shards, a pickled file of tensors (.pth, .pt, .torch, .bin), a folder with
    one such safetensors file or index, or the released VAE folder, whose names get that of their folder as a prefix.
    Raises CheckpointError when it is none of these, is truncated, lacks a shard, or holds anything but tensors.
    """
    if path.is_dir():
        return _read_folder(path)
    if path.name.endswith(INDEX):
        return _read_index(path)
    if path.suffix == ".safetensors":
        return ShardedState(places(path))
    if path.suffix in PICKLES:
        return _read_pickle(path)
    raise CheckpointError(
        f"{path} is none of *.safetensors, *{INDEX}, {', '.join('*' + s for s in PICKLES)} or a folder"
    )


def _read_folder(folder: Path) -> Mapping[str, Tensor]:
    if any((folder / name).is_dir() for name in VAE_PARTS):
        parts = {name: _read_pickle(folder / name / "pytorch_model.bin") for name in VAE_PARTS}
        return {f"{name}.{key}": value for name, state in parts.items() for key, value in state.items()}
    found = sorted(folder.glob("*" + INDEX)) or sorted(folder.glob("*.safetensors"))
    if len(found) != 1:
        names = ", ".join(p.name for p in found) or "none"
        raise CheckpointError(f"{folder} must hold one safetensors file or index, not {names}; give the file itself")
    return read_published(found[0])


def _read_index(index: Path) -> ShardedState:
    files = {name: index.parent / shard for name, shard in _weight_map(index).items()}
    if missing := sorted({file.name for file in files.values() if not file.is_file()}):
        raise CheckpointError(f"{index} names shards that are missing: {listed(missing)}")
    held: dict[str, Place] = {}
    for file in sorted(set(files.values())):
        held |= places(file)
    if wrong := sorted(
        name for name in files.keys() | held.keys() if name not in held or files.get(name) != held[name].file
    ):
        raise CheckpointError(f"{index} and its shards disagree on where {listed(wrong)} is")
    return ShardedState({name: held[name] for name in files})


def _weight_map(index: Path) -> dict[str, str]:
    require_file(index)
    try:
        shards = json.loads(index.read_text())["weight_map"]
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{index} is no index of safetensors shards: it has no weight_map") from error
    # A shard lies beside its index: a path would reach elsewhere.
    if not isinstance(shards, dict) or any(not isinstance(s, str) or Path(s).name != s for s in shards.values()):
        raise CheckpointError(
            f"{index} is no index of safetensors shards: weight_map must give a file name for each key"
        )
    return shards


def _read_pickle(file: Path) -> dict[str, Tensor]:
    require_file(file)
    try:
        # Files of before torch 1.6 are no zip archives and cannot be mapped.
        loaded = torch.load(file, map_location="cpu", weights_only=True, mmap=first_bytes(file, 2) == b"PK")
    except (pickle.UnpicklingError, *_TORN) as error:
        raise CheckpointError(_refusal(file, error)) from error
    return _tensors(loaded, file)


def _refusal(file: Path, error: Exception) -> str:
    text = str(error)
    if not isinstance(error, pickle.UnpicklingError) or "Unsupported operand" in text:
        return f"{file} is truncated or no file of torch.save: {text[:200] or type(error).__name__}"
    asked = re.search(r"GLOBAL (\S+)", text)
    what = f"({asked[1]}) " if asked else ""
    return f"{file} holds Python objects {what}beside tensors; it is not loaded, since that could run code of its own"


def _tensors(loaded: Any, file: Path) -> dict[str, Tensor]:
    """The state itself, or the one under a key of `WRAPPERS`."""
    if isinstance(loaded, dict) and loaded and all(isinstance(value, Tensor) for value in loaded.values()):
        return dict(loaded)
    wrapped = [key for key in WRAPPERS if isinstance(loaded, dict) and isinstance(loaded.get(key), dict)]
    if len(wrapped) != 1:
        keys = listed([str(key) for key in loaded]) if isinstance(loaded, dict) else type(loaded).__name__
        raise CheckpointError(
            f"{file} holds {keys or 'nothing'}, neither tensors by name nor these under one of {', '.join(WRAPPERS)}"
        )
    return _tensors(loaded[wrapped[0]], file)
