"""One rank's share of a checkpoint: a safetensors file of runs of numbers, and a record of what is in it.

Shapes: n numbers of one piece.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from more4d.data.atomic import atomic_write_bytes
from more4d.data.hashing import hash_file
from more4d.models.conversion import CheckpointError
from more4d.models.conversion.stored import DTYPES, write_safetensors
from more4d.settings import Section
from more4d.training.distributed.pieces import Piece

DTYPE_NAMES = {dtype: name for name, dtype in DTYPES.items()}
"""What safetensors calls each type that a checkpoint can hold."""
_OVERHEAD = 512
"""Bytes beside the numbers that a piece needs at most, in the file's header, the record and the index."""


class PieceRecord(Section):
    """Where a piece belongs: `count` numbers from `start` on of a tensor of this shape."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    start: int
    count: int


class PartRecord(Section):
    """One rank's file: what it holds, how long it is and its SHA-256. Written last, so that it marks the file as done."""

    file: str
    size: int
    sha256: str
    pieces: tuple[PieceRecord, ...]


def part_file(rank: int) -> str:
    """The name of a rank's file."""
    return f"rank-{rank:05d}.safetensors"


def record_file(rank: int) -> str:
    """The name of the record beside it, there only until the checkpoint is complete."""
    return f"rank-{rank:05d}.json"


def piece_key(name: str, start: int) -> str:
    """A piece's key within its file: a rank may hold several runs of one tensor."""
    return f"{name}@{start}"


def bytes_needed(pieces: Iterable[Piece]) -> int:
    """About how many bytes of disk these pieces take, rather too many than too few."""
    return sum(piece.values.nbytes + len(piece.name) * 4 + _OVERHEAD for piece in pieces) + _OVERHEAD


def on_cpu(pieces: Iterable[Piece]) -> list[Piece]:
    """The pieces with values [n] in CPU memory of their own, which training does not change."""
    return [replace(piece, values=piece.values.detach().to("cpu", copy=True)) for piece in pieces]


def write_part(folder: Path, rank: int, pieces: Sequence[Piece]) -> None:
    """Write a rank's file and its record, both forced onto the disk; a rank without pieces writes an empty file.

    Raises CheckpointError where the folder is not here or a piece cannot be stored, OSError where the disk is full.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not seen from rank {rank}: checkpoints need a folder that all nodes share")
    records = [_record(piece) for piece in pieces]
    values = {piece_key(p.name, p.start): p.values.detach() for p in pieces if p.values.numel()}
    file = folder / part_file(rank)
    write_safetensors(file, values, values.__getitem__)
    record = PartRecord(file=file.name, size=file.stat().st_size, sha256=hash_file(file), pieces=tuple(records))
    atomic_write_bytes(folder / record_file(rank), record.model_dump_json().encode())


def _record(piece: Piece) -> PieceRecord:
    values = piece.values
    if values.ndim != 1:
        raise CheckpointError(f"the piece of {piece.name} is {list(values.shape)}, not a run of numbers")
    return PieceRecord(
        name=piece.name, shape=piece.shape, dtype=_dtype(piece.name, values), start=piece.start, count=len(values)
    )


def _dtype(name: str, values: Tensor) -> str:
    if values.dtype not in DTYPE_NAMES:
        known = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPE_NAMES)
        raise CheckpointError(f"{name} is of type {values.dtype}, which checkpoints cannot hold: one of {known}")
    return DTYPE_NAMES[values.dtype]
