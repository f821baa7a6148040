from pathlib import Path

import numpy as np
import torch
from more4d.data.sample import Sample
from more4d.data.shards import TrajSceneDataset
from more4d.models.bundle import Models
from more4d.training.latents import motion_batch
from more4d.training.trajscene import TrajSceneMotion, sample_view_pairs


def test_samples_in_shards_become_batches(trajscene: Path, samples: list[Sample]) -> None:
    stored = TrajSceneDataset(trajscene, "train", with_views=False)
    source = TrajSceneMotion(stored[i] for i in range(len(stored)))
    assert source.size == 2
    found, exact = source.batch(torch.tensor([1])), motion_batch(samples[1:2])
    assert found.keys() == exact.keys()
    assert torch.equal(found["video"], exact["video"])
    assert torch.equal(found["visible"], exact["visible"])
    assert torch.allclose(found["motion"], exact["motion"], atol=2e-3)


def test_the_own_camera_always_pairs_and_a_novel_one_where_its_truth_is_known(
    models: Models, samples: list[Sample]
) -> None:
    pairs = list(sample_view_pairs(samples, models))
    videos = [samples[0].video, samples[1].video, samples[1].views["spiral"].video, samples[2].video]
    assert len(pairs) == 4
    assert all(np.array_equal(pair.video, video) for pair, video in zip(pairs, videos, strict=True))
    assert all(np.array_equal(pair.render, pair.render * pair.mask[..., None]) for pair in pairs)
    text = models.text.encode([samples[1].caption])[0]
    picture = torch.from_numpy(samples[1].video[0]).permute(2, 0, 1)[None]
    assert torch.equal(pairs[2].text, text)
    assert torch.equal(pairs[2].image, models.image_encoder.encode(picture)[0])
