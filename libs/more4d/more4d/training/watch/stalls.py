"""Finds out that a training hangs, says where, and ends a process that does not go on by itself."""

import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

log = logging.getLogger(__name__)

STALLED = 75
"""Exit status of a process that was ended because it hung: "try again" in the sysexits convention."""


class Watchdog:
    """A thread that reports where the thread that made it stands whenever no `beat` came for `seconds`.

    After `max_reports` reports in a row it calls `end` with a message; None never ends. Between the reports pass `seconds`
    each. Used as a context: outside of it nothing is watched.
    """

    def __init__(
        self, seconds: float, max_reports: int | None = None, *, end: Callable[[str], None] | None = None
    ) -> None:
        self._seconds, self._max_reports, self._end = seconds, max_reports, end or end_process
        self._watched = threading.get_ident()
        self._lock, self._closed = threading.Lock(), threading.Event()
        self._thread: threading.Thread | None = None
        self._since, self._in_a_row, self._paused, self.reports = time.monotonic(), 0, 0, 0

    def beat(self) -> None:
        """Something was finished."""
        with self._lock:
            self._since, self._in_a_row = time.monotonic(), 0

    @contextmanager
    def pause(self) -> Iterator[None]:
        """Nothing is reported within: for work that takes as long as it takes."""
        with self._lock:
            self._paused += 1
        try:
            yield
        finally:
            with self._lock:
                self._paused -= 1
                self._since = time.monotonic()

    def __enter__(self) -> Self:
        self.beat()
        self._closed.clear()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while not self._closed.wait(max(0.01, self._seconds / 20)):
            with self._lock:
                stalled = not self._paused and time.monotonic() - self._since > self._seconds
                if stalled:
                    self._since = time.monotonic()
                    self._in_a_row, self.reports = self._in_a_row + 1, self.reports + 1
            if stalled:
                self._report()

    def _report(self) -> None:
        silent = self._in_a_row * self._seconds
        log.warning("no step was finished for %g s; the training stands at\n%s", silent, stack_of(self._watched))
        if self._max_reports is not None and self._in_a_row >= self._max_reports:
            self._end(
                f"no step was finished for {silent:g} s; ending the process after {self._in_a_row} reports. Resume from the "
                "last checkpoint; where steps really take so long, raise stall_seconds"
            )


def stack_of(thread: int) -> str:
    """Where a thread stands, innermost call last; a line saying so where it has ended."""
    frame = sys._current_frames().get(thread)
    return "".join(traceback.format_stack(frame)) if frame is not None else "(the thread has ended)\n"


def end_process(message: str) -> None:
    """Log the message and leave at once with status 75: a thread that hangs could not be asked to."""
    log.critical(message)
    for handler in logging.getLogger().handlers:
        handler.flush()
    sys.stderr.flush()
    os._exit(STALLED)
