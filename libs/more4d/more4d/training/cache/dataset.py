"""The latent cache as batches: only the rows and fields that are asked for are read from the disk.

Suffixes: B batch, K latent frames, T frames, H height, W width, L text tokens, I image tokens, G patches, D width.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from torch import Tensor

from more4d.training.cache.build import MANIFEST, SAMPLES, VIEWS
from more4d.training.cache.fill import SCHEMA_VERSION
from more4d.training.cache.rows import Row, RowFile, collate
from more4d.training.cache.samples import bucket_numbers

LOG_VARIANCES = ("motion_logvar", "video_logvar")
"""Fields that nobody reads who takes a latent's mean for the latent."""


class _Cache:
    """A cache's folder: its manifest, its tables, and its files, each opened when it is first read."""

    def __init__(self, folder: Path, *, posterior: bool) -> None:
        self.folder, self._posterior = folder, posterior
        self.manifest = _read_manifest(folder)
        self._files: dict[tuple[str, str], RowFile] = {}

    @property
    def encoders(self) -> set[str]:
        """What the cache holds of every sample."""
        return set(self.manifest["encoders"])

    def require(self, encoder: str) -> None:
        """Raises ValueError where the cache was made without it."""
        if encoder not in self.encoders:
            raise ValueError(
                f"{self.folder} holds no {encoder}, which a decoded error needs: set latents.decoded=true and run the "
                "stage latents, or set flow.decoded_weight=0"
            )

    def table(self, name: str, split: str) -> dict[str, list[Any]]:
        """The columns of a table, of one split. Raises ValueError where the split is empty."""
        found = pq.read_table(self.folder / name, filters=[("split", "=", split)])
        if not len(found):
            raise ValueError(f"{self.folder} has nothing of the split {split!r}; run the stage latents")
        return found.to_pydict()

    def read(self, shard: str, encoders: Iterable[str], row: int) -> Row:
        """A row of each encoder."""
        found: Row = {}
        for encoder in encoders:
            file = self._open(shard, encoder)
            names = [name for name in file.names if self._posterior or name not in LOG_VARIANCES]
            found |= {name: file.read(name, row) for name in names}
        return found

    def collate(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """The rows as one batch."""
        return collate(rows, self.manifest["text_tokens"])

    def _open(self, shard: str, encoder: str) -> RowFile:
        if (shard, encoder) not in self._files:
            # Two threads may both come here: the second file replaces the first, and both are the same.
            self._files[shard, encoder] = RowFile(self.folder / f"{shard}.{encoder}.safetensors")
        return self._files[shard, encoder]


class LatentDataset:
    """A split of the cache in `folder` as batches for STraGObjective. Several threads may ask at once.

    With `decoded` batches also hold motion, visible and unit, with `posterior` motion_logvar. Raises ValueError where
    the folder is no cache, or was made without what is asked for.
    """

    def __init__(self, folder: Path, split: str = "train", *, decoded: bool = False, posterior: bool = False) -> None:
        self._cache = _Cache(folder, posterior=posterior)
        if decoded:
            self._cache.require("truth")
        table = self._cache.table(SAMPLES, split)
        seen = "grey" if "grey" in self._cache.encoders else "image"
        self._encoders = ("motion", "picture", "text", seen, "features", *(["truth"] if decoded else []))
        self._shards, self._rows = table["shard"], table["row"]
        self.ids: Sequence[str] = table["id"]
        self.buckets: Sequence[int] = bucket_numbers(_shapes(table))
        self.size = len(self.ids)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """The samples at `indices` [B], numbers in single precision.

        motion_latent, image_latent and depth_latent [B, 16, K, H/8, W/8], motion_features [B, G, D], text [B, L, D],
        image_tokens [B, I, D]. Raises ValueError for samples of different buckets.
        """
        numbers = indices.tolist()
        return self._cache.collate([self._cache.read(self._shards[i], self._encoders, self._rows[i]) for i in numbers])


class ViewDataset:
    """The views of a split of the cache in `folder` as batches for ViSMObjective. Several threads may ask at once.

    Every sample's own camera, and novel cameras where the truth is known. With `decoded` batches also hold video and
    holes, with `posterior` video_logvar. Raises ValueError as LatentDataset does.
    """

    def __init__(self, folder: Path, split: str = "train", *, decoded: bool = False, posterior: bool = False) -> None:
        self._cache = _Cache(folder, posterior=posterior)
        if decoded:
            self._cache.require("view_truth")
        views, samples = self._cache.table(VIEWS, split), self._cache.table(SAMPLES, split)
        row_of, shapes = dict(zip(samples["id"], samples["row"], strict=True)), _shapes(samples)
        shape_of = dict(zip(samples["id"], shapes, strict=True))
        self._encoders = ("views", *(["view_truth"] if decoded else []))
        self._shards, self._rows = views["shard"], views["row"]
        self._sample_rows = [row_of[name] for name in views["id"]]
        self.ids: Sequence[str] = [f"{name}/{view}" for name, view in zip(views["id"], views["view"], strict=True)]
        self.buckets: Sequence[int] = bucket_numbers([shape_of[name] for name in views["id"]])
        self.size = len(self.ids)

    def batch(self, indices: Tensor) -> dict[str, Tensor]:
        """The views at `indices` [B], numbers in single precision.

        video_latent and render_latent [B, 16, K, H/8, W/8], mask [B, 4, K, H/8, W/8], text [B, L, D], image_tokens
        [B, I, D]. Raises ValueError for views of different buckets.
        """
        return self._cache.collate([self._row(i) for i in indices.tolist()])

    def _row(self, i: int) -> Row:
        given = self._cache.read(self._shards[i], ("text", "image"), self._sample_rows[i])
        return self._cache.read(self._shards[i], self._encoders, self._rows[i]) | given


def _shapes(table: dict[str, list[Any]]) -> list[tuple[int, int, int]]:
    return list(zip(table["frames"], table["height"], table["width"], strict=True))


def _read_manifest(folder: Path) -> dict[str, Any]:
    if not (folder / MANIFEST).is_file():
        raise ValueError(f"{folder} is no latent cache: it has no {MANIFEST}; run the stage latents")
    manifest = json.loads((folder / MANIFEST).read_text())
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise ValueError(
            f"{folder} has schema version {manifest.get('schema_version')}, this code reads {SCHEMA_VERSION}: "
            "run the stage latents"
        )
    return manifest
