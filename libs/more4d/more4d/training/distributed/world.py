"""The processes of a training: who this one is, and how all of them agree."""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed


@dataclass(frozen=True)
class World:
    """This process's rank among `ranks`, and the device that it computes on."""

    rank: int
    ranks: int
    device: torch.device

    @property
    def main(self) -> bool:
        """Whether this process writes what is written once."""
        return self.rank == 0

    @property
    def count(self) -> int:
        """How many processes there are."""
        return self.ranks

    def barrier(self) -> None:
        """Wait for all."""
        if self.ranks > 1:
            distributed.barrier()

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, by rank, on every rank; only for small things of plain types."""
        if self.ranks == 1:
            return [value]
        values: list[Any] = [None] * self.ranks
        distributed.all_gather_object(values, value)
        return values

    def mean(self, values: list[float]) -> list[float]:
        """The means over all ranks, the same on each."""
        if self.ranks == 1:
            return values
        total = torch.tensor(values, dtype=torch.float64, device=self.device)
        distributed.all_reduce(total)
        return (total / self.ranks).tolist()


def leave_world() -> None:
    """To be called before the process ends: gloo's threads may abort one that ends under them."""
    if distributed.is_available() and distributed.is_initialized():
        distributed.destroy_process_group()


def launched_ranks() -> tuple[int, int]:
    """(rank, number of ranks) that torchrun gave this process; (0, 1) without it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def join_world(device: str = "cpu", *, timeout_s: float = 1800.0) -> World:
    """The world of this process: alone, or among those that torchrun started, joined by NCCL or, on CPUs, gloo.

    `device` is "cpu", "cuda", or "auto" for the GPU where there is one. Raises ValueError where it is not there.
    """
    kind = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
    rank, ranks = launched_ranks()
    if kind.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device {device!r} is not there: torch finds no GPU; set the device to cpu")
    if ranks > 1 and not distributed.is_initialized():
        # gloo beside NCCL: what is agreed on before and after a training does not need a GPU.
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(backend, timeout=timedelta(seconds=timeout_s))
    if kind == "cuda":
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        kind = f"cuda:{torch.cuda.current_device()}"
    return World(rank, ranks, torch.device(kind))
