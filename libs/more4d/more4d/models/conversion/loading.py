"""Published files into networks, without a second copy.

A network built under `torch.device("meta")` holds nothing until its tensors are assigned, one after another.
"""

from pathlib import Path
from typing import TypeVar

import torch
from diffusers.models.transformers.transformer_wan import WanRotaryPosEmbed
from torch import Tensor, nn

from more4d.models.conversion.fitting import common_dtype, require_fit
from more4d.models.conversion.reading import outlines, owned, read_ours

Network = TypeVar("Network", bound=nn.Module)


def load_published(
    network: Network,
    path: Path,
    layout: str,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> Network:
    """`network` with the tensors of a published checkpoint, each owned by it alone; the file may go away after.

    Build it under `torch.device("meta")`: beside the loaded weights no more is held than one tensor. Floating tensors
    become `dtype`; without one the file must have a single dtype, which stays. For the layout `strag` the network is
    `nn.ModuleDict({"strag": STraGTransformer, "motion_encoder": MaskedAutoencoder})`.
    Raises CheckpointError, with the network untouched, when the file cannot be read or does not fit exactly.
    """
    state = read_ours(path, layout)
    headers = outlines(state)
    require_fit(network, headers, layout, path)
    wanted = dtype or common_dtype(headers, path)
    for name in state:
        assign(network, name, owned(state, name, wanted, device))
    fill_tables(network, device)
    return network


def assign(network: nn.Module, name: str, value: Tensor) -> None:
    """Make `value` itself the parameter or buffer `name` of the network."""
    path, _, leaf = name.rpartition(".")
    owner = network.get_submodule(path)
    old = getattr(owner, leaf)
    setattr(owner, leaf, nn.Parameter(value, old.requires_grad) if isinstance(old, nn.Parameter) else value)


def fill_tables(network: nn.Module, device: torch.device | str) -> None:
    """Make what no checkpoint holds: the rotary tables. Raises ValueError for other tensors still on the meta device."""
    for module in network.modules():
        if isinstance(module, WanRotaryPosEmbed):
            with torch.device("cpu"):
                made = WanRotaryPosEmbed(module.attention_head_dim, module.patch_size, module.max_seq_len)
            for name, value in made.named_buffers():
                setattr(module, name, value.to(device))
    empty = [name for name, value in (*network.named_parameters(), *network.named_buffers()) if value.is_meta]
    if empty:
        raise ValueError(f"{', '.join(empty)} of {type(network).__name__} are in no checkpoint: build them on a device")
