import logging
from pathlib import Path

import pytest
import torch
from more4d.data.shards import TrajSceneDataset
from more4d.models.bundle import Models
from more4d.stages.base import StageResult, VideoSpec, fingerprint, run_stage
from more4d.stages.latents import STAGE, LatentsParams
from more4d.training.cache.dataset import LatentDataset, ViewDataset
from more4d.training.cache.direct import DirectLatents

VIDEO = VideoSpec(frames=5, height=32, width=48, fps=8)


def run(root: Path, **changes: object) -> StageResult:
    """One run of the stage."""
    params = LatentsParams.model_validate({"decoded": True} | changes)
    return run_stage(STAGE, params=params, video=VIDEO, seed=0, workers=1, root=root)


def test_every_sample_and_view_of_both_splits_is_encoded(workspace: Path, models: Models) -> None:
    result = run(workspace)
    counts = {"train_samples": 2, "train_views": 3, "val_samples": 1, "val_views": 1, "files": 16}
    assert result.metrics.items() > counts.items()
    folder = result.outputs["latents"]
    volume = sum(file.stat().st_size for file in folder.iterdir())
    assert result.metrics["megabytes"] == pytest.approx(volume / 1e6, abs=1e-3)
    for split, size, views in (("train", 2, 3), ("val", 1, 1)):
        cache = LatentDataset(folder, split, decoded=True)
        direct = DirectLatents(models, TrajSceneDataset(workspace / "datasets/trajscene", split), decoded=True)
        assert (cache.size, cache.ids, ViewDataset(folder, split).size) == (size, direct.ids, views)
        found, expected = (source.batch(torch.arange(size)) for source in (cache, direct))
        assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_rerun_takes_what_is_in_store_and_gives_the_same_bytes_and_metrics(
    workspace: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        first = run(workspace)
        before = fingerprint(first.outputs["latents"])
        again = run(workspace)
    told = [record.getMessage() for record in caplog.records if "files computed" in record.getMessage()]
    assert [line.split(" from ")[0] for line in told] == ["16 files computed, 0 taken", "0 files computed, 16 taken"]
    assert (fingerprint(again.outputs["latents"]), again.metrics) == (before, first.metrics)
    stored = next((workspace / ".cache" / "latents").glob("*.safetensors"))
    assert stored.stat().st_nlink == 2, "the cache and the store share their bytes"


def test_what_no_run_uses_any_more_is_thrown_out_beyond_the_limit(workspace: Path) -> None:
    store = workspace / ".cache" / "latents"
    run(workspace, dtype="float32")
    old = {file.name for file in store.iterdir()}
    run(workspace)
    assert old < {file.name for file in store.iterdir()}
    run(workspace, spare_gigabytes=0)
    kept = {file.name for file in store.iterdir()}
    assert not old & kept
    assert len(kept) == 32
    run(workspace, dtype="bfloat16", spare_gigabytes=0)
    assert not kept & {file.name for file in store.iterdir()}
