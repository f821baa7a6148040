import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest
from more4d.training.cache.build import Cache, build_cache
from more4d.training.cache.networks import CheckpointEncoders
from more4d.training.cache.rows import StoredDtype
from more4d.training.cache.store import LatentStore


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
    ) -> Cache:
        (tmp_path / name).mkdir()
        encoders = CheckpointEncoders(folder, vae=vae)
        store = LatentStore(tmp_path / "store")
        return build_cache(dataset, encoders, tmp_path / name, store, decoded=decoded, dtype=dtype)

    return Place(tmp_path, build)
