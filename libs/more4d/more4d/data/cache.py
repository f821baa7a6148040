"""Samples kept on the local disk, the least recently used thrown out first; shared by workers and ranks of a machine."""

import hashlib
from pathlib import Path

import diskcache
from diskcache.core import MODE_PICKLE
from pydantic import BaseModel, ConfigDict, Field


class CacheConfig(BaseModel):
    """Where samples are kept, and how much of them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: Path
    size_limit_bytes: int = Field(gt=0)


class _BytesDisk(diskcache.Disk):
    """diskcache's storage without its pickles: bytes in, bytes out."""

    def fetch(self, mode: int, filename: str | None, value: object, read: bool) -> object:
        if mode == MODE_PICKLE:
            raise ValueError("the sample cache holds a pickle, which this code never wrote; delete the cache's folder")
        return super().fetch(mode, filename, value, read)


class SampleCache:
    """Bytes by their SHA-256. What was damaged on the disk is thrown out and counts as missing."""

    def __init__(self, config: CacheConfig) -> None:
        self.config = config
        self._store = diskcache.Cache(
            str(config.folder),
            disk=_BytesDisk,
            size_limit=config.size_limit_bytes,
            eviction_policy="least-recently-used",
            # Two for each that comes: more at once would throw out what still fits.
            cull_limit=2,
        )

    def get(self, sha256: str) -> bytes | None:
        """The bytes with this hash, None where they are not here."""
        data = self._store.get(sha256)
        if not isinstance(data, bytes):
            return None
        if hashlib.sha256(data).hexdigest() != sha256:
            self._store.delete(sha256)
            return None
        return data

    def put(self, sha256: str, data: bytes) -> None:
        """Keep `data`, unless it alone passes the limit."""
        if len(data) <= self.config.size_limit_bytes // 2:
            self._store.set(sha256, data)
            if self.volume() > self.config.size_limit_bytes:
                self._store.cull()

    def volume(self) -> int:
        """Bytes on the disk, the bookkeeping among them."""
        return int(self._store.volume())
