"""Offloading with the CPU in the accelerator's place.

No GPU is needed to see that weights really come and go: sequential offloading leaves them on the meta device, where any
use outside of a hook fails, and group offloading is made to leave NaN behind, which any use would spread. What this
cannot show is the memory of a GPU.
"""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import CpuOffload
from diffusers.hooks.group_offloading import ModuleGroup
from more4d.models.bundle import NETWORKS, Models
from more4d.pipelines import TrajectoryPipeline, ViewPipeline
from torch import nn

from .conftest import quiet


@pytest.fixture
def own(guided: Models) -> Models:
    """Networks that a test may move about."""
    return dataclasses.replace(guided, **{name: copy.deepcopy(getattr(guided, name)) for name in NETWORKS})


def trajectories_of(pipeline: Any, scene: dict[str, Any]) -> np.ndarray:
    """Trajectories with depth from the network and guidance: every component takes part."""
    return pipeline(**(scene | {"depth": None, "intrinsics": None, "guidance_scale": 2.0})).trajectories


def frames_of(pipeline: Any, render: dict[str, Any]) -> np.ndarray:
    """The completed video."""
    return pipeline(**render).frames


def modules(pipeline: Any) -> dict[str, nn.Module]:
    """The components with weights."""
    return {name: part for name, part in pipeline.components.items() if isinstance(part, nn.Module)}


def homes(module: nn.Module) -> set[str]:
    """Where the weights are."""
    return {parameter.device.type for parameter in module.parameters()}


def offload_sequentially(pipeline: Any) -> None:
    """What `enable_sequential_cpu_offload` does; it asks for "cpu:0", which accelerate takes for another place than "cpu"."""
    for part in modules(pipeline).values():
        cpu_offload(part, torch.device("cpu"), offload_buffers=len(part._parameters) > 0)


@pytest.fixture
def spoiling(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that group offloading takes away are NaN until they are brought again."""
    kept: dict[int, torch.Tensor] = {}

    def tensors(group: ModuleGroup) -> list[torch.Tensor]:
        inside = [t for module in group.modules for t in (*module.parameters(), *module.buffers())]
        return [t for t in (*inside, *group.parameters, *group.buffers) if t.is_floating_point()]

    def take(self: ModuleGroup) -> None:
        for tensor in tensors(self):
            if id(tensor) not in kept:
                kept[id(tensor)] = tensor.data
                tensor.data = torch.full_like(tensor.data, torch.nan)

    def bring(self: ModuleGroup) -> None:
        for tensor in tensors(self):
            tensor.data = kept.pop(id(tensor), tensor.data)

    monkeypatch.setattr(ModuleGroup, "offload_", take)
    monkeypatch.setattr(ModuleGroup, "onload_", bring)


def test_model_offload_moves_each_component_when_its_turn_comes(
    own: Models, trajectories: TrajectoryPipeline, scene: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = quiet(TrajectoryPipeline.from_models(own))
    names = {id(part): name for name, part in modules(pipeline).items()}
    arrived: list[str] = []
    arrive = CpuOffload.pre_forward

    def arriving(self: CpuOffload, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        arrived.append(names[id(module)])
        return arrive(self, module, *args, **kwargs)

    monkeypatch.setattr(CpuOffload, "pre_forward", arriving)
    pipeline.enable_model_cpu_offload(device="cpu")
    found = trajectories_of(pipeline, scene)
    assert np.array_equal(found, trajectories_of(trajectories, scene))
    assert set(arrived) == set(modules(pipeline))
    assert arrived.count("transformer") == 1 + 2 * 3  # once for the modulation, twice a step
    assert arrived[-1] == "vae"


def test_model_offload_sends_home_whatever_came_before(trajectories: TrajectoryPipeline, views: ViewPipeline) -> None:
    for pipeline in (trajectories, views):
        pipeline.enable_model_cpu_offload(device="cpu")
        order = pipeline.model_cpu_offload_seq.split("->")
        for before, name in zip(order, order[1:], strict=False):
            hook = getattr(pipeline, name)._hf_hook
            assert hook.execution_device == torch.device("cpu:0")
            assert hook.prev_module_hook.model is getattr(pipeline, before)
        pipeline.remove_all_hooks()


def test_sequential_offload_leaves_no_weight_behind_and_gives_the_same_trajectories(
    own: Models, trajectories: TrajectoryPipeline, scene: dict[str, Any]
) -> None:
    pipeline = quiet(TrajectoryPipeline.from_models(own))
    offload_sequentially(pipeline)
    assert all(homes(part) == {"meta"} for part in modules(pipeline).values())
    assert pipeline._execution_device == torch.device("cpu")
    found = trajectories_of(pipeline, scene)
    assert np.allclose(found, trajectories_of(trajectories, scene), atol=1e-5)
    # The VAE's two bases stay once they were used: diffusers' hook on `encode` brings them and no hook takes them.
    assert all(homes(part) == {"meta"} for name, part in modules(pipeline).items() if name != "vae")


def test_sequential_offload_completes_views_too(own: Models, views: ViewPipeline, render: dict[str, Any]) -> None:
    pipeline = quiet(ViewPipeline.from_models(own))
    offload_sequentially(pipeline)
    assert homes(pipeline.transformer) == {"meta"}
    assert np.allclose(frames_of(pipeline, render), frames_of(views, render), atol=1e-5)


@pytest.mark.parametrize("kind", ["leaf_level", "block_level"])
@pytest.mark.usefixtures("spoiling")
def test_group_offload_brings_each_group_for_its_own_forward(
    own: Models, trajectories: TrajectoryPipeline, scene: dict[str, Any], kind: str
) -> None:
    expected = trajectories_of(trajectories, scene)
    pipeline = quiet(TrajectoryPipeline.from_models(own))
    pipeline.enable_group_offload(torch.device("cpu"), torch.device("cpu"), kind, num_blocks_per_group=1)
    bases = {id(pipeline.vae.vae.first_basis), id(pipeline.vae.vae.group_basis)}
    weights = [p for part in modules(pipeline).values() for p in part.parameters() if id(p) not in bases]
    assert all(bool(p.isnan().all()) for p in weights)
    assert np.allclose(trajectories_of(pipeline, scene), expected, atol=1e-5)
    assert all(bool(p.isnan().all()) for p in weights)


@pytest.mark.usefixtures("spoiling")
def test_group_offload_completes_views_too(own: Models, views: ViewPipeline, render: dict[str, Any]) -> None:
    expected = frames_of(views, render)
    pipeline = quiet(ViewPipeline.from_models(own))
    pipeline.enable_group_offload(torch.device("cpu"), torch.device("cpu"), "block_level", num_blocks_per_group=1)
    assert np.allclose(frames_of(pipeline, render), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["leaf_level", "block_level"])
def test_group_offload_to_disk_keeps_the_components_apart(
    own: Models, trajectories: TrajectoryPipeline, scene: dict[str, Any], tmp_path: Path, kind: str
) -> None:
    expected = trajectories_of(trajectories, scene)
    pipeline = quiet(TrajectoryPipeline.from_models(own))
    cpu = torch.device("cpu")
    pipeline.enable_group_offload(cpu, cpu, kind, num_blocks_per_group=1, offload_to_disk_path=str(tmp_path))
    assert np.allclose(trajectories_of(pipeline, scene), expected, atol=1e-5)
    assert {folder.name for folder in tmp_path.iterdir()} == set(modules(pipeline))


def test_the_vae_works_tile_by_tile_when_asked(
    own: Models, trajectories: TrajectoryPipeline, scene: dict[str, Any]
) -> None:
    pipeline = quiet(TrajectoryPipeline.from_models(own))
    pipeline.enable_vae_tiling(
        tile_sample_min_height=16, tile_sample_min_width=16, tile_sample_stride_height=8, tile_sample_stride_width=8
    )
    assert own.vae.vae.use_tiling
    tiled, whole = trajectories_of(pipeline, scene), trajectories_of(trajectories, scene)
    assert tiled.shape == whole.shape and np.isfinite(tiled).all()
    pipeline.disable_vae_tiling()
    assert np.array_equal(trajectories_of(pipeline, scene), whole)


def test_nothing_asks_for_a_device_by_name() -> None:
    folder = Path(__file__).parents[3] / "libs/more4d/more4d/pipelines"
    sources = [file.read_text() for file in folder.glob("*.py")]
    assert sources and not any("cuda" in source for source in sources)
