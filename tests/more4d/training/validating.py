"""A short STraG training that validates, to be run by several processes at once: rank 0 writes its history as JSON."""

import json
import os
import sys
from pathlib import Path

from more4d.data.shards import TrajSceneDataset
from more4d.models.bundle import Models
from more4d.training.cache.direct import DirectLatents
from more4d.training.flow import FlowSettings
from more4d.training.held_out import HeldOutMotions
from more4d.training.latents import cached_conditions
from more4d.training.loop import train
from more4d.training.settings import TrainSettings
from more4d.training.strag import STraGObjective
from more4d.training.validation import TrajectoryValidation, ValidationSettings


def main(checkpoint: Path, trajscene: Path, folder: Path, strategy: str) -> None:
    """Train for four steps and validate after two and four."""
    models = Models.load(checkpoint)
    strag = models.strag.requires_grad_(True)
    train_split, val_split = (TrajSceneDataset(trajscene, split) for split in ("train", "val"))
    flow = FlowSettings(prediction="sample")
    objective = STraGObjective(strag, strag, models.vae, DirectLatents(models, train_split), cached_conditions, flow)
    held_out = HeldOutMotions(DirectLatents(models, val_split), val_split, models.vae.config.motion_camera)
    main_rank = int(os.environ.get("RANK", "0")) == 0
    objective.validation = TrajectoryValidation(
        objective, held_out, ValidationSettings(samples=1, steps=2), folder / "videos" if main_rank else None, fps=8.0
    )
    settings = TrainSettings.model_validate(
        {"steps": 4, "batch_size": 2, "learning_rate": 1e-2, "warmup_steps": 1, "log_every": 2, "checkpoint_every": 4,
         "validate_every": 2, "device": "cpu", "strategy": strategy}
    )  # fmt: skip
    result = train(objective, settings, seed=0, work=folder / "work")
    if main_rank:
        (folder / "history.json").write_text(json.dumps(result.history))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4])
