"""A complete checkpoint read back: any run of numbers of any tensor, whatever the ranks that wrote it.

Shapes: n numbers that are asked for.
"""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from more4d.data.hashing import hash_file
from more4d.models.conversion import CheckpointError
from more4d.models.conversion.stored import DTYPES, Place, places
from more4d.training.checkpoints.index import Index, Run, StoredTensor, read_index
from more4d.training.checkpoints.part import piece_key


class Checkpoint:
    """The checkpoint in `folder`; only its index is read until tensors are asked for.

    Raises CheckpointError naming the file when there is no index or it is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._index: Index = read_index(folder)
        self._places: dict[str, dict[str, Place]] = {}

    @property
    def step(self) -> int:
        """Steps that were finished when it was made."""
        return self._index.step

    @property
    def score(self) -> float | None:
        """What it was judged by, lower is better; None where it was not judged."""
        return self._index.score

    @property
    def state(self) -> dict[str, Any]:
        """What was saved beside the tensors, as JSON gives it back: lists for tuples, text for keys."""
        return self._index.state

    @property
    def ranks(self) -> int:
        """How many ranks wrote it."""
        return len(self._index.files)

    @property
    def size(self) -> int:
        """Bytes of its tensors' files."""
        return sum(file.size for file in self._index.files.values())

    def names(self) -> list[str]:
        """Names of all tensors, sorted."""
        return list(self._index.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's whole shape. Raises KeyError where there is no such tensor."""
        return self._tensor(name).shape

    def dtype(self, name: str) -> torch.dtype:
        """A tensor's type. Raises KeyError where there is no such tensor."""
        return DTYPES[self._tensor(name).dtype]

    def read(self, name: str, start: int, count: int) -> Tensor:
        """The numbers [n] from `start` on of the flattened tensor, on the CPU; nothing else is read.

        This is a `Read`: it raises KeyError where there is no such tensor, ValueError where it is shorter, and
        CheckpointError where a file is damaged.
        """
        tensor = self._tensor(name)
        end = start + count
        if start < 0 or count < 0 or end > tensor.size:
            raise ValueError(f"{name} has {tensor.size} numbers {list(tensor.shape)}, not those from {start} to {end}")
        found = torch.empty(count, dtype=DTYPES[tensor.dtype], device="cpu")
        for run in tensor.runs:
            first, last = max(start, run[1]), min(end, run[1] + run[2])
            if first < last:
                found[first - start : last - start] = self._place(name, run, first, last).read()
        return found

    def whole(self, name: str) -> Tensor:
        """A tensor in its own shape, on the CPU. Raises like `read`."""
        tensor = self._tensor(name)
        return self.read(name, 0, math.prod(tensor.shape)).reshape(tensor.shape)

    def problems(self, part: int = 0, parts: int = 1) -> list[str]:
        """What is wrong with the files: every size, and the SHA-256 of each `parts`-th file from `part` on."""
        found = [self._problem(name, hashed=n % parts == part) for n, name in enumerate(sorted(self._index.files))]
        return [problem for problem in found if problem]

    def _problem(self, name: str, *, hashed: bool) -> str:
        file, expected = self.folder / name, self._index.files[name]
        try:
            if (size := file.stat().st_size) != expected.size:
                return f"{file} has {size} bytes, not {expected.size}"
            if hashed and hash_file(file) != expected.sha256:
                return f"{file} was altered: it does not have the SHA-256 of the index"
        except FileNotFoundError:
            return f"{file} is missing"
        except OSError as error:
            return f"{file} cannot be read: {error.strerror or error}"
        return ""

    def _tensor(self, name: str) -> StoredTensor:
        if name not in self._index.tensors:
            raise KeyError(f"{self.folder} holds no tensor {name}")
        return self._index.tensors[name]

    def _place(self, name: str, run: Run, first: int, last: int) -> Place:
        """Where the numbers from `first` to `last` of a tensor lie, both within one of its runs."""
        file, start, _ = run
        if file not in self._places:
            self._places[file] = places(self.folder / file)
        place = self._places[file].get(piece_key(name, start))
        if place is None or (place.dtype, place.shape) != (DTYPES[self._tensor(name).dtype], (run[2],)):
            raise CheckpointError(f"{self.folder / file} does not hold the {run[2]} numbers of {name} from {start} on")
        return replace(place, start=place.start + (first - start) * place.dtype.itemsize, shape=(last - first,))
