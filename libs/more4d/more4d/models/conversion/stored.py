"""Safetensors files one tensor at a time, read and written without a map of the file.

The library's own reader maps a file as private memory, which Linux refuses for files larger than the machine's memory;
a published network of 14B in a single file is one. Its checks of the header are used.
"""

import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from more4d.data.atomic import atomic_file
from more4d.models.conversion.names import CheckpointError, listed

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_PIECE = 2**14
"""Numbers that are rounded at once: few, since larger buffers that come and go tear holes into the heap."""
_POINTER = b"version https://git-lfs"


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: its file, the bytes there, and what they are."""

    file: Path
    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]

    def outline(self) -> Tensor:
        """The tensor without its values, on the meta device."""
        return torch.empty(self.shape, dtype=self.dtype, device="meta")

    def read(self, dtype: torch.dtype | None = None) -> Tensor:
        """The tensor in memory of its own, in `dtype` where that is given and the tensor floating.

        Raises CheckpointError when the file ends before it.
        """
        wanted = dtype if dtype is not None and self.dtype.is_floating_point else self.dtype
        value = torch.empty(self.shape, dtype=wanted, device="cpu")
        flat = value.reshape(-1)
        with self.file.open("rb", buffering=0) as opened:
            opened.seek(self.start)
            if wanted == self.dtype:
                self._fill(flat, opened)
                return value
            piece = torch.empty(min(_PIECE, len(flat)), dtype=self.dtype, device="cpu")
            for part in flat.split(_PIECE):
                self._fill(piece[: len(part)], opened)
                part.copy_(piece[: len(part)])
        return value

    def _fill(self, flat: Tensor, opened: FileIO) -> None:
        room = flat.view(torch.uint8).numpy().data
        while room and (count := opened.readinto(room)):
            room = room[count:]
        if room:
            raise CheckpointError(f"{self.file} ends too early, at {opened.tell()} bytes: it changed while it was read")


def places(file: Path) -> dict[str, Place]:
    """Every tensor's place in a file. Raises CheckpointError for one that is missing, truncated or of another kind."""
    require_file(file)
    try:
        # numpy's reader maps the file as shared memory, whatever its size, and checks the whole header.
        with safe_open(file, "np"):
            pass
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is truncated or no safetensors file: {error}") from error
    header, start = _header(file)
    if unknown := sorted({entry["dtype"] for entry in header.values()} - DTYPES.keys()):
        raise CheckpointError(f"{file} holds tensors of unknown types {listed(unknown)}")
    return {
        name: Place(file, start + entry["data_offsets"][0], DTYPES[entry["dtype"]], tuple(entry["shape"]))
        for name, entry in header.items()
    }


def _header(file: Path) -> tuple[dict[str, Any], int]:
    """The entries of a file's header, and where its data starts."""
    with file.open("rb") as opened:
        (length,) = struct.unpack("<Q", opened.read(8))
        header = json.loads(opened.read(length))
    return {name: entry for name, entry in header.items() if name != "__metadata__"}, 8 + length


def require_file(file: Path) -> None:
    """Raises CheckpointError unless the file is there, and not only git-lfs's pointer to it."""
    if not file.is_file():
        raise CheckpointError(f"checkpoint file {file} is missing")
    if first_bytes(file, len(_POINTER)) == _POINTER:
        raise CheckpointError(f"{file} is a git-lfs pointer, not the weights it stands for: run `git lfs pull`")


def first_bytes(file: Path, count: int) -> bytes:
    """How a file starts."""
    with file.open("rb") as opened:
        return opened.read(count)


def write_safetensors(file: Path, outlines: Mapping[str, Tensor], read: Callable[[str], Tensor]) -> None:
    """Write a file wholly or not at all, holding one tensor at a time.

    `read` gives the tensor of a name, of the shape and dtype that `outlines` has for it on the meta device.
    """
    # The largest numbers first, as the format asks: so every tensor is aligned to its own.
    names = sorted(outlines, key=lambda name: (-outlines[name].itemsize, name))
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name in names:
        start, end = end, end + outlines[name].nbytes
        entry = {
            "dtype": _NAMES[outlines[name].dtype],
            "shape": list(outlines[name].shape),
            "data_offsets": [start, end],
        }
        header[name] = entry
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(file) as partial, partial.open("wb") as opened:
        opened.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            value = read(name).to("cpu").contiguous()
            assert (value.shape, value.dtype) == (outlines[name].shape, outlines[name].dtype)
            opened.write(value.reshape(-1).view(torch.uint8).numpy().data)
