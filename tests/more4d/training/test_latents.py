import dataclasses

import numpy as np
import pytest
import torch
from more4d.data.sample import Sample
from more4d.geometry.published import published_intrinsics
from more4d.training.latents import motion_batch


def test_points_that_are_unknown_or_without_depth_are_not_visible(samples: list[Sample]) -> None:
    points, depth = samples[0].points.copy(), samples[0].depth.copy()
    points[2, 4, 5], points[:, 6, 7] = np.nan, np.inf
    depth[8, 9], points[:, 8, 9] = np.nan, np.nan
    batch = motion_batch([dataclasses.replace(samples[0], points=points, depth=depth)])
    assert not batch["visible"][0, 2, 4, 5]
    assert batch["visible"][0, 1, 4, 5]
    assert not batch["visible"][0, :, 6, 7].any() and not batch["visible"][0, :, 8, 9].any()
    assert all(value.isfinite().all() for value in batch.values())


def test_a_batch_without_samples_is_refused() -> None:
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
