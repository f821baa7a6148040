from pathlib import Path

import pandas
import pytest
import torch
from more4d.data.sample import Sample
from more4d.models.bundle import Models
from more4d.stages.base import StageResult, VideoSpec, run_stage
from more4d.stages.strag import STAGE, STraGParams
from more4d.training.flow import FlowSettings
from more4d.training.latents import encode_samples, write_latents
from more4d.training.loop import TrainSettings

VIDEO = VideoSpec(frames=5, height=32, width=48, fps=8)
TRAIN = TrainSettings(steps=4, batch_size=2, learning_rate=1e-3, warmup_steps=1, checkpoint_every=2, log_every=1)
FLOW = FlowSettings(prediction="sample", decoded_weight=1.0)


@pytest.fixture
def encoded(workspace: Path, models: Models, samples: list[Sample]) -> Path:
    """The workspace with the latent cache."""
    (workspace / "datasets/latents").mkdir()
    write_latents([encode_samples(models, samples)], workspace / "datasets/latents/train.safetensors")
    return workspace


def run(root: Path, flow: FlowSettings = FLOW) -> StageResult:
    """One run of the stage."""
    return run_stage(STAGE, params=STraGParams(flow=flow, train=TRAIN), video=VIDEO, seed=0, workers=1, root=root)


def test_it_trains_the_base_and_gives_the_same_bytes_again(encoded: Path) -> None:
    result = run(encoded)
    file = result.outputs["strag"] / "strag.safetensors"
    base = Models.load(encoded / "models/tiny-base").strag.state_dict()
    tuned = Models.load(encoded / "models/tiny-base", overrides={"strag": file}).strag.state_dict()
    assert all(not torch.equal(base[key], tuned[key]) for key in base if key.endswith((".gate", "proj_out.weight")))
    history = pandas.read_csv(result.outputs["history"])
    assert list(history) == ["step", "loss", "latent", "decoded", "gradient_norm"]
    first = file.read_bytes(), result.outputs["history"].read_bytes()
    again = run(encoded)
    assert again.metrics == result.metrics
    assert (file.read_bytes(), again.outputs["history"].read_bytes()) == first


def test_a_prediction_that_the_sampler_does_not_expect_is_refused(encoded: Path) -> None:
    with pytest.raises(ValueError, match="flow.prediction='velocity'"):
        run(encoded, FlowSettings(prediction="velocity"))
