"""Claims about more4d.data.shards."""

import hashlib
import json
import tarfile
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest
from more4d.data.layout import Folder
from more4d.data.sample import Sample, decode_sample, encode_sample
from more4d.data.shards import ShardError, TrajSceneDataset, verify_shards, write_shards
from more4d.data.writer import EncodedSample, finished_shard, seal, write_shard

MakeSample = Callable[..., Sample]


def _write(make_sample: MakeSample, folder: Path, count: int = 3, split: str = "train") -> list[str]:
    names = [f"{split}{number}-00000" for number in range(count)]
    samples = [make_sample(name, seed, split) for seed, name in enumerate(names)]
    write_shards(samples, folder, split=split, shard_bytes=300_000)
    return names


def test_index_range_read_equals_the_full_read(tmp_path: Path, make_sample: MakeSample) -> None:
    names = _write(make_sample, tmp_path)
    dataset = TrajSceneDataset(tmp_path)
    assert dataset.ids == names
    assert len(list(tmp_path.glob("*.tar"))) == 2
    for i, name in enumerate(names):
        assert dataset.read_files(i) == encode_sample(make_sample(name, i))
        np.testing.assert_array_equal(dataset[i].video, make_sample(name, i).video)


def test_a_shard_is_an_ordinary_webdataset_tar(tmp_path: Path, make_sample: MakeSample) -> None:
    names = _write(make_sample, tmp_path, 1)
    with tarfile.open(tmp_path / "train-000000.tar") as archive:
        stems = {info.name.split(".", 1)[0] for info in archive}
        stream = archive.extractfile(f"{names[0]}.json")
        assert stream is not None and json.loads(stream.read())["id"] == names[0]
    assert stems == set(names)


def test_splits_are_written_one_after_the_other_and_read_apart(tmp_path: Path, make_sample: MakeSample) -> None:
    train, val = _write(make_sample, tmp_path, 2, "train"), _write(make_sample, tmp_path, 1, "val")
    assert TrajSceneDataset(tmp_path, "train").ids == train
    assert TrajSceneDataset(tmp_path, "val").ids == val
    assert len(TrajSceneDataset(tmp_path)) == 3
    with pytest.raises(ShardError, match="no split 'test', only train, val"):
        TrajSceneDataset(tmp_path, "test")


def test_same_samples_give_the_same_bytes(tmp_path: Path, make_sample: MakeSample) -> None:
    for name in ("a", "b"):
        _write(make_sample, tmp_path / name)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_a_damaged_shard_is_named_when_read_and_when_verified(tmp_path: Path, make_sample: MakeSample) -> None:
    names = _write(make_sample, tmp_path)
    assert verify_shards(str(tmp_path)) == []
    shard = tmp_path / "train-000000.tar"
    data = bytearray(shard.read_bytes())
    data[5000] ^= 1
    shard.write_bytes(data)
    dataset = TrajSceneDataset(tmp_path)
    with pytest.raises(ShardError, match=rf"train-000000\.tar, bytes 0 to \d+ \(sample {names[0]}\)"):
        dataset[0]
    assert dataset[2].id == names[2]
    assert [fault.split(":")[0] for fault in verify_shards(str(tmp_path))] == ["train-000000.tar"]


def test_missing_and_foreign_files_are_named(tmp_path: Path, make_sample: MakeSample) -> None:
    with pytest.raises(ShardError, match=r"has no manifest\.json"):
        TrajSceneDataset(tmp_path)
    _write(make_sample, tmp_path, 1)
    (tmp_path / "train-000000.tar").unlink()
    with pytest.raises(ShardError, match=r"train-000000\.tar is gone"):
        TrajSceneDataset(tmp_path)[0]
    (index,) = tmp_path.glob("train.*.index.parquet")
    index.write_text("{}")
    with pytest.raises(ShardError, match=r"index\.parquet: the sha256 differs"):
        TrajSceneDataset(tmp_path)
    index.unlink()
    with pytest.raises(ShardError, match=r"index\.parquet is gone"):
        TrajSceneDataset(tmp_path)


def test_an_id_twice_is_refused(tmp_path: Path, make_sample: MakeSample) -> None:
    with pytest.raises(ValueError, match="sample a-00000 occurs twice"):
        write_shards([make_sample(), make_sample()], tmp_path, split="train", shard_bytes=1)


def test_positions_outside_are_index_errors(tmp_path: Path, make_sample: MakeSample) -> None:
    names = _write(make_sample, tmp_path, 2)
    dataset = TrajSceneDataset(tmp_path)
    assert dataset[-1].id == names[1]
    with pytest.raises(IndexError):
        dataset[2]


def test_shards_are_read_through_fsspec(tmp_path: Path, make_sample: MakeSample) -> None:
    names = _write(make_sample, tmp_path, 2)
    fsspec.filesystem("memory").put(f"{tmp_path}/", "memory://bucket/", recursive=True)
    dataset = TrajSceneDataset("memory://bucket", with_views=False)
    assert dataset[1].id == names[1]
    assert dataset[1].views == {}
    assert decode_sample(dataset.read_files(1)).id == names[1]


def test_folders_of_schema_version_1_are_read_and_not_written_into(tmp_path: Path, make_sample: MakeSample) -> None:
    names = _write(make_sample, tmp_path)
    _as_version_1(tmp_path)
    dataset = TrajSceneDataset(tmp_path)
    assert dataset.ids == names and dataset[2].id == names[2]
    assert verify_shards(str(tmp_path)) == []
    with pytest.raises(ShardError, match="holds schema version 1; write version 2 to another folder"):
        _write(make_sample, tmp_path, 1, "val")


def _as_version_1(folder: Path) -> None:
    """The manifest and indices as version 1 laid them out."""
    manifest = json.loads((folder / "manifest.json").read_text())
    for part in manifest["splits"].values():
        (folder / part.pop("index")["name"]).unlink()
        for shard in part["shards"]:
            index = (folder / f"{shard['name']}.index.json").read_bytes()
            shard["index_sha256"] = hashlib.sha256(index).hexdigest()
    (folder / "manifest.json").write_text(json.dumps({**manifest, "schema_version": 1}))


def test_verify_names_the_samples_that_are_lost(tmp_path: Path, make_sample: MakeSample) -> None:
    names = _write(make_sample, tmp_path)
    dataset = TrajSceneDataset(tmp_path)
    shard = tmp_path / "train-000000.tar"
    data = bytearray(shard.read_bytes())
    data[int(dataset.index.offset[1]) + 700] ^= 1
    shard.write_bytes(data)
    (tmp_path / "train-000001.tar").unlink()
    first, second = verify_shards(str(tmp_path))
    assert first.endswith(f"damaged samples: {names[1]}")
    assert second == "train-000001.tar: missing, with its 1 samples"


def test_the_index_knows_every_samples_size_without_reading_it(tmp_path: Path, make_sample: MakeSample) -> None:
    _write(make_sample, tmp_path)
    assert TrajSceneDataset(tmp_path).shapes.tolist() == [[5, 32, 48]] * 3


def test_a_finished_shard_is_known_again_and_a_damaged_one_is_not(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    samples = (EncodedSample(name, {"txt": name.encode()}) for name in ("a", "b", "c"))
    record = write_shard(folder, "train-7", samples, shard_bytes=1500)
    assert [entry.id for entry in record.samples] == ["a", "b"]
    assert finished_shard(folder, "train-7") == record
    assert finished_shard(folder, "train-8") is None
    (tmp_path / "train-7.tar").write_bytes(b"x" * record.bytes)
    assert finished_shard(folder, "train-7") is None


def test_two_shards_with_one_id_are_refused_before_anything_is_published(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    records = [write_shard(folder, n, iter([EncodedSample("a", {"txt": b""})]), shard_bytes=1) for n in ("x", "y")]
    with pytest.raises(ValueError, match="sample a occurs twice: in x and in y"):
        seal(folder, "train", records)
    assert not (tmp_path / "manifest.json").exists()
