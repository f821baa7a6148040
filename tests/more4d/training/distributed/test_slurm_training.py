"""A real training of two nodes on a real Slurm cluster, disturbed in every way that a cluster knows."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from more4d.launch import Job, Site, SlurmLauncher, State

from tests.more4d.training.distributed.test_strategies import SPREAD, STEPS, last, launch, same
from tests.slurm_cluster import Cluster, wait_until

Training = Callable[..., Job]


@pytest.fixture
def slurm(cluster: Cluster) -> SlurmLauncher:
    """The launcher on the test cluster."""
    return SlurmLauncher(Site(cpus_per_node=1), poll_seconds=0.3)


@pytest.fixture
def training(checkpoint: Path, trajscene: Path, tmp_path: Path) -> Training:
    """A job that trains STraG on two nodes, slowly enough to be disturbed."""

    def make(**other: object) -> Job:
        jobs = [{"kind": "strag", "work": str(tmp_path / "work"), "settings": {"checkpoint_every": 2}, "pace": 0.5}]
        command = ["python", str(SPREAD), str(checkpoint), str(trajscene), json.dumps(jobs)]
        # As many threads as the undisturbed one has: sums in another order end in other bits.
        threads = {"OMP_NUM_THREADS": "1"}
        given = {
            "name": "strag",
            "command": command,
            "environment": threads,
            "cwd": Path.cwd(),
            "folder": tmp_path / "jobs",
            **other,
        }
        return Job.model_validate({"nodes": 2, "processes_per_node": 1, "gpus_per_node": 0, **given})

    return make


@pytest.fixture(scope="module")
def undisturbed(checkpoint: Path, trajscene: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same training by two processes without a cluster, that nothing disturbed."""
    work = tmp_path_factory.mktemp("undisturbed")
    jobs = [{"kind": "strag", "work": str(work), "settings": {"checkpoint_every": 2}}]
    assert launch(jobs, checkpoint, trajscene, 2) == 0
    return work


def saved(work: Path) -> int:
    """Steps of the newest checkpoint; 0 without one."""
    return max((int(folder.name[5:]) for folder in work.glob("step-*")), default=0)


def test_a_requeued_training_of_two_nodes_ends_with_the_weights_of_an_undisturbed_one(
    slurm: SlurmLauncher, cluster: Cluster, training: Training, undisturbed: Path, tmp_path: Path
) -> None:
    receipt = slurm.submit(training(), "requeued")
    wait_until(lambda: saved(tmp_path / "work") >= 4, "the training saves", 240)
    cluster.tool("scontrol", "requeue", receipt.job_id)
    status = slurm.wait(receipt, 300)
    assert (status.state, status.restarts) == (State.COMPLETED, 1), receipt.log.read_text()
    assert last(tmp_path / "work").ranks == 2
    assert same(tmp_path / "work", undisturbed)


@pytest.mark.slow
def test_a_preempted_training_goes_on_when_its_nodes_are_free(
    slurm: SlurmLauncher, training: Training, undisturbed: Path, tmp_path: Path
) -> None:
    receipt = slurm.submit(training(partition="spare", gpus_per_node=8), "spare")
    wait_until(lambda: saved(tmp_path / "work") >= 4, "the training saves", 240)
    urgent = Job(
        name="urgent", command=("sleep", "1"), cwd=tmp_path, folder=tmp_path / "jobs", partition="gpu", nodes=2,
        gpus_per_node=8, processes_per_node=1,
    )  # fmt: skip
    assert slurm.wait(slurm.submit(urgent, "urgent"), 180).state is State.COMPLETED
    status = slurm.wait(receipt, 300)
    assert (status.state, status.restarts) == (State.COMPLETED, 1), receipt.log.read_text()
    assert same(tmp_path / "work", undisturbed)


@pytest.mark.slow
def test_a_training_that_loses_a_node_goes_on_from_its_last_checkpoint(
    slurm: SlurmLauncher, cluster: Cluster, training: Training, undisturbed: Path, tmp_path: Path
) -> None:
    receipt = slurm.submit(training(), "lossy")
    wait_until(lambda: saved(tmp_path / "work") >= 4, "the training saves", 240)
    cluster.lose_node("n2")
    try:
        wait_until(lambda: slurm.status(receipt).state is State.REQUEUED, "the job is queued again", 240)
    finally:
        cluster.start_node("n2")
    status = slurm.wait(receipt, 300)
    assert (status.state, status.restarts > 0) == (State.COMPLETED, True), receipt.log.read_text()
    assert same(tmp_path / "work", undisturbed)


@pytest.mark.slow
def test_a_cancelled_training_saves_within_a_minute_and_goes_on_when_submitted_again(
    slurm: SlurmLauncher, training: Training, undisturbed: Path, tmp_path: Path
) -> None:
    first = slurm.submit(training(), "first")
    wait_until(lambda: saved(tmp_path / "work") >= 4, "the training saves", 240)
    began = time.monotonic()
    slurm.cancel(first)
    assert slurm.wait(first, 60).state is State.CANCELLED
    assert time.monotonic() - began < 60
    assert 4 <= saved(tmp_path / "work") < STEPS
    assert slurm.wait(slurm.submit(training(), "second"), 300).state is State.COMPLETED
    assert same(tmp_path / "work", undisturbed)
