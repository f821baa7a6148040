"""The state of every generator that a training's code could draw from, besides its own draws: saved and taken back.

Nothing in a training should need them; a layer that does (a dropout, a library's own noise) resumes exactly nevertheless.
"""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from more4d.training.distributed.pieces import Piece, Read
from more4d.training.distributed.world import World
from more4d.training.order import step_seed


@contextmanager
def seeded(seed: int, world: World) -> Iterator[None]:
    """Within, the global generators start from `seed` and the rank; afterwards they are as they were."""
    devices = [world.device] if world.device.type == "cuda" else []
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - the global one is meant
    with torch.random.fork_rng(devices=devices):
        own = step_seed(seed, 2**41 + world.rank)
        torch.manual_seed(own)
        random.seed(own)
        np.random.seed(own % 2**32)  # noqa: NPY002
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


def generator_pieces(world: World) -> Iterator[Piece]:
    """This rank's generators as tensors of whole numbers."""
    for name, values in _states(world.device).items():
        yield Piece(f"rng/{world.rank}/{name}", tuple(values.shape), 0, values)


def load_generators(names: list[str], read: Read, world: World) -> bool:
    """Take this rank's generators back; False where the state has none for it: it was saved by fewer ranks."""
    prefix = f"rng/{world.rank}/"
    if f"{prefix}torch" not in names:
        return False
    own = _states(world.device)
    saved = {key: read(f"{prefix}{key}", 0, own[key].numel()) for key in own if f"{prefix}{key}" in names}
    torch.set_rng_state(saved["torch"])
    if "cuda" in saved:
        torch.cuda.set_rng_state(saved["cuda"], world.device)
    version, *words = saved["python"].tolist()
    random.setstate((version, tuple(words), None))
    *key, position = saved["numpy"].tolist()
    np.random.set_state(("MT19937", np.array(key, np.uint32), position, 0, 0.0))  # noqa: NPY002
    return True


def _states(device: torch.device) -> dict[str, Tensor]:
    version, words, _ = random.getstate()
    _, key, position, *_ = np.random.get_state(legacy=True)  # noqa: NPY002
    assert isinstance(key, np.ndarray)
    states = {
        "torch": torch.get_rng_state(),
        "python": torch.tensor([version, *words], dtype=torch.int64),
        "numpy": torch.tensor([*key.tolist(), position], dtype=torch.int64),
    }
    return states | ({"cuda": torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})
