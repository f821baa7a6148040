"""Writes what was measured into `models/weights.toml`, every comment and blank line kept."""

import json
import tomllib
from pathlib import Path
from typing import Any

import tomlkit

from more4d.data.atomic import atomic_write_bytes
from more4d.weights.fetch import FETCHED
from more4d.weights.registry import Registry, Weight
from more4d.weights.verify import Verdict

_COMMIT_DIGITS = 40


def record(verdicts: list[Verdict], registry: Path, store: Path) -> list[str]:
    """The facts that were added to the registry, one line each; what is recorded already is never changed.

    Raises ValueError, with nothing written, for a weight that was found wrong.
    """
    if wrong := [v.weight.name for v in verdicts if not v.fits]:
        raise ValueError(f"{', '.join(wrong)} did not verify, so nothing is recorded")
    document: Any = tomlkit.parse(registry.read_text())
    entries = {entry["name"]: entry for entry in document["weight"]}
    added = [line for v in verdicts for line in _record_one(entries[v.weight.name], v, store)]
    if added:
        text = tomlkit.dumps(document)
        Registry.model_validate(tomllib.loads(text))
        atomic_write_bytes(registry, text.encode())
    return added


def _record_one(entry: Any, verdict: Verdict, store: Path) -> list[str]:
    added = []
    for file in entry["file"]:
        size, sha256 = verdict.measured[file["path"]]
        for key, value in (("bytes", size), ("sha256", sha256)):
            if key not in file:
                file[key] = value
                added.append(f"{verdict.weight.name}/{file['path']}: {key} = {value}")
    commit = _commit(verdict.weight, store)
    if commit and "revision" not in entry:
        entry["revision"] = commit
        added.append(f"{verdict.weight.name}: revision = {commit}")
    return added


def _commit(weight: Weight, store: Path) -> str:
    """The commit that the files were fetched at, where the hub named one."""
    path = store / weight.name / FETCHED
    revision = json.loads(path.read_text()).get("revision") if path.is_file() else None
    return revision if isinstance(revision, str) and len(revision) == _COMMIT_DIGITS else ""
