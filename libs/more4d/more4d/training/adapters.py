"""Training a transformer whole or by low-rank adapters (LoRA), and what is written when it is over."""

from pathlib import Path
from typing import cast

import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from safetensors.torch import load_file, save_file

from more4d.models.bundle import require_same_tensors
from more4d.models.lora import LoRASettings, adapter_of, add_adapter, without_adapter, write_lora
from more4d.training.result import TrainResult


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
    network: WanTransformer3DModel, result: TrainResult, file: Path, lora: LoRASettings | None, *, base: Path
) -> None:
    """Write the trained network to `file`, for whatever generates with it; what was not trained is taken from `base`.

    With `lora` the adapter is merged in; alone, under kohya's names, it lies beside: `<file's stem>_lora.safetensors`.
    Of `network` only the shape is read: its weights may be cut among ranks. Tensors are written in float32.
    """
    if lora is None:
        result.export(file, base=base)
        return
    changes = adapter_of(result.ema, lora.alpha)
    with torch.device("meta"):
        plain = cast(WanTransformer3DModel, type(network).from_config(network.config))
    write_lora(changes, file.with_name(f"{file.stem}_lora.safetensors"), plain, dtype=torch.float32)
    whole = load_file(base) | without_adapter(result.ema)
    merged = without_adapter({key: value.float() for key, value in whole.items()}, changes, lora.merge_weight)
    require_same_tensors(plain, {key: tuple(v.shape) for key, v in merged.items()}, plain.state_dict(), base)
    save_file({key: value.contiguous() for key, value in merged.items()}, file)
