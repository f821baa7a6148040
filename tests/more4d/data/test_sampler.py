"""Claims about more4d.data.sampler."""

from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from more4d.data.sampler import BatchPlan, Position, bucket_numbers, rank_batches

SHAPES = st.lists(st.sampled_from([(49, 336, 596), (49, 384, 512), (13, 64, 96)]), min_size=12, max_size=80)
RANKS = st.sampled_from([1, 2, 4])


def _run(buckets: np.ndarray, plan: BatchPlan, start: Position, steps: int, ranks: int) -> tuple[list[int], Position]:
    """The samples of `steps` batches over all ranks in order, and where the run stands then."""
    shares = [islice(rank_batches(plan, buckets, start, rank=rank, ranks=ranks), steps) for rank in range(ranks)]
    samples: list[int] = []
    for step in zip(*shares, strict=True):
        assert len({position for position, _ in step}) == 1
        start = step[0][0]
        samples += [sample for _, share in step for sample in share]
    return samples, start


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.integers(0, 2**32), st.integers(0, 30), st.integers(1, 15), RANKS, RANKS)
def test_a_stopped_run_goes_on_as_if_it_never_stopped_on_any_number_of_ranks(
    shapes: list[tuple[int, int, int]], seed: int, before: int, after: int, ranks: int, ranks_after: int
) -> None:
    buckets, plan = bucket_numbers(np.array(shapes)), BatchPlan(batch=4, seed=seed)
    whole, _ = _run(buckets, plan, Position(), before + after, 1)
    first, stop = _run(buckets, plan, Position(), before, ranks)
    stop = Position.model_validate_json(stop.model_dump_json())
    second, _ = _run(buckets, plan, stop, after, ranks_after)
    assert first + second == whole


@settings(max_examples=60, deadline=None)
@given(SHAPES, st.integers(0, 2**32), st.integers(1, 5))
def test_an_epoch_reads_each_sample_at_most_once_in_batches_of_one_shape(
    shapes: list[tuple[int, int, int]], seed: int, batch: int
) -> None:
    buckets, plan = bucket_numbers(np.array(shapes)), BatchPlan(batch=batch, seed=seed)
    batches = plan.epoch(buckets, 3)
    assert len(np.unique(batches)) == batches.size == len(shapes) - plan.left_out(buckets)
    assert all(len({shapes[i] for i in row}) == 1 for row in batches.tolist())


def test_one_bucket_is_a_true_permutation_that_changes_with_seed_and_epoch() -> None:
    buckets = np.zeros(1000, int)
    orders = [BatchPlan(batch=10, seed=s).epoch(buckets, e).ravel() for s, e in ((0, 0), (0, 1), (1, 0))]
    for order in orders:
        assert sorted(order) == list(range(1000))
        # Neighbours of the same shard would differ by one: a shuffle within a buffer leaves many of them.
        assert (np.abs(np.diff(order)) < 50).mean() < 0.15
    assert len({tuple(order) for order in orders}) == 3


def test_batches_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="no bucket of the 3 samples fills a batch of 4"):
        BatchPlan(batch=4, seed=0).epoch(np.array([0, 0, 1]), 0)
    with pytest.raises(ValueError, match="rank 0 of 3 has no equal share of batches of 4"):
        next(rank_batches(BatchPlan(batch=4, seed=0), np.zeros(9, int), Position(), rank=0, ranks=3))
