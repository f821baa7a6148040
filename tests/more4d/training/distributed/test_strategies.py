import json
import os
import runpy
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from more4d.training.checkpoints import Checkpoint, CheckpointSettings, CheckpointStore
from torch import Tensor

SPREAD = Path(__file__).parent / "spread.py"
PROGRAM = runpy.run_path(str(SPREAD))
KINDS: tuple[str, ...] = PROGRAM["KINDS"]
ROOT = Path(__file__).parents[4]
STEPS = PROGRAM["SETTINGS"]["steps"]


def launch(jobs: list[dict[str, Any]], checkpoint: Path, trajscene: Path, ranks: int) -> int:
    """The exit status of trainings by so many processes that torchrun starts; not 0 where they were stopped."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(ranks)]
    command = [*launcher, str(SPREAD), str(checkpoint), str(trajscene), json.dumps(jobs)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


def last(work: Path) -> Checkpoint:
    """The checkpoint that a training ended with."""
    found = CheckpointStore(work, CheckpointSettings()).latest()
    assert found is not None and found.step == STEPS
    return found


def tensors(work: Path) -> dict[str, Tensor]:
    """Weights, average and optimizer state at the end; not the generators, of which each rank has its own."""
    checkpoint = last(work)
    return {name: checkpoint.whole(name) for name in checkpoint.names() if not name.startswith("rng/")}


def losses(work: Path) -> list[float]:
    """The loss of every step."""
    return [row["loss"] for row in last(work).state["history"]["rows"]]


def same(one: Path, other: Path) -> bool:
    """Whether two trainings ended with the same bits, after the same samples and losses."""
    a, b = tensors(one), tensors(other)
    equal = a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    return equal and last(one).state["seen"] == last(other).state["seen"] and losses(one) == losses(other)


@pytest.fixture(scope="module")
def alone(checkpoint: Path, trajscene: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Each training by one process, that nothing disturbed."""
    found = {}
    for kind in KINDS:
        found[kind] = tmp_path_factory.mktemp("alone") / kind
        PROGRAM["run"]({"kind": kind, "work": str(found[kind]), "settings": {}}, checkpoint, trajscene)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_stopped_anywhere_and_resumed_a_training_ends_with_the_same_bits(
    kind: str, alone: dict[str, Path], checkpoint: Path, trajscene: Path
) -> None:
    @given(stops=st.lists(st.integers(1, STEPS - 1), min_size=1, max_size=1))
    @settings(max_examples=3, deadline=None, database=None)
    def check(stops: list[int]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            job = {"kind": kind, "work": folder, "settings": {}}
            for stop in stops:
                PROGRAM["run"](job | {"leave_at": stop}, checkpoint, trajscene)
            PROGRAM["run"](job, checkpoint, trajscene)
            assert same(Path(folder), alone[kind])

    check()


@pytest.mark.parametrize("kind", KINDS)
def test_killed_and_resumed_a_training_ends_with_the_same_bits(
    kind: str, alone: dict[str, Path], checkpoint: Path, trajscene: Path, tmp_path: Path
) -> None:
    job = {"kind": kind, "work": str(tmp_path), "settings": {}}
    arguments = [str(checkpoint), str(trajscene), json.dumps([job | {"kill_at": 8}])]
    done = subprocess.run([sys.executable, str(SPREAD), *arguments], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert [int(path.name[5:]) for path in tmp_path.glob("step-*")] == [5]
    PROGRAM["run"](job, checkpoint, trajscene)
    assert same(tmp_path, alone[kind])


def test_parts_and_reading_ahead_change_nothing_but_rounding(
    alone: dict[str, Path], checkpoint: Path, trajscene: Path, tmp_path: Path
) -> None:
    changes = {"accumulate": 4, "prefetch": 0, "recompute": "selective"}
    PROGRAM["run"]({"kind": "strag", "work": str(tmp_path), "settings": changes}, checkpoint, trajscene)
    assert losses(tmp_path) == pytest.approx(losses(alone["strag"]), abs=1e-5)
    assert last(tmp_path).state["seen"] == last(alone["strag"]).state["seen"]


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2", "zero2", "zero3"])
def test_two_processes_compute_what_one_does(
    strategy: str, alone: dict[str, Path], checkpoint: Path, trajscene: Path, tmp_path: Path
) -> None:
    jobs = [{"kind": "strag", "work": str(tmp_path / "two"), "settings": {"strategy": strategy}}]
    assert launch(jobs, checkpoint, trajscene, 2) == 0
    assert losses(tmp_path / "two") == pytest.approx(losses(alone["strag"]), abs=1e-4)
    assert last(tmp_path / "two").state["seen"] == last(alone["strag"]).state["seen"]
    assert last(tmp_path / "two").ranks == 2


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["zero2-offload", "zero3-offload"])
def test_offloading_computes_the_same(
    strategy: str, alone: dict[str, Path], checkpoint: Path, trajscene: Path, tmp_path: Path
) -> None:
    jobs = [{"kind": "strag", "work": str(tmp_path / "two"), "settings": {"strategy": strategy}}]
    assert launch(jobs, checkpoint, trajscene, 2) == 0
    assert losses(tmp_path / "two") == pytest.approx(losses(alone["strag"]), abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_one_of_two_ranks_killed_and_both_resumed_end_with_the_same_bits(
    kind: str, checkpoint: Path, trajscene: Path, tmp_path: Path
) -> None:
    straight = {"kind": kind, "work": str(tmp_path / "straight"), "settings": {}}
    killed = straight | {"work": str(tmp_path / "killed")}
    assert launch([straight], checkpoint, trajscene, 2) == 0
    assert launch([killed | {"kill_at": 8, "kill_rank": 1}], checkpoint, trajscene, 2) != 0
    assert launch([killed | {"leave_at": 6, "leave_rank": 1}], checkpoint, trajscene, 2) != 0
    assert launch([killed], checkpoint, trajscene, 2) == 0
    assert same(tmp_path / "killed", tmp_path / "straight")


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["fsdp2", "zero2", "zero3"])
def test_a_sharded_training_left_and_resumed_ends_with_the_same_bits(
    strategy: str, checkpoint: Path, trajscene: Path, tmp_path: Path
) -> None:
    settings_ = {"strategy": strategy}
    straight = {"kind": "strag", "work": str(tmp_path / "straight"), "settings": settings_}
    left = straight | {"work": str(tmp_path / "left")}
    assert launch([straight], checkpoint, trajscene, 2) == 0
    assert launch([left | {"leave_at": 7}], checkpoint, trajscene, 2) != 0
    assert launch([left], checkpoint, trajscene, 2) == 0
    assert same(tmp_path / "left", tmp_path / "straight")


@pytest.mark.slow
def test_what_two_ranks_saved_goes_on_with_one_and_with_four(
    alone: dict[str, Path], checkpoint: Path, trajscene: Path, tmp_path: Path
) -> None:
    job = {"kind": "strag", "work": str(tmp_path / "one"), "settings": {"strategy": "zero3"}}
    assert launch([job | {"leave_at": 7}], checkpoint, trajscene, 2) != 0
    subprocess.run(["cp", "-r", str(tmp_path / "one"), str(tmp_path / "four")], check=True)
    PROGRAM["run"](job | {"settings": {"strategy": "single"}}, checkpoint, trajscene)
    four = {"kind": "strag", "work": str(tmp_path / "four"), "settings": {"strategy": "fsdp2"}}
    assert launch([four], checkpoint, trajscene, 4) == 0
    for work in (tmp_path / "one", tmp_path / "four"):
        assert losses(work) == pytest.approx(losses(alone["strag"]), abs=1e-4)
        assert last(work).state["seen"] == last(alone["strag"]).state["seen"]
