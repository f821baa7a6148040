"""The batch script: its directives, and that nothing given to it becomes a command."""

import shlex
import subprocess
from pathlib import Path

import pytest
from more4d.launch import Job, Site
from more4d.launch.script import render

JOB = Job(
    name="strag", command=("python", "-m", "more4d.stages", "strag"), cwd=Path("/work"), folder=Path("/work/jobs")
)


def _directives(job: Job, site: Site) -> list[str]:
    script = render(job, "first", site)
    return [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]


def test_directives_of_a_gpu_job() -> None:
    site = Site(
        partition="gpu", account="research", gpu_type="h200", memory="1800G", time_limit="24:00:00",
        sbatch=("--exclusive",),
    )  # fmt: skip
    job = JOB.model_copy(update={"nodes": 4, "gpus_per_node": 8, "sbatch": ("--qos=high",), "account": "mine"})
    assert _directives(job, site) == [
        '--job-name="strag-ca3bda585f"',
        '--comment="more4d:first:/work/jobs/first"',
        '--output="/work/jobs/first/log"',
        '--chdir="/work"',
        '--nodes="4"',
        '--ntasks-per-node="1"',
        '--mem="1800G"',
        '--time="24:00:00"',
        '--partition="gpu"',
        '--account="mine"',
        '--gres="gpu:h200:8"',
        '--signal="B:USR1@300"',
        '--open-mode="append"',
        '--export="NONE"',
        "--requeue",
        "--exclusive",
        '--qos="high"',
    ]


def test_gpus_are_asked_for_as_the_site_wants_them() -> None:
    job = JOB.model_copy(update={"gpus_per_node": 2})
    assert '--gpus-per-node="a100:2"' in _directives(job, Site(gpus="gpus-per-node", gpu_type="a100"))
    assert '--gres="gpu:2"' in _directives(job, Site())
    assert not any("gpu" in line for line in _directives(JOB, Site()))


def test_one_task_a_node_meets_on_the_first_node_and_fails_together() -> None:
    job = JOB.model_copy(update={"nodes": 3, "gpus_per_node": 8})
    script = render(
        job, "first", Site(srun=("--mpi=none", "--cpu-bind=none"), container=("apptainer", "exec", "a b.sif"))
    )
    start = next(line for line in script.splitlines() if line.startswith("srun "))
    assert shlex.split(start.rstrip(" \\")) == [
        *("srun", "--nodes=3", "--ntasks-per-node=1", "--kill-on-bad-exit=1", "--mpi=none", "--cpu-bind=none"),
    ]
    assert "apptainer exec 'a b.sif' " in script
    assert "-m more4d.launch.node --nodes=3 --processes=8 --address=" in script
    assert "port=$((20000 + SLURM_JOB_ID % 10000))" in script


def test_environment_of_site_and_job_is_exported_with_the_jobs_word_last() -> None:
    site = Site(environment={"NCCL_DEBUG": "WARN", "A": "site"}, prolog=("module load cuda/12.8",), venv=Path("/v env"))
    script = render(JOB.model_copy(update={"environment": {"A": "job's $(id)"}}), "first", site)
    assert "module load cuda/12.8\n" in script and "export NCCL_DEBUG=WARN\n" in script
    assert "export A='job'\"'\"'s $(id)'\n" in script
    assert "export VIRTUAL_ENV='/v env' PATH='/v env/bin':$PATH\n" in script
    assert "'/v env/bin/python' -m more4d.launch.node" in script


@pytest.mark.parametrize("nodes", [1, 2])
def test_script_is_bash_and_is_a_function_of_what_it_is_given(nodes: int) -> None:
    job = JOB.model_copy(update={"nodes": nodes, "command": ("sh", "-c", 'echo "it\'s" $((1'), "gpus_per_node": 1})
    script = render(job, "first", Site(signal_seconds=60))
    assert script == render(job, "first", Site(signal_seconds=60))
    assert subprocess.run(["bash", "-n"], input=script, text=True, check=False).returncode == 0


@pytest.mark.parametrize("key", ["../up", "a b", "", "x" * 65, "a\nb", "$(id)"])
def test_keys_that_are_no_names_are_refused(key: str) -> None:
    with pytest.raises(ValueError, match="is no name"):
        render(JOB, key, Site())
