"""What the ablations of table 4 change in the data: how much of it there is, how good, and in what units.

Shape letters: T frames, H height, W width.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from more4d.data.atomic import atomic_directory
from more4d.data.sample import Sample, decode_sample, encode_sample
from more4d.data.shards import EncodedSample, TrajSceneDataset, write_encoded
from more4d.models.architectures import Architecture
from more4d.models.vae import MotionVAE
from more4d.training.latents import motion_batch

SUBSET_SHARE = 1000 / 60_000
"""The paper trains on 1,000 of its 60,000 samples; other datasets keep this share."""
LABEL_NOISE = 0.02
"""Standard deviation of noise on labels, as a share of a point's first depth. The paper does not say its own."""
SHARD_BYTES = 1_000_000_000

Change = Callable[[TrajSceneDataset, int], Iterator[EncodedSample]]
"""The training samples that an ablation learns from, of a dataset and a seed."""


def changed_dataset(trajscene: Path, source: Path, change: Change, folder: Path, seed: int) -> None:
    """Fill `folder` with `change` of the training samples in `source` beside the validation samples of `trajscene`.

    It is there wholly or not at all. Raises ValueError where nothing is left to train on.
    """
    with atomic_directory(folder) as partial:
        held_out = TrajSceneDataset(trajscene, "val")
        write_encoded(as_they_are(held_out, range(len(held_out))), partial, split="val", shard_bytes=SHARD_BYTES)
        samples = TrajSceneDataset(source, "train")
        written = write_encoded(change(samples, seed), partial, split="train", shard_bytes=SHARD_BYTES)
        if not written["splits"]["train"]["samples"]:
            raise ValueError(f"{source} leaves this ablation nothing to train on")


def as_they_are(samples: TrajSceneDataset, numbers: range | list[int]) -> Iterator[EncodedSample]:
    """Samples by their numbers, not decoded."""
    ids = samples.ids
    return (EncodedSample(ids[i], samples.read_files(i)) for i in numbers)


def everything(samples: TrajSceneDataset, seed: int) -> Iterator[EncodedSample]:
    """All samples."""
    del seed
    return as_they_are(samples, range(len(samples)))


def subset(samples: TrajSceneDataset, seed: int) -> Iterator[EncodedSample]:
    """`SUBSET_SHARE` of the samples, at least two, chosen by the seed, in their order."""
    count = min(len(samples), max(2, round(SUBSET_SHARE * len(samples))))
    chosen = np.random.default_rng(seed).choice(len(samples), count, replace=False)
    return as_they_are(samples, sorted(chosen.tolist()))


def noisy_labels(samples: TrajSceneDataset, seed: int) -> Iterator[EncodedSample]:
    """All samples, their points displaced in every later frame by noise of `LABEL_NOISE`; the first frame is the depth's."""
    for name, i in zip(samples.ids, range(len(samples)), strict=True):
        files = samples.read_files(i)
        sample = decode_sample(files)
        yield EncodedSample(name, encode_sample(with_noise(sample, seed), files["video.mp4"]))


def with_noise(sample: Sample, seed: int) -> Sample:
    """The sample with displaced points, by a stream of its own."""
    digest = hashlib.sha256(f"{seed} {sample.id}".encode()).digest()
    noise = np.random.default_rng(list(digest)).standard_normal(sample.points[1:].shape, np.float32)
    points = sample.points.copy()
    points[1:] += noise * LABEL_NOISE * sample.depth[None, :, :, None]
    # Behind the camera or in it there is nothing to look at: such a point stays where it was.
    kept = points[..., 2:] > 0.5 * sample.points[..., 2:]
    return dataclasses.replace(sample, points=np.where(kept, points, sample.points))


def min_max_units(architecture: Architecture, vae: MotionVAE, trajscene: Path, samples: int = 256) -> Architecture:
    """The architecture with motion in metres over the largest displacement along each axis: no depth normalisation.

    The range is that of up to `samples` training samples, and the motion latent's own scale is fitted to it anew, so that
    the generator sees latents of the same size as with eq. 1.
    """
    dataset = TrajSceneDataset(trajscene, "train", with_views=False)
    chosen = [dataset[i] for i in range(min(samples, len(dataset)))]
    # A quarter of a metre at the least: of a dataset at rest, noise would be the range.
    x, y, z = largest_displacement(chosen)
    scale = (max(0.25, x), max(0.25, y), max(0.25, z))
    config = architecture.motion_vae.model_copy(update={"motion_camera": scale, "motion_mean": 0.0, "motion_std": 1.0})
    plain = MotionVAE(config).eval()
    plain.load_state_dict(vae.state_dict())
    with torch.no_grad():
        latents = torch.cat([plain.encode_motion(motion_batch([sample], scale)["motion"]) for sample in chosen])
    fitted = config.model_copy(update={"motion_std": float(latents.square().mean().sqrt().clamp_min(1e-6))})
    return architecture.model_copy(update={"motion_vae": fitted})


def largest_displacement(samples: list[Sample]) -> tuple[float, float, float]:
    """Metres along x, y and z of the furthest that any visible point goes from where it was first."""
    found = np.zeros(3)
    for sample in samples:
        moved = np.abs(sample.points - sample.points[:1])[sample.visibility & (sample.depth > 0)]
        found = np.maximum(found, np.nanmax(np.where(np.isfinite(moved), moved, 0), axis=0, initial=0))
    return float(found[0]), float(found[1]), float(found[2])
