"""Checkpoints saved by all ranks together, and the newest that is whole found again.

Every method is called by all ranks, in the same order, from the main thread: only there do ranks speak with each other.
An asynchronous save leaves each rank's background thread with its own file alone, which it marks as done by a record
beside it; the checkpoint becomes one in the next `save`, `poll` or `finish`. So nothing comes between training's own
collective operations, which would hang.
"""

import json
import logging
import math
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from more4d.models.conversion import CheckpointError
from more4d.training.checkpoints.checkpoint import Checkpoint
from more4d.training.checkpoints.folder import BEST, CheckpointFolder
from more4d.training.checkpoints.part import bytes_needed, on_cpu, write_part
from more4d.training.checkpoints.ranks import OneRank, Ranks
from more4d.training.checkpoints.settings import CheckpointSettings
from more4d.training.distributed.pieces import Piece

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Save:
    """A checkpoint whose parts are being written."""

    step: int
    score: float | None
    state: dict[str, Any]
    needed: int
    part: Future[None]


class CheckpointStore:
    """The checkpoints under `folder`, which all ranks' machines share.

    Whatever fails, fails as CheckpointError on every rank, with the earlier checkpoints as they were.
    """

    def __init__(self, folder: Path, settings: CheckpointSettings, ranks: Ranks | None = None) -> None:
        self._folder, self._settings = CheckpointFolder(folder), settings
        self._ranks: Ranks = ranks or OneRank()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._saving: _Save | None = None

    def save(self, step: int, pieces: Iterable[Piece], state: dict[str, Any], score: float | None = None) -> None:
        """Write a checkpoint of `step`: this rank's `pieces`, and of the first rank `state` (JSON) and `score`.

        A save in flight is finished first; where that failed, the error is raised and this save was not begun. Returns
        when the checkpoint is complete or, when asynchronous, as soon as the pieces were copied. One of the same step is
        replaced. Raises CheckpointError where the disk is too full, a file cannot be written, or the pieces of all
        ranks do not make whole tensors; TypeError where `state` is more than JSON can hold.
        """
        self.finish()
        pieces = list(pieces)
        # A copy: the loop goes on to append to its history.
        state = json.loads(json.dumps(state))
        needed = sum(self._ranks.gather(bytes_needed(pieces))) + len(json.dumps(state))
        if problem := self._by_first(lambda: self._folder.prepare(step, needed)):
            self._fail(step, needed, problem)
        if self._settings.asynchronous:
            pieces = on_cpu(pieces)
        part = self._writer.submit(write_part, self._folder.partial(step), self._ranks.rank, pieces)
        # Neither infinite nor no number at all can be the best, or be written as JSON.
        score = float(score) if score is not None and math.isfinite(score) else None
        self._saving = _Save(step, score, state, needed, part)
        if not self._settings.asynchronous:
            self.finish()

    def poll(self) -> bool:
        """Complete the save in flight if every rank has written its part; tells whether none is in flight any more.

        Speaks with the other ranks only while a save is in flight. Raises like `save`.
        """
        if self._saving is None:
            return True
        reports = self._ranks.gather(self._report(self._saving.part))
        if not all(done for done, _ in reports):
            return False
        saving, self._saving = self._saving, None
        problems = [f"rank {rank}: {problem}" for rank, (_, problem) in enumerate(reports) if problem]
        if not problems and (problem := self._by_first(lambda: self._publish(saving))):
            problems = [problem]
        if problems:
            self._fail(saving.step, saving.needed, "; ".join(problems), saving.part.exception())
        if problem := self._by_first(lambda: self._folder.settle(saving.step, saving.score, self._settings)):
            raise CheckpointError(f"{self._folder.path(saving.step)} was saved, but not what comes after: {problem}")
        return True

    def finish(self) -> None:
        """Wait for the save in flight, if there is one, and complete it; to be called before leaving. Raises like `save`."""
        if self._saving is not None:
            wait([self._saving.part])
            self.poll()

    def latest(self) -> Checkpoint | None:
        """The newest checkpoint whose files are what was written; None where nothing was saved.

        One that is damaged is passed over with a warning that names the file; what a killed save left is removed. The
        ranks share the reading, and agree. Raises CheckpointError where there are checkpoints and all are damaged.
        """
        self.finish()
        passed: list[str] = []
        for step in self._swept_steps():
            checkpoint, problems = self._verified(step)
            if checkpoint is not None:
                self._warn(passed, f"going on from {checkpoint.folder}")
                return checkpoint
            passed += problems
        if passed:
            raise CheckpointError(
                f"every checkpoint in {self._folder.root} is damaged ({'; '.join(passed)}); bring one back from a copy, "
                "or remove the folder to start again from the first step"
            )
        return None

    def best(self) -> Checkpoint | None:
        """The checkpoint with the lowest score so far; None where none was scored.

        Raises CheckpointError where it is damaged.
        """
        self.finish()
        step = self._ranks.gather(self._folder.best_step() if self._ranks.rank == 0 else None)[0]
        if step is None:
            return None
        checkpoint, problems = self._verified(step)
        if checkpoint is None:
            pointer = self._folder.root / BEST
            raise CheckpointError(
                f"the best checkpoint is damaged: {'; '.join(problems)}; remove {pointer} to forget it"
            )
        return checkpoint

    def _publish(self, saving: _Save) -> None:
        self._folder.publish(saving.step, self._ranks.count, saving.state, saving.score)

    def _swept_steps(self) -> list[int]:
        """Steps of the complete checkpoints, newest first, after removing what was left."""
        if problem := self._by_first(self._folder.sweep):
            raise CheckpointError(f"{self._folder.root} cannot be used: {problem}")
        return self._ranks.gather(self._folder.steps() if self._ranks.rank == 0 else None)[0]

    def _verified(self, step: int) -> tuple[Checkpoint | None, list[str]]:
        """A step's checkpoint if all ranks find their share of it whole, else what is wrong."""
        checkpoint, problems = None, []
        try:
            checkpoint = Checkpoint(self._folder.path(step))
            problems = checkpoint.problems(self._ranks.rank, self._ranks.count)
        except (OSError, CheckpointError) as error:
            problems = [str(error)]
        told = dict.fromkeys(problem for problems in self._ranks.gather(problems) for problem in problems)
        return (None if told else checkpoint), list(told)

    def _warn(self, passed: list[str], instead: str) -> None:
        if passed and self._ranks.rank == 0:
            log.warning("damaged checkpoints are passed over, %s: %s", instead, "; ".join(passed))

    def _by_first(self, action: Callable[[], None]) -> str:
        """What went wrong when the first rank did `action`, told to all; empty where nothing did."""
        problem = ""
        if self._ranks.rank == 0:
            try:
                action()
            except (OSError, ValueError) as error:
                problem = _told(error)
        return self._ranks.gather(problem)[0]

    @staticmethod
    def _report(part: Future[None]) -> tuple[bool, str]:
        """Whether this rank's part was written, and what went wrong."""
        done = part.done()
        error = part.exception() if done else None
        return done, "" if error is None else _told(error)

    def _fail(self, step: int, needed: int, problem: str, cause: BaseException | None = None) -> NoReturn:
        """Clean up and raise the same error on every rank."""
        self._by_first(lambda: self._folder.abandon(step))
        free = self._ranks.gather(self._free() if self._ranks.rank == 0 else "")[0]
        raise CheckpointError(
            f"no checkpoint of step {step} in {self._folder.root}: {problem}. It needs {_size(needed)}, free are {free}; "
            "the earlier checkpoints are as they were. If the disk is full, free some or lower keep_last"
        ) from cause

    def _free(self) -> str:
        try:
            return _size(self._folder.free_bytes())
        except OSError as error:
            return _told(error)


def _told(error: BaseException) -> str:
    """An error in words, with the file that it is about."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror} ({error.filename})" if error.filename else error.strerror
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


def _size(count: int) -> str:
    """Bytes, readable from one to terabytes."""
    power = min(4, int(math.log(max(count, 1), 1000)))
    return f"{count / 1000**power:.{1 if power else 0}f} {('bytes', 'kB', 'MB', 'GB', 'TB')[power]}"
