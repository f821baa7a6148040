"""Jobs that count, and the cluster's launcher."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from more4d.launch import Job, Site, SlurmLauncher
from more4d.launch.site import Ports

from tests.slurm_cluster import Cluster

COUNTING = Path(__file__).with_name("counting.py")


@pytest.fixture
def counting(tmp_path: Path) -> Callable[..., Job]:
    """A job of `counting.py` that works in tmp_path."""

    def make(steps: int, seconds: float = 0.1, *, reduce: bool = False, **other: object) -> Job:
        command = ["python", str(COUNTING), str(tmp_path), str(steps), str(seconds), *(["--reduce"] * reduce)]
        given = {"name": "count", "command": command, "cwd": tmp_path, "folder": tmp_path / "jobs", **other}
        return Job.model_validate(given)

    return make


@pytest.fixture
def slurm(cluster: Cluster) -> SlurmLauncher:
    """The launcher on the test cluster."""
    # Clusters of other processes on this host give their jobs the same numbers.
    first = 20000 + os.getpid() % 40 * 250
    return SlurmLauncher(Site(ports=Ports(first=first, count=250), cpus_per_node=1), poll_seconds=0.3)


def steps_done(folder: Path, rank: int = 0) -> list[int]:
    """The steps that a rank did, over all starts of its job, in order."""
    file = folder / f"rank-{rank}.txt"
    return [int(line) for line in file.read_text().split()] if file.exists() else []
