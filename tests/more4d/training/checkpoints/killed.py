"""Kills processes in mid-save and tells what they left: `python -m ....killed FOLDER STRIDE`.

One process a file operation, killed right before it, the saves waiting or in background; of two that save together the
first or the second; then processes at random times, the files being larger.
"""

import itertools
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from more4d.training.checkpoints import CheckpointSettings, CheckpointStore, OneRank, Ranks
from torch import distributed as dist

from tests.more4d.training.checkpoints.groups import GlooRank, cut, example, read_whole, same

STEPS = (1, 2, 3, 3)
"""The last step is saved again, in place of the one that is there."""
WATCHED = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")
MODES = ("waiting", "background", "first of two", "second of two", "random")
LEFT = ["step-00000001", "step-00000003"]
"""The best and the newest."""


def open_store(folder: Path, mode: str, ranks: Ranks) -> CheckpointStore:
    return CheckpointStore(folder, CheckpointSettings(keep_last=1, asynchronous=mode == "background"), ranks)


def save_all(store: CheckpointStore, ranks: Ranks, scale: int, steps: Iterable[int] = STEPS) -> None:
    for step in steps:
        store.save(step, cut(example(step, scale), ranks.count)[ranks.rank], {"step": step}, score=float(step))
    store.finish()


def die_before(count: int, folder: Path) -> None:
    """Kill this process before its `count`-th operation on a file under `folder`."""
    seen = 0

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event in WATCHED and arguments and str(arguments[0]).startswith(str(folder)):
            seen += 1
            if seen == count:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)


def wrong_with(folder: Path, mode: str, scale: int) -> tuple[int, str]:
    """(the step that is found, what is wrong about what a killed process left); 0 where no checkpoint is there."""
    store = open_store(folder, mode, OneRank())
    found = store.latest()
    step = 0 if found is None else found.step
    if left := [path.name for path in folder.glob(".step*")]:
        return step, f"{left} remain"
    if found is not None and (found.state != {"step": step} or not same(read_whole(found), example(step, scale))):
        return step, f"step {step} is not what was saved"
    save_all(store, OneRank(), scale)
    again = store.latest()
    if again is None or again.step != STEPS[-1] or sorted(p.name for p in folder.glob("*step*")) != LEFT:
        return step, "the rerun does not end as it should"
    return step, ""


def start(act: Callable[[], None]) -> int:
    """The id of a new process that does `act`."""
    child = os.fork()
    if not child:
        try:
            act()
        finally:
            # Whatever happened: this is a copy of the process that judges.
            os._exit(0)
    return child


def was_killed(child: int) -> bool:
    """Whether a process was killed before it was through."""
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def kill_alone(mode: str, count: int, folder: Path, scale: int) -> bool:
    """Whether a process that saves alone was killed before it was through."""

    def act() -> None:
        if mode != "random":
            die_before(count, folder)
        steps = itertools.count(1) if mode == "random" else STEPS
        save_all(open_store(folder, mode, OneRank()), OneRank(), scale, steps)

    child = start(act)
    if mode == "random":
        time.sleep(random.Random(count).uniform(0, 0.5))
        os.kill(child, signal.SIGKILL)
    return was_killed(child)


def kill_one_of_two(victim: int, count: int, folder: Path, scale: int) -> bool:
    """Whether one of two processes that save together was killed; the other then is, as torchrun does."""

    def act(rank: int) -> None:
        meeting = f"file://{folder}-{count}.meeting"
        dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=2)
        if rank == victim:
            die_before(count, folder)
        ranks = GlooRank()
        save_all(open_store(folder, "", ranks), ranks, scale)

    children = [start(partial(act, rank)) for rank in range(2)]
    killed = was_killed(children[victim])
    if killed:
        os.kill(children[1 - victim], signal.SIGKILL)
    os.waitpid(children[1 - victim], 0)
    return killed


def kill_one(mode: str, count: int, folder: Path, scale: int) -> bool:
    """Whether a process was killed, in one way, before it was through."""
    victims = {"first of two": 0, "second of two": 1}
    if mode in victims:
        return kill_one_of_two(victims[mode], count, folder, scale)
    return kill_alone(mode, count, folder, scale)


def kill_all(mode: str, folder: Path, stride: int) -> dict[str, Any]:
    """How many were killed, which step each left as the newest, and what was wrong.

    They are killed before every `stride`-th file operation, until there are no more.
    """
    kills, wrong, found = 0, [], []
    for count in range(1, 100 if mode == "random" else 10**6, stride):
        shutil.rmtree(folder, ignore_errors=True)
        scale = 2000 if mode == "random" else 1
        killed = kill_one(mode, count, folder, scale)
        kills += killed
        step, problem = wrong_with(folder, mode, scale)
        found.append(step)
        wrong += [f"kill {count}: {problem}"] if problem else []
        if not killed:
            break
    return {"kills": kills, "found": found, "wrong": wrong}


if __name__ == "__main__":
    folder, stride = Path(sys.argv[1]), int(sys.argv[2])
    json.dump({mode: kill_all(mode, folder / mode, stride) for mode in MODES}, sys.stdout)
