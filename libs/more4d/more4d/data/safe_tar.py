"""Members of a foreign `.tar.gz`, streamed and checked one by one; nothing is ever extracted under a foreign name."""

import gzip
import re
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import IO, Any

from pydantic import BaseModel, ConfigDict, Field

_FREE_BYTES = 1 << 20
_BLOCK = 1 << 20


class ArchiveError(ValueError):
    """An archive that is unsafe or damaged; the message names it and the member."""


class ArchiveLimits(BaseModel):
    """What an archive may cost. The published ones hold 50 samples of six files, the largest 120 to 160 MB."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_members: int = Field(default=1000, gt=0)
    max_member_bytes: int = Field(default=400_000_000, gt=0)
    max_total_bytes: int = Field(default=20_000_000_000, gt=0)
    max_ratio: float = Field(default=100.0, gt=1)
    """Bytes out for a byte in, over the whole archive so far."""
    ratio_after_bytes: int = Field(default=64_000_000, ge=0)
    """The ratio is looked at from here on: an empty mask in the beginning is no bomb."""


def iter_members(stream: IO[bytes], name: str, limits: ArchiveLimits) -> Iterator[tuple[PurePosixPath, IO[bytes]]]:
    """(path, stream of its bytes) of every file in a gzipped tar; each is to be read before the next is asked for.

    Raises ArchiveError, naming `name` and the member, on absolute paths, `..`, links, devices, sparse files, names
    that occur twice, more than `limits`, and on archives cut short, damaged or followed by something else.
    """
    source = _Limited(stream, name, limits)
    seen: set[PurePosixPath] = set()
    with _named(name), tarfile.open(fileobj=source, mode="r|") as archive:  # type: ignore[call-overload]
        for info in archive:
            path = _checked(info, name, limits, seen)
            source.allow(info.size)
            content = archive.extractfile(info) if info.isreg() else None
            if content is not None:
                yield path, _Content(content, name)  # type: ignore[misc]
        _require_nothing_more(archive, name)


@contextmanager
def _named(name: str) -> Iterator[None]:
    """Errors of damaged bytes as ArchiveError."""
    try:
        yield
    except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise ArchiveError(f"{name} is cut short or damaged: {type(error).__name__}: {error}") from error
    except (RecursionError, OverflowError) as error:
        raise ArchiveError(f"{name}: headers that no archive needs: {type(error).__name__}") from error


def _require_nothing_more(archive: tarfile.TarFile, name: str) -> None:
    """Read to the end, which checks gzip's sum; behind the last member only zeros may stand."""
    rest = archive.fileobj
    while rest is not None and (data := rest.read(1 << 16)):
        if data.count(0) != len(data):
            raise ArchiveError(f"{name} goes on behind its end, or a header in its middle is damaged")


def _checked(info: tarfile.TarInfo, archive: str, limits: ArchiveLimits, seen: set[PurePosixPath]) -> PurePosixPath:
    what = f"{archive}: member {info.name!r}"
    path = PurePosixPath(info.name)
    if path.is_absolute() or ".." in path.parts or not re.fullmatch(r"[\w .()/\-]{1,255}", info.name, re.ASCII):
        raise ArchiveError(f"{what} has a path that leaves its folder or cannot be a name")
    if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE) or info.sparse is not None:
        raise ArchiveError(f"{what} is neither a file nor a folder (a link, a device or sparse)")
    if not 0 <= info.size <= limits.max_member_bytes:
        raise ArchiveError(f"{what} claims {info.size} bytes, above max_member_bytes={limits.max_member_bytes}")
    if path in seen:
        raise ArchiveError(f"{what} occurs twice")
    seen.add(path)
    if len(seen) > limits.max_members:
        raise ArchiveError(f"{archive} has more than max_members={limits.max_members} members")
    return path


class _Limited:
    """Gunzipped bytes that stop where they cost more than the limits say."""

    def __init__(self, stream: IO[bytes], name: str, limits: ArchiveLimits) -> None:
        self._counted = _Counted(stream)
        self._gzip = gzip.GzipFile(fileobj=self._counted, mode="rb")  # type: ignore[arg-type]
        self._name, self._limits = name, limits
        self._out, self._allowed = 0, _FREE_BYTES

    def allow(self, size: int) -> None:
        """Let through a member of `size` bytes, and headers after it: long ones are read into memory whole."""
        self._allowed = self._out + size + _FREE_BYTES

    def read(self, size: int) -> bytes:
        data = self._gzip.read(size)
        self._out += len(data)
        if self._out > self._limits.max_total_bytes:
            raise ArchiveError(f"{self._name} unpacks to more than max_total_bytes={self._limits.max_total_bytes}")
        if self._out > max(self._limits.ratio_after_bytes, self._limits.max_ratio * self._counted.taken):
            raise ArchiveError(f"{self._name} is a bomb: more than {self._limits.max_ratio:g} bytes out for one in")
        if self._out > self._allowed:
            raise ArchiveError(f"{self._name} has headers of more than {_FREE_BYTES} bytes")
        return data


class _Counted:
    """A stream that knows how many bytes were taken of it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.taken = 0

    def read(self, size: int = -1) -> Any:
        data = self._stream.read(size)
        self.taken += len(data)
        return data


class _Content:
    """A member's bytes; damage found in them is named too."""

    def __init__(self, stream: IO[bytes], name: str) -> None:
        self._stream, self._name = stream, name

    def read(self, size: int = -1) -> bytes:
        with _named(self._name):
            return self._stream.read(size)
