"""What squeue and sacct say of a job, in one form: their answers differ with Slurm's version."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from more4d.launch.job import STOPPED, State, Status

SACCT_FIELDS = ("JobIDRaw", "JobName", "State", "ExitCode", "Start", "NodeList", "Comment")

_STATES = {
    "PENDING": State.PENDING,
    "CONFIGURING": State.RUNNING,
    "RUNNING": State.RUNNING,
    "SUSPENDED": State.RUNNING,
    "COMPLETING": State.RUNNING,
    "STAGE_OUT": State.RUNNING,
    "SIGNALING": State.RUNNING,
    "STOPPED": State.RUNNING,
    "RESIZING": State.RUNNING,
    "REQUEUED": State.REQUEUED,
    "REQUEUE_FED": State.REQUEUED,
    "REQUEUE_HOLD": State.REQUEUED,
    "RESV_DEL_HOLD": State.REQUEUED,
    "SPECIAL_EXIT": State.REQUEUED,
    "COMPLETED": State.COMPLETED,
    "FAILED": State.FAILED,
    "CANCELLED": State.CANCELLED,
    "REVOKED": State.CANCELLED,
    "TIMEOUT": State.TIMEOUT,
    "DEADLINE": State.TIMEOUT,
    "PREEMPTED": State.PREEMPTED,
    "NODE_FAIL": State.NODE_FAIL,
    "BOOT_FAIL": State.NODE_FAIL,
    "OUT_OF_MEMORY": State.OUT_OF_MEMORY,
}


@dataclass(frozen=True)
class Record:
    """One job as the cluster knows it."""

    job_id: str
    name: str
    comment: str
    status: Status


def read_squeue(answer: Mapping[str, Any]) -> list[Record]:
    """Jobs of `squeue --json`."""
    return [_read_job(job) for job in answer.get("jobs", ())]


def _read_job(job: Mapping[str, Any]) -> Record:
    names = job["job_state"]
    names = [names] if isinstance(names, str) else list(names)
    restarts = _number(job.get("restart_cnt")) or 0
    reason = str(job.get("state_reason") or "")
    code, signal = _exit(job.get("exit_code"))
    status = _status(
        names, restarts, code, signal,
        reason="" if reason == "None" else reason,
        started=float(start) if (start := _number(job.get("start_time"))) else None,
        nodes=str(job.get("nodes") or ""),
    )  # fmt: skip
    return Record(str(job["job_id"]), str(job.get("name") or ""), str(job.get("comment") or ""), status)


def read_sacct(lines: Iterable[str]) -> list[Record]:
    """Jobs of `sacct --parsable2 --noheader --allocations --duplicates --format=...` with SACCT_FIELDS, oldest first.

    Each start of a requeued job is one line: the last one counts, those before it are its restarts.
    """
    found: dict[str, Record] = {}
    for line in lines:
        job_id, name, state, ended, start, nodes, comment = line.split("|", len(SACCT_FIELDS) - 1)
        restarts = found[job_id].status.restarts + 1 if job_id in found else 0
        code, signal = (int(part) for part in ended.split(":"))
        # "CANCELLED by 1000" names the user.
        status = _status(
            [state.split()[0]], restarts, code, signal,
            started=float(start) if start.isdecimal() else None,
            nodes="" if nodes == "None assigned" else nodes,
        )  # fmt: skip
        found[job_id] = Record(job_id, name, comment, status)
    return list(found.values())


def _status(names: list[str], restarts: int, code: int, signal: int, **known: Any) -> Status:
    """One state of Slurm's base state and its flags: what the job is on the way to counts more than where it was."""
    states = [_STATES.get(name, State.RUNNING) for name in names]
    state = next((s for s in (State.REQUEUED, State.RUNNING) if s in states), states[0])
    if state is State.PENDING and restarts:
        state = State.REQUEUED
    if state is State.FAILED and code == STOPPED:
        state = State.STOPPED
    ended = {"exit_code": code, "signal": signal or None} if state.ended else {}
    return Status(state=state, restarts=restarts, **ended, **known)


def _exit(value: Any) -> tuple[int, int]:
    """Exit code and signal, of wait's status word (Slurm 22) or of an object (23 and later)."""
    if isinstance(value, Mapping):
        signal = value.get("signal") or {}
        return _number(value.get("return_code")) or 0, _number(signal.get("id", signal.get("signal_id"))) or 0
    word = _number(value) or 0
    return (word >> 8) & 0xFF, word & 0x7F


def _number(value: Any) -> int | None:
    """A number, of itself or of {"set": true, "number": n}."""
    if isinstance(value, Mapping):
        return int(value["number"]) if value.get("set", True) and "number" in value else None
    return None if value is None else int(value)
