"""Kills processes in mid-save and tells what they left: `python -m ....killed FOLDER`.

One process a file operation, killed right before it, the saves waiting or in background; then processes killed at random
times, the files being larger.
"""

import itertools
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from more4d.training.checkpoints import CheckpointSettings, CheckpointStore

from tests.more4d.training.checkpoints.groups import cut, example, read_whole, same

STEPS = (1, 2, 3, 3)
"""The last step is saved again, in place of the one that is there."""
WATCHED = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")
MOMENTS = {"waiting": range(1, 1000), "background": range(2, 1000, 4), "random": range(25)}
"""Before which file operations to kill, until there are no more; for `random`, seeds of the time.
The background's operations are those of a save that waits, so that a sample of them will do."""
LEFT = ["step-00000001", "step-00000003"]
"""The best and the newest."""


def open_store(folder: Path, mode: str) -> CheckpointStore:
    return CheckpointStore(folder, CheckpointSettings(keep_last=1, asynchronous=mode == "background"))


def save_all(folder: Path, mode: str, scale: int, steps: Iterable[int] = STEPS) -> None:
    store = open_store(folder, mode)
    for step in steps:
        store.save(step, cut(example(step, scale), 1)[0], {"step": step}, score=float(step))
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
    store = open_store(folder, mode)
    found = store.latest()
    step = 0 if found is None else found.step
    if left := [path.name for path in folder.glob(".step*")]:
        return step, f"{left} remain"
    if found is not None and (found.state != {"step": step} or not same(read_whole(found), example(step, scale))):
        return step, f"step {step} is not what was saved"
    save_all(folder, mode, scale)
    again = store.latest()
    if again is None or again.step != STEPS[-1] or sorted(p.name for p in folder.glob("*step*")) != LEFT:
        return step, "the rerun does not end as it should"
    return step, ""


def kill_one(mode: str, count: int, folder: Path, scale: int) -> bool:
    """Whether the process was killed before it was through."""
    child = os.fork()
    if not child:
        if mode != "random":
            die_before(count, folder)
        save_all(folder, mode, scale, itertools.count(1) if mode == "random" else STEPS)
        os._exit(0)
    if mode == "random":
        time.sleep(random.Random(count).uniform(0, 0.5))
        os.kill(child, signal.SIGKILL)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def kill_all(mode: str, folder: Path) -> dict[str, Any]:
    """How many were killed, which step each left as the newest, and what was wrong."""
    kills, wrong, found = 0, [], []
    for count in MOMENTS[mode]:
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
    json.dump({mode: kill_all(mode, Path(sys.argv[1]) / mode) for mode in MOMENTS}, sys.stdout)
