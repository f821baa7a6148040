"""Whether a checkpoint is one of this very training: the same settings, samples and network."""

import hashlib
from typing import Any

from more4d.training.checkpoints import Checkpoint
from more4d.training.objective import Objective
from more4d.training.revision import git_revision
from more4d.training.settings import TrainSettings

FREE = {
    "accumulate", "device", "strategy", "deepspeed_config", "recompute", "compile", "prefetch", "checkpoint_every",
    "checkpoints", "trackers",
}  # fmt: skip
"""Settings that may change from one start to the next: they change how a training runs, not what it computes."""


def identity(objective: Objective, settings: TrainSettings, seed: int) -> dict[str, Any]:
    """What a training is, as JSON: its settings, seed, samples (a hash of their ids and buckets), and the code."""
    samples = "\n".join(f"{name} {bucket}" for name, bucket in zip(objective.ids, objective.buckets, strict=True))
    return {
        "settings": settings.model_dump(mode="json"),
        "seed": seed,
        "samples": hashlib.sha256(samples.encode()).hexdigest(),
        "revision": git_revision(),
    }


def require_same_run(checkpoint: Checkpoint, now: dict[str, Any]) -> None:
    """Raises ValueError naming each difference from the identity `now` that would make a resumed training another one.

    The code may have changed: after a fault was mended the training goes on.
    """
    then = checkpoint.state["run"]
    differences = [f"{key} was {then[key]}, is {now[key]}" for key in ("seed", "samples") if then[key] != now[key]]
    for key in sorted((now["settings"].keys() | then["settings"].keys()) - FREE):
        before, after = then["settings"].get(key), now["settings"].get(key)
        if before != after:
            differences.append(f"train.{key} was {before}, is {after}")
    if differences:
        raise ValueError(
            f"{checkpoint.folder} is of another training: {'; '.join(differences)}; "
            "take back the change, or start in another folder"
        )
