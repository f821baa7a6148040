"""What jobs are refused, and what their statuses say."""

from pathlib import Path

import pytest
from more4d.launch import Job, State, Status
from pydantic import ValidationError

GIVEN = {"name": "strag", "command": ("true",), "cwd": Path("/work"), "folder": Path("/work/jobs")}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("name", "a b", "is no name"),
        ("name", "--wrap=id", "is no name"),
        ("name", "", "is no name"),
        ("partition", "gpu\n#SBATCH --wrap=id", "is no name"),
        ("folder", Path("jobs"), "is not absolute"),
        ("folder", Path('/work/"; id; "'), "which Slurm's paths cannot"),
        ("folder", Path("/work/a\nb"), "which Slurm's paths cannot"),
        ("folder", Path("/work/%j"), "which Slurm's paths cannot"),
        ("sbatch", ("--qos=high\n--wrap=id",), "not one long option"),
        ("sbatch", ("-p gpu",), "not one long option"),
        ("sbatch", ('--qos="high"',), "not one long option"),
        ("environment", {"A=B; id": "1"}, "cannot be an environment variable"),
        ("environment", {"A": "\0"}, "cannot be an environment variable"),
        ("memory", "lots", "is not as 64G"),
        ("time_limit", "tomorrow", "is not as 90"),
        ("command", (), "at least 1 item"),
        ("nodes", 0, "greater than or equal to 1"),
        ("colour", "red", "Extra inputs"),
    ],
)
def test_nonsense_and_injections_are_refused_when_the_job_is_made(field: str, value: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Job.model_validate({**GIVEN, field: value})


def test_more_processes_than_gpus_are_refused() -> None:
    with pytest.raises(ValidationError, match="processes_per_node=4 of 2 GPUs"):
        Job.model_validate({**GIVEN, "gpus_per_node": 2, "processes_per_node": 4})


def test_one_process_drives_one_gpu_and_a_node_without_has_one() -> None:
    assert Job.model_validate({**GIVEN, "gpus_per_node": 8}).processes == 8
    assert Job.model_validate(GIVEN).processes == 1


def test_only_jobs_without_gpus_are_told_to_use_the_cpu() -> None:
    assert Job.model_validate(GIVEN).variables() == {"ACCELERATE_USE_CPU": "true"}
    assert Job.model_validate({**GIVEN, "gpus_per_node": 1}).variables() == {}
    own = Job.model_validate({**GIVEN, "environment": {"ACCELERATE_USE_CPU": "false"}})
    assert own.variables() == {"ACCELERATE_USE_CPU": "false"}


@pytest.mark.parametrize(
    ("code", "state", "signal"),
    [(0, State.COMPLETED, None), (75, State.STOPPED, None), (1, State.FAILED, None), (137, State.FAILED, 9)],
)
def test_exit_codes_tell_how_a_job_ended(code: int, state: State, signal: int | None) -> None:
    status = Status.of_exit(code)
    assert (status.state, status.exit_code, status.signal) == (state, code, signal)


def test_status_reads_as_a_sentence() -> None:
    status = Status(state=State.REQUEUED, reason="BeginTime", restarts=2)
    assert str(status) == "requeued (BeginTime) restarted 2 times"
