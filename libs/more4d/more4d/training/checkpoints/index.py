"""What a checkpoint holds: which numbers of which tensor lie in which file, each file's hash, and the run's state."""

import hashlib
import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, model_validator

from more4d.data.atomic import atomic_write_bytes
from more4d.models.conversion import CheckpointError
from more4d.models.conversion.stored import DTYPES
from more4d.settings import Section
from more4d.training.checkpoints.part import PartRecord

INDEX = "index.json"
_FILE = re.compile(r"rank-\d{5,}\.safetensors")
_DIGEST = "sha256"

Run = tuple[str, int, int]
"""(file, start, count): `count` numbers from `start` on of the flattened tensor are in that file."""


class StoredFile(Section):
    """A file of the checkpoint's folder."""

    sha256: str
    size: int = Field(ge=0)


class StoredTensor(Section):
    """A tensor's whole shape, its type as safetensors calls it, and its runs by start, without a gap."""

    shape: tuple[int, ...]
    dtype: str
    runs: tuple[Run, ...]

    @property
    def size(self) -> int:
        """How many numbers the whole tensor has."""
        return math.prod(self.shape)

    @model_validator(mode="after")
    def _can_be_read(self) -> Self:
        if self.dtype not in DTYPES or any(length < 0 for length in self.shape):
            raise ValueError(f"{self.dtype} {list(self.shape)} is no type and shape of a tensor")
        end = 0
        for _, start, count in self.runs:
            if start != end or count < 1:
                raise ValueError(f"numbers {min(start, end)} to {max(start, end)} are in no piece or in two")
            end += count
        if end != self.size:
            raise ValueError(f"its pieces hold {end} numbers, its shape {list(self.shape)} asks for {self.size}")
        return self


class Index(Section):
    """The content of `index.json`. `state` is what the training gave beside its tensors."""

    version: Literal[1] = 1
    step: int = Field(ge=0)
    score: float | None = None
    files: dict[str, StoredFile]
    tensors: dict[str, StoredTensor]
    state: dict[str, Any]

    @model_validator(mode="after")
    def _names_only_its_own_files(self) -> Self:
        named = set(self.files).union(*({run[0] for run in tensor.runs} for tensor in self.tensors.values()))
        if strange := sorted(name for name in named if name not in self.files or not _FILE.fullmatch(name)):
            raise ValueError(f"{', '.join(strange[:3])} is no file of this checkpoint")
        return self


def merge_parts(step: int, parts: Sequence[PartRecord], state: dict[str, Any], score: float | None) -> Index:
    """The index of what all ranks wrote.

    Raises CheckpointError naming a tensor whose pieces differ in shape or type, overlap or leave a gap.
    """
    pieces: dict[str, list[tuple[tuple[int, ...], str, Run]]] = {}
    for part in parts:
        for piece in part.pieces:
            run = (part.file, piece.start, piece.count)
            pieces.setdefault(piece.name, []).append((piece.shape, piece.dtype, run))
    files = {part.file: StoredFile(sha256=part.sha256, size=part.size) for part in parts}
    tensors = {name: _merge(name, pieces[name]) for name in sorted(pieces)}
    return Index(step=step, score=score, files=files, tensors=tensors, state=state)


def _merge(name: str, pieces: Sequence[tuple[tuple[int, ...], str, Run]]) -> StoredTensor:
    kinds = sorted({(dtype, shape) for shape, dtype, _ in pieces})
    if len(kinds) > 1:
        raise CheckpointError(f"the pieces of {name} disagree: they are of {' and '.join(map(str, kinds))}")
    runs = sorted((run for _, _, run in pieces if run[2]), key=lambda run: run[1])
    try:
        return StoredTensor(shape=kinds[0][1], dtype=kinds[0][0], runs=tuple(runs))
    except ValidationError as error:
        raise CheckpointError(f"the pieces of {name} do not make one tensor: {_first(error)}") from error


def write_index(folder: Path, index: Index) -> None:
    """Put `index.json` into a folder, with the SHA-256 of its own content."""
    # Keys keep their order, and what is no number stays so: a run that goes on from here writes its history as an
    # undisturbed one does. Pydantic's own JSON has null for such numbers.
    content = index.model_dump()
    text = json.dumps({_DIGEST: _digest(content), **content}, indent=1)
    atomic_write_bytes(folder / INDEX, f"{text}\n".encode())


def read_index(folder: Path) -> Index:
    """The index of a checkpoint's folder. Raises CheckpointError naming the file when it is missing or damaged."""
    file = folder / INDEX
    try:
        content = json.loads(file.read_bytes())
        found = content.pop(_DIGEST)
        if _digest(content) != found:
            raise CheckpointError(f"{file} was altered: its content does not have the SHA-256 that it names")
        return Index.model_validate(content)
    except FileNotFoundError as error:
        raise CheckpointError(f"{file} is missing") from error
    except ValidationError as error:
        raise CheckpointError(f"{file} is no index of a checkpoint: {_first(error)}") from error
    except (UnicodeDecodeError, json.JSONDecodeError, AttributeError, KeyError, TypeError) as error:
        raise CheckpointError(f"{file} is no index of a checkpoint: {type(error).__name__} {error}") from error


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def _first(error: ValidationError) -> str:
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))} {first['msg']}".strip()
