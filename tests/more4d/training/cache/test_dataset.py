import dataclasses
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from more4d.data.sample import Sample
from more4d.data.shards import TrajSceneDataset
from more4d.models.bundle import Models
from more4d.models.conditions import (
    clip_picture,
    depth_latent,
    fold_mask,
    image_latent,
    render_with_holes,
    to_unit_range,
)
from more4d.training.cache.build import build_cache
from more4d.training.cache.dataset import LatentDataset, ViewDataset
from more4d.training.cache.direct import DirectLatents, DirectViews
from more4d.training.cache.encoders import motion_posterior, posterior
from more4d.training.cache.fill import Encoding
from more4d.training.cache.networks import CheckpointEncoders
from more4d.training.cache.rows import StoredDtype
from more4d.training.cache.store import LatentStore
from more4d.training.distributed.world import World
from more4d.training.latents import motion_batch
from more4d.training.order import Order
from more4d.training.view_source import video_tensor
from safetensors.torch import load_file
from torch import Tensor

DTYPES = pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])


def require_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """The same tensors under the same names, bit for bit."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == value.dtype, name
        assert torch.equal(found[name], value), name


@DTYPES
def test_the_cache_gives_bit_for_bit_what_encoding_on_the_fly_gives(
    place: Any, models: Models, mixed: Path, dtype: StoredDtype
) -> None:
    place.build("cache", dataset=mixed, dtype=dtype)
    samples, given = TrajSceneDataset(mixed, "train"), {"decoded": True, "posterior": True}
    for cached, direct in (
        (LatentDataset(place.root / "cache", **given), DirectLatents(models, samples, dtype=dtype, **given)),
        (ViewDataset(place.root / "cache", **given), DirectViews(models, samples, dtype=dtype, **given)),
    ):
        assert (cached.size, cached.ids, cached.buckets) == (direct.size, direct.ids, direct.buckets)
        for bucket in set(cached.buckets):
            numbers = torch.tensor([i for i, each in enumerate(cached.buckets) if each == bucket]).flip(0)
            require_same(cached.batch(numbers), direct.batch(numbers))


def test_a_sample_holds_what_each_network_makes_of_it(models: Models, samples: list[Sample]) -> None:
    source = DirectLatents(models, samples, dtype="float32", decoded=True)
    batch = source.batch(torch.tensor([2, 0]))
    picked = [samples[2], samples[0]]
    images = torch.from_numpy(np.stack([sample.video[0] for sample in picked])).permute(0, 3, 1, 2)
    depth = torch.from_numpy(np.stack([sample.depth for sample in picked]))
    true = motion_batch(picked)
    expected = {
        "motion_latent": models.vae.encode_motion(true["motion"]),
        "image_latent": image_latent(models.vae, to_unit_range(images), 5),
        "depth_latent": depth_latent(models.vae, depth, 5, "log"),
        "motion_features": models.motion_encoder.encode(images),
        "text": models.text.encode([sample.caption for sample in picked]),
        "image_tokens": models.image_encoder.encode(images),
        **{key: true[key] for key in ("motion", "visible", "unit")},
    }
    assert batch.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(batch[name], value, msg=name, rtol=1e-4, atol=1e-5)


def test_a_view_holds_both_latents_the_folded_mask_and_what_belongs_to_its_sample(
    models: Models, samples: list[Sample]
) -> None:
    source = DirectViews(models, samples, dtype="float32", decoded=True)
    assert list(source.ids) == [
        "scene-00000/original", "scene-00001/original", "scene-00001/spiral", "scene-00002/original",
    ]  # fmt: skip
    batch, view = source.batch(torch.tensor([2])), samples[1].views["spiral"]
    assert view.video is not None
    mask, video = torch.from_numpy(view.render_mask)[None], video_tensor(view.video[None])
    grey = render_with_holes(video_tensor(view.render[None]), mask)
    assert torch.equal(batch["video_latent"], models.vae.encode_video(video))
    assert torch.equal(batch["render_latent"], models.vae.encode_video(grey))
    assert torch.equal(batch["mask"], fold_mask(mask))
    assert torch.equal(batch["video"], video)
    assert torch.equal(batch["holes"], ~mask)
    picture = torch.from_numpy(samples[1].video[:1]).permute(0, 3, 1, 2)
    assert torch.equal(batch["text"], models.text.encode([samples[1].caption]))
    assert torch.equal(batch["image_tokens"], models.image_encoder.encode(picture))


def test_mean_and_log_variance_are_those_of_the_normalised_latent(models: Models, samples: list[Sample]) -> None:
    batch = motion_batch(samples[:1])
    mean, log_variance = motion_posterior(models.vae, batch["motion"])
    assert torch.equal(mean, models.vae.encode_motion(batch["motion"]))
    found = models.vae.vae.encode(models.vae.trajectory_encoder(batch["motion"])).latent_dist
    # (the VAE's own scale) 3 and (the motion latent's) 0.2, as the fixture's config has them.
    torch.testing.assert_close((0.5 * log_variance).exp(), found.std / 3.0 / 0.2)
    video_mean, video_log_variance = posterior(models.vae, batch["video"])
    assert torch.equal(video_mean, models.vae.encode_video(batch["video"]))
    torch.testing.assert_close(
        (0.5 * video_log_variance).exp(), models.vae.vae.encode(batch["video"]).latent_dist.std / 3
    )


def test_only_what_is_asked_for_is_read(place: Any) -> None:
    place.build("cache")
    for file in (place.root / "cache").glob("*truth*"):
        file.unlink()
    lean, views = LatentDataset(place.root / "cache"), ViewDataset(place.root / "cache")
    first = torch.tensor([0])
    assert lean.batch(first).keys() == {
        "motion_latent", "image_latent", "depth_latent", "text", "image_tokens", "motion_features",
    }  # fmt: skip
    assert views.batch(first).keys() == {"video_latent", "render_latent", "mask", "text", "image_tokens"}
    drawn = LatentDataset(place.root / "cache", posterior=True).batch(first)
    assert drawn.keys() - lean.batch(first).keys() == {"motion_logvar"}
    drawn = ViewDataset(place.root / "cache", posterior=True).batch(first)
    assert drawn.keys() - views.batch(first).keys() == {"video_logvar"}


def test_buckets_hold_one_size_each_and_every_batch_of_an_order_can_be_stacked(place: Any, mixed: Path) -> None:
    place.build("cache", dataset=mixed)
    cache, views = LatentDataset(place.root / "cache"), ViewDataset(place.root / "cache")
    assert (list(cache.buckets), list(views.buckets)) == ([1, 0, 1, 0], [1, 0, 1, 1, 0, 0])
    for source, name in ((cache, "motion_latent"), (views, "video_latent")):
        order = Order(source.buckets, 2, seed=0)
        widths = {source.batch(torch.tensor(order.batch(step)))[name].shape[-1] for step in range(4)}
        assert widths == {4, 6}
        with pytest.raises(ValueError, match="cannot be one batch; take batches from one bucket"):
            source.batch(torch.tensor([0, 1]))


def test_threads_that_read_at_once_get_what_one_gets(place: Any, mixed: Path) -> None:
    place.build("cache", dataset=mixed)
    numbers = [torch.tensor([i]) for i in (0, 1, 2, 3) * 8]
    alone = LatentDataset(place.root / "cache", decoded=True)
    expected = [alone.batch(number) for number in numbers]
    shared = LatentDataset(place.root / "cache", decoded=True)
    with ThreadPoolExecutor(8) as pool:
        for found, wanted in zip(pool.map(shared.batch, numbers), expected, strict=True):
            require_same(found, wanted)


def test_text_is_stored_without_its_padding_and_given_with_it(place: Any, models: Models) -> None:
    place.build("cache")
    stored = load_file(place.root / "cache" / "train-00000.text.safetensors")
    _, mask = models.text.tokenize(["a patch moves to the left", "a patch moves to the right"])
    assert stored["text.starts"].diff().tolist() == mask.sum(dim=1).tolist()
    assert len(stored["text.joined"]) == int(mask.sum())
    assert LatentDataset(place.root / "cache").batch(torch.arange(2))["text"].shape == (2, 8, 24)


def test_a_checkpoint_whose_clip_sees_grey_stores_one_row_of_it_and_the_photo_for_vism(
    place: Any, checkpoint: Path, models: Models, tmp_path: Path, trajscene: Path
) -> None:
    encoders = CheckpointEncoders(checkpoint)
    grey = models.config.generation.model_copy(update={"clip_image": "grey"})
    encoders.config = models.config.model_copy(update={"generation": grey})
    encoding, alone = Encoding(encoders, "float32", decoded=False), World(0, 1, torch.device("cpu"))
    (tmp_path / "cache").mkdir()
    build_cache(trajscene, encoding, tmp_path / "cache", LatentStore(tmp_path / "store"), world=alone)
    cached = LatentDataset(tmp_path / "cache").batch(torch.arange(2))
    picture = clip_picture(torch.zeros(2, 3, 32, 48, dtype=torch.uint8), "grey")
    torch.testing.assert_close(cached["image_tokens"], models.image_encoder.encode(picture))
    direct = DirectLatents(
        dataclasses.replace(models, config=encoders.config), TrajSceneDataset(trajscene, "train"), dtype="float32"
    )
    require_same(cached, direct.batch(torch.arange(2)))
    views = ViewDataset(tmp_path / "cache").batch(torch.arange(2))
    assert not torch.allclose(views["image_tokens"], cached["image_tokens"])
    assert len(load_file(tmp_path / "cache" / "train-00000.grey.safetensors")["image_tokens"]) == 1


def test_a_depth_beyond_half_precisions_range_stays_finite(models: Models, samples: list[Sample]) -> None:
    depth = samples[0].depth.copy()
    depth[0, 0] = 1e6
    far = dataclasses.replace(samples[0], depth=depth)
    unit = DirectLatents(models, [far], decoded=True).batch(torch.arange(1))["unit"]
    assert bool(unit.isfinite().all())
    assert float(unit.max()) == 65504


def test_what_is_no_cache_or_lacks_what_is_asked_for_is_refused(place: Any, tmp_path: Path) -> None:
    place.build("cache", decoded=False)
    with pytest.raises(ValueError, match="holds no truth, which a decoded error needs: set latents.decoded=true"):
        LatentDataset(place.root / "cache", decoded=True)
    with pytest.raises(ValueError, match="holds no view_truth, which a decoded error needs"):
        ViewDataset(place.root / "cache", decoded=True)
    with pytest.raises(ValueError, match="has nothing of the split 'test'"):
        LatentDataset(place.root / "cache", "test")
    with pytest.raises(ValueError, match="is no latent cache: it has no manifest.json"):
        LatentDataset(tmp_path)
    (tmp_path / "manifest.json").write_text('{"schema_version": 99}')
    with pytest.raises(ValueError, match="has schema version 99, this code reads 1"):
        ViewDataset(tmp_path)
    file = place.root / "cache" / "train-00000.picture.safetensors"
    data = file.read_bytes()
    file.unlink()
    file.write_bytes(data[:-1])
    with pytest.raises(ValueError, match="picture.safetensors is truncated"):
        LatentDataset(place.root / "cache").batch(torch.arange(1))
