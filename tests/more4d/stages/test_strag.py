from pathlib import Path

import pandas
import pytest
import torch
from more4d.models.bundle import Models
from more4d.stages.base import StageResult, VideoSpec, run_stage
from more4d.stages.latents import STAGE as LATENTS
from more4d.stages.latents import LatentsParams
from more4d.stages.strag import STAGE, STraGParams
from more4d.training.cache.sources import SourceSettings
from more4d.training.flow import FlowSettings
from more4d.training.loop import TrainSettings

VIDEO = VideoSpec(frames=5, height=32, width=48, fps=8)
TRAIN = TrainSettings(steps=4, batch_size=2, learning_rate=1e-3, warmup_steps=1, checkpoint_every=2, log_every=1)
CACHE = SourceSettings()
FLOW = FlowSettings(prediction="sample", decoded_weight=1.0)


@pytest.fixture
def encoded(workspace: Path) -> Path:
    """The workspace with the latent cache."""
    run_stage(LATENTS, params=LatentsParams(decoded=True), video=VIDEO, seed=0, workers=1, root=workspace)
    return workspace


def run(root: Path, flow: FlowSettings = FLOW, source: SourceSettings = CACHE) -> StageResult:
    """One run of the stage."""
    params = STraGParams(flow=flow, train=TRAIN, source=source)
    return run_stage(STAGE, params=params, video=VIDEO, seed=0, workers=1, root=root)


def test_it_trains_the_base_and_gives_the_same_bytes_again(encoded: Path) -> None:
    result = run(encoded)
    file = result.outputs["strag"] / "strag.safetensors"
    base = Models.load(encoded / "models/tiny-base").strag.state_dict()
    tuned = Models.load(encoded / "models/tiny-base", overrides={"strag": file}).strag.state_dict()
    assert all(not torch.equal(base[key], tuned[key]) for key in base if key.endswith((".gate", "proj_out.weight")))
    history = pandas.read_csv(result.outputs["history"])
    assert {"step", "loss", "latent", "decoded", "gradient_norm"} <= set(history)
    first = file.read_bytes(), result.outputs["history"].read_bytes()
    again = run(encoded)
    assert again.metrics == result.metrics
    assert (file.read_bytes(), again.outputs["history"].read_bytes()) == first


def test_a_prediction_that_the_sampler_does_not_expect_is_refused(encoded: Path) -> None:
    with pytest.raises(ValueError, match="flow.prediction='velocity'"):
        run(encoded, FlowSettings(prediction="velocity"))


@pytest.mark.parametrize("drawn", [False, True])
def test_training_with_the_cache_gives_the_weights_of_training_without_it(encoded: Path, drawn: bool) -> None:
    flow = FLOW.model_copy(update={"sample_posterior": drawn})
    weights, histories = [], []
    for kind in ("cache", "direct"):
        result = run(encoded, flow, SourceSettings(kind=kind))
        weights.append((result.outputs["strag"] / "strag.safetensors").read_bytes())
        histories.append(result.outputs["history"].read_text())
        # The second reads nothing of the cache: it is emptied.
        for file in (encoded / "datasets/latents").iterdir():
            file.unlink()
    assert histories[0] == histories[1]
    assert weights[0] == weights[1]


def test_a_cache_without_the_truth_is_refused_before_any_training(encoded: Path) -> None:
    params = LatentsParams(decoded=False)
    run_stage(LATENTS, params=params, video=VIDEO, seed=0, workers=1, root=encoded)
    with pytest.raises(ValueError, match="holds no truth, which a decoded error needs: set latents.decoded=true"):
        run(encoded)
