import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from more4d.data.sample import Sample
from more4d.geometry.published import published_intrinsics
from more4d.models.bundle import Models
from more4d.training.flow import FlowSettings
from more4d.training.latents import LatentDataset, cached_conditions, encode_samples, motion_batch, write_latents
from more4d.training.strag import STraGObjective


def test_the_cache_gives_what_encoding_on_the_fly_gives_up_to_half_precision(
    models: Models, samples: list[Sample], tmp_path: Path
) -> None:
    parts = (encode_samples(models, samples[:2]), encode_samples(models, samples[2:]))
    assert write_latents(parts, tmp_path / "train.safetensors") == 3
    cache = LatentDataset(tmp_path / "train.safetensors")
    assert cache.size == 3
    cached, direct = cache.batch(torch.tensor([2, 0])), encode_samples(models, [samples[2], samples[0]])
    assert cached.keys() == direct.keys()
    for key, value in direct.items():
        assert cached[key].dtype == value.dtype
        assert torch.allclose(cached[key].float(), value.float(), rtol=1e-3, atol=1e-3), key


def test_without_a_decoded_error_the_cache_leaves_the_true_motion_on_the_disk(
    models: Models, samples: list[Sample], tmp_path: Path
) -> None:
    write_latents([encode_samples(models, samples)], tmp_path / "train.safetensors")
    whole = LatentDataset(tmp_path / "train.safetensors").batch(torch.tensor([1]))
    cache = LatentDataset(tmp_path / "train.safetensors", decoded=False)
    assert whole.keys() - cache.batch(torch.tensor([1])).keys() == {"motion", "visible", "unit"}
    objective = STraGObjective(models.strag, models.strag, models.vae, cache, cached_conditions, FlowSettings())
    assert bool(objective.loss(cache.batch(torch.arange(3)), torch.Generator().manual_seed(0))["loss"].isfinite())


def test_training_with_the_cache_loses_what_training_without_it_loses(
    models: Models, samples: list[Sample], tmp_path: Path
) -> None:
    write_latents([encode_samples(models, samples)], tmp_path / "train.safetensors")
    cache = LatentDataset(tmp_path / "train.safetensors")
    settings = FlowSettings(prediction="sample", decoded_weight=1.0)
    objective = STraGObjective(models.strag, models.strag, models.vae, cache, cached_conditions, settings)
    losses = [
        float(objective.loss(batch, torch.Generator().manual_seed(0))["loss"])
        for batch in (cache.batch(torch.arange(3)), encode_samples(models, samples))
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def test_points_that_are_unknown_or_without_depth_are_not_visible(samples: list[Sample]) -> None:
    points, depth = samples[0].points.copy(), samples[0].depth.copy()
    points[2, 4, 5], points[:, 6, 7] = np.nan, np.inf
    depth[8, 9], points[:, 8, 9] = np.nan, np.nan
    batch = motion_batch([dataclasses.replace(samples[0], points=points, depth=depth)])
    assert not batch["visible"][0, 2, 4, 5]
    assert batch["visible"][0, 1, 4, 5]
    assert not batch["visible"][0, :, 6, 7].any() and not batch["visible"][0, :, 8, 9].any()
    assert all(value.isfinite().all() for value in batch.values())


def test_a_depth_beyond_half_precisions_range_stays_finite(
    models: Models, samples: list[Sample], tmp_path: Path
) -> None:
    depth = samples[0].depth.copy()
    depth[0, 0] = 1e6
    write_latents([encode_samples(models, [dataclasses.replace(samples[0], depth=depth)])], tmp_path / "x.safetensors")
    unit = LatentDataset(tmp_path / "x.safetensors").batch(torch.arange(1))["unit"]
    assert bool(unit.isfinite().all())
    assert float(unit.max()) == 65504


def test_a_split_without_samples_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="val: there are no samples to encode"):
        write_latents([], tmp_path / "val.safetensors")
    with pytest.raises(ValueError, match="there are no samples to train on"):
        motion_batch([])


def test_published_units_differ_by_the_focal_lengths_and_stand_for_the_same_metres(samples: list[Sample]) -> None:
    longer = np.diag([1.5, 1.5, 1]).astype(np.float32)
    samples = [dataclasses.replace(sample, intrinsics=longer @ sample.intrinsics) for sample in samples]
    own, published = motion_batch(samples), motion_batch(samples, "published")
    height, width = samples[0].depth.shape
    wanted = published_intrinsics(height, width)
    for i, sample in enumerate(samples):
        factor = wanted.diagonal() / torch.from_numpy(sample.intrinsics).diagonal()
        torch.testing.assert_close(published["motion"][i], own["motion"][i] * factor[:, None, None, None])
    for row in (own, published):
        torch.testing.assert_close(row["motion"] * row["unit"][:, :, None], own["motion"] * own["unit"][:, :, None])
