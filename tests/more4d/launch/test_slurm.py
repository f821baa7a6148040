"""Jobs on a real Slurm cluster of two nodes."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread, Timer

import pytest
from more4d.launch import Job, LaunchError, Receipt, SlurmLauncher, State

from tests.more4d.launch.conftest import steps_done
from tests.slurm_cluster import Cluster, wait_until

Counting = Callable[..., Job]


def _runs_at(folder: Path, step: int) -> Callable[[], bool]:
    return lambda: len(steps_done(folder)) > step


def test_two_nodes_reduce_together_and_go_on_after_a_requeue(
    slurm: SlurmLauncher, cluster: Cluster, counting: Counting, tmp_path: Path
) -> None:
    receipt = slurm.submit(counting(60, 0.1, reduce=True, nodes=2, processes_per_node=1), "two")
    wait_until(_runs_at(tmp_path, 3), "the job counts", 90)
    assert slurm.status(receipt).nodes == "n[1-2]"
    cluster.tool("scontrol", "requeue", receipt.job_id)
    status = slurm.wait(receipt, 150)
    assert (status.state, status.restarts) == (State.COMPLETED, 1), receipt.log.read_text()
    assert steps_done(tmp_path, 0) == steps_done(tmp_path, 1) == list(range(60))


def test_preempted_job_saves_waits_and_ends(slurm: SlurmLauncher, counting: Counting, tmp_path: Path) -> None:
    spare = slurm.submit(counting(40, partition="spare", nodes=2, gpus_per_node=8, processes_per_node=1), "spare")
    wait_until(_runs_at(tmp_path, 3), "the job counts", 90)
    urgent = slurm.submit(_sleeping(tmp_path, 1.0), "urgent")
    assert slurm.wait(urgent, 120).state is State.COMPLETED
    status = slurm.wait(spare, 150)
    assert (status.state, status.restarts) == (State.COMPLETED, 1), spare.log.read_text()
    assert "was asked to stop, and saved" in spare.log.read_text()
    assert steps_done(tmp_path, 0) == steps_done(tmp_path, 1) == list(range(40))


def _sleeping(folder: Path, seconds: float) -> Job:
    return Job(
        name="sleep",
        command=("sleep", str(seconds)),
        cwd=folder,
        folder=folder / "jobs",
        partition="gpu",
        nodes=2,
        gpus_per_node=8,
        processes_per_node=1,
    )


@pytest.mark.slow
def test_job_saves_before_its_time_limit_and_queues_itself_again(
    slurm: SlurmLauncher, counting: Counting, tmp_path: Path
) -> None:
    # Asked to leave 52 s before the end of one minute; the controller looks every 30 s.
    impatient = SlurmLauncher(slurm.site.model_copy(update={"signal_seconds": 52}), poll_seconds=0.3)
    receipt = impatient.submit(counting(150, 0.3, time_limit="1"), "limited")
    status = impatient.wait(receipt, 150)
    log = receipt.log.read_text()
    assert (status.state, status.restarts > 0) == (State.COMPLETED, True), log
    assert "stopped and saved: queued again" in log
    assert steps_done(tmp_path) == list(range(150))


def test_job_that_stops_too_often_is_not_queued_again(
    slurm: SlurmLauncher, cluster: Cluster, counting: Counting, tmp_path: Path
) -> None:
    receipt = slurm.submit(counting(10_000, max_requeues=0), "once")
    wait_until(_runs_at(tmp_path, 3), "the job counts")
    cluster.tool("scancel", "--batch", "--signal=USR1", receipt.job_id)
    status = slurm.wait(receipt, 60)
    assert (status.state, status.exit_code, status.restarts) == (State.STOPPED, 75, 0), receipt.log.read_text()
    assert "requeued 0 times: enough" in receipt.log.read_text()


@pytest.mark.slow
@pytest.mark.parametrize("node", ["n1", "n2"], ids=["with the script", "without"])
def test_job_that_loses_a_node_goes_on_when_there_are_two_again(
    slurm: SlurmLauncher, cluster: Cluster, counting: Counting, tmp_path: Path, node: str
) -> None:
    receipt = slurm.submit(counting(60, 0.2, reduce=True, nodes=2, processes_per_node=1), "lossy")
    wait_until(_runs_at(tmp_path, 3), "the job counts", 120)
    cluster.lose_node(node)
    try:
        wait_until(lambda: slurm.status(receipt).state is State.REQUEUED, "the job is queued again", 120)
    finally:
        cluster.start_node(node)
    status = slurm.wait(receipt, 240)
    assert (status.state, status.restarts > 0) == (State.COMPLETED, True), receipt.log.read_text()
    # A rank killed between two saves does not share a step with the other: none is missing.
    assert set(steps_done(tmp_path, 0)) == set(steps_done(tmp_path, 1)) == set(range(60))


def test_cancelled_job_stays_away_and_a_new_one_goes_on(
    slurm: SlurmLauncher, counting: Counting, tmp_path: Path
) -> None:
    job = counting(60, 0.1)
    first = slurm.submit(job, "first")
    wait_until(_runs_at(tmp_path, 3), "the job counts")
    slurm.cancel(first)
    assert slurm.wait(first, 60).state is State.CANCELLED
    wait_until(lambda: "was asked to stop, and saved" in first.log.read_text(), "the job saved")
    assert "queued again" not in first.log.read_text()
    done = steps_done(tmp_path)
    second = slurm.submit(job, "second")
    assert slurm.wait(second, 60).state is State.COMPLETED
    assert slurm.status(first).state is State.CANCELLED
    assert (len(done) < 60, steps_done(tmp_path)) == (True, list(range(60)))


def test_failed_program_is_not_queued_again_and_keeps_its_exit_code(
    slurm: SlurmLauncher, counting: Counting, tmp_path: Path
) -> None:
    (tmp_path / "crash").touch()
    receipt = slurm.submit(counting(5, nodes=2, processes_per_node=2), "crash")
    status = slurm.wait(receipt, 120)
    assert (status.state, status.exit_code, status.restarts) == (State.FAILED, 3, 0), receipt.log.read_text()


def test_one_key_submitted_at_once_and_after_a_lost_receipt_is_one_job(
    slurm: SlurmLauncher, cluster: Cluster, counting: Counting, tmp_path: Path
) -> None:
    job, receipts = counting(3), list[Receipt]()
    submitters = [Thread(target=lambda: receipts.append(slurm.submit(job, "one"))) for _ in range(4)]
    for each in submitters:
        each.start()
    for each in submitters:
        each.join()
    # As after a kill between sbatch and the writing of the receipt.
    (tmp_path / "jobs" / "one" / "receipt.json").unlink()
    receipts.append(slurm.submit(job, "one"))
    assert len({receipt.job_id for receipt in receipts}) == 1 and len(receipts) == 5
    names = cluster.tool("squeue", "--noheader", "--states=all", "--format=%j").split()
    name = cluster.tool("squeue", "--noheader", "--states=all", f"--jobs={receipts[0].job_id}", "--format=%j").strip()
    assert names.count(name) == 1
    with pytest.raises(ValueError, match="key 'one' was given to another job"):
        slurm.submit(counting(4), "one")


def test_log_is_followed_live_and_over_a_requeue(
    slurm: SlurmLauncher, cluster: Cluster, counting: Counting, tmp_path: Path
) -> None:
    receipt = slurm.submit(counting(40), "followed")
    lines: list[str] = []
    for line in slurm.follow(receipt):
        lines.append(line)
        if line == "rank 0 of 1 begins at step 0":
            wait_until(_runs_at(tmp_path, 3), "the job counts while it is followed")
            cluster.tool("scontrol", "requeue", receipt.job_id)
    assert lines.count("rank 0 did all 40 steps") == 1 and lines[-1] == "rank 0 did all 40 steps"
    assert sum("begins at step" in line for line in lines) == 2
    assert lines == receipt.log.read_text().splitlines()


def test_another_process_finds_a_job_by_key_and_by_number(slurm: SlurmLauncher, tmp_path: Path) -> None:
    receipt = slurm.submit(_sleeping(tmp_path, 60), "lost-and-found")
    jobs = tmp_path / "jobs"
    assert slurm.reattach("lost-and-found", jobs) == slurm.reattach(receipt.job_id, jobs) == receipt
    (receipt.folder / "receipt.json").unlink()
    assert (
        slurm.reattach("lost-and-found", jobs).job_id == slurm.reattach(receipt.job_id, jobs).job_id == receipt.job_id
    )
    with pytest.raises(KeyError, match="nobody"):
        slurm.reattach("nobody", jobs)
    slurm.cancel(receipt)
    assert slurm.wait(receipt, 60).state is State.CANCELLED


def test_odd_paths_and_values_reach_the_program_as_they_are(slurm: SlurmLauncher, tmp_path: Path) -> None:
    folder = tmp_path / "a b'#$(touch x)&;`y`"
    folder.mkdir()
    odd = "'; touch pwned; '$(id)`id`\n\"%j\\"
    job = Job(
        name="odd",
        command=("python", "-c", "import os, sys; print([os.environ['ODD'], *sys.argv[1:], os.getcwd()])", odd, ""),
        environment={"ODD": odd},
        cwd=folder,
        folder=folder,
    )
    receipt = slurm.submit(job, "odd")
    assert slurm.wait(receipt, 60).state is State.COMPLETED
    assert receipt.log.read_text().splitlines()[-1] == repr([odd, odd, "", str(folder)])
    assert {path.name for path in folder.iterdir()} == {"odd"}


def test_gpus_are_asked_for_and_seen(slurm: SlurmLauncher, tmp_path: Path) -> None:
    code = "import os; print(os.environ['CUDA_VISIBLE_DEVICES'], os.environ.get('ACCELERATE_USE_CPU'))"
    job = Job(name="gpus", command=("python", "-c", code), cwd=tmp_path, folder=tmp_path, gpus_per_node=1)
    for profile in ({"gpu_type": "h200"}, {"gpus": "gpus-per-node"}):
        launcher = SlurmLauncher(slurm.site.model_copy(update=profile), poll_seconds=0.3)
        receipt = launcher.submit(job, f"gpus-{len(profile)}-{next(iter(profile))}")
        assert launcher.wait(receipt, 60).state is State.COMPLETED
        assert receipt.log.read_text().splitlines()[-1] == "0 None"


def test_refusals_of_the_cluster_are_passed_on(slurm: SlurmLauncher, tmp_path: Path) -> None:
    job = _sleeping(tmp_path, 1).model_copy(update={"partition": "nowhere"})
    with pytest.raises(LaunchError, match="invalid partition specified: nowhere"):
        slurm.submit(job, "refused")
    assert not (tmp_path / "jobs" / "refused" / "receipt.json").exists()


def test_submitter_killed_at_any_moment_leaves_at_most_one_job(
    slurm: SlurmLauncher, cluster: Cluster, tmp_path: Path
) -> None:
    job = _sleeping(tmp_path, 0.1).model_copy(update={"name": "killed"})
    code = (
        "import sys; from more4d.launch import *; print(flush=True);"
        "SlurmLauncher().submit(Job.model_validate_json(sys.argv[1]), 'killed')"
    )
    for milliseconds in (0, 10, 20, 40, 80):
        with subprocess.Popen([sys.executable, "-c", code, job.model_dump_json()], stdout=subprocess.PIPE) as submitter:
            assert submitter.stdout is not None
            submitter.stdout.readline()
            time.sleep(milliseconds / 1000)
            submitter.send_signal(signal.SIGKILL)
    receipt = SlurmLauncher().submit(job, "killed")
    names = cluster.tool("squeue", "--noheader", "--states=all", "--format=%j").split()
    assert len([name for name in names if name.startswith("killed-")]) == 1
    assert slurm.wait(receipt, 60).state is State.COMPLETED


def test_controller_that_is_restarted_below_a_job_is_waited_for(
    slurm: SlurmLauncher, cluster: Cluster, counting: Counting, tmp_path: Path
) -> None:
    receipt = slurm.submit(counting(30, 0.1), "patient")
    wait_until(_runs_at(tmp_path, 3), "the job counts")
    cluster.stop_controller()
    restart = Timer(1, cluster.start_controller)
    try:
        # A question that is not answered is not an answer: the same key must not start a second job.
        (receipt.folder / "receipt.json").unlink()
        hasty = SlurmLauncher(slurm.site, patience_seconds=0)
        with pytest.raises(LaunchError, match="squeue --json: Failed while looking for jobs"):
            hasty.submit(counting(30, 0.1), "patient")
    finally:
        restart.start()
    assert slurm.submit(counting(30, 0.1), "patient").job_id == receipt.job_id
    status = slurm.wait(receipt, 60)
    restart.join()
    assert (status.state, steps_done(tmp_path)) == (State.COMPLETED, list(range(30)))


@pytest.mark.parametrize(("left", "state"), [("exit", State.STOPPED), ("cancelled", State.CANCELLED), ("", State.LOST)])
def test_job_that_the_cluster_forgot_is_told_by_its_folder(
    slurm: SlurmLauncher, tmp_path: Path, left: str, state: State
) -> None:
    if left:
        (tmp_path / left).write_text("75\n")
    receipt = Receipt(launcher="slurm", key="old", job_id="999999", folder=tmp_path, submitted=0, digest="")
    assert slurm.status(receipt).state is state
