from pathlib import Path

import torch
from more4d.models.bundle import Models
from more4d.stages.base import VideoSpec, run_stage
from more4d.stages.vism import STAGE, ViSMParams
from more4d.training.flow import FlowSettings
from more4d.training.loop import TrainSettings

VIDEO = VideoSpec(frames=5, height=32, width=48, fps=8)
TRAIN = TrainSettings(steps=4, batch_size=2, learning_rate=1e-3, warmup_steps=1, checkpoint_every=2, log_every=1)


def test_it_trains_the_base_on_renders_and_their_truths(workspace: Path) -> None:
    params = ViSMParams(flow=FlowSettings(prediction="sample", decoded_weight=1.0), train=TRAIN)
    result = run_stage(STAGE, params=params, video=VIDEO, seed=0, workers=1, root=workspace)
    base = Models.load(workspace / "models/tiny-base").vism.state_dict()
    file = result.outputs["vism"] / "vism.safetensors"
    tuned = Models.load(workspace / "models/tiny-base", overrides={"vism": file}).vism.state_dict()
    assert not torch.equal(base["proj_out.weight"], tuned["proj_out.weight"])
    assert all(value.isfinite().all() for value in tuned.values())
    assert {"first_loss", "last_loss", "last_decoded"} < set(result.metrics)
