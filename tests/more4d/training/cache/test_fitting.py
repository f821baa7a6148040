import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from more4d.data.deferred import is_deferred
from more4d.data.sample import Sample
from more4d.data.shards import TrajSceneDataset
from more4d.geometry import project
from more4d.models.bundle import Models
from more4d.training.cache.dataset import LatentDataset, ViewDataset
from more4d.training.cache.direct import DirectLatents, DirectViews
from more4d.training.cache.fitting import fit_sample, fitted_shape


@pytest.mark.parametrize(
    ("shape", "largest", "expected"),
    [
        ((49, 384, 512), (49, 368, 512), (49, 368, 512)),
        ((49, 336, 596), None, (49, 336, 592)),
        ((49, 336, 596), (49, 368, 512), (49, 336, 512)),
        ((16, 32, 48), None, (13, 32, 48)),
        ((81, 368, 512), (49, 368, 512), (49, 368, 512)),
        ((5, 32, 48), (49, 368, 512), (5, 32, 48)),
    ],
)
def test_whole_tokens_and_groups_of_frames_are_kept_within_the_largest_shape(
    shape: Any, largest: Any, expected: Any
) -> None:
    assert fitted_shape(shape, largest) == expected


def test_a_sample_smaller_than_a_token_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(5, 15, 48\) \(frames, height, width\) has no room for a token of 16x16"):
        fitted_shape((5, 15, 48))


def test_the_middle_is_taken_and_the_camera_sees_the_same_points_there(samples: list[Sample]) -> None:
    whole = samples[1]
    part = fit_sample(whole, (5, 16, 32))
    assert part.video.shape == part.render.shape == part.points.shape == (5, 16, 32, 3)
    assert np.array_equal(part.video, whole.video[:, 8:24, 8:40])
    assert np.array_equal(part.render_mask, whole.render_mask[:, 8:24, 8:40])
    assert np.array_equal(part.visibility, whole.visibility[:, 8:24, 8:40])
    assert np.array_equal(part.depth, whole.depth[8:24, 8:40])
    view, seen = part.views["spiral"], whole.views["spiral"]
    assert seen.video is not None and view.video is not None
    assert np.array_equal(view.video, seen.video[:, 8:24, 8:40])
    assert part.views["static"].video is None
    points, intrinsics = torch.from_numpy(part.points[0]), torch.from_numpy(part.intrinsics)
    pixels, _ = project(points, intrinsics)
    rows, columns = np.mgrid[:16, :32] + 0.5
    np.testing.assert_allclose(pixels.numpy(), np.stack([columns, rows], -1), atol=1e-3)
    assert fit_sample(whole, (5, 32, 48)) is whole
    assert len(fit_sample(whole, (1, 32, 48)).views["static"].camera_to_world) == 1


def test_what_was_not_decoded_stays_so(trajscene: Path) -> None:
    whole = TrajSceneDataset(trajscene, "train")[1]
    part = fit_sample(whole, (5, 32, 32))
    for source in (whole, part, whole.views["spiral"], part.views["spiral"]):
        assert is_deferred(source, "video") and is_deferred(source, "render") and is_deferred(source, "render_mask")
    assert np.array_equal(part.render, whole.render[:, :, 8:40])


def test_a_cache_of_cropped_samples_is_what_is_encoded_of_them_on_the_fly(
    place: Any, models: Models, mixed: Path
) -> None:
    place.build("cache", dataset=mixed, largest=(5, 32, 32))
    samples, numbers = TrajSceneDataset(mixed, "train"), torch.arange(4)
    given: dict[str, Any] = {"decoded": True}
    cached = LatentDataset(place.root / "cache", **given), ViewDataset(place.root / "cache", **given)
    direct = (made(models, samples, largest=(5, 32, 32), **given) for made in (DirectLatents, DirectViews))
    for one, other in zip(cached, direct, strict=True):
        assert list(one.buckets) == list(other.buckets) == [0] * one.size
        found, expected = one.batch(numbers), other.batch(numbers)
        assert all(torch.equal(found[name], expected[name]) for name in expected)
    assert cached[0].batch(numbers)["motion_latent"].shape[-2:] == (4, 4)


def test_another_size_has_another_key(place: Any) -> None:
    whole, part = place.build("whole"), place.build("part", largest=(5, 32, 32))
    assert part.computed == len(part.files)
    assert not whole.used & part.used


def test_metres_stay_metres_in_a_crop(models: Models, samples: list[Sample]) -> None:
    wide = DirectLatents(models, [samples[0]], dtype="float32", decoded=True).batch(torch.arange(1))
    cut = fit_sample(samples[0], (5, 16, 32))
    assert dataclasses.replace(cut).id == samples[0].id
    narrow = DirectLatents(models, [cut], dtype="float32", decoded=True).batch(torch.arange(1))
    metres = [(b["motion"] * b["unit"][:, :, None]) for b in (wide, narrow)]
    torch.testing.assert_close(metres[1], metres[0][..., 8:24, 8:40], rtol=1e-4, atol=1e-5)
