"""The batch script of a job on a cluster: a pure function of the job, the site and the key."""

import hashlib
import shlex
from functools import cache
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from more4d.launch.job import STOPPED, Job, check_name, check_path
from more4d.launch.site import Site

PROBE_SECONDS = 90
LEAVE_SECONDS = 60


def tag(folder: Path) -> str:
    """What tells the submission in `folder` from all others, as the end of its name on the cluster."""
    return hashlib.sha256(str(folder).encode()).hexdigest()[:10]


def full_name(job: Job, key: str) -> str:
    """The job's name on the cluster: squeue and sacct find it by that."""
    return f"{job.name}-{tag(job.folder / key)}"


def render(job: Job, key: str, site: Site) -> str:
    """The bash script that sbatch is given. Raises ValueError when the key is no name."""
    folder = check_path(job.folder / check_name(key))
    venv = None if site.venv is None else str(site.venv)
    return _template().render(
        options=_options(job, key, site),
        folder=str(folder),
        prolog=site.prolog,
        environment={**site.environment, **_with_site(job, site).variables()},
        venv=venv,
        bin=str(site.python.parent),
        ports=site.ports,
        srun=_srun(job, site),
        command=_quoted(*site.container, str(site.python), "-m", "more4d.launch.node", *_place(job)),
        program=_quoted(*job.command),
        nodes=job.nodes,
        max_requeues=job.max_requeues,
        stopped=STOPPED,
        probe_seconds=PROBE_SECONDS,
        leave_seconds=LEAVE_SECONDS,
    )


@cache
def _template() -> Template:
    # Not HTML: values are quoted for the shell, by the filter, where they stand.
    environment = Environment(
        loader=PackageLoader("more4d.launch"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters["quote"] = shlex.quote
    return environment.get_template("sbatch.sh.j2")


def _with_site(job: Job, site: Site) -> Job:
    """The job with the site's word where it has none of its own."""
    names = ("partition", "account", "memory", "cpus_per_node", "time_limit")
    return job.model_copy(update={name: getattr(job, name) or getattr(site, name) for name in names})


def _options(job: Job, key: str, site: Site) -> list[str]:
    job, folder = _with_site(job, site), job.folder / key
    given = {
        "job-name": full_name(job, key),
        "comment": f"more4d:{key}:{folder}",
        "output": folder / "log",
        "chdir": job.cwd,
        "nodes": job.nodes,
        "ntasks-per-node": 1,
        "cpus-per-task": job.cpus_per_node,
        "mem": job.memory,
        "time": job.time_limit,
        "partition": job.partition,
        "account": job.account,
        **_gpus(job, site),
        "signal": f"B:USR1@{site.signal_seconds}",
        "open-mode": "append",
        "export": "NONE",
    }
    options = [f'--{name}="{value}"' for name, value in given.items() if value is not None]
    return [*options, "--requeue", *(_quoted_option(text) for text in (*site.sbatch, *job.sbatch))]


def _gpus(job: Job, site: Site) -> dict[str, str]:
    if not job.gpus_per_node:
        return {}
    kind = "" if site.gpu_type is None else f"{site.gpu_type}:"
    if site.gpus == "gres":
        return {"gres": f"gpu:{kind}{job.gpus_per_node}"}
    return {"gpus-per-node": f"{kind}{job.gpus_per_node}"}


def _quoted_option(text: str) -> str:
    name, equals, value = text.partition("=")
    return f'{name}="{value}"' if equals else name


def _srun(job: Job, site: Site) -> list[str]:
    # One task's failure ends the others: they would wait for it for ever.
    own = (f"--nodes={job.nodes}", "--ntasks-per-node=1", "--kill-on-bad-exit=1")
    return _quoted(*own, *site.srun)


def _place(job: Job) -> tuple[str, ...]:
    return f"--nodes={job.nodes}", f"--processes={job.processes}"


def _quoted(*words: str) -> list[str]:
    return [shlex.quote(word) for word in words]
