"""What moves the weights: AdamW alone, or Muon for the transformer blocks' matrices and AdamW for everything else."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import AdamW, Muon, Optimizer

OptimizerName = Literal["adamw", "muon"]
ADAM_BETAS = (0.9, 0.98)


@dataclass(frozen=True)
class OptimizerSettings:
    """What the optimizers are made with; `factors` multiplies the learning rate of parameters by the start of their names."""

    name: OptimizerName
    learning_rate: float
    weight_decay: float
    betas: tuple[float, float] = ADAM_BETAS
    eps: float = 1e-8
    factors: Mapping[str, float] = field(default_factory=dict)


def build_optimizers(module: nn.Module, settings: OptimizerSettings) -> list[Optimizer]:
    """The optimizers of all trained parameters of `module`, each parameter in exactly one; vectors are not decayed.

    Raises ValueError where a name in `factors` begins none of the trained parameters' names.
    """
    matrices = {id(p) for p in hidden_matrices(module)} if settings.name == "muon" else set()
    trained = [(name, p) for name, p in module.named_parameters() if p.requires_grad]
    _require_known(settings.factors, [name for name, _ in trained])
    adam = _groups([(n, p) for n, p in trained if id(p) not in matrices], settings)
    optimizers: list[Optimizer] = [AdamW(adam, lr=settings.learning_rate, betas=settings.betas, eps=settings.eps)]
    if matrices:
        groups = _groups([(n, p) for n, p in trained if id(p) in matrices], settings)
        # Its steps are scaled to AdamW's size, so that one learning rate serves both.
        optimizers.append(Muon(groups, lr=settings.learning_rate, adjust_lr_fn="match_rms_adamw"))
    return optimizers


def _groups(trained: list[tuple[str, nn.Parameter]], settings: OptimizerSettings) -> list[dict[str, Any]]:
    """Parameter groups by learning rate and by whether they are decayed; none is empty."""
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in trained:
        decay = settings.weight_decay if parameter.ndim > 1 else 0.0
        factor = next((f for prefix, f in settings.factors.items() if name.startswith(prefix)), 1.0)
        groups.setdefault((settings.learning_rate * factor, decay), []).append(parameter)
    return [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in groups.items()]


def _require_known(factors: Mapping[str, float], names: list[str]) -> None:
    for prefix in factors:
        if not any(name.startswith(prefix) for name in names):
            raise ValueError(f"no trained parameter's name begins with {prefix!r}, which was given a learning rate")


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
