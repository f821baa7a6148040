"""A training state on disk: weights, EMA and optimizer moments as safetensors, the position as JSON. No pickle."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn


@dataclass(frozen=True)
class Progress:
    """How far a run has come: finished optimizer steps and what was logged on the way."""

    step: int
    history: list[dict[str, float]]


def save_training(
    folder: Path, progress: Progress, module: nn.Module, ema: Mapping[str, Tensor], optimizer: torch.optim.Optimizer
) -> None:
    """Write the whole state of a run under `folder`; a kill at any moment leaves the previous state readable."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"step-{progress.step:08d}.safetensors"
    tensors = {f"model/{k}": v for k, v in module.state_dict().items()}
    tensors |= {f"ema/{k}": v for k, v in ema.items()}
    tensors |= _optimizer_tensors(module, optimizer)
    save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, folder / f".{name}.partial")
    (folder / f".{name}.partial").rename(folder / name)
    state = {"step": progress.step, "file": name, "history": progress.history}
    (folder / ".latest.partial").write_text(json.dumps(state))
    (folder / ".latest.partial").replace(folder / "latest.json")
    for old in folder.glob("step-*.safetensors"):
        if old.name != name:
            old.unlink()


def load_training(
    folder: Path, module: nn.Module, ema: dict[str, Tensor], optimizer: torch.optim.Optimizer
) -> Progress:
    """The saved progress, after restoring module, EMA and optimizer in place; step 0 where nothing was saved."""
    latest = folder / "latest.json"
    if not latest.exists():
        return Progress(0, [])
    state = json.loads(latest.read_text())
    tensors = load_file(folder / state["file"])
    module.load_state_dict({k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")})
    for key in ema:
        ema[key].copy_(tensors[f"ema/{key}"])
    _restore_optimizer(module, optimizer, tensors)
    return Progress(state["step"], state["history"])


def _optimizer_tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    names = {parameter: name for name, parameter in module.named_parameters()}
    return {
        f"optimizer/{names[parameter]}/{key}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def _restore_optimizer(module: nn.Module, optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    parameters = dict(module.named_parameters())
    for key, value in tensors.items():
        if key.startswith("optimizer/"):
            name, entry = key.removeprefix("optimizer/").rsplit("/", 1)
            optimizer.state[parameters[name]][entry] = value
