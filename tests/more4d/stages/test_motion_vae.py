from pathlib import Path

import pandas
import torch
from more4d.models.bundle import Models
from more4d.stages.base import VideoSpec, run_stage
from more4d.stages.motion_vae import STAGE, MotionVAEParams
from more4d.training.loop import TrainSettings
from more4d.training.vae import VAELossSettings

VIDEO = VideoSpec(frames=5, height=32, width=48, fps=8)
TRAIN = TrainSettings(steps=4, batch_size=2, learning_rate=1e-3, warmup_steps=1, checkpoint_every=2, log_every=1)


def test_it_fine_tunes_the_decoder_and_leaves_the_encoder_as_the_base_has_it(workspace: Path) -> None:
    params = MotionVAEParams(loss=VAELossSettings(train_trajectory_encoder=False), train=TRAIN)
    result = run_stage(STAGE, params=params, video=VIDEO, seed=0, workers=1, root=workspace)
    base = Models.load(workspace / "models/tiny-base")
    tuned = Models.load(workspace / "models/tiny-base", overrides={"vae": result.outputs["vae"] / "vae.safetensors"})
    moved = [k for k, v in base.vae.state_dict().items() if not torch.equal(v, tuned.vae.state_dict()[k])]
    parts = {".".join(key.split(".")[:2]) for key in moved}
    assert parts >= {"vae.decoder", "trajectory_decoder.net"} if result.metrics["kept_trained"] else not parts
    assert not [key for key in moved if key.startswith("trajectory_encoder") or "basis" in key]
    history = pandas.read_csv(result.outputs["history"])
    assert history["step"].tolist() == [1, 2, 3, 4]
    assert {"loss", "trajectory", "kl", "video", "gradient_norm"} < set(history)
    assert result.metrics["last_step"] == 4
