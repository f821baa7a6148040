"""Jobs of real processes on this machine."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from more4d.launch import Job, LocalLauncher, Receipt, State

from tests.more4d.launch.conftest import steps_done
from tests.slurm_cluster import wait_until

Counting = Callable[..., Job]


@pytest.fixture
def local() -> LocalLauncher:
    return LocalLauncher(poll_seconds=0.05, grace_seconds=20)


def test_two_processes_reduce_together_and_their_lines_are_followed(
    local: LocalLauncher, counting: Counting, tmp_path: Path
) -> None:
    receipt = local.submit(counting(5, 0.01, reduce=True, processes_per_node=2), "two")
    lines = list(local.follow(receipt))
    assert {"rank 0 did all 5 steps", "rank 1 did all 5 steps"} <= set(lines), lines
    assert local.status(receipt).state is State.COMPLETED
    assert steps_done(tmp_path, 0) == steps_done(tmp_path, 1) == list(range(5))


@pytest.mark.parametrize("processes", [1, 2])
def test_cancelled_job_saves_and_a_new_one_goes_on(
    local: LocalLauncher, counting: Counting, tmp_path: Path, processes: int
) -> None:
    job = counting(40, 0.1, processes_per_node=processes)
    first = local.submit(job, "first")
    wait_until(lambda: len(steps_done(tmp_path, processes - 1)) > 2, "the job counts", 60)
    local.cancel(first)
    assert local.wait(first, 60).state is State.CANCELLED
    assert first.log.read_text().count("was asked to stop, and saved") == processes
    assert len(steps_done(tmp_path)) < 40
    assert local.wait(local.submit(job, "second"), 60).state is State.COMPLETED
    assert [steps_done(tmp_path, rank) for rank in range(processes)] == [list(range(40))] * processes


def test_job_that_stops_by_itself_is_stopped_and_not_cancelled(
    local: LocalLauncher, counting: Counting, tmp_path: Path
) -> None:
    receipt = local.submit(counting(10_000, 0.05), "asked")
    wait_until(lambda: bool(steps_done(tmp_path)), "the job counts")
    processes = psutil.Process(int(receipt.job_id)).children(recursive=True)
    processes[-1].send_signal(signal.SIGUSR1)
    status = local.wait(receipt, 30)
    assert (status.state, status.exit_code) == (State.STOPPED, 75)


@pytest.mark.parametrize("processes", [1, 2])
def test_failing_program_keeps_its_exit_code(
    local: LocalLauncher, counting: Counting, tmp_path: Path, processes: int
) -> None:
    (tmp_path / "crash").touch()
    status = local.wait(local.submit(counting(5, processes_per_node=processes), "crash"), 60)
    assert (status.state, status.exit_code) == (State.FAILED, 3)


def test_program_killed_by_a_signal_is_told(local: LocalLauncher, tmp_path: Path) -> None:
    status = local.wait(local.submit(_shell("kill -SEGV $$", tmp_path), "segv"), 30)
    assert (status.state, status.exit_code, status.signal) == (State.FAILED, 139, 11)


def test_missing_program_is_told(local: LocalLauncher, tmp_path: Path) -> None:
    job = _shell("", tmp_path).model_copy(update={"command": ("no-such-program",)})
    receipt = local.submit(job, "missing")
    assert local.wait(receipt, 30).exit_code == 127
    assert "cannot run 'no-such-program': No such file or directory" in receipt.log.read_text()


def test_program_that_will_not_leave_is_killed_after_the_grace(tmp_path: Path) -> None:
    hasty = LocalLauncher(poll_seconds=0.05, grace_seconds=0.3)
    receipt = hasty.submit(_shell("trap '' TERM; echo ready; while :; do sleep 0.1; done", tmp_path), "stubborn")
    wait_until(lambda: "ready" in receipt.log.read_text(), "the program runs")
    hasty.cancel(receipt)
    assert hasty.wait(receipt, 30).state is State.CANCELLED


def test_job_outlives_its_submitter_which_another_process_finds_again(local: LocalLauncher, tmp_path: Path) -> None:
    job = _shell("sleep 2; echo over", tmp_path)
    code = (
        "import os, signal, sys; from more4d.launch import *;"
        "LocalLauncher().submit(Job.model_validate_json(sys.argv[1]), 'orphan'); os.kill(os.getpid(), signal.SIGKILL)"
    )
    submitter = subprocess.run([sys.executable, "-c", code, job.model_dump_json()], check=False)
    assert submitter.returncode == -signal.SIGKILL
    receipt = local.reattach("orphan", tmp_path / "jobs")
    assert local.reattach(receipt.job_id, tmp_path / "jobs") == receipt
    assert local.status(receipt).state is State.RUNNING
    assert list(local.follow(receipt)) == ["over"]
    assert local.status(receipt).state is State.COMPLETED
    with pytest.raises(KeyError, match="no job 'nobody'"):
        local.reattach("nobody", tmp_path / "jobs")


def test_same_key_starts_one_job_and_refuses_another(local: LocalLauncher, counting: Counting, tmp_path: Path) -> None:
    job, receipts = counting(3), list[Receipt]()
    submitters = [threading.Thread(target=lambda: receipts.append(local.submit(job, "one"))) for _ in range(4)]
    for each in submitters:
        each.start()
    for each in submitters:
        each.join()
    assert len({receipt.job_id for receipt in receipts}) == 1
    assert local.wait(receipts[0], 30).state is State.COMPLETED
    assert local.submit(job, "one") == receipts[0]
    assert steps_done(tmp_path) == [0, 1, 2]
    with pytest.raises(ValueError, match="key 'one' was given to another job"):
        local.submit(counting(4), "one")


def test_submitter_killed_at_any_moment_leaves_at_most_one_job(local: LocalLauncher, tmp_path: Path) -> None:
    job = _shell("echo started", tmp_path)
    code = (
        "import sys; from more4d.launch import *; print(flush=True);"
        "LocalLauncher().submit(Job.model_validate_json(sys.argv[1]), 'killed')"
    )
    for milliseconds in (0, 5, 50):
        with subprocess.Popen([sys.executable, "-c", code, job.model_dump_json()], stdout=subprocess.PIPE) as submitter:
            assert submitter.stdout is not None
            submitter.stdout.readline()
            time.sleep(milliseconds / 1000)
            submitter.kill()
    receipt = local.submit(job, "killed")
    assert local.wait(receipt, 30).state is State.COMPLETED
    assert receipt.log.read_text() == "started\n"


def test_job_whose_keeper_was_killed_is_lost_and_not_running(local: LocalLauncher, tmp_path: Path) -> None:
    receipt = local.submit(_shell("sleep 60", tmp_path), "lost")
    keeper = psutil.Process(int(receipt.job_id))
    wait_until(lambda: len(keeper.children(recursive=True)) >= 2, "the program runs")
    family = keeper.children(recursive=True)
    for process in (keeper, *family):
        process.kill()
    status = local.wait(receipt, 30)
    assert (status.state, "keeper was killed" in status.reason) == (State.LOST, True)


@pytest.mark.parametrize(
    ("asked", "message"),
    [({"nodes": 2}, "nodes=2: the local launcher"), ({"time_limit": "10"}, "time_limit: only the slurm launcher")],
)
def test_what_only_a_cluster_can_do_is_refused(
    local: LocalLauncher, tmp_path: Path, asked: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        local.submit(_shell("true", tmp_path).model_copy(update=asked), "refused")


def test_wait_gives_up_after_its_timeout(local: LocalLauncher, tmp_path: Path) -> None:
    receipt = local.submit(_shell("sleep 60", tmp_path), "slow")
    with pytest.raises(TimeoutError, match="has not ended in 0.1 s: running"):
        local.wait(receipt, 0.1)
    LocalLauncher(grace_seconds=0.1).cancel(receipt)
    assert local.wait(receipt, 30).state is State.CANCELLED


def _shell(script: str, folder: Path) -> Job:
    return Job(name="shell", command=("bash", "-c", script), cwd=folder, folder=folder / "jobs")
