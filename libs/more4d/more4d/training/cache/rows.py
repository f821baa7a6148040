"""How encoded samples lie in a safetensors file: one row a sample, read without the others.

A row's numbers are rounded to one type, its masks are eight to a byte, and text is without its padding.

Suffixes: B batch, N rows of a file, S rows of all texts of a file, D width.
"""

from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from more4d.models.conditions import to_unit_range
from more4d.models.conversion.stored import Place, places

Row = dict[str, Tensor]
StoredDtype = Literal["float16", "bfloat16", "float32"]
TEXT = "text"
"""The one field of which every sample has another length."""
_BITS, _SHAPE, _JOINED, _STARTS = ".bits", ".shape", ".joined", ".starts"


def rounded(row: Mapping[str, Tensor], dtype: StoredDtype) -> Row:
    """The row as it is stored: numbers in `dtype`, the largest of which stands for what is beyond it."""
    return {name: _rounded(value, getattr(torch, dtype)) for name, value in row.items()}


def _rounded(value: Tensor, dtype: torch.dtype) -> Tensor:
    value = value.detach().cpu()
    if not value.is_floating_point():
        return value
    # Beyond half precision's range is infinity, and infinity times an invisible point's weight of 0 is no number.
    largest = torch.finfo(dtype).max
    return value.clamp(-largest, largest).to(dtype)


def file_tensors(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """What a file holds of `rows`, which have the same fields of the same shapes (but for the length of their text)."""
    tensors: dict[str, Tensor] = {}
    for name, first in rows[0].items():
        values = [row[name] for row in rows]
        if name == TEXT:
            starts = np.cumsum([0, *(len(value) for value in values)])
            tensors |= {name + _JOINED: torch.cat(values), name + _STARTS: torch.from_numpy(starts)}
        elif first.dtype == torch.bool:
            bits = np.stack([np.packbits(value.numpy()) for value in values])
            tensors |= {name + _BITS: torch.from_numpy(bits), name + _SHAPE: torch.tensor(first.shape)}
        else:
            tensors[name] = torch.stack(values)
    return tensors


class RowFile:
    """A file that `file_tensors` filled; only the rows asked for are read. Safe to use from several threads.

    A file of one row stands for any number of equal ones. Raises ValueError for a file that is damaged.
    """

    def __init__(self, file: Path) -> None:
        found = places(file)
        self._found = found
        self._shapes = {name: tuple(found[name + _SHAPE].read().tolist()) for name in _stems(found, _BITS)}
        self._starts = {name: found[name + _STARTS].read().tolist() for name in _stems(found, _JOINED)}
        plain = [name for name in found if "." not in name]
        self.names = (*plain, *self._shapes, *self._starts)

    def read(self, name: str, row: int) -> Tensor:
        """A field of a row, in memory of its own and of the type that it was stored in."""
        if name in self._starts:
            start, end = self._starts[name][row : row + 2]
            return _read(self._found[name + _JOINED], start, end)
        if name in self._shapes:
            shape = self._shapes[name]
            bits = _read_row(self._found[name + _BITS], row).numpy()
            return torch.from_numpy(np.unpackbits(bits, count=prod(shape)).view(np.bool_)).reshape(shape)
        return _read_row(self._found[name], row)


def _stems(names: Mapping[str, Place], ending: str) -> list[str]:
    return [name.removesuffix(ending) for name in names if name.endswith(ending)]


def _read_row(place: Place, row: int) -> Tensor:
    row = 0 if place.shape[0] == 1 else row
    return _read(place, row, row + 1)[0]


def _read(place: Place, start: int, end: int) -> Tensor:
    """Rows start to end. Plain reading, no map of the file: it lets other threads run while the disk is waited for."""
    row_bytes = prod(place.shape[1:]) * place.dtype.itemsize
    value = torch.empty((end - start, *place.shape[1:]), dtype=place.dtype)
    if not 0 <= start <= end <= place.shape[0]:
        raise IndexError(f"rows {start} to {end} of {place.file}, which has {place.shape[0]}")
    room = value.reshape(-1).view(torch.uint8).numpy().data
    with place.file.open("rb", buffering=0) as opened:
        opened.seek(place.start + start * row_bytes)
        while room and (count := opened.readinto(room)):
            room = room[count:]
    if room:
        raise ValueError(f"{place.file} ends too early: it changed while it was read; run the stage latents")
    return value


def collate(rows: Sequence[Mapping[str, Tensor]], tokens: int) -> dict[str, Tensor]:
    """A batch of rows: numbers in single precision, text [B, tokens, D] with zeros behind it, video [B, 3, T, H, W] in [-1, 1].

    Raises ValueError for rows of different shapes.
    """
    return {name: _joined(name, [row[name] for row in rows], tokens) for name in rows[0]}


def _joined(name: str, values: Sequence[Tensor], tokens: int) -> Tensor:
    first = values[0]
    if name == TEXT:
        text = torch.zeros(len(values), tokens, first.shape[-1])
        for place, value in zip(text, values, strict=True):
            place[: len(value)] = value
        return text
    if shapes := {tuple(value.shape) for value in values} - {tuple(first.shape)}:
        raise ValueError(
            f"{name} of {tuple(first.shape)} and of {shapes.pop()} cannot be one batch; take batches from one bucket"
        )
    if name == "video":
        return to_unit_range(torch.stack(list(values)).permute(0, 4, 1, 2, 3))
    if not first.is_floating_point():
        return torch.stack(list(values)).to(torch.float32 if name == "mask" else first.dtype)
    batch = torch.empty(len(values), *first.shape)
    for place, value in zip(batch, values, strict=True):
        place.copy_(value)
    return batch
