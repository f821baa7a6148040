from pathlib import Path

import numpy as np
import torch
from more4d.models.architectures import Architecture
from more4d.models.bundle import Models, build_vism, load_exactly
from more4d.scenes import RenderedScene
from more4d.stages.base import VideoSpec, run_stage
from more4d.stages.base_vism import STAGE, BaseViSMParams, scene_points, view_pairs
from more4d.training.base_scenes import BaseScenes
from more4d.training.flow import FlowSettings
from more4d.training.loop import TrainSettings

VIDEO = VideoSpec(frames=5, height=32, width=48, fps=8)
TRAIN = TrainSettings(steps=4, batch_size=2, learning_rate=1e-3, warmup_steps=1, checkpoint_every=2, log_every=1)


def test_it_trains_on_novel_and_original_views(base_workspace: Path, architecture: Architecture) -> None:
    params = BaseViSMParams(original_views=1, flow=FlowSettings(prediction="sample"), train=TRAIN)
    result = run_stage(STAGE, params=params, video=VIDEO, seed=0, workers=1, root=base_workspace)
    vism = build_vism(architecture)
    load_exactly(vism, result.outputs["vism"] / "vism.safetensors")
    assert all(value.isfinite().all() for value in vism.state_dict().values())
    assert {"first_loss", "last_loss"} < set(result.metrics)


def test_pairs_are_the_extra_views_then_the_first_scenes_own(
    base_scenes: BaseScenes, models: Models, rendered: list[RenderedScene]
) -> None:
    pairs = list(view_pairs(base_scenes, 2, models.text, models.image_encoder))
    videos = [rendered[1].views["spiral"].video, rendered[0].video, rendered[1].video]
    assert all(np.array_equal(pair.video, video) for pair, video in zip(pairs, videos, strict=True))
    # From its own camera a scene covers its first frame.
    assert pairs[1].mask[0].mean() > 0.95
    assert np.abs(pairs[1].render[0].astype(int) - rendered[0].video[0]).mean() < 25
    assert torch.equal(pairs[0].text, models.text.encode([rendered[1].caption])[0])


def test_stored_motion_is_the_scenes_points(base_scenes: BaseScenes, rendered: list[RenderedScene]) -> None:
    assert np.allclose(scene_points(base_scenes, 2), rendered[2].points, atol=5e-3)
