import threading
import time

import pytest
from more4d.training.watch.stalls import Watchdog, stack_of


def wait_for(watchdog: Watchdog, reports: int) -> None:
    end = time.monotonic() + 20
    while watchdog.reports < reports and time.monotonic() < end:
        time.sleep(0.01)


def test_each_stall_is_reported_until_the_end_is_called_once_with_a_message(caplog: pytest.LogCaptureFixture) -> None:
    ended: list[str] = []
    with Watchdog(0.1, 2, end=ended.append) as watchdog:
        wait_for(watchdog, 2)
        # The report that ends comes just after it was counted.
        time.sleep(0.05)
        assert len(ended) == 1 and "after 2 reports" in ended[0]
    assert caplog.text.count("the training stands at") >= 2
    assert "wait_for" in caplog.text


def test_a_beat_starts_the_count_of_reports_anew() -> None:
    ended: list[str] = []
    with Watchdog(0.5, 2, end=ended.append) as watchdog:
        for number in range(3):
            wait_for(watchdog, number + 1)
            watchdog.beat()
        assert watchdog.reports >= 3
        assert not ended


def test_within_pauses_one_in_the_other_nothing_is_a_stall() -> None:
    with Watchdog(0.5) as watchdog:
        with watchdog.pause(), watchdog.pause():
            time.sleep(0.8)
        assert watchdog.reports == 0
        wait_for(watchdog, 1)
        assert watchdog.reports == 1


def test_after_its_context_no_thread_is_left() -> None:
    with Watchdog(0.1):
        assert any(thread.name == "watchdog" for thread in threading.enumerate())
    assert not any(thread.name == "watchdog" for thread in threading.enumerate())


def test_of_a_thread_that_has_ended_there_is_no_stack() -> None:
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    assert thread.ident is not None
    assert stack_of(thread.ident) == "(the thread has ended)\n"
