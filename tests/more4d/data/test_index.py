"""Claims about more4d.data.index: what it costs to open many samples, in counts."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from more4d.data.index import Entry
from more4d.data.layout import Folder
from more4d.data.reader import TrajSceneDataset
from more4d.data.writer import ShardRecord, seal


def _records(shards: int, samples: int) -> list[ShardRecord]:
    def entry(number: int, i: int) -> Entry:
        digest = hashlib.sha256(f"{number} {i}".encode()).hexdigest()
        return Entry(f"{number:06d}-{i:05d}", i * 10**7, 10**7 - i, digest, (49, 336, 596))

    return [
        ShardRecord(f"train-{n:06d}", samples * 10**7, f"{n:064x}", tuple(entry(n, i) for i in range(samples)))
        for n in range(shards)
    ]


def test_60000_samples_open_with_two_reads_of_a_few_megabytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = _records(1200, 50)
    seal(Folder(tmp_path), "train", records)
    asked: list[int] = []
    read = Folder.read

    def counted(self: Folder, name: str, *span: Any) -> bytes:
        data = read(self, name, *span)
        asked.append(len(data))
        return data

    monkeypatch.setattr(Folder, "read", counted)
    dataset = TrajSceneDataset(tmp_path)
    assert len(asked) == 2 and sum(asked) < 6_000_000
    assert len(dataset) == len(set(dataset.ids)) == 60_000
    shard, place = dataset.index.entry(31 * 50 + 7)
    assert (shard, place) == ("train-000031", records[31].samples[7])
    columns = (dataset.index.shard, dataset.index.offset, dataset.index.size, dataset.index.shape)
    assert (
        sum(column.nbytes for column in columns) + dataset.index.ids.nbytes + dataset.index.sha256.nbytes < 10_000_000
    )
