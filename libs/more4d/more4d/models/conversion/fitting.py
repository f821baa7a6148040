"""Whether a checkpoint is the network's own: every key there, none more, each of its shape, all of one dtype."""

import re
from collections.abc import Container, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from more4d.models.conversion.names import CheckpointError, layout_of, listed


def require_fit(
    network: nn.Module, state: Mapping[str, Tensor], layout: str, source: Path | str, *, without: Container[str] = ()
) -> None:
    """Raises CheckpointError naming each tensor (our name) that is missing, extra or of another shape, and both sizes.

    The network's tensors in `without` are no part of the checkpoint.
    """
    wanted = {name: value for name, value in network.state_dict().items() if name not in without}
    shapes = {name: f"{_shape(state[name])}, not {_shape(wanted[name])}" for name in state.keys() & wanted.keys()}
    problems = {
        "missing": [f"{name} {_shape(wanted[name])}" for name in sorted(wanted.keys() - state.keys())],
        "extra": [f"{name} {_shape(state[name])}" for name in sorted(state.keys() - wanted.keys())],
        "of another shape": [f"{n} is {shapes[n]}" for n in sorted(shapes) if state[n].shape != wanted[n].shape],
    }
    found = [f"{len(names)} {what}: {listed(names)}" for what, names in problems.items() if names]
    if found:
        sizes = f"the file is {_size(state, layout)}, the network {_size(wanted, layout)}"
        raise CheckpointError(f"{source} does not fit {type(network).__name__}: {'; '.join(found)} ({sizes})")


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "scalar"


def _size(state: Mapping[str, Tensor], layout: str) -> str:
    key = layout_of(layout).width
    blocks = {match[0] for name in state if (match := re.match(r"(?:strag\.|trunk\.)?blocks\.\d+\.", name))}
    width = f"{state[key].shape[0]} wide" if key in state else "of unknown width"
    return f"{width} with {len(blocks)} blocks" if blocks else width


def common_dtype(state: Mapping[str, Tensor], source: Path | str) -> torch.dtype:
    """The dtype of all floating tensors. Raises CheckpointError that counts and names them where there are several."""
    names: dict[torch.dtype, list[str]] = {}
    for name, value in state.items():
        if value.is_floating_point():
            names.setdefault(value.dtype, []).append(name)
    if len(names) > 1:
        kinds = "; ".join(f"{len(n)} in {str(d).removeprefix('torch.')}: {listed(n, 3)}" for d, n in names.items())
        raise CheckpointError(f"{source} mixes dtypes ({kinds}); give the dtype to load it in")
    return next(iter(names), torch.float32)
