"""Encoded samples by the key of what they were made from: taken instead of made again, as long as they are whole."""

import json
import logging
import os
import shutil
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from more4d.data.atomic import atomic_write_json
from more4d.data.hashing import hash_file
from more4d.models.conversion.stored import write_safetensors

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Entry:
    """A stored file, its SHA-256 and what rows it holds: a list a sample, of its views or of nothing."""

    file: Path
    sha256: str
    rows: list[list[str]]


class LatentStore:
    """A folder with `<key>.safetensors` and `<key>.json` a file, the second written last and touched at every use."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def get(self, key: str) -> Entry | None:
        """The entry of `key`, None where there is none; a damaged one is removed, with a warning, and counts as none."""
        if not self._note(key).exists():
            return None
        try:
            entry = self.entry(key)
            whole = hash_file(entry.file) == entry.sha256
        except (OSError, ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            log.warning("%s is damaged; what it held is computed again", self._file(key))
            self._remove(key)
            return None
        os.utime(self._note(key))
        return entry

    def entry(self, key: str) -> Entry:
        """The entry of a `key` that is known to be whole: from `get` or `put`, of this process or another."""
        told = json.loads(self._note(key).read_text())
        return Entry(self._file(key), told["sha256"], told["rows"])

    def put(self, key: str, tensors: Mapping[str, Tensor], rows: list[list[str]]) -> Entry:
        """Keep a file, wholly or not at all."""
        file = self._file(key)
        write_safetensors(file, {name: value.to("meta") for name, value in tensors.items()}, tensors.__getitem__)
        entry = Entry(file, hash_file(file), rows)
        atomic_write_json(self._note(key), {"sha256": entry.sha256, "rows": rows})
        return entry

    def cull(self, used: Collection[str], spare_bytes: int) -> int:
        """How many files were removed: of those that are not `used` the ones longest without use, beyond `spare_bytes`."""
        others = [note for note in self.folder.glob("*.json") if note.stem not in used]
        removed, left = 0, spare_bytes
        for note in sorted(others, key=lambda path: path.stat().st_mtime, reverse=True):
            file = self._file(note.stem)
            left -= file.stat().st_size if file.exists() else 0
            if left < 0:
                self._remove(note.stem)
                removed += 1
        return removed

    def _remove(self, key: str) -> None:
        self._note(key).unlink(missing_ok=True)
        self._file(key).unlink(missing_ok=True)

    def _file(self, key: str) -> Path:
        return self.folder / f"{key}.safetensors"

    def _note(self, key: str) -> Path:
        return self.folder / f"{key}.json"


def place(file: Path, target: Path) -> None:
    """Put a stored file at `target`: the same bytes on the disk where the file system can, else a copy."""
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)
