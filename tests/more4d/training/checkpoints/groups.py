"""Groups of ranks for tests: threads of one process, or real processes over gloo; and states cut among them."""

import json
import random
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import torch
from more4d.training.checkpoints import Checkpoint, Ranks
from more4d.training.distributed.pieces import Piece
from torch import Tensor
from torch import distributed as dist

Result = TypeVar("Result")


class ThreadRank:
    """One of several threads; what is gathered goes through JSON, as between processes."""

    def __init__(self, rank: int, meeting: threading.Barrier, slots: list[str]) -> None:
        self.rank, self.count, self.meeting, self.slots = rank, len(slots), meeting, slots

    def barrier(self) -> None:
        self.meeting.wait(30)

    def gather(self, value: Any) -> list[Any]:
        self.slots[self.rank] = json.dumps(value)
        self.barrier()
        found = [json.loads(slot) for slot in self.slots]
        self.barrier()
        return found


class GlooRank:
    """One of several processes."""

    def __init__(self) -> None:
        self.rank, self.count = dist.get_rank(), dist.get_world_size()

    def barrier(self) -> None:
        dist.barrier()

    def gather(self, value: Any) -> list[Any]:
        text = json.dumps(value).encode()
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.count)]
        dist.all_gather(sizes, torch.tensor([len(text)]))
        found = [torch.zeros(int(max(sizes)), dtype=torch.uint8) for _ in sizes]
        dist.all_gather(found, torch.frombuffer(bytearray(text.ljust(int(max(sizes)))), dtype=torch.uint8))
        return [json.loads(bytes(row.tolist())) for row in found]


def together(count: int, act: Callable[[Ranks], Result]) -> list[Result]:
    """What `act` returns on each of `count` ranks; the first one's error is raised, if there is one."""
    meeting, slots = threading.Barrier(count), [""] * count
    with ThreadPoolExecutor(count) as pool:
        running = [pool.submit(act, ThreadRank(rank, meeting, slots)) for rank in range(count)]
        return [future.result() for future in running]


def example(seed: int = 0, scale: int = 1) -> dict[str, Tensor]:
    """A small state of several types and shapes: a scalar and a tensor without numbers are among them."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "model/blocks.0.weight": torch.randn(16 * scale, 6, generator=generator),
        "model/blocks.0.bias": torch.randn(7, generator=generator).bfloat16(),
        "model/blocks.0.count": torch.tensor(seed),
        "model/empty": torch.zeros(0, 3),
        "ema/blocks.0.weight": torch.randn(16 * scale, 6, generator=generator),
        "optimizer/blocks.0.weight/exp_avg": torch.randn(16 * scale, 6, generator=generator, dtype=torch.float64),
        "rng/0/cpu": torch.randint(0, 256, (50,), generator=generator, dtype=torch.uint8),
        "optimizer/mask": torch.rand(9, generator=generator) > 0.5,
    }


def cut(tensors: Mapping[str, Tensor], count: int, seed: int = 0) -> list[list[Piece]]:
    """Every rank's pieces: each tensor cut at random places, each run given to a random rank."""
    chance = random.Random(seed)
    shares: list[list[Piece]] = [[] for _ in range(count)]
    for name, tensor in tensors.items():
        flat = tensor.reshape(-1)
        inner = chance.sample(range(len(flat) + 1), min(count - 1, len(flat) + 1))
        for start, end in zip([0, *sorted(inner)], [*sorted(inner), len(flat)], strict=True):
            chance.choice(shares).append(Piece(name, tuple(tensor.shape), start, flat[start:end]))
    return shares


def read_whole(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """All tensors of a checkpoint."""
    return {name: checkpoint.whole(name) for name in checkpoint.names()}


def same(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> bool:
    """Whether two states have the same names, types, shapes and numbers."""
    return found.keys() == expected.keys() and all(
        found[n].dtype == expected[n].dtype and torch.equal(found[n], expected[n]) for n in expected
    )
