"""`more4d train STAGE`: a training stage here or on a cluster, as many processes as asked for, followed to its end."""

import hashlib
from enum import StrEnum
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import ValidationError

from more4d.launch.job import Job, Receipt, State, Status
from more4d.launch.launcher import Launcher, LaunchError
from more4d.launch.local import LocalLauncher
from more4d.launch.receipts import read_receipt
from more4d.launch.site import read_site
from more4d.launch.slurm import SlurmLauncher

JOBS = Path(".cache/jobs")
"""Where jobs keep their folders, below the workspace."""

STAGES = "more4d.stages"
"""The module whose command line runs a stage; the layer above this one."""

FAILED = 1


class Where(StrEnum):
    """The launchers by name."""

    LOCAL = "local"
    SLURM = "slurm"


def train(
    stage: Annotated[str, typer.Argument(help="a training stage, as in dvc.yaml")],
    launcher: Annotated[Where, typer.Option(help="this machine, or a Slurm cluster")] = Where.LOCAL,
    nodes: Annotated[int, typer.Option(min=1, help="machines")] = 1,
    gpus_per_node: Annotated[
        int | None, typer.Option(min=0, help="0 trains on CPU; default: all of this machine", show_default=False)
    ] = None,
    processes_per_node: Annotated[
        int | None, typer.Option(min=1, help="default: one a GPU, or one", show_default=False)
    ] = None,
    site: Annotated[Path | None, typer.Option(help="the cluster's profile, as infra/slurm/sites/*.yaml")] = None,
    time: Annotated[str | None, typer.Option(help="the cluster's time limit, as 12:00:00")] = None,
    partition: Annotated[str | None, typer.Option(help="default: the site's")] = None,
    account: Annotated[str | None, typer.Option(help="default: the site's")] = None,
    cpus_per_node: Annotated[int | None, typer.Option(min=1, help="default: the site's")] = None,
    memory: Annotated[str | None, typer.Option(help="of a node, as 500G; default: the site's")] = None,
    values: Annotated[
        list[str] | None,
        typer.Option("--set", help="a parameter of the stage, as train.strategy=fsdp2; repeat for more"),
    ] = None,
    root: Annotated[Path, typer.Option(help="the workspace")] = Path(),
    params: Annotated[Path | None, typer.Option(help="default: ROOT/params.yaml")] = None,
    follow: Annotated[bool, typer.Option("--follow/--no-follow", help="show the log until the job ends")] = True,
) -> None:
    """Train a stage of the lineage: here or on a Slurm cluster, with any number of processes.

    Run again while it trains, it shows that job; run again after it was stopped, it goes on where it was.
    Exit code 0 when trained, 75 when stopped and saved, 1 and above when failed. Ctrl-C leaves the job running on a
    cluster; here it has the job save and leave.
    """
    root = root.resolve()
    place: Launcher = SlurmLauncher(read_site(site)) if launcher is Where.SLURM else LocalLauncher()
    file = _freeze_parameters(params or root / "params.yaml", stage, values or [], root / JOBS)
    wanted = {
        "name": stage,
        "command": ("python", "-m", STAGES, stage, "--root", str(root), "--params", str(file)),
        "cwd": root,
        "folder": root / JOBS,
        "nodes": nodes,
        "gpus_per_node": _count_gpus(launcher) if gpus_per_node is None else gpus_per_node,
        "processes_per_node": processes_per_node,
        "cpus_per_node": cpus_per_node,
        "memory": memory,
        "time_limit": time,
        "partition": partition,
        "account": account,
    }
    try:
        status = _run(place, _job(wanted), follow=follow)
    except LaunchError as error:
        raise ValueError(str(error)) from error
    if status.state.ended and status.state is not State.COMPLETED:
        raise typer.Exit(status.exit_code or FAILED)


def _job(wanted: dict[str, Any]) -> Job:
    try:
        return Job.model_validate(wanted)
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, e['loc']))} {e['msg']}".strip() for e in error.errors())
        raise ValueError("; ".join(faults)) from error


def _run(launcher: Launcher, job: Job, *, follow: bool) -> Status:
    receipt = submit_or_find(launcher, job)
    typer.echo(f"more4d: {receipt.key} is job {receipt.job_id}; log at {receipt.log}", err=True)
    if follow:
        _show(launcher, receipt)
    status = launcher.status(receipt)
    typer.echo(f"more4d: {receipt.key}: {status}", err=True)
    return status


def submit_or_find(launcher: Launcher, job: Job) -> Receipt:
    """The receipt of this very job while one is under way, else of a new submission of it."""
    for attempt in count(1):
        key = f"{job.name}-{job.digest()[:8]}-{attempt}"
        known = read_receipt(job.folder / key)
        if known is None or not launcher.status(known).state.ended:
            return launcher.submit(job, key)
    raise AssertionError("count ended")


def _show(launcher: Launcher, receipt: Receipt) -> None:
    try:
        for line in launcher.follow(receipt):
            typer.echo(line)
    except KeyboardInterrupt:
        if receipt.launcher == "slurm":
            typer.echo(f"more4d: the job goes on; end it with: scancel {receipt.job_id}", err=True)
            return
        typer.echo("more4d: saving and leaving; this can take a minute", err=True)
        launcher.cancel(receipt)
        launcher.wait(receipt)


def _count_gpus(launcher: Where) -> int:
    if launcher is Where.SLURM:
        raise typer.BadParameter("say how many GPUs of each node with --gpus-per-node, 0 for none")
    return len(list(Path("/dev").glob("nvidia[0-9]*")))


def _freeze_parameters(file: Path, stage: str, assignments: list[str], folder: Path) -> Path:
    """A copy of the parameters with `assignments` made: what waits in a queue does not change with the original."""
    if not file.is_file():
        raise typer.BadParameter(f"no parameters at {file}; give --params, or run in a workspace")
    values = yaml.safe_load(file.read_text())
    if not isinstance(values, dict) or not isinstance(values.get(stage), dict):
        raise typer.BadParameter(f"{file} has no section {stage!r}")
    for text in assignments:
        _assign(values[stage], text)
    frozen = yaml.safe_dump(values, sort_keys=True)
    copy = folder / "parameters" / f"{hashlib.sha256(frozen.encode()).hexdigest()[:16]}.yaml"
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_text(frozen)
    return copy


def _assign(section: dict[str, Any], text: str) -> None:
    path, equals, value = text.partition("=")
    *groups, name = path.split(".")
    if not equals or not all([*groups, name]):
        raise typer.BadParameter(f"--set {text!r} is not name=value, as train.strategy=fsdp2")
    for group in groups:
        section = section.setdefault(group, {})
        if not isinstance(section, dict):
            raise typer.BadParameter(f"--set {text!r}: {group!r} is a value, not a group of parameters")
    section[name] = yaml.safe_load(value)
