import os
import threading
import time

import pytest
import torch
from more4d_kernels.threads import spread


@pytest.mark.parametrize("stretches", [1, 3, 40])
def test_every_number_is_worked_on_once(stretches: int) -> None:
    seen: list[int] = []
    spread(lambda start, stop: seen.extend(range(start, stop)), 17, (), stretches=stretches)
    assert sorted(seen) == list(range(17))


def test_nothing_to_do_is_done() -> None:
    spread(lambda start, stop: pytest.fail("called"), 0, (), stretches=4)


def test_what_a_thread_raises_is_raised() -> None:
    def work(start: int, stop: int) -> None:
        raise ArithmeticError(f"{start}")

    with pytest.raises(ArithmeticError):
        spread(work, 8, (), stretches=8)


def test_no_more_threads_than_torch_uses() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        names: set[str] = set()
        spread(lambda start, stop: names.add(threading.current_thread().name), 8, (), stretches=8)
    finally:
        torch.set_num_threads(before)
    assert names == {threading.current_thread().name}


def test_a_forked_child_has_threads_of_its_own() -> None:
    seen: list[int] = []
    spread(lambda start, stop: seen.extend(range(start, stop)), 8, (), stretches=8)
    child = os.fork()
    if child == 0:
        again: list[int] = []
        spread(lambda start, stop: again.extend(range(start, stop)), 8, (), stretches=8)
        os._exit(0 if sorted(again) == list(range(8)) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_after_an_error_nothing_more_is_begun_and_nothing_still_runs() -> None:
    before, running, begun = torch.get_num_threads(), threading.Semaphore(0), []
    torch.set_num_threads(2)

    def work(start: int, stop: int) -> None:
        begun.append(start)
        if threading.current_thread() is threading.main_thread():
            running.acquire(timeout=10)
            raise ArithmeticError
        running.release()
        time.sleep(0.05)
        ended.append(start)

    ended: list[int] = []
    try:
        with pytest.raises(ArithmeticError):
            spread(work, 100, (), stretches=100)
    finally:
        torch.set_num_threads(before)
    assert len(begun) - 1 == len(ended) < 99
