"""One of several processes that train and save together: `python -m ....saving RANK FOLDER RANKS`.

Once waiting and once in background it saves steps 1 to 5 while all-reducing, then a step that the second rank cannot
write; it tells what is left.
"""

import json
import resource
import sys
from pathlib import Path
from typing import Any

import torch
from more4d.models.conversion import CheckpointError
from more4d.training.checkpoints import CheckpointSettings, CheckpointStore
from torch import distributed as dist

from tests.more4d.training.checkpoints.groups import GlooRank, cut, example


def train(folder: Path, ranks: GlooRank, *, asynchronous: bool) -> dict[str, Any]:
    store = CheckpointStore(folder, CheckpointSettings(asynchronous=asynchronous), ranks)
    for step in range(1, 6):
        store.save(step, cut(example(step), ranks.count, step)[ranks.rank], {"step": step})
        for _ in range(20):
            total = torch.ones(1000)
            dist.all_reduce(total)
            assert total[0] == ranks.count
            store.poll()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if ranks.rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10**4, limits[1]))
    refused = ""
    try:
        store.save(6, cut(example(6, scale=1000), ranks.count, 6)[ranks.rank], {})
        store.finish()
    except CheckpointError as error:
        refused = str(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    latest = store.latest()
    return {"latest": latest and latest.step, "refused": refused}


def main(rank: int, folder: Path, count: int) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=count)
    modes = {"waiting": False, "background": True}
    told = {name: train(folder / name, GlooRank(), asynchronous=mode) for name, mode in modes.items()}
    json.dump(told, sys.stdout)
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
