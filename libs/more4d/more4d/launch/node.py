"""`python -m more4d.launch.node ...`: what one node of a job runs: torchrun, or the command itself when it is alone.

Slurm sends a signal to every process of a job. Here all that is not the command ignores SIGUSR1 and SIGTERM, so that the
command alone decides when to leave.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from more4d.launch import worker


@dataclass(frozen=True)
class Place:
    """One node's part of a job; `address` and `port` are where all meet: on the first node."""

    nodes: int
    node: int
    processes: int
    address: str
    port: int


def torchrun(place: Place, command: Sequence[str], outcome: Path) -> list[str]:
    """The command line that starts this node's processes. Ranks follow the nodes' order, the first node has rank 0."""
    return [
        *(sys.executable, "-m", "torch.distributed.run"),
        *(f"--nnodes={place.nodes}", f"--node-rank={place.node}", f"--nproc-per-node={place.processes}"),
        *(f"--master-addr={place.address}", f"--master-port={place.port}", "--max-restarts=0"),
        # Its own handling of signals kills the processes after 30 s, saved or not.
        "--signals-to-handle=SIGINT",
        *("--no-python", sys.executable, "-m", "more4d.launch.worker", str(outcome), *command),
    ]


def start(place: Place, command: Sequence[str], outcome: Path) -> int:
    """Run this node's part; returns the exit code when the command is alone, else becomes torchrun."""
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    # torch would give every process all of the node's cores, torchrun only one.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // place.processes)))
    outcome.mkdir(parents=True, exist_ok=True)
    if place.nodes * place.processes == 1:
        return worker.run(command, outcome)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    line = torchrun(place, command, outcome)
    return os.execv(line[0], line)


def main(arguments: list[str] | None = None) -> int:
    """Read the place from the command line and, under Slurm, this node's number from SLURM_NODEID."""
    parser = argparse.ArgumentParser(prog="python -m more4d.launch.node", description=__doc__)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--processes", type=int, required=True)
    parser.add_argument("--address", required=True)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--outcome", type=Path, required=True)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    given = parser.parse_args(arguments)
    node = int(os.environ.get("SLURM_NODEID", "0")) if given.nodes > 1 else 0
    command = given.command[1:] if given.command[:1] == ["--"] else given.command
    return start(Place(given.nodes, node, given.processes, given.address, given.port), command, given.outcome)


if __name__ == "__main__":
    sys.exit(main())
