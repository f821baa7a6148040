"""Kill -9 at random moments over the whole lineage: what a rerun leaves is what an undisturbed run leaves."""

import multiprocessing
import random
import shutil
import time
from dataclasses import dataclass
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import pytest
from more4d.presets import write_preset
from more4d.stages.__main__ import main
from more4d.stages.base import fingerprint
from more4d.stages.registry import LINEAGE, get_stage

REPOSITORY = Path(__file__).parents[3]
KILLS_PER_STAGE = 2
SERVER = multiprocessing.get_context("forkserver")


@dataclass(frozen=True)
class Alone:
    """A workspace whose stages were left alone, and how long each took, in seconds."""

    root: Path
    seconds: dict[str, float]


def start(root: Path, stage: str) -> ForkServerProcess:
    """The stage's own command line, in a process that need not import everything first."""
    process = SERVER.Process(target=main, args=([stage, "--root", str(root)],))
    process.start()
    return process


def complete(root: Path, stage: str) -> float:
    """Seconds that the stage took."""
    started = time.monotonic()
    process = start(root, stage)
    process.join()
    assert process.exitcode == 0, stage
    return time.monotonic() - started


def outputs(root: Path, stage: str) -> dict[str, str]:
    """Hashes of what the stage has written into its places, metrics among them."""
    paths = {name: root / path for name, path in get_stage(stage).outputs.items()}
    paths["metrics"] = root / "results" / "metrics" / f"{stage}.json"
    return {name: fingerprint(path) for name, path in paths.items() if path.exists()}


def workspace(root: Path) -> Path:
    """Preset smoke before its first run."""
    (root / ".cache").mkdir(parents=True)
    (root / "datasets").mkdir()
    (root / ".cache" / "packaged").symlink_to(REPOSITORY / ".cache" / "packaged")
    shutil.copy(REPOSITORY / "datasets" / "packaged.toml", root / "datasets")
    shutil.copytree(REPOSITORY / "models" / "tiny-base", root / "models" / "tiny-base")
    shutil.copy(REPOSITORY / "models" / "weights.toml", root / "models")
    write_preset("smoke", root / "params.yaml")
    return root


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Alone:
    SERVER.set_forkserver_preload(["more4d.stages.__main__", *(f"more4d.stages.{name}" for name in LINEAGE)])
    root = workspace(tmp_path_factory.mktemp("alone") / "workspace")
    return Alone(root, {name: complete(root, name) for name in LINEAGE})


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_stages_killed_at_random_moments_leave_the_bytes_of_an_undisturbed_run(alone: Alone, tmp_path: Path) -> None:
    root = workspace(tmp_path / "killed")
    moments = random.Random(0)
    for stage in LINEAGE:
        expected, seconds, killed = outputs(alone.root, stage), alone.seconds[stage], 0
        while killed < KILLS_PER_STAGE:
            process = start(root, stage)
            process.join(timeout=moments.random() * seconds)
            process.kill()
            process.join()
            killed += process.exitcode != 0
            # The machine may be quieter than it was: one that came through was given too long.
            seconds *= 1 if process.exitcode else 0.7
            # What stands in an output's place is whole, whenever the blow fell.
            assert outputs(root, stage).items() <= expected.items(), stage
        complete(root, stage)
        assert outputs(root, stage) == expected, stage
