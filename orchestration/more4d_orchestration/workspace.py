"""What DVC knows of a stage: whether it changed, how to record a run of it, and what dvc.lock says.

A stage is run outside DVC's lock and recorded under it, so that any number of runs wait for each other only here.
"""

import hashlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dvc.lock import LockError
from dvc.repo import Repo, lock_repo
from dvc.rwlock import rwlock
from dvc.stage import PipelineStage
from dvc.utils.serialize import load_yaml

from more4d_orchestration.manifest import MISSING, Pipeline, Recipe, StageNode

WAIT_SECONDS = 1.0


class InputsChangedError(ValueError):
    """What a stage reads changed while it ran: its outputs belong to neither state and are not recorded."""


@dataclass(frozen=True)
class Start:
    """A stage before its run."""

    reasons: tuple[str, ...]
    """Why it must run; empty when everything is as dvc.lock says."""
    inputs: Mapping[str, Any]
    """Path or parameter file -> hash or values, as the run finds them."""


@dataclass(frozen=True)
class Recorded:
    """One out of a stage as dvc.lock has it."""

    path: str
    md5: str
    size: int
    files: int


@dataclass(frozen=True)
class LockEntry:
    """What dvc.lock says of a stage: the recipe it was run with and what came out."""

    recipe: Recipe
    outs: Mapping[str, Recorded]
    data_version: str


@contextmanager
def claimed(pipeline: Pipeline, name: str, on_wait: Callable[[str], None]) -> Iterator[None]:
    """Holds DVC's path lock on what the stage reads and writes, as `dvc repro` does while a stage runs.

    Waits for whoever holds a part of it, telling `on_wait` once.
    """
    waited = False
    with ExitStack() as stack:
        repo = stack.enter_context(_open(pipeline))
        stage = _load(repo, pipeline, name)
        reads, writes = [dep.fs_path for dep in stage.deps], [out.fs_path for out in stage.outs]
        # DVC takes a claim with this process's id and arguments for its own.
        claim = (repo.tmp_dir, repo.fs, " ".join(sys.argv), reads, writes, False)
        while True:
            try:
                stack.enter_context(rwlock(*claim))
                break
            except LockError as error:
                if not waited:
                    on_wait(str(error))
                waited = True
                time.sleep(WAIT_SECONDS)
        yield


def begin(pipeline: Pipeline, name: str) -> Start:
    """The stage's state before a run. Waits for DVC's lock; raises DVC's errors for missing inputs."""
    with _open(pipeline) as repo, lock_repo(repo):
        stage = _load(repo, pipeline, name)
        reasons = _reasons(stage.status())
        return Start(reasons, _inputs(stage) if reasons else {})


def record(pipeline: Pipeline, name: str, start: Start) -> None:
    """Writes the finished stage to dvc.lock and its outs to the cache, as `dvc commit -f` does.

    Raises InputsChangedError, and records nothing, when an input is not what it was at `start`.
    """
    # DVC's run cache, for outs that are not `persist`, looks for dvc.yaml in the current folder.
    with chdir(pipeline.root), _open(pipeline) as repo, lock_repo(repo), repo.scm_context(quiet=True):
        stage = _load(repo, pipeline, name)
        now = _inputs(stage)
        changed = sorted(key for key in now if now[key] != start.inputs.get(key))
        if changed:
            raise InputsChangedError(
                f"{', '.join(changed)} changed while stage {name} ran; its outputs are not recorded: run it again"
            )
        stage.save()
        stage.commit()
        stage.dump(update_pipeline=False)


def read_lock(pipeline: Pipeline) -> dict[str, LockEntry]:
    """What dvc.lock says, for the stages that it holds; empty when nothing was ever run."""
    path = pipeline.dvc_yaml.with_suffix(".lock")
    if not path.exists():
        return {}
    stages = load_yaml(str(path)).get("stages", {})
    return {name: _entry(node, stages[name], pipeline) for name, node in pipeline.stages.items() if name in stages}


def _open(pipeline: Pipeline) -> Repo:
    return Repo(str(pipeline.root), _wait_for_lock=True)


def _load(repo: Repo, pipeline: Pipeline, name: str) -> PipelineStage:
    stage = repo.stage.load_one(str(pipeline.dvc_yaml), name)
    assert isinstance(stage, PipelineStage)
    return stage


def _inputs(stage: PipelineStage) -> dict[str, Any]:
    stage.save_deps()
    return {str(dep): dep.hash_info.value if dep.hash_info else None for dep in stage.deps}


def _reasons(status: Mapping[str, list[Any]]) -> tuple[str, ...]:
    """DVC's status of one stage as lines: `changed deps: datasets/a modified`."""
    lines = []
    for change in (item for items in status.values() for item in items):
        if isinstance(change, str):
            lines.append(change)
            continue
        for kind, entries in change.items():
            lines += [f"{kind}: {path} {what}" for path, what in entries.items()]
    return tuple(lines)


def _entry(node: StageNode, entry: Mapping[str, Any], pipeline: Pipeline) -> LockEntry:
    folder = node.folder.relative_to(pipeline.root)
    hashes = {_posix(folder, dep["path"]): str(dep.get("md5", MISSING)) for dep in entry.get("deps", [])}
    params = {_posix(folder, path): dict(values) for path, values in entry.get("params", {}).items()}
    command = entry["cmd"]
    commands = tuple(command) if isinstance(command, list) else tuple(command.splitlines())
    outs = {
        (path := _posix(folder, out["path"])): Recorded(path, out["md5"], out.get("size", 0), out.get("nfiles", 1))
        for out in entry.get("outs", [])
    }
    recipe = Recipe(commands, params, {path: hashes.get(path, MISSING) for path in node.code})
    return LockEntry(recipe, outs, data_version(node, outs))


def _posix(folder: Path, path: str) -> str:
    return (folder / path).as_posix()


def data_version(node: StageNode, outs: Mapping[str, Recorded]) -> str:
    """The hash that dvc.lock holds for the stage's data: verbatim for one out, SHA-256 over `path md5` lines for several.

    Metrics and plots do not count, unless another stage reads them or there is nothing else.
    """
    hashes = [(path, outs[path].md5 if path in outs else MISSING) for path in node.versioned]
    if len(hashes) == 1:
        return hashes[0][1]
    return hashlib.sha256("".join(f"{path} {md5}\n" for path, md5 in hashes).encode()).hexdigest()
