"""Shards against the hashes of their manifest; of a damaged shard, the samples that are lost."""

import hashlib
from collections.abc import Iterator
from typing import Any

from more4d.data.index import ShardIndex, load_index
from more4d.data.layout import Folder, ShardError, load_manifest


def verify_shards(folder: str) -> list[str]:
    """What is wrong with each shard and index, against the manifest's hashes; empty when all is well."""
    files = Folder(folder)
    parts = load_manifest(files)["splits"].values()
    return [fault for part in parts for fault in _faults(files, part)]


def _faults(folder: Folder, part: dict[str, Any]) -> Iterator[str]:
    index = None
    try:
        index = load_index(folder, part)
    except ShardError as error:
        yield str(error)
    for number, shard in enumerate(part["shards"]):
        name = f"{shard['name']}.tar"
        found = folder.sha256(name)
        if found is None:
            yield f"{name}: missing, with its {shard['samples']} samples"
        elif found != shard["sha256"]:
            lost = [] if index is None else list(_damaged(folder, name, index, number))
            which = f"; damaged samples: {', '.join(lost)}" if lost else ""
            yield f"{name}: sha256 is {found}, the manifest says {shard['sha256']}{which}"


def _damaged(folder: Folder, name: str, index: ShardIndex, number: int) -> Iterator[str]:
    for i in (index.shard == number).nonzero()[0]:
        _, entry = index.entry(int(i))
        data = folder.read(name, entry.offset, entry.offset + entry.size)
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            yield entry.id
