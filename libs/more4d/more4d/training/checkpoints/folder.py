"""The folder of a run's checkpoints: names, renaming, what stays. Of several ranks only the first changes it.

    step-00000100/           a complete checkpoint: index.json and a file a rank
    latest.json, best.json   name one of these
    .step-00000100.partial   one that is being written
    .step-00000100.old       one that is being replaced, .removed: one that is being deleted

A complete checkpoint appears and vanishes by one rename, so that a kill at any moment leaves none in part.
"""

import json
import logging
import re
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from more4d.data.atomic import atomic_write_json, sync
from more4d.models.conversion import CheckpointError
from more4d.training.checkpoints.index import merge_parts, write_index
from more4d.training.checkpoints.part import PartRecord, record_file
from more4d.training.checkpoints.settings import CheckpointSettings

LATEST, BEST = "latest.json", "best.json"
_COMPLETE = re.compile(r"step-(\d{8}|[1-9]\d{8,})")
_OLD = ".old"
log = logging.getLogger(__name__)


class CheckpointFolder:
    """What can be done to the checkpoints under `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, step: int) -> Path:
        """The folder of a step's complete checkpoint."""
        return self.root / f"step-{step:08d}"

    def partial(self, step: int) -> Path:
        """The folder of a step's checkpoint while it is written."""
        return self._hidden(step, ".partial")

    def steps(self) -> list[int]:
        """Steps with a complete checkpoint, newest first."""
        found = [match for entry in self.root.glob("step-*") if (match := _COMPLETE.fullmatch(entry.name))]
        return sorted((int(match[1]) for match in found), reverse=True)

    def named(self, pointer: str) -> dict[str, Any] | None:
        """What `latest.json` or `best.json` says: step, folder and score; None where there is none, or it is damaged."""
        try:
            said = json.loads((self.root / pointer).read_bytes())
            return {"step": int(said["step"]), "folder": str(said["folder"]), "score": said["score"]}
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            log.warning("%s is damaged and ignored: %s", self.root / pointer, error)
            return None

    def free_bytes(self) -> int:
        """Bytes that can still be written here."""
        return shutil.disk_usage(self.root).free

    def sweep(self) -> None:
        """Remove what a killed process left; a checkpoint that was being replaced comes back."""
        for left in sorted(self.root.glob(".step-*")):
            final = self.root / left.name.removeprefix(".").removesuffix(_OLD)
            if left.suffix == _OLD and not final.exists():
                left.rename(final)
            else:
                shutil.rmtree(left)

    def prepare(self, step: int, needed: int) -> None:
        """An empty folder to write a step's parts into. Raises CheckpointError where `needed` bytes do not fit."""
        self.root.mkdir(parents=True, exist_ok=True)
        self.sweep()
        if self.free_bytes() < needed:
            raise CheckpointError("the disk is too full")
        self.partial(step).mkdir()

    def publish(self, step: int, ranks: int, state: dict[str, Any], score: float | None) -> None:
        """Make the parts that all ranks wrote a complete checkpoint, in place of one of the same step."""
        partial, final = self.partial(step), self.path(step)
        parts = [_take_record(partial, rank) for rank in range(ranks)]
        write_index(partial, merge_parts(step, parts, state, score))
        old = self._hidden(step, _OLD)
        if final.exists():
            final.rename(old)
        partial.rename(final)
        sync(self.root)
        if old.exists():
            shutil.rmtree(old)

    def settle(self, step: int, score: float | None, settings: CheckpointSettings) -> None:
        """Name the newest and the best checkpoint, then delete those that need not stay."""
        self._name(LATEST, step, score)
        best = self.best_step()
        if settings.keep_best and score is not None and (best is None or self._is_better(score, step)):
            self._name(BEST, step, score)
            best = step
        steps = self.steps()
        for gone in set(steps) - kept_steps(steps, step, best, settings):
            self._remove(gone)

    def best_step(self) -> int | None:
        """The step that `best.json` names, None where there is none or its checkpoint is not there."""
        best = self.named(BEST)
        return best["step"] if best is not None and self.path(best["step"]).is_dir() else None

    def abandon(self, step: int) -> None:
        """Remove what was written of a step's checkpoint that failed."""
        shutil.rmtree(self.partial(step), ignore_errors=True)

    def _is_better(self, score: float, step: int) -> bool:
        """Whether a score beats the best so far, which may be an earlier one of the same step."""
        best = self.named(BEST)
        return best is None or best["step"] == step or best["score"] is None or score < best["score"]

    def _name(self, pointer: str, step: int, score: float | None) -> None:
        said = {"step": step, "folder": self.path(step).name, "score": score}
        atomic_write_json(self.root / pointer, said)

    def _remove(self, step: int) -> None:
        removed = self._hidden(step, ".removed")
        self.path(step).rename(removed)
        shutil.rmtree(removed)

    def _hidden(self, step: int, suffix: str) -> Path:
        return self.root / f".{self.path(step).name}{suffix}"


def kept_steps(steps: Iterable[int], newest: int, best: int | None, settings: CheckpointSettings) -> set[int]:
    """Those of `steps` that stay once step `newest` is saved.

    Later steps do not: this run did not come from them, so they were damaged or of a future that was given up.
    """
    known = set(steps)
    kept = set(sorted(step for step in known if step <= newest)[-settings.keep_last :])
    kept |= {step for step in known if settings.keep_every and step % settings.keep_every == 0}
    return kept | (known & {newest, best})


def _take_record(partial: Path, rank: int) -> PartRecord:
    """A rank's record; its file is removed."""
    file = partial / record_file(rank)
    if not file.is_file():
        raise CheckpointError(f"{file} of rank {rank} is not here: checkpoints need a folder that all nodes share")
    record = PartRecord.model_validate_json(file.read_bytes())
    file.unlink()
    return record
