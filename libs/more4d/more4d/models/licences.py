"""Under which licence a checkpoint folder's networks are: `licences.json` beside their files."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from more4d.data.atomic import atomic_write_json

LICENCES = "licences.json"
OWN = "Apache-2.0"
"""Of networks that were trained here; a folder that says nothing holds those."""
_SAVED = TypeAdapter(dict[str, str])


def write_licences(folder: Path, licences: Mapping[str, str]) -> None:
    """Say under which licence each network in the folder is."""
    atomic_write_json(folder / LICENCES, dict(licences))


def read_licence(network: str, file: Path) -> str:
    """The licence of a network's file, as its folder says. Raises ValueError where what the folder says is not legible."""
    saved = file.parent / LICENCES
    if not saved.is_file():
        return OWN
    try:
        return _SAVED.validate_json(saved.read_bytes()).get(network, OWN)
    except ValidationError as error:
        raise ValueError(f"{saved} must hold a licence for each network: {error.errors()[0]['msg']}") from error
