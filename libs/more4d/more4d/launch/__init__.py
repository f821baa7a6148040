"""Start a training here or on a Slurm cluster, and find it again: the one place that talks to Slurm."""

from more4d.launch.job import STOPPED, Job, Receipt, State, Status
from more4d.launch.launcher import Launcher, LaunchError
from more4d.launch.local import LocalLauncher
from more4d.launch.site import Site, read_site
from more4d.launch.slurm import SlurmLauncher

__all__ = [
    "STOPPED",
    "Job",
    "LaunchError",
    "Launcher",
    "LocalLauncher",
    "Receipt",
    "Site",
    "SlurmLauncher",
    "State",
    "Status",
    "read_site",
]
