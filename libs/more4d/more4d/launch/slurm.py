"""Jobs on a Slurm cluster: the one place that runs its tools."""

import json
import os
import subprocess
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from more4d.launch.job import Job, Receipt, State, Status, check_name
from more4d.launch.launcher import Launcher, LaunchError
from more4d.launch.query import SACCT_FIELDS, Record, read_sacct, read_squeue
from more4d.launch.receipts import (
    find_receipt,
    left_behind,
    mark_cancelled,
    one_submission,
    read_receipt,
    require_same,
    write_receipt,
    write_whole,
)
from more4d.launch.script import full_name, render
from more4d.launch.site import Site

_HISTORY_DAYS = 30
_FORGOTTEN = "Invalid job id"

Answer = TypeVar("Answer")


class SlurmLauncher(Launcher):
    """Submits by sbatch; asks squeue, then sacct where the cluster keeps accounts, then the job's own folder."""

    def __init__(self, site: Site | None = None, poll_seconds: float = 5.0, patience_seconds: float = 60.0) -> None:
        self.site = site or Site()
        self.poll_seconds = poll_seconds
        self.patience_seconds = patience_seconds
        """How long questions are repeated while the controller does not answer."""

    def submit(self, job: Job, key: str) -> Receipt:
        folder = job.folder / check_name(key)
        text = render(job, key, self.site)
        with one_submission(folder):
            known = read_receipt(folder)
            if known is not None:
                return require_same(known, job.digest())
            # A process killed between sbatch and the receipt has left a job that only the cluster knows.
            job_id = self._find(full_name(job, key)) or self._sbatch(folder, text, full_name(job, key))
            return write_receipt(
                Receipt(
                    launcher="slurm",
                    key=key,
                    job_id=job_id,
                    folder=folder,
                    submitted=time.time(),
                    digest=job.digest(),
                )
            )

    def _sbatch(self, folder: Path, text: str, name: str) -> str:
        script = folder / "job.sh"
        # The environment may hold secrets.
        write_whole(script, text, mode=0o700)
        try:
            return _run("sbatch", "--parsable", str(script)).strip().split(";")[0]
        except LaunchError:
            # It may have been taken all the same, and only the answer lost.
            job_id = self._find(name)
            if job_id is None:
                raise
            return job_id

    def status(self, receipt: Receipt) -> Status:
        records = self._queue(f"--jobs={receipt.job_id}") or self._accounts(f"--jobs={receipt.job_id}")
        record = next((r for r in records if r.job_id == receipt.job_id), None)
        if record is not None:
            return record.status
        lost = Status(state=State.LOST, reason="the cluster does not know it any more")
        return left_behind(receipt.folder) or lost

    def cancel(self, receipt: Receipt) -> None:
        if self.status(receipt).state.ended:
            return
        mark_cancelled(receipt.folder)
        self._ask("scancel", receipt.job_id)

    def reattach(self, reference: str, folder: Path) -> Receipt:
        receipt = find_receipt(folder, reference)
        if receipt is not None:
            return receipt
        for record in self._queue() or ():
            key, _, place = record.comment.removeprefix("more4d:").partition(":")
            if (
                record.comment.startswith("more4d:")
                and reference in (key, record.job_id)
                and Path(place) == folder / key
            ):
                return Receipt(
                    launcher="slurm",
                    key=key,
                    job_id=record.job_id,
                    folder=Path(place),
                    submitted=time.time(),
                    digest="",
                )
        raise KeyError(f"neither {folder} nor the cluster knows a job {reference!r}")

    def _find(self, name: str) -> str | None:
        """The number of the job with this full name, if the cluster knows one."""
        since = time.strftime("%Y-%m-%d", time.localtime(time.time() - _HISTORY_DAYS * 86400))
        records = self._queue(f"--name={name}") or self._accounts(f"--name={name}", f"--starttime={since}")
        return next((r.job_id for r in records if r.name == name), None)

    def _queue(self, *which: str) -> list[Record]:
        return self._patiently(lambda: _squeue(*which))

    def _accounts(self, *which: str) -> list[Record]:
        if not self._keeps_accounts:
            return []
        shape = ("--parsable2", "--noheader", "--allocations", "--duplicates", f"--format={','.join(SACCT_FIELDS)}")
        return read_sacct(self._ask("sacct", *shape, *which).splitlines())

    @cached_property
    def _keeps_accounts(self) -> bool:
        lines = self._ask("scontrol", "show", "config").splitlines()
        return any(line.startswith("AccountingStorageType") and "slurmdbd" in line for line in lines)

    def _ask(self, *command: str) -> str:
        return self._patiently(lambda: _run(*command))

    def _patiently(self, ask: Callable[[], Answer]) -> Answer:
        """An answer, asked for again while the controller is away: it may be restarted below a long job."""
        until = time.monotonic() + self.patience_seconds
        while True:
            try:
                return ask()
            except LaunchError:
                if time.monotonic() > until:
                    raise
                time.sleep(min(self.poll_seconds, 2.0))


def _squeue(*which: str) -> list[Record]:
    """Jobs that the controller holds; none for a number that it has forgotten."""
    try:
        answer = json.loads(_run("squeue", "--json", *which))
    except LaunchError as error:
        if _FORGOTTEN in str(error):
            return []
        raise
    # Without a controller, Slurm 22 ends well with no jobs and an error: taken for an answer, a job would be submitted twice.
    errors = [f"{e.get('description', '')} {e.get('error', '')}".strip() for e in answer.get("errors") or ()]
    if errors and not any(_FORGOTTEN in text for text in errors):
        raise LaunchError(f"squeue --json: {'; '.join(errors)}")
    return read_squeue(answer)


def _run(*command: str) -> str:
    """Standard output of a tool of Slurm's. Raises LaunchError with what it said."""
    environment = {**os.environ, "SLURM_TIME_FORMAT": "%s"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    except FileNotFoundError:
        raise LaunchError(
            f"{command[0]} is not installed here: run where Slurm's tools are, or launch locally"
        ) from None
    if done.returncode:
        raise LaunchError(f"{' '.join(command)}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return done.stdout
