"""How long, how fast and on what to train: the section `train` of every training stage."""

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from more4d.settings import Section
from more4d.training.checkpoints import CheckpointSettings
from more4d.training.optimizers import OptimizerName
from more4d.training.watch.guard import GuardSettings

StrategyName = Literal["auto", "single", "ddp", "zero2", "zero2-offload", "zero3", "zero3-offload", "fsdp2"]
HIGHEST_RATE = 0.1


class TrainSettings(Section):
    """One optimizer step learns from `batch_size` samples, however many ranks and parts they are divided among."""

    steps: int = Field(gt=0)
    batch_size: int = Field(gt=0)
    """Samples of one optimizer step, over all ranks and parts."""
    accumulate: int = Field(default=1, gt=0)
    """Parts that a rank takes one after the other before the weights move: the same numbers in less memory."""
    learning_rate: float = Field(gt=0, le=HIGHEST_RATE)
    optimizer: OptimizerName = "adamw"
    betas: tuple[float, float] = (0.9, 0.98)
    eps: float = Field(default=1e-8, gt=0)
    weight_decay: float = Field(default=0.01, ge=0)
    schedule: Literal["cosine", "constant"] = "cosine"
    """After `warmup_steps` of linear warm-up: half a cosine down to zero, or no change."""
    warmup_steps: int = Field(default=10, ge=0)
    clip_norm: float = Field(default=1.0, gt=0)
    clip_start_factor: float = Field(default=1.0, ge=1)
    """By how much more the gradient may measure at the first step; falls to 1 over `clip_decay_steps`."""
    clip_decay_steps: int = Field(default=0, ge=0)
    ema_decay: float = Field(default=0.99, ge=0, lt=1)
    """Of the moving average that a training ends with; 0 ends with the weights themselves."""
    precision: Literal["fp32", "bf16"] = "fp32"
    device: str = "cpu"
    """"cpu", "cuda", or "auto": the GPU where there is one."""
    strategy: StrategyName = "auto"
    """How a model is spread over ranks; "auto" is "single" for one and "ddp" for several."""
    deepspeed_config: Path | None = None
    """DeepSpeed's own settings; by default infra/deepspeed/<strategy>.json."""
    recompute: Literal["none", "selective", "full"] = "none"
    """What the backward pass computes again instead of keeping it."""
    compile: bool = False
    """Whether torch.compile takes each transformer block."""
    prefetch: int = Field(default=1, ge=0)
    """Steps whose batches are read ahead, by a thread."""
    log_every: int = Field(default=10, gt=0)
    checkpoint_every: int = Field(default=100, gt=0)
    checkpoints: CheckpointSettings = CheckpointSettings()
    validate_every: int = Field(default=0, ge=0)
    """Steps between validations, of the moving average; 0 for none."""
    guard: GuardSettings = GuardSettings()
    trackers: tuple[str, ...] = ()
    """Where measures go beside the history: "dvclive", "tensorboard", and whatever else accelerate knows."""

    @model_validator(mode="after")
    def _warms_up_within_the_run(self) -> Self:
        if self.warmup_steps >= self.steps:
            raise ValueError(f"warmup_steps={self.warmup_steps} leaves nothing of steps={self.steps}")
        if self.checkpoint_every % self.log_every:
            raise ValueError(
                f"checkpoint_every={self.checkpoint_every} must be a multiple of log_every={self.log_every}"
            )
        if (self.clip_start_factor > 1) != (self.clip_decay_steps > 0):
            raise ValueError("clip_start_factor above 1 and clip_decay_steps above 0 go together: give both or neither")
        return self
