from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from more4d.training.order import Order

BUCKETS = st.lists(st.integers(0, 3), min_size=1, max_size=40)


@given(buckets=BUCKETS, batch_size=st.integers(1, 9), seed=st.integers(0, 2**40))
def test_a_batch_is_of_one_bucket(buckets: list[int], batch_size: int, seed: int) -> None:
    order = Order(buckets, batch_size, seed)
    for step in range(20):
        numbers = order.batch(step)
        assert len(numbers) == batch_size
        assert len({buckets[number] for number in numbers}) == 1


@given(buckets=BUCKETS, batch_size=st.integers(1, 9))
def test_within_a_bucket_none_comes_again_before_all_came(buckets: list[int], batch_size: int) -> None:
    order = Order(buckets, batch_size, 0)
    seen: dict[int, list[int]] = {}
    for step in range(30):
        for number in order.batch(step):
            seen.setdefault(buckets[number], []).append(number)
    for bucket, numbers in seen.items():
        size = buckets.count(bucket)
        for start in range(0, len(numbers) - size + 1, size):
            assert len(set(numbers[start : start + size])) == size


def test_buckets_take_turns_by_their_sizes() -> None:
    order = Order([0] * 30 + [1] * 10, 2, 0)
    first = Counter(order.batch(step)[0] >= 30 for step in range(40))
    assert first == {False: 30, True: 10}


@given(step=st.integers(0, 50), buckets=BUCKETS)
def test_a_step_asked_for_first_is_the_step_asked_for_in_turn(step: int, buckets: list[int]) -> None:
    one, other = Order(buckets, 3, 5), Order(buckets, 3, 5)
    in_turn = [one.batch(number) for number in range(step + 1)]
    assert other.batch(step) == in_turn[-1]


def test_without_samples_there_is_no_order() -> None:
    with pytest.raises(ValueError, match="there are no samples"):
        Order([], 1, 0)
