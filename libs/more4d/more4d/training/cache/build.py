"""Makes the cache: for each shard of the dataset and each shape in it one file an encoder, and tables of what is where.

A folder holds `<split>-<number>.<encoder>.safetensors`, `samples.parquet`, `views.parquet` and `manifest.json`.
"""

import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from more4d.data.atomic import atomic_write_json
from more4d.data.sample import Sample
from more4d.data.shards import TrajSceneDataset
from more4d.training.cache.encoders import Encoder, all_encoders, views_of
from more4d.training.cache.networks import CheckpointEncoders
from more4d.training.cache.rows import Row, StoredDtype, file_tensors, rounded
from more4d.training.cache.samples import SampleList, Shape
from more4d.training.cache.store import Entry, LatentStore, place

log = logging.getLogger(__name__)
SCHEMA_VERSION = 1
MANIFEST, SAMPLES, VIEWS = "manifest.json", "samples.parquet", "views.parquet"
_SHARD = [("split", pa.string()), ("shard", pa.string())]
SAMPLE_COLUMNS = pa.schema(
    [("id", pa.string()), *_SHARD, ("row", pa.int32()), ("frames", pa.int32()), ("height", pa.int32())]
    + [("width", pa.int32()), ("sha256", pa.string())]
)
VIEW_COLUMNS = pa.schema(
    [("id", pa.string()), ("view", pa.string()), *_SHARD, ("row", pa.int32()), ("sample", pa.int32())]
)
"""`row` is the view's in the files of views, `sample` its sample's line in samples.parquet."""


MAX_SAMPLES, MAX_PIXELS = 256, 2**29
"""Of a latent shard, over all its frames: what is made of it is held in memory. The paper's samples are 58 to a shard."""


@dataclass(frozen=True)
class LatentShard:
    """Samples of one shard of the dataset and of one shape, by their numbers in the split."""

    name: str
    numbers: tuple[int, ...]
    shape: Shape


@dataclass
class Cache:
    """What is being written."""

    folder: Path
    store: LatentStore
    dtype: StoredDtype
    samples: list[dict[str, Any]] = field(default_factory=list)
    views: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    """SHA-256 of every file of encoded samples."""
    used: set[str] = field(default_factory=set)
    computed: int = 0


def build_cache(
    trajscene: Path,
    encoders: CheckpointEncoders,
    folder: Path,
    store: LatentStore,
    *,
    decoded: bool,
    dtype: StoredDtype,
    splits: Sequence[str] = ("train", "val"),
) -> Cache:
    """Fills the empty `folder`. Whatever is in `store` already is taken, whatever is not is made and put there.

    One sample is held at a time, and what was made of one shard. Raises ValueError for a split without samples.
    """
    cache, wanted = Cache(folder, store, dtype), all_encoders(encoders.config, decoded=decoded)
    identities = {encoder.name: encoder.identity(encoders) for encoder in wanted}
    for split in splits:
        samples = SampleList(TrajSceneDataset(trajscene, split))
        if not len(samples):
            raise ValueError(f"{split}: there are no samples to encode; verdicts.parquet says why they were rejected")
        first = len(cache.samples)
        cache.samples += [{} for _ in range(len(samples))]
        for shard in tqdm(latent_shards(samples, split), desc=f"latents of {split}", leave=False):
            entries = _encode_shard(cache, shard, samples, wanted, identities, encoders)
            _list_shard(cache, shard, samples, first, split, next(e for e in entries if any(e.rows)))
    write_tables(cache, identities, text_tokens=encoders.config.text.max_tokens)
    log.info("%d files computed, %d taken from %s", cache.computed, len(cache.files) - cache.computed, store.folder)
    return cache


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
    return [LatentShard(f"{split}-{i:05d}", tuple(numbers), shape) for i, (shape, numbers) in enumerate(cut)]


def file_key(identity: dict[str, Any], dtype: StoredDtype, samples: Iterable[tuple[str, str]]) -> str:
    """The key of a file: a hash of its encoder, of its samples' ids and contents, and of how their numbers are stored."""
    told = {"schema": SCHEMA_VERSION, "dtype": dtype, "samples": [list(each) for each in samples], **identity}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _encode_shard(
    cache: Cache,
    shard: LatentShard,
    samples: SampleList,
    wanted: Sequence[Encoder],
    identities: dict[str, dict[str, Any]],
    encoders: CheckpointEncoders,
) -> list[Entry]:
    """The shard's files, each taken from the store or made."""
    told = [(samples.ids[i], samples.hashes[i]) for i in shard.numbers]
    keys = {encoder.name: file_key(identities[encoder.name], cache.dtype, told) for encoder in wanted}
    found = {name: cache.store.get(key) for name, key in keys.items()}
    missing = [encoder for encoder in wanted if found[encoder.name] is None]
    if missing:
        made = _encode(missing, encoders, (samples[i] for i in shard.numbers), cache.dtype)
        for encoder, (rows, names) in made.items():
            found[encoder] = cache.store.put(keys[encoder], file_tensors(rows), names)
            # Large: the next encoder's need not wait for this one's to be collected.
            rows.clear()
    cache.computed += len(missing)
    cache.used |= set(keys.values())
    for name, entry in found.items():
        assert entry is not None
        target = cache.folder / f"{shard.name}.{name}.safetensors"
        place(entry.file, target)
        cache.files[target.name] = entry.sha256
    return [entry for entry in found.values() if entry is not None]


def _encode(
    encoders: Sequence[Encoder], networks: CheckpointEncoders, samples: Iterator[Sample], dtype: StoredDtype
) -> dict[str, tuple[list[Row], list[list[str]]]]:
    """Rows of each encoder and, of encoders of views, the names of each sample's views."""
    made: dict[str, tuple[list[Row], list[list[str]]]] = {encoder.name: ([], []) for encoder in encoders}
    for sample in samples:
        for encoder in encoders:
            rows, names = made[encoder.name]
            views = views_of(sample) if encoder.of_views else {}
            names.append(list(views))
            if not (encoder.shared and rows):
                rows += [rounded(encoder.encode(networks, each), dtype) for each in (views.values() or [sample])]
    return made


def _list_shard(
    cache: Cache, shard: LatentShard, samples: SampleList, first: int, split: str, with_views: Entry
) -> None:
    place_of = {"split": split, "shard": shard.name}
    frames, height, width = shard.shape
    size = {"frames": frames, "height": height, "width": width}
    view_row = 0
    for row, (number, views) in enumerate(zip(shard.numbers, with_views.rows, strict=True)):
        name, sha256 = samples.ids[number], samples.hashes[number]
        cache.samples[first + number] = {"id": name, **place_of, "row": row, **size, "sha256": sha256}
        for view in views:
            cache.views.append({"id": name, "view": view, **place_of, "row": view_row, "sample": first + number})
            view_row += 1


def write_tables(cache: Cache, identities: dict[str, dict[str, Any]], *, text_tokens: int) -> None:
    """Write what makes a folder of files a cache: where each sample and view is, and what encoded them."""
    cache.views.sort(key=lambda line: line["sample"])
    for name, lines, columns in ((SAMPLES, cache.samples, SAMPLE_COLUMNS), (VIEWS, cache.views, VIEW_COLUMNS)):
        pq.write_table(pa.Table.from_pylist(lines, schema=columns), cache.folder / name, compression="zstd")
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "dtype": cache.dtype,
        "text_tokens": text_tokens,
        "encoders": identities,
        "samples": len(cache.samples),
        "views": len(cache.views),
        "files": cache.files,
    }
    atomic_write_json(cache.folder / MANIFEST, manifest)
