import shutil
from pathlib import Path

import pytest
import torch
from more4d.models.bundle import Models
from more4d.stages.base import StageResult, VideoSpec, run_stage
from more4d.stages.latents import STAGE as LATENTS
from more4d.stages.latents import LatentsParams
from more4d.stages.vism import STAGE, ViSMParams
from more4d.training.cache.sources import SourceSettings
from more4d.training.flow import FlowSettings
from more4d.training.loop import TrainSettings

VIDEO = VideoSpec(frames=5, height=32, width=48, fps=8)
TRAIN = TrainSettings(steps=4, batch_size=2, learning_rate=1e-3, warmup_steps=1, checkpoint_every=2, log_every=1)
CACHE = SourceSettings()


@pytest.fixture
def encoded(workspace: Path) -> Path:
    """The workspace with the latent cache."""
    run_stage(LATENTS, params=LatentsParams(decoded=True), video=VIDEO, seed=0, workers=1, root=workspace)
    return workspace


def run(root: Path, source: SourceSettings = CACHE, *, drawn: bool = False) -> StageResult:
    """One run of the stage."""
    flow = FlowSettings(prediction="sample", decoded_weight=1.0, sample_posterior=drawn)
    params = ViSMParams(flow=flow, train=TRAIN, source=source)
    return run_stage(STAGE, params=params, video=VIDEO, seed=0, workers=1, root=root)


def test_it_trains_the_base_on_renders_and_their_truths(encoded: Path) -> None:
    shutil.rmtree(encoded / "datasets/trajscene")
    result = run(encoded)
    base = Models.load(encoded / "models/tiny-base").vism.state_dict()
    file = result.outputs["vism"] / "vism.safetensors"
    tuned = Models.load(encoded / "models/tiny-base", overrides={"vism": file}).vism.state_dict()
    assert not torch.equal(base["proj_out.weight"], tuned["proj_out.weight"])
    assert all(value.isfinite().all() for value in tuned.values())
    assert {"first_loss", "last_loss", "last_decoded"} < set(result.metrics)


@pytest.mark.parametrize("drawn", [False, True])
def test_training_with_the_cache_gives_the_weights_of_training_without_it(encoded: Path, drawn: bool) -> None:
    weights, histories = [], []
    for kind in ("cache", "direct"):
        result = run(encoded, SourceSettings(kind=kind), drawn=drawn)
        weights.append((result.outputs["vism"] / "vism.safetensors").read_bytes())
        histories.append(result.outputs["history"].read_text())
        # The second reads nothing of the cache: it is emptied.
        for file in (encoded / "datasets/latents").iterdir():
            file.unlink()
    assert histories[0] == histories[1]
    assert weights[0] == weights[1]
