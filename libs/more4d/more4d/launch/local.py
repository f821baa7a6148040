"""Jobs on this machine: a group of processes with a keeper that outlives whoever started it."""

import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil

from more4d.launch.job import Job, Receipt, State, Status, check_name
from more4d.launch.launcher import Launcher, LaunchError
from more4d.launch.receipts import (
    find_receipt,
    is_cancelled,
    left_behind,
    mark_cancelled,
    one_submission,
    read_receipt,
    require_same,
    write_whole,
)  # fmt: skip

_CLUSTER_ONLY = ("cpus_per_node", "memory", "time_limit", "partition", "account", "sbatch")


class LocalLauncher(Launcher):
    """Runs jobs of one node here; a job cancelled has `grace_seconds` to save before it is killed."""

    def __init__(self, poll_seconds: float = 0.2, grace_seconds: float = 60.0) -> None:
        self.poll_seconds = poll_seconds
        self.grace_seconds = grace_seconds

    def submit(self, job: Job, key: str) -> Receipt:
        _require_local(job)
        folder = job.folder / check_name(key)
        with one_submission(folder) as lock:
            known = read_receipt(folder)
            if known is not None:
                return require_same(known, job.digest())
            write_whole(folder / "job.json", job.model_dump_json(indent=1), mode=0o600)
            return _start_keeper(folder, lock)

    def status(self, receipt: Receipt) -> Status:
        known = {"nodes": os.uname().nodename, "started": receipt.started}
        # Looked for before its note: a keeper writes the note and then is gone.
        keeper = _keeper(receipt)
        ended = left_behind(receipt.folder)
        if keeper is not None and (ended is None or is_cancelled(receipt.folder)):
            return Status(state=State.RUNNING, **known)
        if ended is None:
            return Status(state=State.LOST, reason="its keeper was killed, or the machine was restarted", **known)
        return ended.model_copy(update=known)

    def cancel(self, receipt: Receipt) -> None:
        keeper = _keeper(receipt)
        if keeper is None:
            return
        mark_cancelled(receipt.folder)
        # Not a daemon: a caller that ends at once still lets the grace pass and the kill come.
        threading.Thread(target=self._end, args=(keeper,)).start()

    def _end(self, keeper: psutil.Process) -> None:
        while not _send(keeper, signal.SIGTERM) and keeper.is_running():
            time.sleep(0.05)  # a keeper that has not started the program yet
        try:
            keeper.wait(self.grace_seconds)
        except psutil.TimeoutExpired:
            _send(keeper, signal.SIGKILL)

    def reattach(self, reference: str, folder: Path) -> Receipt:
        receipt = find_receipt(folder, reference)
        if receipt is None:
            raise KeyError(f"no job {reference!r} below {folder}")
        return receipt


def _require_local(job: Job) -> None:
    if job.nodes > 1:
        raise ValueError(f"nodes={job.nodes}: the local launcher has this machine alone; use the slurm launcher")
    asked = [name for name in _CLUSTER_ONLY if getattr(job, name)]
    if asked:
        raise ValueError(f"{', '.join(asked)}: only the slurm launcher can do that; leave it out")


def _start_keeper(folder: Path, lock: int) -> Receipt:
    command = [sys.executable, "-m", "more4d.launch.keeper", str(folder), str(lock)]
    with (folder / "log").open("ab") as log:
        keeper = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=folder,
            pass_fds=(lock,),
        )
    # Reaped when it ends: else it would stay a zombie for as long as this process lives.
    threading.Thread(target=keeper.wait, daemon=True).start()
    while (receipt := read_receipt(folder)) is None:
        if keeper.returncode is not None:
            raise LaunchError(f"the job's keeper ended with {keeper.returncode}; {folder / 'log'} says why")
        time.sleep(0.02)
    return receipt


def _keeper(receipt: Receipt) -> psutil.Process | None:
    """The job's keeper, while it lives."""
    try:
        process = psutil.Process(int(receipt.job_id))
        alive = process.create_time() == receipt.started and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return None
    return process if alive else None


def _send(keeper: psutil.Process, number: signal.Signals) -> int:
    """Send a signal to every process of the job but the keeper, as Slurm does; returns how many there were."""
    try:
        processes = keeper.children(recursive=True)
    except psutil.NoSuchProcess:
        return 0
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.send_signal(number)
    return len(processes)
