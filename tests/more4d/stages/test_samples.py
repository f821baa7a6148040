import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from more4d.data.sample import Sample
from more4d.data.shards import write_shards
from more4d.data.tensors import read_arrays
from more4d.stages.base import MissingInputError, StageResult, VideoSpec, run_stage
from more4d.stages.samples import STAGE, SamplesParams

VIDEO = VideoSpec(frames=5, height=32, width=48, fps=8.0)


@pytest.fixture
def trained(workspace: Path, checkpoint: Path, samples: list[Sample]) -> Path:
    """A workspace with every network, and a val sample with a novel view."""
    for network in ("strag", "vism"):
        (workspace / "models" / network).mkdir()
        shutil.copy(checkpoint / f"{network}.safetensors", workspace / "models" / network)
    val = [dataclasses.replace(sample, split="val") for sample in samples[1:]]
    write_shards(val, workspace / "datasets" / "trajscene", split="val", shard_bytes=10**6)
    return workspace


def _run(root: Path, **params: object) -> StageResult:
    fields: dict = {"limit": 2, "batch_size": 2, "view_limit": 1} | params
    return run_stage(STAGE, params=SamplesParams(**fields), video=VIDEO, seed=0, workers=1, root=root)


def test_each_held_out_sample_gets_its_prediction(trained: Path, samples: list[Sample]) -> None:
    result = _run(trained)
    assert result.metrics == {"samples": 2, "views": 1}
    folder = trained / "results" / "samples"
    assert sorted(path.name for path in folder.iterdir()) == [samples[1].id, samples[2].id, "stereo.json"]
    arrays, facts = read_arrays(folder / samples[1].id / "prediction.safetensors")
    assert facts["caption"] == samples[1].caption
    assert {"motion", "motion_vae", "depth", "points_depth", "view_spiral"} == set(arrays)
    assert arrays["view_spiral"].shape == samples[1].video.shape
    assert (arrays["motion"][0] == 0).all()
    assert "stereo_motorcycle_error" in json.loads((folder / "stereo.json").read_text())


def test_the_limit_and_the_second_generation_are_parameters(trained: Path) -> None:
    assert _run(trained, limit=1, view_limit=0, predicted_depth=False).metrics == {"samples": 1, "views": 0}
    (prediction,) = (trained / "results" / "samples").glob("*/prediction.safetensors")
    assert "points_depth" not in read_arrays(prediction)[0]


def test_batches_do_not_change_a_prediction(trained: Path, samples: list[Sample]) -> None:
    path = trained / "results" / "samples" / samples[2].id / "prediction.safetensors"
    _run(trained, batch_size=2)
    together = read_arrays(path)[0]["motion"]
    _run(trained, batch_size=1)
    assert np.abs(together.astype(float) - read_arrays(path)[0]["motion"]).max() < 2e-3


def test_a_network_that_was_not_trained_is_named(workspace: Path) -> None:
    with pytest.raises(MissingInputError, match="strag"):
        _run(workspace)
