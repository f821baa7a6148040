"""Shards: immutable WebDataset tars with an index and a manifest, written atomically and read by range.

A folder holds `<shard>.tar`, a marker `<shard>.index.json` beside each, one `<split>.<hash>.index.parquet` a split, and
`manifest.json`, written last. Here is what the rest of the library uses of it.
"""

from more4d.data.layout import MANIFEST, ShardError, read_manifest
from more4d.data.reader import TrajSceneDataset
from more4d.data.verify import verify_shards
from more4d.data.writer import EncodedSample, write_encoded, write_shards

__all__ = [
    "MANIFEST",
    "EncodedSample",
    "ShardError",
    "TrajSceneDataset",
    "read_manifest",
    "verify_shards",
    "write_encoded",
    "write_shards",
]
