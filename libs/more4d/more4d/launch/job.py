"""What a job is, where it stands, and the slip that finds it again.

A job runs one command as `nodes` times `processes_per_node` processes. Each process learns its place from the variables
that torchrun sets: RANK, LOCAL_RANK, WORLD_SIZE, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT; a job of one process gets none.
"""

import hashlib
import re
import string
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from more4d.settings import Section

STOPPED = 75
"""Exit code of a training that was asked to stop (SIGUSR1, SIGTERM), has saved, and wants to go on later: EX_TEMPFAIL."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_TIME = re.compile(r"\d+(:\d\d){0,2}|\d+-\d+(:\d\d){0,2}")
_MEMORY = re.compile(r"\d+[KMGT]?")
_OPTION = re.compile(r"--[a-z][a-z-]*(=\S(.*\S)?)?")
_PLAIN = frozenset(string.printable) - frozenset('"\\%\t\n\r\x0b\x0c')


def check_name(text: str) -> str:
    """`text` when it can be a folder's and a Slurm job's name. Raises ValueError."""
    if not _NAME.fullmatch(text):
        raise ValueError(
            f"{text!r} is no name: up to 64 letters, digits, dots, dashes and underscores, a letter or digit first"
        )
    return text


def check_path(path: Path) -> Path:
    """`path` when it is absolute and can be written into a script's #SBATCH lines. Raises ValueError."""
    if not path.is_absolute():
        raise ValueError(f"{str(path)!r} is not absolute: the job starts elsewhere")
    odd = sorted(set(str(path)) - _PLAIN)
    if odd:
        raise ValueError(f"{str(path)!r} holds {odd}, which Slurm's paths cannot; choose another folder")
    return path


def check_option(text: str) -> str:
    """`text` when it is one long option of Slurm's tools, as --name or --name=value. Raises ValueError."""
    if not _OPTION.fullmatch(text) or not set(text) <= _PLAIN:
        raise ValueError(f"{text!r} is not one long option, as --qos=high")
    return text


def check_environment(values: dict[str, str]) -> dict[str, str]:
    """`values` when every name can be a shell's variable and no value holds a NUL. Raises ValueError."""
    for name, value in values.items():
        if not _VARIABLE.fullmatch(name) or "\0" in value:
            raise ValueError(f"{name!r}={value!r} cannot be an environment variable")
    return values


def _like(pattern: re.Pattern[str], example: str) -> AfterValidator:
    def check(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(f"{text!r} is not as {example}")
        return text

    return AfterValidator(check)


def _check_quoted(value: Any) -> Any:
    # To YAML, 24:00:00 without quotes is the number 86400.
    if isinstance(value, int):
        raise ValueError(f'{value} is a number; write it in quotes, as "24:00:00"')
    return value


Name = Annotated[str, AfterValidator(check_name)]
PlainPath = Annotated[Path, AfterValidator(check_path)]
Option = Annotated[str, AfterValidator(check_option)]
Environment = Annotated[dict[str, str], AfterValidator(check_environment)]
Memory = Annotated[str, _like(_MEMORY, "64G")]
TimeLimit = Annotated[str, BeforeValidator(_check_quoted), _like(_TIME, "90 (minutes), 12:00:00 or 2-12:00:00")]


class Job(Section):
    """One command to run, and on what. `python` as the command's first word is the interpreter of the place it runs in."""

    name: Name
    command: tuple[str, ...] = Field(min_length=1)
    environment: Environment = {}
    cwd: PlainPath
    folder: PlainPath
    """Where jobs keep their logs and receipts; each submission has the folder `folder/key`. Shared by all nodes."""
    nodes: int = Field(default=1, ge=1)
    gpus_per_node: int = Field(default=0, ge=0)
    processes_per_node: int | None = Field(default=None, ge=1)
    """Default: one a GPU, or one where there is none."""
    cpus_per_node: int | None = Field(default=None, ge=1)
    memory: Memory | None = None
    """Of a node."""
    time_limit: TimeLimit | None = None
    partition: Name | None = None
    account: Name | None = None
    max_requeues: int = Field(default=100, ge=0)
    """A job that was started again so often is not requeued by its own script any more."""
    sbatch: tuple[Option, ...] = ()
    """Further options of sbatch, as --qos=high."""

    @model_validator(mode="after")
    def _gives_every_process_a_gpu(self) -> "Job":
        if self.gpus_per_node and self.processes > self.gpus_per_node:
            raise ValueError(
                f"processes_per_node={self.processes} of {self.gpus_per_node} GPUs: "
                "one process drives one GPU; leave it out, or set gpus_per_node=0"
            )
        return self

    @property
    def processes(self) -> int:
        """Processes of one node."""
        return self.processes_per_node or max(1, self.gpus_per_node)

    def digest(self) -> str:
        """Hash of everything that makes this job another one."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    def variables(self) -> dict[str, str]:
        """The command's environment beyond what its place gives it."""
        values = {} if self.gpus_per_node else {"ACCELERATE_USE_CPU": "true"}
        return {**values, **self.environment}


class State(StrEnum):
    """Where a job stands."""

    PENDING = "pending"
    RUNNING = "running"
    REQUEUED = "requeued"
    """Was interrupted and waits to be started again."""
    COMPLETED = "completed"
    STOPPED = "stopped"
    """Left because it was asked to, with its work saved; a new submission goes on."""
    FAILED = "failed"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    PREEMPTED = "preempted"
    NODE_FAIL = "node_fail"
    OUT_OF_MEMORY = "out_of_memory"
    LOST = "lost"
    """Neither the cluster nor the job's folder knows how it ended."""

    @property
    def ended(self) -> bool:
        """Whether nothing will happen any more."""
        return self not in (State.PENDING, State.RUNNING, State.REQUEUED)


class Status(Section):
    """What is known of a job now."""

    state: State
    reason: str = ""
    exit_code: int | None = None
    signal: int | None = None
    """The signal that ended it."""
    started: float | None = None
    """Unix seconds of the last start."""
    nodes: str = ""
    """The nodes it runs or ran on, as Slurm writes lists."""
    restarts: int = 0

    @classmethod
    def of_exit(cls, code: int, **known: str | float | int | None) -> "Status":
        """The status of a job whose command ended with `code`, as a shell gives it: 128 and more for a signal."""
        if code == 0:
            return cls.model_validate({"state": State.COMPLETED, "exit_code": 0, **known})
        if code == STOPPED:
            return cls.model_validate({"state": State.STOPPED, "exit_code": code, **known})
        signal = code - 128 if 128 < code < 193 else None
        return cls.model_validate({"state": State.FAILED, "exit_code": code, "signal": signal, **known})

    def __str__(self) -> str:
        parts = [self.state.value, f"({self.reason})" if self.reason else ""]
        parts += [f"exit code {self.exit_code}" if self.exit_code else "", f"on {self.nodes}" if self.nodes else ""]
        parts += [f"restarted {self.restarts} times" if self.restarts else ""]
        return " ".join(part for part in parts if part)


class Receipt(Section):
    """What finds a submitted job again, from any process: written into the job's folder."""

    launcher: Literal["local", "slurm"]
    key: Name
    job_id: str
    """Slurm's number, or the process that keeps a local job."""
    folder: Path
    submitted: float
    """Unix seconds."""
    digest: str
    """The job's."""
    started: float | None = None
    """When a local job's process was made, which tells it from a later one with the same number."""

    @property
    def log(self) -> Path:
        """Everything that all processes and all starts of the job wrote, in order."""
        return self.folder / "log"
