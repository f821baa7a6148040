"""A checkpoint's weights as plain safetensors or as a published file, whatever the number of ranks that wrote it."""

import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from more4d.models.conversion import CheckpointError, convert_file, rename
from more4d.models.conversion.fitting import common_dtype
from more4d.models.conversion.names import listed
from more4d.models.conversion.stored import places, write_safetensors
from more4d.training.checkpoints.checkpoint import Checkpoint
from more4d.training.checkpoints.fitting import different

Weights = Literal["model", "ema"]
ALL = {"": ""}
"""Every tensor under its own name."""
_FACTOR = re.compile(r"(?P<factor>(?P<layer>.+)\.lora_[AB])\.[^.]+\.weight")


@dataclass(frozen=True)
class _Source:
    """A tensor that is read when its turn comes: what it is, on the meta device, and how to get it."""

    outline: Tensor
    read: Callable[[], Tensor]


def export_tensors(
    checkpoint: Checkpoint,
    destination: Path,
    *,
    weights: Weights = "ema",
    parts: Mapping[str, str] = ALL,
    rest: Mapping[str, Path] | None = None,
    like: Path | None = None,
    dtype: torch.dtype | None = None,
    layout: str | None = None,
    lora_alpha: float | None = None,
) -> list[str]:
    """Write a checkpoint's weights to a file, holding one tensor at a time; returns the tensors that are left out.

    `parts` gives the prefixes of the tensors that are wanted, and the prefix that each has in the file: of a motion VAE's
    training `decoder.` becomes `vae.decoder.`. `rest` gives safetensors files for what was not trained, by the prefix
    that their names get; trained tensors go before them. The file must then have the names and shapes of the
    safetensors file `like`, where one is given. Floating tensors become `dtype`, by default they stay what they are.
    With a `layout` of `more4d.models.conversion` the names are the published ones, and the destination may also be what
    `convert_file` writes. Where an adapter was trained, its `lora_alpha` asks for the adapter alone (layout `vism_lora` is
    kohya's). Raises CheckpointError, with nothing written, naming the tensors that do not fit.
    """
    sources, left_out = _trained(checkpoint, weights, parts)
    if lora_alpha is not None:
        sources, others = _adapter(sources, lora_alpha, checkpoint.folder)
        left_out += others
    for prefix, file in (rest or {}).items():
        sources = _stored(file, prefix) | sources
    _require_like(destination, sources, like)
    if layout is None:
        _write(destination, sources, {name: name for name in sources}, dtype)
        return left_out
    published = rename(layout, sources, back=True)
    if dtype is None:
        common_dtype({name: source.outline for name, source in sources.items()}, checkpoint.folder)
    if destination.suffix == ".safetensors":
        _write(destination, sources, published, dtype)
        return left_out
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".export-") as folder:
        _write(Path(folder) / "ours.safetensors", sources, {name: name for name in sources}, dtype)
        convert_file(layout, Path(folder) / "ours.safetensors", destination, dtype=dtype, back=True)
    return left_out


def _trained(
    checkpoint: Checkpoint, weights: Weights, parts: Mapping[str, str]
) -> tuple[dict[str, _Source], list[str]]:
    """The wanted tensors of a checkpoint by their new names, and the names of the others."""
    sources: dict[str, _Source] = {}
    prefix = f"{weights}/"
    names = [name.removeprefix(prefix) for name in checkpoint.names() if name.startswith(prefix)]
    renamed = _renamed(names, parts)
    if not renamed:
        wanted = ", ".join(f"{prefix}{part}*" for part in parts)
        raise CheckpointError(f"{checkpoint.folder} holds no tensor {wanted}; it holds {_kinds(checkpoint.names())}")
    for name, new in renamed.items():
        if new in sources:
            raise CheckpointError(f"two tensors of {checkpoint.folder} would be called {new}; give other parts")
        sources[new] = _of_checkpoint(checkpoint, prefix + name)
    return sources, [name for name in names if name not in renamed]


def _renamed(names: Iterable[str], parts: Mapping[str, str]) -> dict[str, str]:
    """The new name of every name that starts with one of `parts`, by the longest that fits."""
    longest = sorted(parts, key=len, reverse=True)
    fitting = {name: next((p for p in longest if name.startswith(p)), None) for name in names}
    return {name: parts[p] + name.removeprefix(p) for name, p in fitting.items() if p is not None}


def _adapter(sources: Mapping[str, _Source], alpha: float, folder: Path) -> tuple[dict[str, _Source], list[str]]:
    """Down, up and alpha of every layer that peft put an adapter on, and the names of the other tensors."""
    # peft: <layer>.lora_A.<name of the adapter>.weight
    found = {name: match for name in sources if (match := _FACTOR.fullmatch(name))}
    if not found:
        raise CheckpointError(f"{folder} holds no adapter: export its weights without lora_alpha")
    adapter = {f"{match['factor']}.weight": sources[name] for name, match in found.items()}
    for name, match in found.items():
        scale = torch.tensor(alpha, dtype=sources[name].outline.dtype)
        adapter[f"{match['layer']}.alpha"] = _Source(scale.to("meta"), scale.clone)
    return adapter, [name for name in sources if name not in found]


def _of_checkpoint(checkpoint: Checkpoint, name: str) -> _Source:
    outline = torch.empty(checkpoint.shape(name), dtype=checkpoint.dtype(name), device="meta")
    return _Source(outline, lambda: checkpoint.whole(name))


def _stored(file: Path, prefix: str) -> dict[str, _Source]:
    return {prefix + name: _Source(place.outline(), place.read) for name, place in places(file).items()}


def _require_like(destination: Path, sources: Mapping[str, _Source], like: Path | None) -> None:
    """Raises CheckpointError unless the tensors have the names and shapes of those in the file `like`."""
    if like is None:
        return
    wanted = {name: place.shape for name, place in places(like).items()}
    if differences := different({name: tuple(s.outline.shape) for name, s in sources.items()}, wanted):
        raise CheckpointError(f"{destination} would not be like {like}: {differences}")


def _write(file: Path, sources: Mapping[str, _Source], names: Mapping[str, str], dtype: torch.dtype | None) -> None:
    """Write tensors under the `names` of theirs, floating ones in `dtype`."""
    by_new = {names[name]: source for name, source in sources.items()}

    def cast(value: Tensor) -> Tensor:
        return value.to(dtype) if dtype is not None and value.is_floating_point() else value

    outlines = {name: cast(source.outline) for name, source in by_new.items()}
    write_safetensors(file, outlines, lambda name: cast(by_new[name].read()))


def _kinds(names: Iterable[str]) -> str:
    """The first parts of names, such as model/ and ema/."""
    return listed(sorted({name.split("/")[0] + "/" for name in names})) or "nothing"
