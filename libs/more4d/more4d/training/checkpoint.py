"""A training state on disk: weights, EMA and optimizer moments as safetensors, the position as JSON. No pickle."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from more4d.data.atomic import atomic_file, atomic_write_bytes
from more4d.training.optimizers import owner

LATEST = "latest.json"
"""Names the newest complete state; what it does not name is not read."""


@dataclass(frozen=True)
class Progress:
    """How far a run has come: finished optimizer steps and what was logged on the way."""

    step: int
    history: list[dict[str, float]]


def save_training(
    folder: Path, progress: Progress, module: nn.Module, ema: Mapping[str, Tensor], optimizers: Sequence[Optimizer]
) -> None:
    """Write the whole state of a run under `folder`; a kill at any moment leaves the previous state readable."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"step-{progress.step:08d}.safetensors"
    tensors = {f"model/{k}": v for k, v in module.state_dict().items()}
    tensors |= {f"ema/{k}": v for k, v in ema.items()}
    for optimizer in optimizers:
        tensors |= _optimizer_tensors(module, optimizer)
    with atomic_file(folder / name) as temporary:
        save_file({k: v.detach().clone().contiguous() for k, v in tensors.items()}, temporary)
    state = {"step": progress.step, "file": name, "history": progress.history}
    atomic_write_bytes(folder / LATEST, json.dumps(state).encode())
    for old in folder.glob("step-*.safetensors"):
        if old.name != name:
            old.unlink()


def load_training(folder: Path, module: nn.Module, ema: dict[str, Tensor], optimizers: Sequence[Optimizer]) -> Progress:
    """The saved progress, after restoring module, EMA and optimizer in place; step 0 where nothing was saved.

    Raises ValueError when the saved state was damaged.
    """
    if not (folder / LATEST).exists():
        return Progress(0, [])
    try:
        state = json.loads((folder / LATEST).read_text())
        tensors = load_file(folder / state["file"])
    except (ValueError, KeyError, FileNotFoundError, SafetensorError) as error:
        raise ValueError(f"the training state in {folder} is damaged ({error}); delete it to start again") from error
    module.load_state_dict({k.removeprefix("model/"): v for k, v in tensors.items() if k.startswith("model/")})
    for key, average in ema.items():
        average.copy_(tensors[f"ema/{key}"])
    _restore_optimizers(module, optimizers, tensors)
    return Progress(state["step"], state["history"])


def _optimizer_tensors(module: nn.Module, optimizer: Optimizer) -> dict[str, Tensor]:
    names: dict[Tensor, str] = {parameter: name for name, parameter in module.named_parameters()}
    return {
        f"optimizer/{names[parameter]}/{key}": value
        for parameter, state in optimizer.state.items()
        for key, value in state.items()
    }


def _restore_optimizers(module: nn.Module, optimizers: Sequence[Optimizer], tensors: Mapping[str, Tensor]) -> None:
    parameters = dict(module.named_parameters())
    for key, value in tensors.items():
        if key.startswith("optimizer/"):
            name, entry = key.removeprefix("optimizer/").rsplit("/", 1)
            parameter = parameters[name]
            owner(optimizers, parameter).state[parameter][entry] = value
