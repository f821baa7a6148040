"""diffusers' caching hooks on our transformers."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers.hooks.first_block_cache import FirstBlockCacheConfig
from diffusers.hooks.pyramid_attention_broadcast import PyramidAttentionBroadcastConfig
from diffusers.models.transformers.transformer_wan import WanAttention
from more4d.models.strag import STraGBlock
from more4d.pipelines import TrajectoryPipeline, ViewPipeline


class Counter:
    """How often modules of a class ran."""

    def __init__(self, module: torch.nn.Module, kind: type[torch.nn.Module]) -> None:
        self.count = 0
        for part in module.modules():
            if isinstance(part, kind):
                part.register_forward_hook(self._add)

    def _add(self, *_: Any) -> None:
        self.count += 1


@pytest.fixture
def given(scene: dict[str, Any]) -> dict[str, Any]:
    """Six guided steps."""
    return scene | {"num_inference_steps": 6, "guidance_scale": 2.0}


def broadcast(pipeline: TrajectoryPipeline, skip: int) -> PyramidAttentionBroadcastConfig:
    """Attention that is taken anew every `skip` steps."""
    return PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=skip, cross_attention_block_skip_range=skip,
        spatial_attention_timestep_skip_range=(-1, 1001), cross_attention_timestep_skip_range=(-1, 1001),
        current_timestep_callback=lambda: 500,
    )  # fmt: skip


def test_first_block_cache_that_may_skip_nothing_changes_nothing(
    trajectories: TrajectoryPipeline, given: dict[str, Any]
) -> None:
    plain: Any = trajectories(**given)
    trajectories.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    for _ in range(2):
        cached: Any = trajectories(**given)
        assert np.array_equal(cached.trajectories, plain.trajectories)
    trajectories.transformer.disable_cache()


def test_first_block_cache_skips_the_other_blocks_of_both_branches(
    trajectories: TrajectoryPipeline, given: dict[str, Any]
) -> None:
    plain: Any = trajectories(**given)
    trajectories.transformer.enable_cache(FirstBlockCacheConfig(threshold=1e6))
    attention = Counter(trajectories.transformer, WanAttention)
    cached: Any = trajectories(**given)
    # Two attentions a block: two blocks in the first step of both branches, one block in the five after it.
    assert attention.count == 2 * 2 * (2 + 5)
    assert np.isfinite(cached.trajectories).all() and not np.array_equal(cached.trajectories, plain.trajectories)
    trajectories.transformer.disable_cache()
    again: Any = trajectories(**given)
    assert np.array_equal(again.trajectories, plain.trajectories)


@pytest.mark.parametrize("skip", [1, 2])
def test_pyramid_attention_broadcast_runs_and_skips_every_other_attention(
    trajectories: TrajectoryPipeline, given: dict[str, Any], skip: int
) -> None:
    plain: Any = trajectories(**given)
    blocks = Counter(trajectories.transformer, STraGBlock)
    projections = Counter(trajectories.transformer.blocks[0].attn1.to_q, torch.nn.Linear)
    trajectories.transformer.enable_cache(broadcast(trajectories, skip))
    cached: Any = trajectories(**given)
    assert blocks.count == 2 * 6 * 2
    assert np.array_equal(cached.trajectories, plain.trajectories) == (skip == 1)
    assert projections.count == 12 // skip
    trajectories.transformer.disable_cache()


def test_the_view_transformer_is_cached_by_the_same_hooks(views: ViewPipeline, render: dict[str, Any]) -> None:
    plain: Any = views(**render)
    views.transformer.enable_cache(FirstBlockCacheConfig(threshold=0.0))
    cached: Any = views(**render)
    views.transformer.disable_cache()
    assert np.array_equal(cached.frames, plain.frames)
