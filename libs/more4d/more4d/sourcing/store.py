"""Downloads on disk by the hash of their address: whole ones with their facts, and begun ones that can be continued."""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from more4d.data.atomic import atomic_write_json, sync
from more4d.data.hashing import hash_file


@dataclass(frozen=True)
class Fetched:
    """A file that was had, with its SHA-256 and size in bytes; or, where `reason` says why not, none."""

    file: Path | None
    sha256: str = ""
    bytes: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Place:
    """Where one address's file, its facts and its begun download are."""

    final: Path

    @property
    def part(self) -> Path:
        """The bytes that came so far."""
        return self.final.with_suffix(".part")

    @property
    def _facts(self) -> Path:
        return self.final.with_suffix(".json")

    @property
    def _validator(self) -> Path:
        return self.final.with_suffix(".part.json")

    def had(self) -> Fetched | None:
        """The file, where a former run had it whole."""
        if not (self.final.is_file() and self._facts.is_file()):
            return None
        facts = json.loads(self._facts.read_text())
        if self.final.stat().st_size != facts["bytes"]:
            return None
        return Fetched(self.final, facts["sha256"], facts["bytes"])

    def begun(self) -> tuple[int, str]:
        """Bytes that may be continued, and the server's name for that version of the file; (0, "") to start anew."""
        if not (self.part.is_file() and self._validator.is_file()):
            return 0, ""
        validator = json.loads(self._validator.read_text())["validator"]
        return (self.part.stat().st_size, validator) if validator else (0, "")

    def begin(self, validator: str) -> None:
        """Start anew: an empty part of the version that `validator` names."""
        self.final.parent.mkdir(parents=True, exist_ok=True)
        # Emptied before it is named: a kill in between leaves nothing to be continued under the wrong name.
        self.part.write_bytes(b"")
        atomic_write_json(self._validator, {"validator": validator})

    def drop(self) -> None:
        """Forget what was begun and what was had."""
        for path in (self.part, self._validator, self.final, self._facts):
            path.unlink(missing_ok=True)

    def finish(self) -> Fetched:
        """Make the part the file. Facts first: a file without them is not had."""
        found = Fetched(self.final, hash_file(self.part), self.part.stat().st_size)
        sync(self.part)
        atomic_write_json(self._facts, {"bytes": found.bytes, "sha256": found.sha256})
        self.part.replace(self.final)
        sync(self.final.parent)
        self._validator.unlink(missing_ok=True)
        return found


def place_of(folder: Path, url: str) -> Place:
    """Where the file of `url` is kept in `folder`."""
    key = hashlib.sha256(url.encode("utf-8", "surrogateescape")).hexdigest()[:40]
    return Place(folder / key[:2] / f"{key[2:]}.file")


def link_or_copy(source: Path, target: Path) -> None:
    """Put the bytes of `source` at `target`, on the same disk without copying them."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
