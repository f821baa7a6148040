"""Writing shards: each tar whole, then its marker with the hashes, and when all are there the index and the manifest."""

import hashlib
import json
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from more4d.data.header import SCHEMA_VERSION, require_id
from more4d.data.index import Entry, encode_index
from more4d.data.layout import MANIFEST, Folder, ShardError, load_manifest
from more4d.data.sample import Sample, encode_sample


@dataclass(frozen=True)
class EncodedSample:
    """A sample as its files by extension (what encode_sample returns): cheap to send between processes."""

    id: str
    files: dict[str, bytes]


@dataclass(frozen=True)
class ShardRecord:
    """A finished shard: the name without `.tar`, the tar's length and hash, its samples' places."""

    name: str
    bytes: int
    sha256: str
    samples: tuple[Entry, ...]


def write_shards(samples: Iterable[Sample], folder: Path | str, *, split: str, shard_bytes: int) -> dict[str, Any]:
    """The manifest of `folder` after `samples` became its `split`; see write_encoded."""
    encoded = (EncodedSample(sample.id, encode_sample(sample)) for sample in samples)
    return write_encoded(encoded, folder, split=split, shard_bytes=shard_bytes)


def write_encoded(
    samples: Iterable[EncodedSample], folder: Path | str, *, split: str, shard_bytes: int, patience_s: float = 60.0
) -> dict[str, Any]:
    """The manifest, after writing `<split>-<number>.tar` files with their markers and then itself.

    A shard is closed at the sample that takes it to `shard_bytes`. `folder` is a path or any URL that fsspec writes
    to, trying again for `patience_s` where a server does not answer. Raises ValueError on an id that occurs twice,
    OSError where a server stays away.
    """
    target, records = Folder(folder, patience_s=patience_s), []
    waiting = _distinct(samples)
    for first in waiting:
        name = f"{split}-{len(records):06d}"
        records.append(write_shard(target, name, chain([first], waiting), shard_bytes=shard_bytes))
    return seal(target, split, records)


def write_shard(folder: Folder, name: str, samples: Iterator[EncodedSample], *, shard_bytes: int) -> ShardRecord:
    """The record of the shard `name`, made of samples until it holds `shard_bytes`; the tar first, then its marker."""
    digest, offset, entries = hashlib.sha256(), 0, []
    with folder.writing(f"{name}.tar") as path, path.open("wb") as stream:
        for sample in samples:
            data = _tar(sample)
            entries.append(Entry(sample.id, offset, len(data), hashlib.sha256(data).hexdigest(), _shape(sample)))
            offset += stream.write(data)
            digest.update(data)
            if offset >= shard_bytes:
                break
        end = bytes(tarfile.RECORDSIZE - offset % tarfile.RECORDSIZE + tarfile.RECORDSIZE)
        stream.write(end)
        digest.update(end)
    record = ShardRecord(name, offset + len(end), digest.hexdigest(), tuple(entries))
    marker = {"schema_version": SCHEMA_VERSION, **asdict(record)}
    folder.write(f"{name}.index.json", json.dumps(marker, sort_keys=True).encode())
    return record


def finished_shard(folder: Folder, name: str) -> ShardRecord | None:
    """The record of a shard that an earlier run finished, if its tar still has the marker's hash; else None."""
    try:
        marker = json.loads(folder.read(f"{name}.index.json"))
    except FileNotFoundError:
        return None
    if marker.get("schema_version") != SCHEMA_VERSION or folder.sha256(f"{name}.tar") != marker["sha256"]:
        return None
    samples = tuple(Entry(**{**row, "shape": tuple(row["shape"])}) for row in marker["samples"])
    return ShardRecord(marker["name"], marker["bytes"], marker["sha256"], samples)


def seal(folder: Folder, split: str, records: Sequence[ShardRecord]) -> dict[str, Any]:
    """The manifest, after writing the split's index and then itself: what it does not name does not exist for readers.

    Other splits' parts stay. It holds schema_version and splits -> samples, bytes, index (name, sha256) and shards
    (name, samples, bytes, sha256). Raises ValueError on an id that two shards hold, ShardError beside other versions.
    """
    _require_distinct(records)
    index = encode_index([record.samples for record in records])
    digest = hashlib.sha256(index).hexdigest()
    # The index is named by its content: the old manifest goes on to find its own until the new one is there.
    name = f"{split}.{digest[:12]}.index.parquet"
    part = {
        "samples": sum(len(record.samples) for record in records),
        "bytes": sum(record.bytes for record in records),
        "index": {"name": name, "sha256": digest},
        "shards": [_summary(record) for record in records],
    }
    splits = {**_other_splits(folder), split: part}
    folder.write(name, index)
    manifest = {"schema_version": SCHEMA_VERSION, "splits": splits}
    folder.write(MANIFEST, (json.dumps(manifest, indent=1, sort_keys=True) + "\n").encode())
    return manifest


def _summary(record: ShardRecord) -> dict[str, Any]:
    return {"name": record.name, "samples": len(record.samples), "bytes": record.bytes, "sha256": record.sha256}


def _other_splits(folder: Folder) -> dict[str, Any]:
    if not folder.exists(MANIFEST):
        return {}
    manifest = load_manifest(folder)
    if manifest["schema_version"] != SCHEMA_VERSION:
        raise ShardError(
            f"{folder.url} holds schema version {manifest['schema_version']}; write version {SCHEMA_VERSION} "
            "to another folder, or convert this one first (more4d data convert)"
        )
    return manifest["splits"]


def _distinct(samples: Iterable[EncodedSample]) -> Iterator[EncodedSample]:
    seen: set[str] = set()
    for sample in samples:
        require_id(sample.id)
        if sample.id in seen:
            raise ValueError(f"sample {sample.id} occurs twice")
        seen.add(sample.id)
        yield sample


def _require_distinct(records: Sequence[ShardRecord]) -> None:
    holders: dict[str, str] = {}
    for record in records:
        for entry in record.samples:
            if entry.id in holders:
                raise ValueError(f"sample {entry.id} occurs twice: in {holders[entry.id]} and in {record.name}")
            holders[entry.id] = record.name


def _shape(sample: EncodedSample) -> tuple[int, int, int]:
    """(T, H, W) as the sample's own header says, so that readers can group by it without reading samples."""
    header = json.loads(sample.files["json"]) if "json" in sample.files else {}
    frames, height, width = header.get("shape", (0, 0, 0))
    return int(frames), int(height), int(width)


def _tar(sample: EncodedSample) -> bytes:
    """The sample's members as tar blocks without the end mark, so that samples can follow one another."""
    blocks = []
    for extension in sorted(sample.files):
        # TarInfo's defaults (time 0, owner 0) keep the bytes free of the moment and the user.
        info = tarfile.TarInfo(f"{sample.id}.{extension}")
        data = sample.files[extension]
        info.size = len(data)
        blocks += [info.tobuf(tarfile.USTAR_FORMAT), data, bytes(-len(data) % tarfile.BLOCKSIZE)]
    return b"".join(blocks)
