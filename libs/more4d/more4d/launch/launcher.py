"""What every launcher does: submit, tell, cancel, find again, wait, follow."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

from more4d.launch.job import Job, Receipt, Status


class LaunchError(RuntimeError):
    """The cluster, or a tool that talks to it, refused; the message holds what it said."""


class Launcher(ABC):
    """Runs jobs somewhere that outlives the process which submits them."""

    poll_seconds: float = 1.0
    """How long to wait between two looks at a job."""

    @abstractmethod
    def submit(self, job: Job, key: str) -> Receipt:
        """The receipt of `job`, started now unless this key was already submitted: the same key never starts two.

        Raises ValueError when the key belongs to another job, or when the launcher cannot do what the job asks for.
        """

    @abstractmethod
    def status(self, receipt: Receipt) -> Status: ...

    @abstractmethod
    def cancel(self, receipt: Receipt) -> None:
        """Have the job save, leave and not come back; returns before it is gone. A job that has ended stays as it is."""

    @abstractmethod
    def reattach(self, reference: str, folder: Path) -> Receipt:
        """The receipt of the job with this key or number, submitted from `folder`. Raises KeyError."""

    def wait(self, receipt: Receipt, timeout: float | None = None) -> Status:
        """The status at the end. Raises TimeoutError when the job has not ended after `timeout` seconds."""
        until = None if timeout is None else time.monotonic() + timeout
        while not (status := self.status(receipt)).state.ended:
            if until is not None and time.monotonic() > until:
                raise TimeoutError(f"job {receipt.job_id} has not ended in {timeout:g} s: {status}")
            time.sleep(self.poll_seconds)
        return status

    def follow(self, receipt: Receipt, start: int = 0) -> Iterator[str]:
        """Lines of the job's log from byte `start` on, as they come, over requeues, until the job has ended."""
        rest = b""
        while True:
            ended = self.status(receipt).state.ended
            for piece in _new_bytes(receipt.log, start):
                start += len(piece)
                *lines, rest = (rest + piece).split(b"\n")
                yield from (line.decode(errors="replace") for line in lines)
            if ended:
                break
            time.sleep(self.poll_seconds)
        if rest:
            yield rest.decode(errors="replace")


def _new_bytes(log: Path, start: int, size: int = 1 << 16) -> Iterator[bytes]:
    """What the log holds from `start` on; opened afresh each time, since network file systems cache open files."""
    if not log.exists():
        return
    with log.open("rb") as file:
        file.seek(start)
        while piece := file.read(size):
            yield piece
