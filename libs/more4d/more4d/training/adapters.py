"""Training a transformer whole or by low-rank adapters (LoRA), and what is written when it is over."""

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from safetensors.torch import save_file
from torch import Tensor

from more4d.models.lora import LoRASettings, adapter_changes, add_adapter, merge, plain_state, write_lora


def make_trainable(network: WanTransformer3DModel, lora: LoRASettings | None, *, seed: int) -> None:
    """Have `network` trained whole or, with `lora`, by a new adapter alone, drawn from `seed`.

    To be called before the objective is made. Raises ValueError naming the modules that there are where `lora` names
    another.
    """
    if lora is None:
        network.requires_grad_(True)
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        add_adapter(network, lora)


def write_trained(
    network: WanTransformer3DModel,
    weights: Mapping[str, Tensor],
    file: Path,
    lora: LoRASettings | None,
    *,
    dtype: torch.dtype = torch.float32,
) -> None:
    """Write the network that `weights` (a state dict of `network`) are: to `file`, for whatever generates with it.

    With `lora` the adapter is merged in; alone, under kohya's names, it lies beside: `<file's stem>_lora.safetensors`.
    The network ends as it was written.
    """
    network.load_state_dict(dict(weights))
    if lora is not None:
        changes = adapter_changes(network)
        write_lora(changes, file.with_name(f"{file.stem}_lora.safetensors"), network, dtype=dtype)
        merge(network, changes, lora.merge_weight)
    save_file({key: value.detach().to("cpu", dtype).contiguous() for key, value in plain_state(network).items()}, file)
