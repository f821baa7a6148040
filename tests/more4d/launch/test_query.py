"""Answers of squeue and sacct as Slurm 22 and 24 give them."""

from typing import Any

import pytest
from more4d.launch import State
from more4d.launch.query import read_sacct, read_squeue


def _old(**other: Any) -> dict[str, Any]:
    return {"job_id": 7, "name": "n", "comment": "c", "job_state": "RUNNING", "exit_code": 0, "state_reason": "None",
            "start_time": 100, "nodes": "n[1-2]", "restart_cnt": 0, **other}  # fmt: skip


def _new(**other: Any) -> dict[str, Any]:
    number = {"set": True, "infinite": False, "number": 100}
    unset = {"set": False, "infinite": False, "number": 0}
    exit_code = {"status": ["SUCCESS"], "return_code": {**number, "number": 0}, "signal": {"id": unset, "name": ""}}
    return {**_old(), "job_state": ["RUNNING"], "exit_code": exit_code, "start_time": number, **other}


@pytest.mark.parametrize("job", [_old(), _new()])
def test_running_job_reads_the_same_from_both_versions(job: dict[str, Any]) -> None:
    (record,) = read_squeue({"jobs": [job]})
    status = record.status
    assert (record.job_id, record.name, record.comment) == ("7", "n", "c")
    assert (status.state, status.reason, status.started, status.nodes) == (State.RUNNING, "", 100.0, "n[1-2]")


@pytest.mark.parametrize(
    ("job", "state", "code", "signal"),
    [
        (_old(job_state="FAILED", exit_code=3 << 8), State.FAILED, 3, None),
        (_old(job_state="FAILED", exit_code=75 << 8), State.STOPPED, 75, None),
        (_old(job_state="FAILED", exit_code=9), State.FAILED, 0, 9),
        (
            _new(job_state=["FAILED"], exit_code={"return_code": {"set": True, "number": 3}, "signal": {}}),
            State.FAILED, 3, None,
        ),
        (_old(job_state="COMPLETED"), State.COMPLETED, 0, None),
        (_old(job_state="TIMEOUT"), State.TIMEOUT, 0, None),
        (_old(job_state="NODE_FAIL"), State.NODE_FAIL, 0, None),
        (_old(job_state="PREEMPTED"), State.PREEMPTED, 0, None),
        (_old(job_state="OUT_OF_MEMORY"), State.OUT_OF_MEMORY, 0, None),
        (_old(job_state="CANCELLED"), State.CANCELLED, 0, None),
    ],
)  # fmt: skip
def test_ends_are_told_apart(job: dict[str, Any], state: State, code: int, signal: int | None) -> None:
    status = read_squeue({"jobs": [job]})[0].status
    assert (status.state, status.exit_code, status.signal) == (state, code, signal)


@pytest.mark.parametrize(
    ("job", "state"),
    [
        (_old(job_state="PENDING", state_reason="Priority"), State.PENDING),
        (_old(job_state="PENDING", state_reason="BeginTime", restart_cnt=1), State.REQUEUED),
        (_new(job_state=["PENDING", "REQUEUED"]), State.REQUEUED),
        (_new(job_state=["CANCELLED", "COMPLETING"]), State.RUNNING),
        (_new(job_state=["PREEMPTED", "REQUEUED"]), State.REQUEUED),
    ],
)
def test_jobs_under_way_are_not_taken_for_ended(job: dict[str, Any], state: State) -> None:
    status = read_squeue({"jobs": [job]})[0].status
    assert (status.state, status.state.ended, status.exit_code) == (state, False, None)


def test_accounts_count_restarts_and_keep_the_last_start() -> None:
    lines = [
        "7|n|PREEMPTED|0:0|100|n1|c",
        "7|n|NODE_FAIL|0:0|200|n2|c",
        "7|n|CANCELLED by 1000|0:15|300|n[1-2]|c|with a bar",
        "8|m|PENDING|0:0|Unknown|None assigned|",
    ]
    seven, eight = read_sacct(lines)
    status = seven.status
    assert (status.state, status.restarts, status.started, status.nodes) == (State.CANCELLED, 2, 300.0, "n[1-2]")
    assert (status.signal, seven.comment) == (15, "c|with a bar")
    assert (eight.status.state, eight.status.started, eight.status.nodes) == (State.PENDING, None, "")
