"""Claims about more4d.data.loader."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
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


class _Names:
    """Samples that are their positions: what a DataLoader makes of them is all that is looked at."""

    ids = [f"s-{number}" for number in range(37)]  # noqa: RUF012 - nobody changes it
    shapes = np.array([(49, 336, 596), (13, 64, 96)], np.int32)[np.arange(37) % 5 // 3]

    def __len__(self) -> int:
        return 37

    def __getitem__(self, i: int) -> str:
        return self.ids[i]


def _all_ranks(state: dict | None, steps: int, ranks: int, workers: int, seed: int) -> tuple[list[str], dict]:
    """The ids of `steps` batches side by side over all ranks, and the state in which they stop."""
    plan, shares, states = BatchPlan(batch=4, seed=seed), [], []
    for rank in range(ranks):
        loader = ResumableLoader(_Names(), plan, rank=rank, ranks=ranks, workers=workers, context="fork")
        if state is not None:
            loader.load_state_dict(state)
        shares.append(list(islice(loader, steps)))
        states.append(json.loads(json.dumps(loader.state_dict())))
    assert all(found == states[0] for found in states)
    return [name for step in zip(*shares, strict=True) for share in step for name in share], states[0]


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 12), st.integers(1, 12), *[st.sampled_from([1, 2, 4])] * 3)
def test_whatever_the_ranks_and_wherever_the_stop_the_ids_are_those_of_one_uninterrupted_process(
    seed: int, before: int, after: int, ranks: int, ranks_after: int, stops: int
) -> None:
    whole, _ = _all_ranks(None, before + stops * after, 1, 0, seed)
    found, state = _all_ranks(None, before, ranks, 0, seed)
    for _ in range(stops):
        more, state = _all_ranks(state, after, ranks_after, 0, seed)
        found += more
    assert found == whole


@pytest.mark.parametrize("ranks", [1, 2, 4])
@pytest.mark.parametrize("workers", [1, 2, 4])
def test_with_workers_on_ranks_too_the_ids_after_a_stop_are_those_of_the_uninterrupted_run(
    workers: int, ranks: int
) -> None:
    whole, _ = _all_ranks(None, 11, 1, 0, seed=3)
    found, state = _all_ranks(None, 4, ranks, workers, seed=3)
    more, _ = _all_ranks(state, 7, 4 // ranks, workers, seed=3)
    assert found + more == whole


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
