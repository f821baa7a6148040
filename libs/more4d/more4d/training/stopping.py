"""Being asked to leave: the scheduler's SIGTERM and SIGUSR1 end a training at the next step, its state saved."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


class TrainingStopped(Exception):  # noqa: N818 - nothing went wrong
    """A training left after `step` steps because it was asked to; run again, it goes on from there."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped after {step} steps, as asked; the state is saved: run it again to go on")
        self.step = step


class StopSignals:
    """Remembers, while it is entered, that a signal asked to leave; outside of the main thread nothing can."""

    def __init__(self) -> None:
        self.received = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = True
