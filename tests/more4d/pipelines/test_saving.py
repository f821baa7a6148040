"""A pipeline's folder: model_index.json names components by public names, and what was saved is what is loaded."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import more4d
import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from more4d.models.bundle import Models
from more4d.pipelines import TrajectoryPipeline, ViewPipeline
from torch import nn

from .conftest import quiet


def test_a_pipeline_of_a_checkpoint_s_networks_holds_those_networks(models: Models) -> None:
    pipeline = TrajectoryPipeline.from_models(models)
    assert pipeline.vae is models.vae and pipeline.transformer is models.strag
    assert pipeline.text_encoder is models.text and pipeline.tokenizer is models.text.tokenizer
    assert ViewPipeline.from_models(models).transformer is models.vism


def test_trajectories_are_the_same_after_saving_and_loading(
    trajectories: TrajectoryPipeline, scene: dict[str, Any], tmp_path: Path
) -> None:
    trajectories.save_pretrained(tmp_path)
    again = quiet(TrajectoryPipeline.from_pretrained(tmp_path, disable_mmap=True))
    assert again.generation == trajectories.generation
    assert again.scheduler.config["shift"] == trajectories.scheduler.config["shift"]
    told = {"depth": None, "intrinsics": None, "guidance_scale": 2.0}
    for changes in ({}, told):
        first: Any = trajectories(**(scene | changes))
        second: Any = again(**(scene | changes))
        assert np.array_equal(first.trajectories, second.trajectories)
        assert torch.equal(first.depth, second.depth)
    # Weights mapped from the file lie where they lie in it: the CPU's kernels may round the last bit otherwise.
    mapped: Any = quiet(TrajectoryPipeline.from_pretrained(tmp_path))(**scene)
    assert np.allclose(mapped.trajectories, quiet(again)(**scene).trajectories, rtol=1e-5, atol=1e-5)


def test_views_are_the_same_after_saving_and_loading(
    views: ViewPipeline, render: dict[str, Any], tmp_path: Path
) -> None:
    views.save_pretrained(tmp_path)
    first: Any = views(**render)
    second: Any = quiet(ViewPipeline.from_pretrained(tmp_path, disable_mmap=True))(**render)
    assert np.array_equal(first.frames, second.frames)


def test_model_index_names_components_as_more4d_offers_them(trajectories: TrajectoryPipeline, tmp_path: Path) -> None:
    trajectories.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    ours = {name: entry for name, entry in index.items() if isinstance(entry, list) and entry[0] == "more4d"}
    assert set(ours) == {"vae", "transformer", "text_encoder", "image_encoder", "motion_encoder", "depth_network"}
    for name, (_, kind) in ours.items():
        assert getattr(more4d, kind) is type(getattr(trajectories, name))
    assert index["scheduler"] == ["diffusers", "FlowMatchEulerDiscreteScheduler"]
    assert index["tokenizer"][0] == "transformers"
    assert index["_class_name"] == "TrajectoryPipeline" and index["generation"]["frames"] == 5
    assert not any(file.suffix in (".bin", ".pth", ".pt") for file in tmp_path.rglob("*"))


def test_a_pipeline_without_encoders_and_with_another_scheduler_is_saved_as_it_is(
    models: Models, tmp_path: Path
) -> None:
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=5.0)
    made = TrajectoryPipeline(models.vae, models.strag, scheduler)
    made.transformer = models.strag
    made.save_pretrained(tmp_path)
    again = TrajectoryPipeline.from_pretrained(tmp_path)
    assert again.text_encoder is None and again.depth_network is None
    assert type(again.scheduler) is UniPCMultistepScheduler and again.scheduler.config["flow_shift"] == 5.0


def test_a_component_may_be_given_when_loading_and_precision_is_chosen(
    trajectories: TrajectoryPipeline, models: Models, scene: dict[str, Any], tmp_path: Path
) -> None:
    trajectories.save_pretrained(tmp_path)
    again = quiet(TrajectoryPipeline.from_pretrained(tmp_path, transformer=models.strag))
    assert again.transformer is models.strag
    half = quiet(TrajectoryPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16))
    assert half.transformer.dtype == half.vae.dtype == half.text_encoder.dtype == torch.bfloat16
    found: Any = half(**(scene | {"guidance_scale": 2.0, "depth": None}))
    assert found.trajectories.dtype == np.float32 and np.isfinite(found.trajectories).all()


def test_missing_weights_are_not_made_up(trajectories: TrajectoryPipeline, tmp_path: Path) -> None:
    trajectories.save_pretrained(tmp_path)
    (tmp_path / "motion_encoder" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(OSError, match="diffusion_pytorch_model"):
        TrajectoryPipeline.from_pretrained(tmp_path)


def test_every_part_is_a_component_that_diffusers_moves(trajectories: TrajectoryPipeline) -> None:
    moved = [name for name, part in trajectories.components.items() if isinstance(part, nn.Module)]
    assert set(moved) == set(trajectories.model_cpu_offload_seq.split("->"))


def test_importing_more4d_imports_nothing_heavy_and_refuses_what_it_has_not() -> None:
    code = "import sys, more4d; print([m for m in ('torch', 'diffusers', 'transformers') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        more4d.Nothing  # noqa: B018
    assert "TrajectoryPipeline" in dir(more4d)
