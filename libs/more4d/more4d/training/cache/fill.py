"""Encodes what the store lacks of a dataset, a shard at a time, by as many processes as there are.

Shape letters: T frames, H height, W width.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

from tqdm import tqdm

from more4d.data.shards import TrajSceneDataset
from more4d.training.cache.encoders import Encoder, all_encoders, views_of
from more4d.training.cache.fitting import Shape
from more4d.training.cache.networks import CheckpointEncoders
from more4d.training.cache.rows import Row, StoredDtype, file_tensors, rounded
from more4d.training.cache.samples import SampleList
from more4d.training.cache.store import LatentStore
from more4d.training.distributed.world import World

SCHEMA_VERSION = 1
MAX_SAMPLES, MAX_PIXELS = 256, 2**29
"""Of a latent shard, over all its frames: what is made of it is held in memory. The paper's samples are 58 to a shard."""


@dataclass(frozen=True, eq=False)
class LatentShard:
    """Samples of one shard of the dataset and of one shape, by their numbers in the split."""

    name: str
    samples: SampleList
    numbers: tuple[int, ...]
    shape: Shape


@dataclass(frozen=True, eq=False)
class Encoding:
    """What is made of every sample, and how its numbers are stored."""

    networks: CheckpointEncoders
    dtype: StoredDtype
    decoded: bool

    @cached_property
    def encoders(self) -> list[Encoder]:
        """What makes each file of a shard."""
        return all_encoders(self.networks.config, decoded=self.decoded)

    @cached_property
    def identities(self) -> dict[str, dict[str, Any]]:
        """Of each encoder, what its files' keys depend on."""
        return {encoder.name: encoder.identity(self.networks) for encoder in self.encoders}

    def keys(self, shard: LatentShard) -> dict[str, str]:
        """The key of each encoder's file of a shard."""
        told = [(shard.samples.ids[i], shard.samples.hashes[i]) for i in shard.numbers]
        return {name: file_key(of, self.dtype, shard.shape, told) for name, of in self.identities.items()}


def latent_shards(samples: SampleList, split: str) -> list[LatentShard]:
    """The samples of a split, cut at the dataset's shards, at changes of shape, and where a shard would be too large."""
    groups: dict[tuple[int, Shape], list[int]] = {}
    for number, (shard, shape) in enumerate(zip(samples.shards, samples.shapes, strict=True)):
        groups.setdefault((shard, shape), []).append(number)
    cut = [
        (shape, numbers[start : start + limit])
        for (_, shape), numbers in groups.items()
        for limit in [max(1, min(MAX_SAMPLES, MAX_PIXELS // prod(shape)))]
        for start in range(0, len(numbers), limit)
    ]
    return [LatentShard(f"{split}-{i:05d}", samples, tuple(numbers), shape) for i, (shape, numbers) in enumerate(cut)]


def split_samples(trajscene: Path, split: str, largest: Shape | None) -> SampleList:
    """The samples of a split. Raises ValueError where there are none."""
    samples = SampleList(TrajSceneDataset(trajscene, split), largest)
    if not len(samples):
        raise ValueError(f"{split}: there are no samples to encode; verdicts.parquet says why they were rejected")
    return samples


def file_key(identity: dict[str, Any], dtype: StoredDtype, shape: Shape, samples: Iterable[tuple[str, str]]) -> str:
    """The key of a file: a hash of its encoder, of its samples' ids and contents, and of what is kept of them and how."""
    told = {"schema": SCHEMA_VERSION, "dtype": dtype, "shape": shape, "samples": list(samples), **identity}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def fill_store(shards: Sequence[LatentShard], encoding: Encoding, store: LatentStore, world: World) -> int:
    """How many files were made: of each shard those that `store` lacks. The ranks take turns, one shard each.

    One sample is held at a time, and what was made of one shard.
    """
    made = 0
    for first in tqdm(range(0, len(shards), world.ranks), desc="latents", leave=False, disable=not world.main):
        if first + world.rank < len(shards):
            made += _fill_shard(shards[first + world.rank], encoding, store)
        # At every turn: nobody waits longer for the slowest than a shard takes, however long all of them take.
        world.barrier()
    return sum(world.gather(made))


def _fill_shard(shard: LatentShard, encoding: Encoding, store: LatentStore) -> int:
    keys = encoding.keys(shard)
    missing = [encoder for encoder in encoding.encoders if store.get(keys[encoder.name]) is None]
    if missing:
        for name, (rows, views) in _encode(shard, missing, encoding).items():
            store.put(keys[name], file_tensors(rows), views)
            # Large: the next encoder's need not wait for this one's to be collected.
            rows.clear()
    return len(missing)


def _encode(
    shard: LatentShard, encoders: Sequence[Encoder], encoding: Encoding
) -> dict[str, tuple[list[Row], list[list[str]]]]:
    """Rows of each encoder and, of encoders of views, the names of each sample's views."""
    made: dict[str, tuple[list[Row], list[list[str]]]] = {encoder.name: ([], []) for encoder in encoders}
    for number in shard.numbers:
        sample = shard.samples[number]
        for encoder in encoders:
            rows, names = made[encoder.name]
            views = views_of(sample) if encoder.of_views else {}
            names.append(list(views))
            if not (encoder.shared and rows):
                given = list(views.values()) or [sample]
                rows += [rounded(encoder.encode(encoding.networks, each), encoding.dtype) for each in given]
    return made
