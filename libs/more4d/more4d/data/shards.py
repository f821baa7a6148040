"""Shards: immutable WebDataset tars with an index and a manifest, written atomically and read by range."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import fsspec

from more4d.data.atomic import atomic_file, atomic_write_bytes, atomic_write_json
from more4d.data.sample import (
    SCHEMA_VERSION,
    Sample,
    decode_sample,
    encode_sample,
    require_id,
    require_schema,
)

MANIFEST = "manifest.json"


class ShardError(ValueError):
    """A shard, index or manifest that is not what it should be; the message names it."""


@dataclass(frozen=True)
class EncodedSample:
    """A sample as its files by extension (what encode_sample returns): cheap to send between processes."""

    id: str
    files: dict[str, bytes]


def write_shards(samples: Iterable[Sample], folder: Path, *, split: str, shard_bytes: int) -> dict[str, Any]:
    """The manifest of `folder` after `samples` became its `split`; see write_encoded."""
    encoded = (EncodedSample(sample.id, encode_sample(sample)) for sample in samples)
    return write_encoded(encoded, folder, split=split, shard_bytes=shard_bytes)


def write_encoded(samples: Iterable[EncodedSample], folder: Path, *, split: str, shard_bytes: int) -> dict[str, Any]:
    """The manifest, after writing `<split>-<number>.tar` and `.index.json` files and then itself.

    A shard is closed at the sample that takes it to `shard_bytes`. The manifest comes last: what it does not
    name does not exist for a reader; other splits' parts stay. It holds schema_version and splits -> samples,
    bytes, shards (name, samples, bytes, sha256, index_sha256). Raises ValueError on an id that occurs twice.
    """
    folder.mkdir(parents=True, exist_ok=True)
    shards, seen = [], set()
    for number, members in enumerate(_chunks(samples, shard_bytes, seen)):
        shards.append(_write_shard(folder, f"{split}-{number:06d}", members))
    manifest = read_manifest(str(folder)) if (folder / MANIFEST).exists() else {"splits": {}}
    part = {"samples": len(seen), "bytes": sum(shard["bytes"] for shard in shards), "shards": shards}
    manifest = {"schema_version": SCHEMA_VERSION, "splits": {**manifest["splits"], split: part}}
    atomic_write_json(folder / MANIFEST, manifest)
    return manifest


def read_manifest(folder: str) -> dict[str, Any]:
    """The manifest of a folder of shards (a path or any URL that fsspec opens). Raises ShardError."""
    filesystem, root = fsspec.core.url_to_fs(folder)
    try:
        manifest = json.loads(filesystem.cat_file(f"{root}/{MANIFEST}"))
    except FileNotFoundError as error:
        raise ShardError(f"{folder} has no {MANIFEST}: it holds no shards, or their writing never ended") from error
    except json.JSONDecodeError as error:
        raise ShardError(f"{folder}/{MANIFEST} is not JSON: {error}") from error
    require_schema(manifest, f"{folder}/{MANIFEST}")
    return manifest


def verify_shards(folder: str) -> list[str]:
    """What is wrong with each shard and index, against the manifest's hashes; empty when all is well."""
    filesystem, root = fsspec.core.url_to_fs(folder)
    faults = []
    for part in read_manifest(folder)["splits"].values():
        for shard in part["shards"]:
            for name, expected in (
                (f"{shard['name']}.tar", "sha256"),
                (f"{shard['name']}.index.json", "index_sha256"),
            ):
                found = _sha256(filesystem, f"{root}/{name}")
                if found != shard[expected]:
                    faults.append(f"{name}: sha256 is {found}, the manifest says {shard[expected]}")
    return faults


class TrajSceneDataset:
    """The samples of a folder of shards by position, each fetched by one range request.

    `folder` is a path or any URL that fsspec opens; `split` None means all, in the manifest's order. Indices
    are loaded when first needed. Raises ShardError where a shard is missing or its bytes have changed.
    """

    def __init__(self, folder: Path | str, split: str | None = None, *, with_views: bool = True) -> None:
        self.folder = str(folder)
        self.with_views = with_views
        splits = read_manifest(self.folder)["splits"]
        if split is not None and split not in splits:
            raise ShardError(f"{self.folder} has no split {split!r}, only {', '.join(sorted(splits)) or 'none'}")
        self._shards: list[dict[str, Any]] = [
            shard for name in sorted(splits) if split in (None, name) for shard in splits[name]["shards"]
        ]
        self._starts = _running_sum([shard["samples"] for shard in self._shards])
        self._indices: dict[str, list[dict[str, Any]]] = {}

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, i: int) -> Sample:
        return decode_sample(self.read_files(i), with_views=self.with_views)

    @property
    def ids(self) -> list[str]:
        """All sample ids in order."""
        return [entry["id"] for shard in self._shards for entry in self._index(shard)]

    def read_files(self, i: int) -> dict[str, bytes]:
        """The i-th sample's files by extension, still encoded."""
        shard, entry = self._locate(i)
        filesystem, root = fsspec.core.url_to_fs(self.folder)
        start, end = entry["offset"], entry["offset"] + entry["size"]
        name = f"{shard['name']}.tar"
        try:
            data = filesystem.cat_file(f"{root}/{name}", start=start, end=end)
        except FileNotFoundError as error:
            raise ShardError(f"{self.folder}/{name} is gone; the manifest names it") from error
        if hashlib.sha256(data).hexdigest() != entry["sha256"]:
            raise ShardError(
                f"{self.folder}/{name}, bytes {start} to {end} (sample {entry['id']}): the sha256 is not "
                "the index's; the shard is damaged, fetch or write it again"
            )
        return _untar(data, entry["id"])

    def _locate(self, i: int) -> tuple[dict[str, Any], dict[str, Any]]:
        position = i + len(self) if i < 0 else i
        if not 0 <= position < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        number = next(n for n, start in enumerate(self._starts) if position < start) - 1
        return self._shards[number], self._index(self._shards[number])[position - self._starts[number]]

    def _index(self, shard: dict[str, Any]) -> list[dict[str, Any]]:
        name = shard["name"]
        if name not in self._indices:
            filesystem, root = fsspec.core.url_to_fs(self.folder)
            data = filesystem.cat_file(f"{root}/{name}.index.json")
            if hashlib.sha256(data).hexdigest() != shard["index_sha256"]:
                raise ShardError(f"{self.folder}/{name}.index.json: the sha256 differs from the manifest's")
            self._indices[name] = json.loads(data)["samples"]
        return self._indices[name]


def _running_sum(counts: list[int]) -> list[int]:
    starts = [0]
    for count in counts:
        starts.append(starts[-1] + count)
    return starts


def _chunks(samples: Iterable[EncodedSample], shard_bytes: int, seen: set[str]) -> Iterator[list[tuple[str, bytes]]]:
    """Samples as tar bytes, grouped into shards; every id is put into `seen`."""
    chunk: list[tuple[str, bytes]] = []
    for sample in samples:
        require_id(sample.id)
        if sample.id in seen:
            raise ValueError(f"sample {sample.id} occurs twice")
        seen.add(sample.id)
        chunk.append((sample.id, _tar(sample)))
        if sum(len(data) for _, data in chunk) >= shard_bytes:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _write_shard(folder: Path, name: str, members: list[tuple[str, bytes]]) -> dict[str, Any]:
    digest, offset, entries = hashlib.sha256(), 0, []
    with atomic_file(folder / f"{name}.tar") as temporary, temporary.open("wb") as stream:
        for sample_id, data in members:
            sha256 = hashlib.sha256(data).hexdigest()
            entries.append({"id": sample_id, "offset": offset, "size": len(data), "sha256": sha256})
            offset += stream.write(data)
            digest.update(data)
        end = bytes(tarfile.RECORDSIZE - offset % tarfile.RECORDSIZE + tarfile.RECORDSIZE)
        stream.write(end)
        digest.update(end)
    index = json.dumps({"schema_version": SCHEMA_VERSION, "shard": f"{name}.tar", "samples": entries}).encode()
    atomic_write_bytes(folder / f"{name}.index.json", index)
    return {
        "name": name,
        "samples": len(entries),
        "bytes": offset + len(end),
        "sha256": digest.hexdigest(),
        "index_sha256": hashlib.sha256(index).hexdigest(),
    }


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


def _untar(data: bytes, sample_id: str) -> dict[str, bytes]:
    files = {}
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        for info in archive:
            stem, _, extension = info.name.partition(".")
            stream = archive.extractfile(info) if info.isfile() else None
            if stream is None or stem != sample_id:
                raise ShardError(f"member {info.name} is not a file of sample {sample_id}")
            files[extension] = stream.read()
    return files


def _sha256(filesystem: fsspec.AbstractFileSystem, path: str) -> str:
    digest = hashlib.sha256()
    try:
        with filesystem.open(path, "rb") as stream:
            for block in iter(lambda: stream.read(1 << 20), b""):
                digest.update(cast(bytes, block))
    except FileNotFoundError:
        return "missing"
    return digest.hexdigest()
