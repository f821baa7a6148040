"""STraG's start from its base, Wan-Fun Control."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from more4d.models.conversion.fitting import common_dtype, require_fit
from more4d.models.conversion.loading import assign, fill_tables
from more4d.models.conversion.names import CheckpointError
from more4d.models.conversion.reading import outlines, owned
from more4d.models.strag import MotionModulation, STraGTransformer

DEPTH_CHANNELS = 16
"""The last input channels, after noise 16, image 16 and zeros 16: what the base does not have."""
_PATCHES = "patch_embedding.weight"
_BASE = "the Wan-Fun Control state"


def strag_from_wan_control(
    network: STraGTransformer,
    state: Mapping[str, Tensor],
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
) -> STraGTransformer:
    """`network` as STraG's training starts: the base's weights, no weight on the depth channels, fresh motion guidance.

    `state` has our names (`read_ours(path, "wan_dit")`) and 48 input channels. The gates of the guidance are zero, so that
    the network's output is the base's whatever its depth channels and motion features are. It may be built under
    `torch.device("meta")`; floating tensors become `dtype`, by default that of the state.
    Raises CheckpointError, with the network untouched, naming the keys and shapes that do not fit.
    """
    headers = outlines(state)
    channels = headers[_PATCHES].shape[1] if _PATCHES in headers and headers[_PATCHES].ndim == 5 else 0
    if channels + DEPTH_CHANNELS != network.config["in_channels"]:
        raise CheckpointError(
            f"{_BASE} has {channels} input channels, not the {network.config['in_channels']} of the "
            f"network less {DEPTH_CHANNELS} of depth: another base"
        )
    guidance = {name for name in network.state_dict() if name.startswith("motion_adapter.") or ".motion" in name}
    fitting = {name: _with_depth(name, value) for name, value in headers.items()}
    require_fit(network, fitting, "wan_dit", _BASE, without=guidance)
    wanted = dtype or common_dtype(headers, _BASE)
    for name in headers:
        assign(network, name, _with_depth(name, owned(state, name, wanted, device)))
    for module in network.modules():
        if isinstance(module, MotionModulation):
            _restart(module.linear, wanted, device)
            module.gate = nn.Parameter(torch.zeros(module.gate.shape, dtype=wanted, device=device))
    for layer in network.motion_adapter:
        _restart(layer, wanted, device)
    fill_tables(network, device)
    return network


def _with_depth(name: str, value: Tensor) -> Tensor:
    """The weight [D, 48, 1, 2, 2] of the patches with zeros for the depth channels; other tensors as they are."""
    return functional.pad(value, (0,) * 6 + (0, DEPTH_CHANNELS)) if name == _PATCHES else value


def _restart(layer: nn.Module, dtype: torch.dtype, device: torch.device | str) -> None:
    if isinstance(layer, nn.Linear | nn.Conv2d):
        layer.to_empty(device=device).to(dtype).reset_parameters()
