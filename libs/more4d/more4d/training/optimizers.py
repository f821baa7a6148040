"""What moves the weights: AdamW alone, or Muon for the transformer blocks' matrices and AdamW for everything else."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer

OptimizerName = Literal["adamw", "muon"]
ADAM_BETAS = (0.9, 0.98)


def build_optimizers(
    module: nn.Module, name: OptimizerName, learning_rate: float, weight_decay: float
) -> list[Optimizer]:
    """The optimizers of all trained parameters of `module`, each parameter in exactly one; vectors are not decayed."""
    trained = [p for p in module.parameters() if p.requires_grad]
    matrices = hidden_matrices(module) if name == "muon" else []
    taken = {id(p) for p in matrices}
    rest = [p for p in trained if id(p) not in taken]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in rest if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in rest if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizers: list[Optimizer] = [AdamW(groups, lr=learning_rate, betas=ADAM_BETAS)]
    if matrices:
        # Its steps are scaled to AdamW's size, so that one learning rate serves both.
        muon = Muon(matrices, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
        optimizers.append(muon)
    return optimizers


def hidden_matrices(module: nn.Module) -> list[torch.Tensor]:
    """The trained weight matrices of linear layers inside `blocks`."""
    return [
        layer.weight
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) and "blocks" in name.split(".") and layer.weight.requires_grad
    ]


def set_learning_rates(optimizers: Sequence[Optimizer], peaks: Sequence[float], factor: float) -> None:
    """Give every parameter group its peak learning rate times `factor`."""
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    for group, peak in zip(groups, peaks, strict=True):
        group["lr"] = peak * factor


def learning_rates(optimizers: Sequence[Optimizer]) -> list[float]:
    """The learning rate of every parameter group."""
    return [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]


def owner(optimizers: Sequence[Optimizer], parameter: torch.Tensor) -> Optimizer:
    """The optimizer that moves `parameter`."""
    return next(o for o in optimizers for group in o.param_groups for p in group["params"] if p is parameter)
