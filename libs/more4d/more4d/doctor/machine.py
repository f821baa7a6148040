"""What this machine has: processor, memory, accelerator, disk, and how fast it multiplies."""

import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import psutil
import torch

from more4d.training.watch.peak import measured_flops

_CGROUP = Path("/sys/fs/cgroup/memory.max")


@dataclass(frozen=True)
class Machine:
    """The device that networks would run on, and what is around it."""

    device: str
    name: str
    memory: int
    """Bytes that networks may use: the accelerator's, or the machine's own."""
    compute_capability: str
    bf16: bool
    ram: int
    ram_available: int
    cores: int
    threads: int
    disk_free: int

    @property
    def dtype(self) -> torch.dtype:
        """The type that networks run in here."""
        if self.device == "cpu":
            return torch.float32
        return torch.bfloat16 if self.bf16 else torch.float16


def find_machine(folder: Path) -> Machine:
    """This machine, with the accelerator that has the most memory, and the disk that `folder` will lie on."""
    ram, available = _memory()
    accelerators = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    best = max(accelerators, key=lambda i: torch.cuda.get_device_properties(i).total_memory, default=None)
    properties = None if best is None else torch.cuda.get_device_properties(best)
    return Machine(
        device="cpu" if best is None else f"cuda:{best}",
        name="CPU" if properties is None else properties.name,
        memory=available if properties is None else properties.total_memory,
        compute_capability="" if properties is None else f"{properties.major}.{properties.minor}",
        bf16=properties is not None and properties.major >= 8,
        ram=ram,
        ram_available=available,
        cores=len(os.sched_getaffinity(0)),
        threads=torch.get_num_threads(),
        disk_free=shutil.disk_usage(_existing(folder)).free,
    )


def with_gpu(machine: Machine, gigabytes: float) -> Machine:
    """The machine, were its accelerator one of this memory that computes in bf16. Raises ValueError for none."""
    if gigabytes <= 0:
        raise ValueError(f"--gpu-memory {gigabytes:g} must be above 0 GB")
    name = f"a GPU of {gigabytes:g} GB"
    return replace(machine, device="gpu", name=name, memory=int(gigabytes * 1e9), compute_capability="", bf16=True)


def measure_rate(machine: Machine, *, seconds: float = 0.4) -> float:
    """Operations a second of the best of several matrix products in the type that networks run in."""
    return measured_flops(torch.device(machine.device), machine.dtype, seconds=seconds)


def _memory() -> tuple[int, int]:
    """All bytes and the free ones; inside a container, its limit."""
    found = psutil.virtual_memory()
    text = _CGROUP.read_text().strip() if _CGROUP.is_file() else "max"
    limit = int(text) if text.isdigit() else found.total
    return min(found.total, limit), min(found.available, limit)


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above that exists."""
    folder = folder.absolute()
    return next(path for path in (folder, *folder.parents) if path.exists())
