"""What a cluster wants said: partition, how GPUs are asked for, network variables, how to get at Python."""

import sys
from pathlib import Path
from typing import Literal

import yaml
from pydantic import Field, ValidationError

from more4d.launch.job import Environment, Memory, Name, Option, PlainPath, TimeLimit
from more4d.settings import Section


class Ports(Section):
    """The ports that jobs meet on: `first` + the job's number modulo `count`, below the range of passing connections."""

    first: int = Field(default=20000, ge=1024, le=65535)
    count: int = Field(default=10000, ge=1, le=60000)


class Site(Section):
    """A cluster's profile; a job's own values go before it."""

    partition: Name | None = None
    account: Name | None = None
    gpus: Literal["gres", "gpus-per-node"] = "gres"
    """Which option of sbatch asks for GPUs."""
    gpu_type: Name | None = None
    memory: Memory | None = None
    cpus_per_node: int | None = Field(default=None, ge=1)
    time_limit: TimeLimit | None = None
    sbatch: tuple[Option, ...] = ()
    srun: tuple[Option, ...] = ("--mpi=none",)
    signal_seconds: int = Field(default=300, ge=1, le=65535)
    """How long before the time limit a job is asked to save and leave."""
    environment: Environment = {}
    """NCCL_*, GLOO_* and what else the network needs."""
    prolog: tuple[str, ...] = ()
    """Lines of bash before the start, as `module load cuda/12.8`: run as they stand."""
    venv: PlainPath | None = None
    """The virtual environment to run in; without one, the interpreter that submits."""
    container: tuple[str, ...] = ()
    """Words before the interpreter, as apptainer exec --nv image.sif."""
    ports: Ports = Ports()

    @property
    def python(self) -> Path:
        """The interpreter on the nodes."""
        return self.venv / "bin" / "python" if self.venv else Path(sys.executable)


def read_site(file: Path | None) -> Site:
    """The profile in a YAML file, or an empty one. Raises ValueError naming the file, the field and what is wrong."""
    if file is None:
        return Site()
    try:
        return Site.model_validate(yaml.safe_load(file.read_text()) or {})
    except FileNotFoundError:
        raise ValueError(f"no site profile at {file}; infra/slurm/sites holds examples") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{file} is not YAML: {error}") from error
    except ValidationError as error:
        faults = (f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise ValueError(f"{file}: {'; '.join(faults)}") from error
