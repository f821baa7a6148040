"""Reading shards by position: one range request a sample, checked, kept on the local disk if so wished."""

import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from more4d.data.cache import CacheConfig, SampleCache
from more4d.data.index import Entry, ShardIndex, join_indices, load_index
from more4d.data.layout import Folder, ShardError, load_manifest
from more4d.data.sample import Sample, decode_sample


class TrajSceneDataset:
    """The samples of a folder of shards by position, each fetched by one range request; a map-style torch dataset.

    `folder` is a path or any URL that fsspec opens; `split` None means all, in the order of the splits' names. It
    may be pickled and forked: workers open their own connections. With `cache`, bytes once fetched are read from
    the local disk. Raises ShardError where a shard is missing or its bytes have changed; the sample is named.
    """

    def __init__(
        self,
        folder: Path | str,
        split: str | None = None,
        *,
        with_views: bool = True,
        cache: CacheConfig | None = None,
        patience_s: float = 60.0,
    ) -> None:
        self.folder = str(folder)
        self.with_views = with_views
        self._files = Folder(folder, patience_s=patience_s)
        self._cache = None if cache is None else SampleCache(cache)
        splits = load_manifest(self._files)["splits"]
        if split is not None and split not in splits:
            raise ShardError(f"{self.folder} has no split {split!r}, only {', '.join(sorted(splits)) or 'none'}")
        wanted = sorted(splits) if split is None else [split]
        if not wanted:
            raise ShardError(f"{self.folder}'s manifest names no split: nothing was written")
        self.index: ShardIndex = join_indices([load_index(self._files, splits[name]) for name in wanted])

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, i: int) -> Sample:
        return decode_sample(self.read_files(i), with_views=self.with_views)

    @property
    def ids(self) -> list[str]:
        """All sample ids in order."""
        return self.index.ids.to_pylist()

    @property
    def shapes(self) -> NDArray[np.int32]:
        """[N, 3] frames, height and width of every sample; zeros where a shard of schema version 1 does not say."""
        return self.index.shape

    def read_files(self, i: int) -> dict[str, bytes]:
        """The i-th sample's files by extension, still encoded."""
        position = i + len(self) if i < 0 else i
        if not 0 <= position < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        shard, entry = self.index.entry(position)
        return untar_sample(self._fetch(f"{shard}.tar", entry), entry.id)

    def _fetch(self, name: str, entry: Entry) -> bytes:
        cached = None if self._cache is None else self._cache.get(entry.sha256)
        if cached is not None:
            return cached
        start, end = entry.offset, entry.offset + entry.size
        try:
            data = self._files.read(name, start, end)
        except FileNotFoundError as error:
            raise ShardError(f"{self.folder}/{name} is gone; the manifest names it") from error
        if hashlib.sha256(data).hexdigest() != entry.sha256:
            raise ShardError(
                f"{self.folder}/{name}, bytes {start} to {end} (sample {entry.id}): the sha256 is not "
                "the index's; the shard is damaged, fetch or write it again"
            )
        if self._cache is not None:
            self._cache.put(entry.sha256, data)
        return data


def untar_sample(data: bytes, sample_id: str) -> dict[str, bytes]:
    """Files by extension out of one sample's tar blocks. Raises ShardError on a member that is not the sample's, or damage."""
    files = {}
    try:
        with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
            for info in archive:
                stem, _, extension = info.name.partition(".")
                stream = archive.extractfile(info) if info.isfile() else None
                if stream is None or stem != sample_id:
                    raise ShardError(f"member {info.name!r} is not a file of sample {sample_id}")
                files[extension] = stream.read()
    except tarfile.TarError as error:
        raise ShardError(f"the bytes of sample {sample_id} are no tar: {error}") from error
    return files
