"""The three trainings at their smallest, to be run by one process or by several, stopped and killed on the way.

`spread.py CHECKPOINT TRAJSCENE JOBS`: JOBS is a JSON list of {kind, work, settings, kill_at?, kill_rank?, leave_at?, leave_rank?,
pace?}; they run one after the other. Exits with STOPPED where one was asked to leave.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from more4d.data.shards import TrajSceneDataset
from more4d.launch import STOPPED
from more4d.models.bundle import Models
from more4d.training.cache.direct import DirectLatents, DirectViews
from more4d.training.distributed.world import leave_world
from more4d.training.draws import Draws
from more4d.training.flow import FlowSettings
from more4d.training.latents import cached_conditions
from more4d.training.loop import train
from more4d.training.objective import Objective
from more4d.training.result import TrainResult
from more4d.training.settings import TrainSettings
from more4d.training.stopping import TrainingStopped
from more4d.training.strag import STraGObjective
from more4d.training.trajscene import TrajSceneMotion
from more4d.training.vae import MotionVAEObjective, VAELossSettings
from more4d.training.vism import ViSMObjective
from torch import Tensor

KINDS = ("strag", "vism", "vae")
SETTINGS: dict[str, Any] = {
    "steps": 20, "batch_size": 4, "learning_rate": 3e-3, "warmup_steps": 2, "log_every": 1, "checkpoint_every": 5,
    "ema_decay": 0.9, "device": "cpu",
}  # fmt: skip


def objective_of(kind: str, checkpoint: Path, trajscene: Path) -> Objective:
    """One training on the scenes of a dataset."""
    models = Models.load(checkpoint)
    dataset = TrajSceneDataset(trajscene, "train")
    if kind == "vae":
        return MotionVAEObjective(models.vae, TrajSceneMotion(dataset), VAELossSettings(video_weight=0.5))
    network = (models.strag if kind == "strag" else models.vism).requires_grad_(True)
    settings = FlowSettings(prediction="sample")
    if kind == "strag":
        source = DirectLatents(models, dataset)
        return STraGObjective(network, network, models.vae, source, cached_conditions, settings)
    return ViSMObjective(network, network, models.vae, DirectViews(models, dataset), cached_conditions, settings)


def fail_at(objective: Objective, step: int, number: signal.Signals) -> None:
    """Have this process sent a signal in the middle of the loss of that step, counted from the start of this process."""
    loss, calls = objective.loss, 0

    def failing(batch: dict[str, Tensor], draws: Draws) -> dict[str, Tensor]:
        nonlocal calls
        calls += 1
        if calls == step:
            os.kill(os.getpid(), number)
        return loss(batch, draws)

    objective.loss = failing  # type: ignore[method-assign]


def slow_down(objective: Objective, seconds: float) -> None:
    """Have every batch take so long to come, so that there is time to disturb the training."""
    batch = objective.batch

    def slow(indices: Tensor) -> dict[str, Tensor]:
        time.sleep(seconds)
        return batch(indices)

    objective.batch = slow  # type: ignore[method-assign]


def run(job: dict[str, Any], checkpoint: Path, trajscene: Path) -> TrainResult | None:
    """One training; None where it left because it was asked to."""
    objective = objective_of(job["kind"], checkpoint, trajscene)
    rank = int(os.environ.get("RANK", "0"))
    if "kill_at" in job and rank == job.get("kill_rank", 0):
        fail_at(objective, job["kill_at"], signal.SIGKILL)
    if "leave_at" in job and rank == job.get("leave_rank", 0):
        fail_at(objective, job["leave_at"], signal.SIGUSR1)
    if pace := job.get("pace"):
        slow_down(objective, pace)
    settings = TrainSettings.model_validate(SETTINGS | job["settings"])
    try:
        return train(objective, settings, seed=0, work=Path(job["work"]))
    except TrainingStopped:
        return None


if __name__ == "__main__":
    results = [run(each, Path(sys.argv[1]), Path(sys.argv[2])) for each in json.loads(sys.argv[3])]
    leave_world()
    sys.exit(STOPPED if None in results else 0)
