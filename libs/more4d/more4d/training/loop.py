"""The one training loop: accelerate, seeded per step, resumable at any step, with an exponential moving average.

Everything random in step k is drawn from a generator seeded by (seed, k), so a resumed run needs no generator state
to equal the uninterrupted one.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self, cast

import pandas
import torch
from accelerate import Accelerator
from accelerate.optimizer import AcceleratedOptimizer
from pydantic import Field, model_validator
from torch import Tensor, nn
from tqdm import tqdm

from more4d.settings import Section
from more4d.training.checkpoint import Progress, load_training, save_training
from more4d.training.draws import Draws
from more4d.training.objective import Objective
from more4d.training.order import Order
from more4d.training.optimizers import OptimizerName, build_optimizers, learning_rates, set_learning_rates


class TrainSettings(Section):
    """How long and how fast to train; AdamW with linear warm-up and cosine decay to zero."""

    steps: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    learning_rate: float = Field(gt=0, le=0.1)
    weight_decay: float = Field(default=0.01, ge=0)
    warmup_steps: int = Field(default=10, ge=0)
    clip_norm: float = Field(default=1.0, gt=0)
    ema_decay: float = Field(default=0.99, ge=0, lt=1)
    checkpoint_every: int = Field(default=100, gt=0)
    log_every: int = Field(default=10, gt=0)
    optimizer: OptimizerName = "adamw"
    precision: Literal["fp32", "bf16"] = "fp32"

    @model_validator(mode="after")
    def _warms_up_within_the_run(self) -> Self:
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps={self.warmup_steps} leaves nothing of steps={self.steps}")
        if self.checkpoint_every % self.log_every:
            raise ValueError(
                f"checkpoint_every={self.checkpoint_every} must be a multiple of log_every={self.log_every}"
            )
        return self


@dataclass(frozen=True)
class TrainResult:
    """The history (one row every `log_every` steps) and the moving average of the module's state dict."""

    history: list[dict[str, float]]
    ema: dict[str, Tensor]

    def write(self, history: Path) -> dict[str, float]:
        """First and last logged losses, after writing the whole history as CSV."""
        pandas.DataFrame(self.history).to_csv(history, index=False, float_format="%.6g", lineterminator="\n")
        first, last = self.history[0], self.history[-1]
        return {f"first_{k}": first[k] for k in first if k != "step"} | {f"last_{k}": last[k] for k in last}


def train(objective: Objective, settings: TrainSettings, *, seed: int, work: Path, device: str = "cpu") -> TrainResult:
    """The trained EMA weights and the history of `settings.steps` steps, continued from `work` where it holds a state.

    Raises FloatingPointError when a loss or gradient is not finite, before any weight is changed by it.
    """
    if objective.size < 1:
        raise ValueError("there are no samples to train on")
    accelerator = Accelerator(mixed_precision="no", cpu=device == "cpu")
    optimizers = build_optimizers(objective.module, settings.optimizer, settings.learning_rate, settings.weight_decay)
    ema = {key: value.detach().clone() for key, value in objective.module.state_dict().items()}
    progress = load_training(work, objective.module, ema, optimizers)
    peaks = learning_rates(optimizers)
    prepared = [accelerator.prepare(optimizer) for optimizer in optimizers]
    objective.module.train()
    history = list(progress.history)
    window: dict[str, list[float]] = {}
    for step in tqdm(
        range(progress.step, settings.steps), initial=progress.step, total=settings.steps, desc="train", leave=False
    ):
        set_learning_rates(optimizers, peaks, learning_rate_factor(step, settings))
        logs = _step(objective, settings, accelerator, prepared, seed, step)
        _update_ema(ema, objective.module, _ema_decay(step, settings.ema_decay))
        for key, value in logs.items():
            window.setdefault(key, []).append(value)
        if (step + 1) % settings.log_every == 0 or step + 1 == settings.steps:
            history.append({"step": step + 1} | {k: sum(v) / len(v) for k, v in window.items()})
            window = {}
        if (step + 1) % settings.checkpoint_every == 0:
            save_training(work, Progress(step + 1, history), objective.module, ema, optimizers)
    return TrainResult(history, ema)


def _step(
    objective: Objective,
    settings: TrainSettings,
    accelerator: Accelerator,
    optimizers: Sequence[AcceleratedOptimizer],
    seed: int,
    step: int,
) -> dict[str, float]:
    numbers = Order(objective.buckets, settings.batch_size, seed).batch(step)
    batch = objective.batch(torch.tensor(numbers))
    # Not accelerate's own autocast: its precision is one for the whole process, whichever training came first.
    with torch.autocast(accelerator.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
        logs = objective.loss({k: v.to(accelerator.device) for k, v in batch.items()}, Draws(seed, step, range(len(numbers))))
    loss = logs["loss"]
    _require_finite("loss", float(loss.detach()), step, settings)
    accelerator.backward(loss)
    norm = float(cast(Tensor, accelerator.clip_grad_norm_(objective.module.parameters(), settings.clip_norm)))
    _require_finite("gradient norm", norm, step, settings)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad()
    return {k: float(v.detach()) for k, v in logs.items()} | {"gradient_norm": norm}


def _require_finite(name: str, value: float, step: int, settings: TrainSettings) -> None:
    if not math.isfinite(value):
        raise FloatingPointError(
            f"{name} is {value} at step {step}; look for bad samples or lower learning_rate={settings.learning_rate}"
        )


def learning_rate_factor(step: int, settings: TrainSettings) -> float:
    """Share of the peak learning rate at `step`: linear up over `warmup_steps`, then a half cosine down to zero."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * done))


def _ema_decay(step: int, decay: float) -> float:
    """The average warms up: a fixed decay would remember the random start for 1/(1-decay) steps."""
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def _update_ema(ema: dict[str, Tensor], module: nn.Module, decay: float) -> None:
    for key, value in module.state_dict().items():
        if value.is_floating_point():
            ema[key].lerp_(value, 1 - decay)
        else:
            ema[key].copy_(value)


def iterate_batches(size: int, batch_size: int) -> Iterator[Tensor]:
    """Consecutive sample numbers in batches, each sample once."""
    for start in range(0, size, batch_size):
        yield torch.arange(start, min(size, start + batch_size))
