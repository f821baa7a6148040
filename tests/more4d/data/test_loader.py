"""Claims about more4d.data.loader."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from more4d.data.cache import CacheConfig
from more4d.data.loader import ResumableLoader
from more4d.data.reader import TrajSceneDataset
from more4d.data.sample import Sample
from more4d.data.sampler import BatchPlan
from more4d.data.writer import write_shards

PLAN = BatchPlan(batch=4, seed=5)


@pytest.fixture(scope="module")
def shards(make_sample: Callable[..., Sample], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fourteen samples in five shards."""
    folder = tmp_path_factory.mktemp("shards")
    first = make_sample()
    samples = (replace(first, id=f"s-{number:05d}", views={}) for number in range(14))
    write_shards(samples, folder, split="train", shard_bytes=150_000)
    return folder


def _dataset(folder: Path) -> TrajSceneDataset:
    return TrajSceneDataset(folder, cache=CacheConfig(folder=folder / "cache", size_limit_bytes=10**7))


def _ids(batches: list[list[Sample]]) -> list[str]:
    return [sample.id for batch in batches for sample in batch]


@pytest.mark.parametrize(("workers", "context"), [(1, "fork"), (2, "spawn"), (4, "forkserver")])
def test_the_ids_after_a_stop_are_those_of_the_uninterrupted_run(shards: Path, workers: int, context: str) -> None:
    whole = _ids(list(islice(ResumableLoader(_dataset(shards), PLAN), 6)))
    stopped = ResumableLoader(_dataset(shards), PLAN, workers=workers, context=context)
    before = _ids(list(islice(stopped, 2)))
    state = json.loads(json.dumps(stopped.state_dict()))
    assert state["position"] == {"epoch": 0, "batches": 2}
    after = []
    for rank in range(2):
        resumed = ResumableLoader(_dataset(shards), PLAN, rank=rank, ranks=2)
        resumed.load_state_dict(state)
        after.append(list(islice(resumed, 4)))
    assert before + [i for pair in zip(*after, strict=True) for i in _ids(list(pair))] == whole


def test_another_dataset_or_plan_is_refused_on_resume(shards: Path) -> None:
    loader = ResumableLoader(_dataset(shards), PLAN)
    with pytest.raises(ValueError, match="stopped on other samples"):
        loader.load_state_dict({**loader.state_dict(), "dataset": "0"})
    with pytest.raises(ValueError, match="resumed with"):
        ResumableLoader(_dataset(shards), BatchPlan(batch=2, seed=5)).load_state_dict(loader.state_dict())


def test_what_is_cached_is_read_without_the_shards(shards: Path, tmp_path: Path) -> None:
    dataset = TrajSceneDataset(shards, cache=CacheConfig(folder=tmp_path / "cache", size_limit_bytes=10**8))
    kept = dataset.read_files(3)
    for tar in shards.glob("*.tar"):
        tar.rename(tar.with_suffix(".away"))
    try:
        assert dataset.read_files(3) == kept
    finally:
        for tar in shards.glob("*.away"):
            tar.rename(tar.with_suffix(".tar"))
    np.testing.assert_array_equal(dataset[3].video, dataset[4].video)
