"""What a stage is, and how one is run: inputs checked, outputs swapped in atomically, metrics and timing written.

A stage knows neither DVC nor Dagster nor Slurm; all of them run `python -m more4d.stages NAME`.
"""

import fcntl
import hashlib
import json
import logging
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Generic, TypeVar

from pydantic import Field, model_validator

from more4d.data.atomic import sync
from more4d.data.hashing import hash_file
from more4d.settings import Section
from more4d.training.distributed.world import World, join_world, launched_ranks

log = logging.getLogger(__name__)


class VideoSpec(Section):
    """Size of every clip that the networks see: frames, pixels and frames per second."""

    frames: int = Field(gt=1)
    height: int = Field(ge=16)
    width: int = Field(ge=16)
    fps: float = Field(gt=0)

    @model_validator(mode="after")
    def _fits_the_causal_vae(self) -> "VideoSpec":
        if (self.frames - 1) % 4:
            raise ValueError(f"video.frames={self.frames} must be 4n+1: the causal VAE folds four frames into one")
        if self.height % 16 or self.width % 16:
            raise ValueError(f"video {self.height}x{self.width}: both sides must be multiples of 16")
        return self


P = TypeVar("P", bound=Section)


@dataclass(frozen=True)
class Context(Generic[P]):
    """What one run of a stage is given; paths are absolute."""

    params: P
    video: VideoSpec
    seed: int
    workers: int
    inputs: Mapping[str, Path]
    outputs: Mapping[str, Path]
    """Where to write: temporary siblings, swapped into place when `run` returns."""
    work: Path
    """A private folder that survives a kill; the same inputs and parameters find it again."""
    root: Path
    """The workspace, which paths in params.yaml are taken from."""
    spent: list[Path] = field(default_factory=list)
    """Other folders that the stage wants removed, with `work`, once its outputs are in place."""
    world: World = field(default_factory=lambda: join_world("cpu"))
    """The ranks that run the stage together. The main one writes what is written once, and its metrics count."""

    @property
    def logs(self) -> Path:
        """Where trackers write what this run measures: no output, as it tells of the machine."""
        return self.root / "results" / "tracking" / self.work.name.rsplit("-", 1)[0]


class Stage(ABC, Generic[P]):
    """One step of the lineage. `run` returns its metrics: a flat dict of numbers."""

    name: ClassVar[str]
    section: ClassVar[type[Section]]
    together: ClassVar[bool] = False
    """Whether several ranks can run the stage, each calling `run` with the same context."""
    inputs: ClassVar[dict[str, str]] = {}
    outputs: ClassVar[dict[str, str]]

    @abstractmethod
    def run(self, context: Context[P]) -> dict[str, float]: ...


@dataclass(frozen=True)
class StageResult:
    """What a run returned and where it put it."""

    name: str
    metrics: dict[str, float]
    outputs: dict[str, Path]
    seconds: float = field(compare=False)


class MissingInputError(ValueError):
    """An input of the stage does not exist; the message names the path and the stage that makes it."""


def run_stage(stage: Stage, *, params: Section, video: VideoSpec, seed: int, workers: int, root: Path) -> StageResult:
    """Result of one run of `stage` in the workspace `root`; old outputs stay until the new ones are complete.

    Waits while another process runs the same stage there. Raises MissingInputError when an input is absent; whatever
    `run` raises passes through.
    """
    _, ranks = launched_ranks()
    if ranks > 1 and not stage.together:
        raise ValueError(f"stage {stage.name} runs in one process, not in {ranks}: start it without torchrun")
    world = join_world("auto") if ranks > 1 else join_world("cpu")
    with _alone(stage.name, root) if world.main else nullcontext():
        return _run(stage, world, params=params, video=video, seed=seed, workers=workers, root=root)


@contextmanager
def _alone(name: str, root: Path) -> Iterator[None]:
    """One process at a time in a stage's folders: a stage may outlive the orchestrator that was killed over it."""
    path = root / ".cache" / "locks" / f"{name}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    # A record lock: unlike flock's, it is not inherited by a worker process that outlives this one.
    with path.open("w") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.warning("%s: another process runs this stage; waiting for it to end (%s)", name, path)
            fcntl.lockf(file, fcntl.LOCK_EX)
        yield


def _run(
    stage: Stage, world: World, *, params: Section, video: VideoSpec, seed: int, workers: int, root: Path
) -> StageResult:
    started = time.monotonic()
    inputs = {key: root / path for key, path in stage.inputs.items()}
    finals = {key: root / path for key, path in stage.outputs.items()}
    staging = {key: _partial(final) for key, final in finals.items()}
    work = ""
    if world.main:
        for path in (*inputs.values(), *finals.values()):
            _recover(path)
        _require(stage, inputs)
        for key, final in finals.items():
            _clear(staging[key], final)
        work = str(_work_folder(stage, params, video, seed, inputs, root))
    folder = Path(world.gather(work)[0])
    context = Context(params, video, seed, workers, inputs, staging, folder, root, world=world)
    metrics = stage.run(context)
    result = StageResult(stage.name, metrics, finals, time.monotonic() - started)
    # No rank reads a checkpoint of the work folder any more.
    world.barrier()
    if world.main:
        _finish(result, staging, (folder, *context.spent), root)
    return result


def _finish(result: StageResult, staging: Mapping[str, Path], spent: Iterable[Path], root: Path) -> None:
    """Put the outputs in place, remove what is spent, write the records."""
    for path in staging.values():
        _settle(path)
    for key, final in result.outputs.items():
        _swap(staging[key], final)
    for folder in spent:
        shutil.rmtree(folder, ignore_errors=True)
    _write_records(result, root)


def _require(stage: Stage, inputs: Mapping[str, Path]) -> None:
    for key, path in inputs.items():
        if not path.exists():
            raise MissingInputError(
                f"stage {stage.name}: input {key} is missing at {path}; run the stage that makes it"
            )


def _recover(final: Path) -> None:
    """Put back what a kill between the two renames of `_swap` left aside."""
    old = _aside(final)
    if old.exists() and not final.exists():
        old.rename(final)


def _aside(final: Path) -> Path:
    return final.with_name(f".{final.name}.old")


def _settle(staging: Path) -> None:
    """Force everything written onto the disk, before any of it takes the place of an old output."""
    assert staging.exists(), f"the stage returned without writing {staging}"
    for path in (staging, *sorted(staging.rglob("*"))):
        sync(path)


def _partial(final: Path) -> Path:
    return final.with_name(f".{final.name}.partial")


def _clear(staging: Path, final: Path) -> None:
    """Make a temporary sibling of `final` fresh; files get none made, folders are made empty."""
    if staging.is_dir():
        shutil.rmtree(staging)
    staging.unlink(missing_ok=True)
    final.parent.mkdir(parents=True, exist_ok=True)
    if not final.suffix:
        staging.mkdir()


def _swap(staging: Path, final: Path) -> None:
    if staging.is_file():
        staging.replace(final)
        return
    old = _aside(final)
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    staging.rename(final)
    shutil.rmtree(old, ignore_errors=True)


def _work_folder(
    stage: Stage, params: Section, video: VideoSpec, seed: int, inputs: Mapping[str, Path], root: Path
) -> Path:
    """Scratch keyed by inputs, parameters and seed, so that a resumed run continues only its own work.

    Not by code: after a crash was mended, the work goes on.
    """
    digest = hashlib.sha256(f"{params.model_dump_json()}{video.model_dump_json()}{seed}".encode())
    for key in sorted(inputs):
        digest.update(key.encode())
        digest.update(fingerprint(inputs[key]).encode())
    folder = root / ".cache" / "work" / f"{stage.name}-{digest.hexdigest()[:16]}"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def fingerprint(path: Path) -> str:
    """SHA-256 of a file, or of a folder's relative names and contents in sorted order."""
    digest = hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        digest.update(str(file.relative_to(path.parent)).encode())
        digest.update(bytes.fromhex(hash_file(file)))
    return digest.hexdigest()


def _write_records(result: StageResult, root: Path) -> None:
    for kind, payload in (("metrics", result.metrics), ("timings", {"seconds": round(result.seconds, 3)})):
        path = root / "results" / kind / f"{result.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.partial")
        temporary.write_text(json.dumps(payload, indent=2, sort_keys=True) + "\n")
        temporary.replace(path)
    log.info("%s: %.1f s %s", result.name, result.seconds, result.metrics)
