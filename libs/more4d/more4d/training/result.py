"""What a training ends with."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import pandas
import torch
from torch import Tensor

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
        """The resulting state dict, whole."""
        names = [name for name in self.checkpoint.names() if name.startswith(f"{self.kind}/")]
        return {name.removeprefix(f"{self.kind}/"): self.checkpoint.whole(name) for name in names}

    def export(self, file: Path, *, dtype: torch.dtype = torch.float32, under: str = "") -> None:
        """Write the resulting weights whose names begin with `under` as plain safetensors, without it, tensor by tensor."""
        export_tensors(self.checkpoint, file, weights=self.kind, parts={under: ""}, dtype=dtype)

    def write(self, history: Path) -> dict[str, float]:
        """First and last logged losses and what the guard counted, after writing the whole history as CSV."""
        pandas.DataFrame(self.history).to_csv(history, index=False, float_format="%.6g", lineterminator="\n")
        first, last = self.history[0], self.history[-1]
        found = {f"first_{k}": first[k] for k in first if k != "step"} | {f"last_{k}": last[k] for k in last}
        guard = self.checkpoint.state["guard"]
        return found | {name: float(guard[name]) for name in ("skipped", "spikes")}
