"""A training in small: counts steps, saves each, leaves with code 75 when asked to, and goes on where it was.

`python counting.py FOLDER STEPS SECONDS [--reduce]`: every rank keeps the steps it did in FOLDER/rank-R.txt; with --reduce
all ranks add up their step over gloo first, so that none can do a step alone. A file FOLDER/crash makes it fail.
"""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from more4d.launch import STOPPED


def main(folder: Path, steps: int, seconds: float, *, reduce: bool) -> int:
    """Do the steps that are left."""
    asked: list[int] = []
    for number in (signal.SIGUSR1, signal.SIGTERM):
        signal.signal(number, lambda number, _: asked.append(number))
    rank, ranks = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    add = _gloo() if reduce else (lambda value: value * ranks)
    file = folder / f"rank-{rank}.txt"
    done = int(add(_count(file)) / ranks)
    _say(f"rank {rank} of {ranks} begins at step {done}")
    for step in range(done, steps):
        time.sleep(seconds)
        # All leave at the same step: one rank alone may have heard the signal yet.
        if add(len(asked)):
            _say(f"rank {rank} was asked to stop, and saved step {step}")
            return STOPPED
        if (folder / "crash").exists():
            return 3
        assert add(step) == step * ranks
        _append(file, f"{step}\n")
    _say(f"rank {rank} did all {steps} steps")
    return 0


def _gloo() -> Callable[[float], float]:
    import torch
    import torch.distributed as dist

    dist.init_process_group("gloo")

    def add(value: float) -> float:
        total = torch.tensor(float(value))
        dist.all_reduce(total)
        return total.item()

    return add


def _say(line: str) -> None:
    # In one write: the lines of several ranks go to one file.
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _count(file: Path) -> int:
    return len(file.read_text().split()) if file.exists() else 0


def _append(file: Path, text: str) -> None:
    with file.open("a") as stream:
        stream.write(text)


if __name__ == "__main__":
    together = "--reduce" in sys.argv
    code = main(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]), reduce=together)
    if together:
        # gloo's threads may abort a process that ends under them.
        from torch.distributed import destroy_process_group

        destroy_process_group()
    sys.exit(code)
