"""All of it around a real training."""

from pathlib import Path

import pytest
import torch
from more4d.data.sample import Sample
from more4d.models.bundle import Models, build_strag
from more4d.models.work import training_flops
from more4d.training.cache.direct import DirectLatents
from more4d.training.flow import FlowSettings
from more4d.training.held_out import HeldOutMotions
from more4d.training.latents import cached_conditions
from more4d.training.loop import Place, train
from more4d.training.result import TrainResult
from more4d.training.settings import TrainSettings
from more4d.training.strag import STraGObjective
from more4d.training.validation import TrajectoryValidation, ValidationSettings
from more4d.training.watch.dvclive_log import METRICS
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

SETTINGS = TrainSettings(
    steps=6, batch_size=2, learning_rate=1e-2, warmup_steps=2, log_every=1, checkpoint_every=2, validate_every=2,
    device="cpu", prefetch=0, trackers=("tensorboard", "dvclive"),
)  # fmt: skip


class Breaking:
    """A source that fails at one of its batches."""

    def __init__(self, source: DirectLatents, breaks_at: int) -> None:
        self.source, self.size, self.ids, self.buckets = source, source.size, source.ids, source.buckets
        self._left = breaks_at

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        if self._left == 0:
            raise KeyboardInterrupt
        self._left -= 1
        return self.source.batch(indices)


def run(
    models: Models, samples: list[Sample], folder: Path, *, breaks_at: int = -1, settings: TrainSettings = SETTINGS
) -> TrainResult:
    torch.manual_seed(0)
    strag, source = build_strag(models.config), DirectLatents(models, samples)
    flops = training_flops(models.config, "trajectories").flops
    objective = STraGObjective(
        strag, strag, models.vae, Breaking(source, breaks_at), cached_conditions, FlowSettings(prediction="sample"),
        flops=flops,
    )  # fmt: skip
    held_out = HeldOutMotions(source, samples, models.vae.config.motion_camera)
    validation = ValidationSettings(samples=2, steps=2, videos=1)
    objective.validation = TrajectoryValidation(objective, held_out, validation, folder / "videos", fps=8.0)
    return train(objective, settings, seed=0, work=folder / "work", place=Place(folder / "work", logs=folder / "logs"))


def table(folder: Path, name: str) -> str:
    return (folder / "logs" / "dvclive" / METRICS / f"{name}.tsv").read_text()


@pytest.fixture(scope="module")
def straight(
    models: Models, samples: list[Sample], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, TrainResult]:
    """An undisturbed run."""
    folder = tmp_path_factory.mktemp("straight")
    return folder, run(models, samples, folder)


def test_a_training_is_seen_in_both_logs_with_speed_errors_and_videos(straight: tuple[Path, TrainResult]) -> None:
    folder, result = straight
    scalars = EventAccumulator(str(folder / "logs" / "tensorboard" / "training")).Reload()
    wanted = {"loss", "gradient_norm", "learning_rate", "samples_per_second", "tokens_per_second", "mfu"}
    wanted |= {"data_wait_share", "memory_bytes", "skipped", "validation/trajectory_error"}
    assert wanted <= set(scalars.Tags()["scalars"])
    assert [event.step for event in scalars.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    assert [event.step for event in scalars.Scalars("validation/trajectory_error")] == [2, 4, 6]
    assert table(folder, "loss").splitlines()[-1] == f"6\t{result.history[-1]['loss']}"
    steps = [f"step-{step:06d}" for step in (2, 4, 6)]
    assert sorted(path.parent.name for path in (folder / "videos").rglob("*.mp4")) == steps


@pytest.mark.parametrize("breaks_at", [1, 3, 5])
def test_the_logs_of_a_run_that_was_broken_off_are_those_of_an_undisturbed_one(
    models: Models, samples: list[Sample], straight: tuple[Path, TrainResult], tmp_path: Path, breaks_at: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(models, samples, tmp_path, breaks_at=breaks_at)
    result = run(models, samples, tmp_path)
    assert all(torch.equal(value, straight[1].ema[key]) for key, value in result.ema.items())
    for name in ("loss", "gradient_norm", "learning_rate", "validation/trajectory_error", "validation/score"):
        assert table(tmp_path, name) == table(straight[0], name)
    for video in (straight[0] / "videos").rglob("*.mp4"):
        assert (tmp_path / video.relative_to(straight[0])).read_bytes() == video.read_bytes()


def test_neither_validating_nor_tracking_changes_a_weight(
    models: Models, samples: list[Sample], straight: tuple[Path, TrainResult], tmp_path: Path
) -> None:
    blind = SETTINGS.model_copy(update={"validate_every": 0, "trackers": ()})
    result = run(models, samples, tmp_path, settings=blind)
    assert all(torch.equal(value, straight[1].ema[key]) for key, value in result.ema.items())
    assert not (tmp_path / "logs").exists() and not (tmp_path / "videos").exists()
