"""What changes with the step: the learning rate, the longest gradient, how slowly the average follows."""

import math

from more4d.training.settings import TrainSettings


def learning_rate_factor(step: int, settings: TrainSettings) -> float:
    """Share of the peak learning rate at `step`: linear up over `warmup_steps`, then as `schedule` says."""
    if step < settings.warmup_steps:
        return (step + 1) / settings.warmup_steps
    if settings.schedule == "constant":
        return 1.0
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * done))


def clip_limit(step: int, settings: TrainSettings) -> float:
    """The longest gradient at `step`: from `clip_start_factor` times `clip_norm` linearly down to it."""
    left = max(0.0, 1 - step / settings.clip_decay_steps) if settings.clip_decay_steps else 0.0
    return settings.clip_norm * (1 + (settings.clip_start_factor - 1) * left)


def average_decay(step: int, settings: TrainSettings) -> float:
    """The average warms up: a fixed decay would remember the random start for 1/(1-decay) steps."""
    return min(settings.ema_decay, (1 + step) / (10 + step))
