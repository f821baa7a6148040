"""What a training ends with."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import pandas
import torch
from torch import Tensor, nn

from more4d.training.checkpoints import Checkpoint, export_tensors


@dataclass(frozen=True)
class TrainResult:
    """The history (a row every `log_every` steps) and the last checkpoint, which holds the weights and their average."""

    history: list[dict[str, float]]
    checkpoint: Checkpoint
    averaged: bool

    @property
    def kind(self) -> Literal["model", "ema"]:
        """Which of the checkpoint's weights are the result: "ema", or "model" without an average."""
        return "ema" if self.averaged else "model"

    @cached_property
    def ema(self) -> dict[str, Tensor]:
        """What was trained, and buffers, of the resulting state dict."""
        names = [name for name in self.checkpoint.names() if name.startswith(f"{self.kind}/")]
        return {name.removeprefix(f"{self.kind}/"): self.checkpoint.whole(name) for name in names}

    def load_into(self, module: nn.Module) -> None:
        """Give the resulting weights to the module that was trained; what was frozen in it stays.

        Raises ValueError where it is another module.
        """
        missing, unexpected = module.load_state_dict(self.ema, strict=False)
        frozen = {name for name, parameter in module.named_parameters() if not parameter.requires_grad}
        if wrong := [*unexpected, *sorted(set(missing) - frozen)]:
            raise ValueError(f"{self.checkpoint.folder} is of another module than {type(module).__name__}: {wrong[:8]}")

    def export(self, file: Path, *, base: Path, dtype: torch.dtype = torch.float32) -> None:
        """Write the whole network as plain safetensors, tensor by tensor: what was trained, and of `base` what was not.

        Raises CheckpointError where the two together are not a network like the one in `base`.
        """
        export_tensors(self.checkpoint, file, weights=self.kind, rest={"": base}, like=base, dtype=dtype)

    def metrics(self) -> dict[str, float]:
        """First and last logged losses, and what the guard counted."""
        first, last = self.history[0], self.history[-1]
        found = {f"first_{k}": first[k] for k in first if k != "step"} | {f"last_{k}": last[k] for k in last}
        guard = self.checkpoint.state["guard"]
        return found | {name: float(guard[name]) for name in ("skipped", "spikes")}

    def write(self, history: Path) -> dict[str, float]:
        """`metrics`, after writing the whole history as CSV."""
        pandas.DataFrame(self.history).to_csv(history, index=False, float_format="%.6g", lineterminator="\n")
        return self.metrics()
