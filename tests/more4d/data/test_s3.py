"""Claims about shards on a real S3 server that goes down and comes back."""

import threading
import time
from collections.abc import Callable, Iterator

import fsspec
import numpy as np
import pytest
from more4d.data.layout import MANIFEST, Folder, ShardError
from more4d.data.loader import ResumableLoader
from more4d.data.reader import TrajSceneDataset
from more4d.data.sample import Sample, encode_sample
from more4d.data.sampler import BatchPlan
from more4d.data.verify import verify_shards
from more4d.data.writer import EncodedSample, write_encoded, write_shards

from .s3_server import S3Server

MakeSample = Callable[..., Sample]
NAMES = [f"s-{number}" for number in range(6)]


def _write(make_sample: MakeSample, url: str) -> None:
    samples = (make_sample(name, seed) for seed, name in enumerate(NAMES))
    write_shards(samples, url, split="train", shard_bytes=300_000)


def test_shards_are_written_to_s3_and_read_by_range_in_workers(server: S3Server, make_sample: MakeSample) -> None:
    _write(make_sample, "s3://shards/a")
    dataset = TrajSceneDataset("s3://shards/a")
    assert dataset.ids == NAMES and verify_shards("s3://shards/a") == []
    assert dataset.read_files(3) == encode_sample(make_sample(NAMES[3], 3))
    plan = BatchPlan(batch=3, seed=0)
    here = [[s.id for s in batch] for batch, _ in zip(ResumableLoader(dataset, plan), range(2), strict=False)]
    workers = ResumableLoader(dataset, plan, workers=2, context="fork")
    there = [[s.id for s in batch] for batch, _ in zip(workers, range(2), strict=False)]
    assert there == here


def test_a_server_killed_in_mid_read_loses_nothing(server: S3Server, make_sample: MakeSample) -> None:
    _write(make_sample, "s3://shards/a")
    dataset = TrajSceneDataset("s3://shards/a", patience_s=60)
    read = [dataset.read_files(0)]
    server.kill()
    back = threading.Thread(target=lambda: (time.sleep(1.5), server.start()))
    back.start()
    read += [dataset.read_files(i) for i in range(1, 6)]
    back.join()
    assert read == [encode_sample(make_sample(name, seed)) for seed, name in enumerate(NAMES)]


def test_a_server_killed_in_the_middle_of_an_answer_gives_the_whole_of_it_later(server: S3Server) -> None:
    data = [np.random.default_rng(n).bytes(12_000_000) for n in range(4)]
    encoded = (EncodedSample(f"s-{n}", {"bin": part}) for n, part in enumerate(data))
    write_encoded(encoded, "s3://shards/a", split="train", shard_bytes=10**9)
    dataset, read = TrajSceneDataset("s3://shards/a", patience_s=60), []
    reader = threading.Thread(target=lambda: read.extend(dataset.read_files(i)["bin"] for i in range(4)))
    reader.start()
    time.sleep(0.05)
    server.kill()
    server.start()
    reader.join()
    assert read == data


def test_an_upload_cut_off_in_its_middle_is_nowhere_to_be_seen(server: S3Server) -> None:
    sample = EncodedSample("s-0", {"bin": np.random.default_rng(0).bytes(80_000_000)})
    with server.killed_after(8_000_000), pytest.raises(OSError, match=r"train-000000\.tar could not be reached"):
        write_encoded(iter([sample]), "s3://shards/a", split="train", shard_bytes=10**9, patience_s=0.5)
    server.start()
    assert not Folder("s3://shards/a").exists("train-000000.tar")
    write_encoded(iter([sample]), "s3://shards/a", split="train", shard_bytes=10**9)
    assert TrajSceneDataset("s3://shards/a").read_files(0) == sample.files


def test_past_all_patience_the_error_names_the_file(server: S3Server, make_sample: MakeSample) -> None:
    _write(make_sample, "s3://shards/a")
    dataset = TrajSceneDataset("s3://shards/a", patience_s=0.5)
    server.kill()
    with pytest.raises(OSError, match=r"s3://shards/a/train-000000\.tar could not be reached in 0\.5 s"):
        dataset.read_files(0)


def test_a_server_killed_in_mid_write_leaves_nothing_half_visible(server: S3Server, make_sample: MakeSample) -> None:
    encoded = [EncodedSample(name, encode_sample(make_sample(name, seed))) for seed, name in enumerate(NAMES)]

    def cut_off() -> Iterator[EncodedSample]:
        yield from encoded[:4]
        server.kill()
        yield from encoded[4:]

    with pytest.raises(OSError, match=r"train-00000\d\.tar could not be reached"):
        write_encoded(cut_off(), "s3://shards/a", split="train", shard_bytes=300_000, patience_s=0.5)
    server.start()
    fsspec.filesystem("s3").invalidate_cache()
    with pytest.raises(ShardError, match=f"has no {MANIFEST}"):
        TrajSceneDataset("s3://shards/a")
    write_encoded(iter(encoded), "s3://shards/a", split="train", shard_bytes=300_000)
    assert TrajSceneDataset("s3://shards/a").ids == NAMES and verify_shards("s3://shards/a") == []


def test_a_rewrite_cut_off_leaves_the_old_split_readable(server: S3Server, make_sample: MakeSample) -> None:
    _write(make_sample, "s3://shards/a")
    old = Folder("s3://shards/a").read(MANIFEST)
    other = EncodedSample("late", encode_sample(make_sample("late", 9)))

    def cut_off() -> Iterator[EncodedSample]:
        yield other
        server.kill()

    with pytest.raises(OSError, match=r"val-000000\.tar could not be reached"):
        write_encoded(cut_off(), "s3://shards/a", split="val", shard_bytes=10**9, patience_s=0.5)
    server.start()
    assert Folder("s3://shards/a").read(MANIFEST) == old
    assert TrajSceneDataset("s3://shards/a").ids == NAMES


def test_a_server_that_comes_back_in_time_gets_the_rest_of_the_shards(
    server: S3Server, make_sample: MakeSample
) -> None:
    def interrupted() -> Iterator[EncodedSample]:
        for seed, name in enumerate(NAMES):
            if seed == 3:
                server.kill()
                threading.Thread(target=lambda: (time.sleep(1.0), server.start())).start()
            yield EncodedSample(name, encode_sample(make_sample(name, seed)))

    write_encoded(interrupted(), "s3://shards/a", split="train", shard_bytes=300_000)
    assert TrajSceneDataset("s3://shards/a").ids == NAMES and verify_shards("s3://shards/a") == []
