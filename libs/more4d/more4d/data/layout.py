"""Where a folder of shards keeps what, on any file system that fsspec opens, and how its files are put and fetched."""

import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import aiohttp
import botocore.exceptions
import fsspec
import tenacity
from fsspec.implementations.local import LocalFileSystem

from more4d.data.atomic import atomic_file, atomic_write_bytes
from more4d.data.header import require_schema

MANIFEST = "manifest.json"
_BLOCK = 1 << 20
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]*")
Result = TypeVar("Result")
_PASSING = (OSError, aiohttp.ClientError, botocore.exceptions.BotoCoreError)
"""What a server that is down, or goes down in the middle, looks like from here."""


class ShardError(ValueError):
    """A shard, index or manifest that is not what it should be; the message names it."""


class Folder:
    """A folder by path or URL. Keeps no connection, so that it may cross forks, spawns and threads.

    What a network file system fails to answer is asked again, ever more slowly, for `patience_s` seconds;
    credentials and endpoints come from the environment (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, ...).
    """

    def __init__(self, url: Path | str, *, patience_s: float = 60.0) -> None:
        self.url = str(url).rstrip("/")
        self.patience_s = patience_s

    def read(self, name: str, start: int | None = None, end: int | None = None) -> bytes:
        """A file's bytes, or those from start to end. Raises FileNotFoundError, or OSError past all patience."""
        return self._persist(self._read, name, start, end)

    def sha256(self, name: str) -> str | None:
        """A file's SHA-256 in hexadecimal, None where there is no such file."""
        try:
            return self._persist(self._sha256, name)
        except FileNotFoundError:
            return None

    def exists(self, name: str) -> bool:
        """Whether there is such a file now."""
        return self._persist(self._exists, name)

    def write(self, name: str, data: bytes) -> None:
        """Put a small file whole: a reader sees the old bytes or the new ones."""
        self._persist(self._write, name, data)

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """A local file to fill; it appears under `name` whole when the block ends well, else nothing does."""
        filesystem, path = self._locate(name)
        if isinstance(filesystem, LocalFileSystem):
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            with atomic_file(Path(path)) as temporary:
                yield temporary
            return
        with tempfile.TemporaryDirectory() as scratch:
            local = Path(scratch) / "file"
            yield local
            # An upload in parts becomes an object with its last call: a stream closed by an error would leave half.
            self._persist(self._upload, name, local)

    def _persist(self, action: Callable[..., Result], name: str, *arguments: Any) -> Result:
        """What the action returns, tried until `patience_s` are over; local disks are not asked twice."""
        if isinstance(self._locate(name)[0], LocalFileSystem):
            return action(name, *arguments)
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(_may_pass),
            stop=tenacity.stop_after_delay(self.patience_s),
            wait=tenacity.wait_exponential(multiplier=0.2, max=5.0),
            reraise=True,
        )
        try:
            return retrying(action, name, *arguments)
        except (FileNotFoundError, PermissionError):
            raise
        except _PASSING as error:
            raise OSError(f"{self.url}/{name} could not be reached in {self.patience_s:g} s: {error}") from error

    def _read(self, name: str, start: int | None, end: int | None) -> bytes:
        filesystem, path = self._locate(name)
        data = cast(bytes, filesystem.cat_file(path, start=start, end=end))
        remote = not isinstance(filesystem, LocalFileSystem)
        # A connection that breaks can look like a short answer; a local file that is short stays so.
        if remote and start is not None and end is not None and len(data) != end - start:
            raise OSError(f"the server sent {len(data)} bytes of {end - start}")
        return data

    def _sha256(self, name: str) -> str:
        filesystem, path = self._locate(name)
        digest = hashlib.sha256()
        with filesystem.open(path, "rb") as stream:
            for block in iter(lambda: stream.read(_BLOCK), b""):
                digest.update(cast(bytes, block))
        return digest.hexdigest()

    def _exists(self, name: str) -> bool:
        filesystem, path = self._locate(name)
        # A listing from before a write would hide what was written.
        filesystem.invalidate_cache()
        try:
            filesystem.info(path)
        except FileNotFoundError:
            return False
        return True

    def _write(self, name: str, data: bytes) -> None:
        filesystem, path = self._locate(name)
        if isinstance(filesystem, LocalFileSystem):
            atomic_write_bytes(Path(path), data)
        else:
            filesystem.pipe_file(path, data)

    def _upload(self, name: str, local: Path) -> None:
        filesystem, path = self._locate(name)
        filesystem.put_file(str(local), path)

    def _locate(self, name: str) -> tuple[fsspec.AbstractFileSystem, str]:
        filesystem, root = fsspec.core.url_to_fs(self.url)
        return filesystem, f"{root}/{name}"


def _may_pass(error: BaseException) -> bool:
    return isinstance(error, _PASSING) and not isinstance(error, FileNotFoundError | PermissionError)


def read_manifest(folder: str) -> dict[str, Any]:
    """The manifest of a folder of shards (a path or any URL that fsspec opens). Raises ShardError."""
    return load_manifest(Folder(folder))


def load_manifest(folder: Folder) -> dict[str, Any]:
    """As read_manifest."""
    try:
        manifest = json.loads(folder.read(MANIFEST))
    except FileNotFoundError as error:
        raise ShardError(f"{folder.url} has no {MANIFEST}: it holds no shards, or their writing never ended") from error
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ShardError(f"{folder.url}/{MANIFEST} is not JSON: {error}") from error
    _require_manifest(manifest, f"{folder.url}/{MANIFEST}")
    return manifest


def _require_manifest(manifest: Any, name: str) -> None:  # noqa: ANN401 - whatever JSON holds
    """Raises ShardError where the manifest names files outside of its folder, or none at all."""
    if not isinstance(manifest, dict):
        raise ShardError(f"{name} is not a manifest: it holds no object")
    require_schema(manifest, name)
    try:
        parts = list(manifest["splits"].values())
        files = [part["index"]["name"] for part in parts if "index" in part]
        files += [shard["name"] for part in parts for shard in part["shards"]]
        outside = next((file for file in files if not _FILE.fullmatch(file)), None)
    except (KeyError, TypeError, AttributeError) as error:
        raise ShardError(f"{name} is not a manifest: {error!r}") from error
    if outside is not None:
        raise ShardError(f"{name} names {outside!r}, which is no file of its folder")
