"""Downloads of third-party weights: resumed after any interruption, checked before they take their final name.

huggingface_hub speaks the protocol; its own download keeps nothing of a file when the process ends, which 33 GB cannot
afford, so the partial file is kept here.
"""

import fcntl
import hashlib
import logging
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit

from more4d.data.atomic import atomic_write_json, sync
from more4d.data.hashing import hash_file
from more4d.weights.registry import STORE, Weight, WeightFile

log = logging.getLogger(__name__)

PARTIAL = ".partial"
"""Folder in the store for what is not wholly there yet."""
FETCHED = "fetched.json"
"""In a weight's folder: what its files are."""
_ON = frozenset({"1", "true", "yes", "on"})


class FetchError(RuntimeError):
    """A file could not be fetched, or is not what it should be."""


@dataclass(frozen=True)
class Source:
    """Where a file is, as its server says; `sha256` and `bytes` may be unknown."""

    url: str
    headers: dict[str, str]
    etag: str
    commit: str | None
    bytes: int | None
    sha256: str | None


def fetch_weight(weight: Weight, store: Path = STORE, *, say: Callable[[str], None] = log.info) -> Path:
    """The weight's folder in the store, with every file there and of the recorded size and hash.

    Raises FetchError naming the file: offline, not found, cut off, or not what was recorded.
    """
    if weight.kind != "weights" or weight.manual:
        raise FetchError(f"{weight.name} is not downloaded by a program: {_by_hand(weight, store)}")
    folder = store / weight.name
    facts = {file.path: _fetch_file(weight, file, store, say) for file in weight.file}
    commits = sorted({str(f.pop("commit")) for f in facts.values()})
    revision = commits[0] if len(commits) == 1 else weight.revision
    record = {"repository": weight.repository, "revision": revision, "licence": weight.licence, "files": facts}
    atomic_write_json(folder / FETCHED, record)
    return folder


def missing_files(weight: Weight, store: Path = STORE) -> list[WeightFile]:
    """The files that are not in the store, or not of the recorded size."""
    return [file for file in weight.file if not _has_size(store / weight.name / file.path, file.bytes)]


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids the network."""
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in _ON


def track_with_dvc(folders: Iterable[Path], root: Path) -> str:
    """What `dvc add` of the folders came to, as a sentence; without a DVC workspace or command, that."""
    wanted = [str(folder) for folder in folders]
    if not (root / ".dvc").is_dir():
        return f"{root.resolve()} is no DVC workspace: {', '.join(wanted)} is not tracked"
    if (dvc := shutil.which("dvc")) is None:
        return f"the dvc command is not installed: {', '.join(wanted)} is not tracked"
    done = subprocess.run([dvc, "add", "--quiet", *wanted], cwd=root, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        return f"dvc add failed (exit code {done.returncode}): {last}"
    return f"tracked by DVC: {', '.join(f'{name}.dvc' for name in wanted)}"


def _fetch_file(weight: Weight, file: WeightFile, store: Path, say: Callable[[str], None]) -> dict[str, object]:
    final = store / weight.name / file.path
    if _has_size(final, file.bytes):
        found = hash_file(final)
        if file.sha256 in (None, found):
            say(f"{weight.name}/{file.path} is there")
            return {"bytes": final.stat().st_size, "sha256": found, "commit": weight.revision}
        say(f"{weight.name}/{file.path} is not what was recorded: fetched again")
    if is_offline():
        raise FetchError(f"{weight.name}/{file.path} is not in {store} and HF_HUB_OFFLINE forbids fetching it")
    source = _locate(weight, file)
    partial = _download(weight, file, source, store)
    found = _accept(weight, file, source, partial)
    final.parent.mkdir(parents=True, exist_ok=True)
    sync(partial)
    partial.replace(final)
    with suppress(OSError):  # Another of its files may be half there.
        partial.parent.rmdir()
    say(f"{weight.name}/{file.path}: {final.stat().st_size} bytes, sha256 {found}")
    return {"bytes": final.stat().st_size, "sha256": found, "commit": source.commit}


def _locate(weight: Weight, file: WeightFile) -> Source:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    # Read when called, not when huggingface_hub was imported; only the hub may see the token.
    endpoint = os.environ.get("HF_ENDPOINT") or None
    token = (os.environ.get("HF_TOKEN") or False) if weight.on_hub else False
    url = f"{weight.repository}/{file.path}"
    if weight.on_hub:
        url = hf_hub_url(weight.repository, file.path, revision=weight.revision, endpoint=endpoint)
    headers = build_hf_headers(token=token)
    try:
        found = get_hf_file_metadata(url, token=token, endpoint=endpoint)
    except OSError as error:
        raise FetchError(f"{weight.name}/{file.path}: {_first_line(error)}") from error
    if urlsplit(found.location).netloc != urlsplit(url).netloc:
        # Large files lie on a content network, which must not learn the token.
        headers.pop("authorization", None)
    etag = found.etag or ""
    return Source(found.location, headers, etag, found.commit_hash, found.size, etag if len(etag) == 64 else None)


def _download(weight: Weight, file: WeightFile, source: Source, store: Path) -> Path:
    """The whole file under its partial name, continued where an earlier try ended."""
    from huggingface_hub.file_download import http_get

    # The name holds the server's tag: another version of the file starts anew.
    tag = hashlib.sha256(f"{file.path} {source.etag or file.sha256}".encode()).hexdigest()[:16]
    partial = store / PARTIAL / weight.name / f"{tag}.partial"
    partial.parent.mkdir(parents=True, exist_ok=True)
    with partial.open("ab") as opened:
        _lock(opened, weight, file)
        done = opened.tell()
        _require_space(weight, source, done, store)
        try:
            http_get(source.url, opened, resume_size=done, headers=source.headers, expected_size=source.bytes)
        except (OSError, ValueError) as error:
            raise FetchError(
                f"{weight.name}/{file.path}: {_first_line(error)}; {opened.tell()} bytes are kept, fetch again to continue"
            ) from error
    return partial


def _lock(opened: IO[bytes], weight: Weight, file: WeightFile) -> None:
    """Keep other processes from writing to the same partial file; ends with the file's closing, however that comes."""
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise FetchError(f"{weight.name}/{file.path} is being fetched by another process") from error


def _accept(weight: Weight, file: WeightFile, source: Source, partial: Path) -> str:
    """The file's hash, once size and hash are what the registry and the server say; else the file is deleted."""
    size, found = partial.stat().st_size, hash_file(partial)
    for what, expected in (("this registry", file), ("its server", source)):
        if expected.bytes not in (None, size) or expected.sha256 not in (None, found):
            partial.unlink()
            raise FetchError(
                f"{weight.name}/{file.path} was refused and deleted: {size} bytes with sha256 {found}, "
                f"but {what} says {expected.bytes or 'any'} bytes with sha256 {expected.sha256 or 'any'}"
            )
    return found


def _require_space(weight: Weight, source: Source, done: int, store: Path) -> None:
    free = shutil.disk_usage(store).free
    if source.bytes is not None and source.bytes - done > free:
        raise FetchError(f"{weight.name} needs {source.bytes - done} more bytes in {store}, where {free} are free")


def _has_size(path: Path, size: int | None) -> bool:
    return path.is_file() and size in (None, path.stat().st_size)


def _by_hand(weight: Weight, store: Path) -> str:
    if weight.kind != "weights":
        return f"it is {'code' if weight.kind == 'code' else 'a service'}, see {weight.repository}"
    files = ", ".join(str(store / weight.name / file.path) for file in weight.file)
    return f"follow {weight.repository} and put it at {files}"


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
