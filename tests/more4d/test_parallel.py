"""Claims about more4d.parallel."""

import math
import multiprocessing

import pytest
from more4d.parallel import ordered_map


def test_results_keep_the_items_order_though_some_take_longer() -> None:
    numbers = [6000, 1, 5000, 2, 3] * 4
    assert list(ordered_map(math.factorial, numbers, workers=2, label="x")) == [math.factorial(n) for n in numbers]


def test_several_workers_are_other_processes_and_one_is_this_process() -> None:
    results = ordered_map(math.factorial, range(20), workers=2, label="x")
    next(results)
    assert len(multiprocessing.active_children()) >= 2
    list(results)
    # What cannot be pickled cannot have travelled.
    assert list(ordered_map(lambda n: n + 1, [1, 2], workers=1, label="x")) == [2, 3]


def test_an_error_passes_through() -> None:
    with pytest.raises(ValueError, match="not defined for negative values"):
        list(ordered_map(math.factorial, [1, -1, 2], workers=2, label="x"))
