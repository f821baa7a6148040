"""The random tiny networks as pipelines, and one picture for them.

Shape letters: T frames, H height, W width.
"""

import copy
import dataclasses
from typing import Any

import pytest
import torch
from more4d.data.sample import Sample
from more4d.models.bundle import Models
from more4d.pipelines import TrajectoryPipeline, ViewPipeline


def quiet(pipeline: Any) -> Any:
    """The pipeline without a progress bar."""
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture
def guided(models: Models) -> Models:
    """The networks with open gates, so that the motion features are heard."""
    return _open_gates(models)


@pytest.fixture
def trajectories(guided: Models) -> TrajectoryPipeline:
    """A pipeline of the tiny STraG."""
    return quiet(TrajectoryPipeline.from_models(guided))


@pytest.fixture
def views(models: Models) -> ViewPipeline:
    """A pipeline of the tiny ViSM."""
    return quiet(ViewPipeline.from_models(models))


@pytest.fixture
def scene(samples: list[Sample]) -> dict[str, Any]:
    """What the trajectories are made from."""
    sample = samples[0]
    return {
        "image": sample.video[0], "prompt": sample.caption, "depth": sample.depth, "intrinsics": sample.intrinsics,
        "latents": torch.randn((16, 2, 4, 6), generator=torch.Generator().manual_seed(0)), "num_inference_steps": 3,
    }  # fmt: skip


@pytest.fixture
def render(samples: list[Sample]) -> dict[str, Any]:
    """What a view is made from."""
    sample = samples[0]
    return {
        "video": sample.render, "mask": sample.render_mask, "prompt": sample.caption, "image": sample.video[0],
        "latents": torch.randn((16, 2, 4, 6), generator=torch.Generator().manual_seed(0)), "num_inference_steps": 3,
    }  # fmt: skip


def _open_gates(models: Models) -> Models:
    strag = copy.deepcopy(models.strag)
    for block in strag.blocks:
        for motion in (block.motion1, block.motion2):
            torch.nn.init.constant_(motion.gate, 0.5)  # type: ignore[arg-type]
    return dataclasses.replace(models, strag=strag.eval().requires_grad_(False))
