"""Makes the cache: for each shard of the dataset and each shape in it one file an encoder, and tables of what is where.

A folder holds `<split>-<number>.<encoder>.safetensors`, `samples.parquet`, `views.parquet` and `manifest.json`.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from more4d.data.atomic import atomic_write_json
from more4d.training.cache.fill import SCHEMA_VERSION, Encoding, LatentShard, fill_store, latent_shards, split_samples
from more4d.training.cache.fitting import Shape
from more4d.training.cache.store import Entry, LatentStore, place
from more4d.training.distributed.world import World

log = logging.getLogger(__name__)
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


@dataclass
class Cache:
    """What a cache holds: the lines of its tables, and the SHA-256 of every file of encoded samples."""

    samples: list[dict[str, Any]] = field(default_factory=list)
    views: list[dict[str, Any]] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    """The files' keys in the store."""
    computed: int = 0
    """How many files were not taken from the store, but made."""


def build_cache(
    trajscene: Path,
    encoding: Encoding,
    folder: Path,
    store: LatentStore,
    *,
    world: World,
    largest: Shape | None = None,
    splits: Sequence[str] = ("train", "val"),
) -> Cache:
    """Fills the empty `folder`. Whatever is in `store` already is taken, whatever is not is made and put there.

    All ranks make, the main one fills the folder; the others' result is empty. Of samples over `largest` (T, H, W) the
    middle is taken. Raises ValueError for a split without samples.
    """
    shards = {split: latent_shards(split_samples(trajscene, split, largest), split) for split in splits}
    computed = fill_store([shard for each in shards.values() for shard in each], encoding, store, world)
    cache = Cache(computed=computed)
    if not world.main:
        return cache
    for split, each in shards.items():
        _list_split(cache, split, each, encoding, folder, store)
    tokens = encoding.networks.config.text.max_tokens
    write_tables(cache, folder, encoding.identities, dtype=encoding.dtype, text_tokens=tokens)
    log.info("%d files computed, %d taken from %s", computed, len(cache.files) - computed, store.folder)
    return cache


def write_tables(
    cache: Cache, folder: Path, identities: dict[str, dict[str, Any]], *, dtype: str, text_tokens: int
) -> None:
    """Write what makes a folder of files a cache: where each sample and view is, and what encoded them."""
    for name, lines, columns in ((SAMPLES, cache.samples, SAMPLE_COLUMNS), (VIEWS, cache.views, VIEW_COLUMNS)):
        pq.write_table(pa.Table.from_pylist(lines, schema=columns), folder / name, compression="zstd")
    manifest = {
        "schema_version": SCHEMA_VERSION,
        "dtype": dtype,
        "text_tokens": text_tokens,
        "encoders": identities,
        "samples": len(cache.samples),
        "views": len(cache.views),
        "files": cache.files,
    }
    atomic_write_json(folder / MANIFEST, manifest)


def _list_split(
    cache: Cache, split: str, shards: Sequence[LatentShard], encoding: Encoding, folder: Path, store: LatentStore
) -> None:
    """Put a split's files into the folder and its lines into the tables, in the dataset's order."""
    samples: dict[int, dict[str, Any]] = {}
    views: dict[int, list[dict[str, Any]]] = {}
    for shard in shards:
        with_views = None
        for name, key in encoding.keys(shard).items():
            entry = store.entry(key)
            target = folder / f"{shard.name}.{name}.safetensors"
            place(entry.file, target)
            cache.files[target.name] = entry.sha256
            cache.used.add(key)
            with_views = entry if any(entry.rows) else with_views
        assert with_views is not None, "every sample has a view: its own camera's"
        _list_shard(samples, views, shard, {"split": split, "shard": shard.name}, with_views)
    first = len(cache.samples)
    for number in sorted(samples):
        cache.samples.append(samples[number])
        cache.views += [{**view, "sample": first + number} for view in views[number]]


def _list_shard(
    samples: dict[int, dict[str, Any]],
    views: dict[int, list[dict[str, Any]]],
    shard: LatentShard,
    where: dict[str, str],
    entry: Entry,
) -> None:
    """The lines of a shard, by the samples' numbers; `entry` is its file of views."""
    size = dict(zip(("frames", "height", "width"), shard.shape, strict=True))
    view_row = 0
    for row, (number, names) in enumerate(zip(shard.numbers, entry.rows, strict=True)):
        told = {"id": shard.samples.ids[number], **where}
        samples[number] = {**told, "row": row, **size, "sha256": shard.samples.hashes[number]}
        views[number] = [{**told, "view": name, "row": view_row + i} for i, name in enumerate(names)]
        view_row += len(names)
