"""Where a training of a transformer takes its batches from: the latent cache, or the dataset itself."""

from pathlib import Path
from typing import Literal

from more4d.data.shards import TrajSceneDataset
from more4d.settings import Section
from more4d.training.cache.dataset import LatentDataset, ViewDataset
from more4d.training.cache.direct import DirectLatents, DirectViews
from more4d.training.cache.fitting import Shape
from more4d.training.cache.networks import Networks
from more4d.training.cache.rows import StoredDtype


class SourceSettings(Section):
    """The cache, or the dataset encoded as it is read: the same numbers, where both round to the same type."""

    kind: Literal["cache", "direct"] = "cache"
    trajscene: Path = Path("datasets/trajscene")
    """The dataset of a direct source, from the workspace."""
    dtype: StoredDtype = "float16"
    """What a direct source rounds to; a cache has its own."""


def strag_source(
    settings: SourceSettings,
    latents: Path,
    networks: Networks,
    *,
    root: Path,
    largest: Shape | None = None,
    split: str = "train",
    decoded: bool,
    posterior: bool = False,
) -> LatentDataset | DirectLatents:
    """Batches for STraG of a split, from the cache in `latents` or from the dataset in the workspace `root`.

    `largest` (T, H, W) is what of a direct source's samples is taken; the cache was made with its own.
    """
    if settings.kind == "cache":
        return LatentDataset(latents, split, decoded=decoded, posterior=posterior)
    samples = TrajSceneDataset(root / settings.trajscene, split, with_views=False)
    return DirectLatents(networks, samples, dtype=settings.dtype, largest=largest, decoded=decoded, posterior=posterior)


def vism_source(
    settings: SourceSettings,
    latents: Path,
    networks: Networks,
    *,
    root: Path,
    largest: Shape | None = None,
    split: str = "train",
    decoded: bool,
    posterior: bool = False,
) -> ViewDataset | DirectViews:
    """Batches for ViSM of a split, from the cache in `latents` or from the dataset in the workspace `root`.

    `largest` (T, H, W) is what of a direct source's samples is taken; the cache was made with its own.
    """
    if settings.kind == "cache":
        return ViewDataset(latents, split, decoded=decoded, posterior=posterior)
    samples = TrajSceneDataset(root / settings.trajscene, split)
    return DirectViews(networks, samples, dtype=settings.dtype, largest=largest, decoded=decoded, posterior=posterior)
