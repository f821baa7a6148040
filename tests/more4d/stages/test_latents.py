from pathlib import Path

import torch
from more4d.data.sample import Sample
from more4d.models.bundle import Models
from more4d.stages.base import VideoSpec, run_stage
from more4d.stages.latents import STAGE, LatentsParams
from more4d.training.latents import LatentDataset, encode_samples

VIDEO = VideoSpec(frames=5, height=32, width=48, fps=8)


def test_every_sample_of_both_splits_is_encoded(workspace: Path, models: Models, samples: list[Sample]) -> None:
    result = run_stage(STAGE, params=LatentsParams(batch_size=1), video=VIDEO, seed=0, workers=1, root=workspace)
    assert result.metrics == {"train_samples": 2, "val_samples": 1}
    caches = {split: LatentDataset(result.outputs["latents"] / f"{split}.safetensors") for split in ("train", "val")}
    assert {split: cache.size for split, cache in caches.items()} == {"train": 2, "val": 1}
    found, expected = caches["val"].batch(torch.arange(1)), encode_samples(models, samples[2:])
    assert found.keys() == expected.keys()
    # Tracks in shards are quantised to 0.05 px and 0.1 % of their depth.
    assert torch.allclose(found["motion_latent"], expected["motion_latent"], atol=0.1)
    assert torch.allclose(found["text"], expected["text"], atol=2e-3)
