import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from more4d.training.cache.build import Cache, build_cache
from more4d.training.cache.fill import Encoding
from more4d.training.cache.fitting import Shape
from more4d.training.cache.networks import CheckpointEncoders
from more4d.training.cache.rows import StoredDtype
from more4d.training.cache.store import LatentStore
from more4d.training.distributed.world import World

ALONE = World(0, 1, torch.device("cpu"))


@dataclasses.dataclass(frozen=True)
class Place:
    """A workspace for caches: its folder, its store, and what makes a cache of a dataset there."""

    root: Path
    build: Callable[..., Cache]


@pytest.fixture
def place(tmp_path: Path, trajscene: Path, checkpoint: Path) -> Place:
    """Nothing is encoded yet; `build(name)` makes a cache of the three clips, other inputs on demand."""

    def build(
        name: str,
        *,
        dataset: Path = trajscene,
        vae: Path | None = None,
        folder: Path = checkpoint,
        decoded: bool = True,
        dtype: StoredDtype = "float16",
        largest: Shape | None = None,
        world: World = ALONE,
    ) -> Cache:
        (tmp_path / name).mkdir()
        encoding = Encoding(CheckpointEncoders(folder, vae=vae), dtype, decoded)
        store = LatentStore(tmp_path / "store")
        return build_cache(dataset, encoding, tmp_path / name, store, largest=largest, world=world)

    return Place(tmp_path, build)
