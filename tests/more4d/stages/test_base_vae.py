from pathlib import Path

import pandas
import pytest
import torch
from more4d.stages.base import VideoSpec, run_stage
from more4d.stages.base_strag import load_vae
from more4d.stages.base_vae import STAGE, BaseVAEParams, HeldBack
from more4d.training.base_scenes import BaseScenes
from more4d.training.base_sources import MotionScenes
from more4d.training.loop import TrainSettings
from more4d.training.vae import VAELossSettings

VIDEO = VideoSpec(frames=5, height=32, width=48, fps=8)
TRAIN = TrainSettings(steps=4, batch_size=2, learning_rate=1e-3, warmup_steps=1, checkpoint_every=2, log_every=1)


def test_it_makes_a_vae_whose_latents_are_of_unit_size(base_workspace: Path) -> None:
    loss = VAELossSettings(train_trajectory_encoder=False, latent_noise=0.1)
    params = BaseVAEParams(fit_scenes=6, motion_share=0.5, held_out=2, loss=loss, train=TRAIN)
    result = run_stage(STAGE, params=params, video=VIDEO, seed=0, workers=1, root=base_workspace)
    vae = load_vae(result.outputs["vae"])
    batch = MotionScenes(BaseScenes(base_workspace / "infra/tiny-base/build/scenes")).batch(torch.arange(6))
    still = batch["video"][:, :, :1].expand_as(batch["video"])
    assert float(vae.encode_video(still).square().mean()) == pytest.approx(1, rel=1e-3)
    assert float(vae.encode_motion(batch["motion"]).square().mean()) == pytest.approx(1, rel=1e-3)
    assert not vae.trajectory_encoder.is_trained
    assert not any(p.requires_grad for p in vae.parameters())
    history = pandas.read_csv(result.outputs["history"])
    assert history["step"].tolist() == [1, 2, 3, 4]


def test_held_out_scenes_and_their_mirror_images_are_never_trained_on(base_scenes: BaseScenes) -> None:
    source = MotionScenes(base_scenes)
    rest = HeldBack(source, held_out=1)
    assert rest.size == 4
    found, expected = rest.batch(torch.arange(4)), source.batch(torch.tensor([1, 2, 4, 5]))
    assert all(torch.equal(found[key], expected[key]) for key in expected)
