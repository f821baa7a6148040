"""Where each sample lies: one table for all shards of a split, in columns, so that 60,000 samples open in a moment."""

import hashlib
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from more4d.data.layout import Folder, ShardError

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("shard", pa.int32()),
        ("offset", pa.int64()),
        ("size", pa.int64()),
        ("sha256", pa.binary(32)),
        ("frames", pa.int32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
    ]
)


@dataclass(frozen=True)
class Entry:
    """One sample's place: bytes offset .. offset + size of the shard's tar; shape is (T, H, W), zeros if unknown."""

    id: str
    offset: int
    size: int
    sha256: str
    shape: tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class ShardIndex:
    """The samples of shards in order, as columns: `shards` by name, `shard` [N] numbers into them, `shape` [N, 3]."""

    shards: tuple[str, ...]
    ids: pa.StringArray
    shard: NDArray[np.int32]
    offset: NDArray[np.int64]
    size: NDArray[np.int64]
    sha256: pa.FixedSizeBinaryArray
    shape: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.shard)

    def entry(self, i: int) -> tuple[str, Entry]:
        """(shard's name, the i-th sample's place)."""
        frames, height, width = (int(value) for value in self.shape[i])
        place = Entry(
            self.ids[i].as_py(), int(self.offset[i]), int(self.size[i]), self.sha256[i].as_py().hex(),
            (frames, height, width),
        )  # fmt: skip
        return self.shards[self.shard[i]], place


def encode_index(shards: Sequence[Sequence[Entry]]) -> bytes:
    """Parquet of the entries of a split's shards, in the manifest's order; the same entries give the same bytes."""
    rows = [(number, entry) for number, entries in enumerate(shards) for entry in entries]
    columns: dict[str, list[Any]] = {
        "id": [entry.id for _, entry in rows],
        "shard": [number for number, _ in rows],
        "offset": [entry.offset for _, entry in rows],
        "size": [entry.size for _, entry in rows],
        "sha256": [bytes.fromhex(entry.sha256) for _, entry in rows],
    }
    for axis, name in enumerate(("frames", "height", "width")):
        columns[name] = [entry.shape[axis] for _, entry in rows]
    buffer = io.BytesIO()
    pq.write_table(pa.table(columns, schema=SCHEMA), buffer, compression="zstd")
    return buffer.getvalue()


def load_index(folder: Folder, part: dict[str, Any]) -> ShardIndex:
    """The index of a split, by its part of the manifest. Raises ShardError where its bytes are not the manifest's."""
    if "index" not in part:
        return _join(part, [_entries_v1(folder, shard) for shard in part["shards"]])
    name = part["index"]["name"]
    data = _checked(folder, name, part["index"]["sha256"])
    try:
        table = pq.read_table(io.BytesIO(data))
    except (pa.ArrowInvalid, OSError) as error:
        raise ShardError(f"{folder.url}/{name} is not the index of a split: {error}") from error
    if table.schema.remove_metadata() != SCHEMA or len(table) != part["samples"]:
        raise ShardError(f"{folder.url}/{name} is not the index of the {part['samples']} samples in the manifest")
    return _from_table(tuple(shard["name"] for shard in part["shards"]), table.combine_chunks())


def join_indices(parts: Sequence[ShardIndex]) -> ShardIndex:
    """Several splits' samples, one split after the other."""
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *(len(part.shards) for part in parts)])
    return ShardIndex(
        tuple(name for part in parts for name in part.shards),
        pa.concat_arrays([part.ids for part in parts] or [pa.array([], pa.string())]),
        np.concatenate([part.shard + start for part, start in zip(parts, starts, strict=False)]).astype(np.int32),
        np.concatenate([part.offset for part in parts]),
        np.concatenate([part.size for part in parts]),
        pa.concat_arrays([part.sha256 for part in parts]),
        np.concatenate([part.shape for part in parts]),
    )


def _from_table(shards: tuple[str, ...], table: pa.Table) -> ShardIndex:
    shape = np.stack([table[name].to_numpy() for name in ("frames", "height", "width")], axis=1)
    return ShardIndex(
        shards, _whole(table["id"]), table["shard"].to_numpy(), table["offset"].to_numpy(), table["size"].to_numpy(),
        _whole(table["sha256"]), shape,
    )  # fmt: skip


def _whole(column: pa.ChunkedArray) -> Any:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)


def _join(part: dict[str, Any], shards: list[list[Entry]]) -> ShardIndex:
    table = pq.read_table(io.BytesIO(encode_index(shards)))
    return _from_table(tuple(shard["name"] for shard in part["shards"]), table)


def _entries_v1(folder: Folder, shard: dict[str, Any]) -> list[Entry]:
    data = _checked(folder, f"{shard['name']}.index.json", shard["index_sha256"])
    samples = json.loads(data)["samples"]
    return [Entry(row["id"], row["offset"], row["size"], row["sha256"], (0, 0, 0)) for row in samples]


def _checked(folder: Folder, name: str, sha256: str) -> bytes:
    try:
        data = folder.read(name)
    except FileNotFoundError as error:
        raise ShardError(f"{folder.url}/{name} is gone; the manifest names it") from error
    if hashlib.sha256(data).hexdigest() != sha256:
        raise ShardError(f"{folder.url}/{name}: the sha256 differs from the manifest's; fetch or write it again")
    return data
