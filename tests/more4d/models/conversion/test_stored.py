import json
import os
import struct
from pathlib import Path

import pytest
import torch
from more4d.models.conversion import CheckpointError, outlines, read_published, stored
from more4d.models.conversion.stored import DTYPES, places, write_safetensors
from safetensors.torch import load_file, save_file
from torch import Tensor


def of_every_dtype() -> dict[str, Tensor]:
    made = {f"a.{name}": torch.randn(3, 5).mul(4).to(dtype) for name, dtype in DTYPES.items()}
    return made | {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4), "odd": torch.ones(3, dtype=torch.uint8)}


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    kinds = all(found[k].dtype == v.dtype and found[k].shape == v.shape for k, v in expected.items())
    return found.keys() == expected.keys() and kinds and all(bits(found[k]) == bits(v) for k, v in expected.items())


def bits(value: Tensor) -> list[int]:
    return value.contiguous().reshape(-1).view(torch.uint8).tolist()


def test_what_the_library_wrote_is_read_bit_for_bit(tmp_path: Path) -> None:
    save_file(made := of_every_dtype(), tmp_path / "x.safetensors", metadata={"format": "pt"})
    assert same({name: place.read() for name, place in places(tmp_path / "x.safetensors").items()}, made)


def test_a_tensor_is_rounded_to_another_dtype_as_torch_rounds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "_PIECE", 7)
    save_file(made := of_every_dtype(), tmp_path / "x.safetensors")
    expected = {k: v.to(torch.bfloat16) if v.is_floating_point() else v for k, v in made.items()}
    found = {name: place.read(torch.bfloat16) for name, place in places(tmp_path / "x.safetensors").items()}
    assert same(found, expected)


def test_what_is_written_the_library_reads_bit_for_bit(tmp_path: Path) -> None:
    made = of_every_dtype() | {"transposed": torch.randn(3, 2).T}
    write_safetensors(tmp_path / "new" / "x.safetensors", outlines(made), made.__getitem__)
    assert same(load_file(tmp_path / "new" / "x.safetensors"), made)


def test_one_tensor_is_held_at_a_time_while_writing(tmp_path: Path) -> None:
    asked: list[str] = []

    def read(name: str) -> Tensor:
        asked.append(name)
        # What came before is in the file, but for the buffer of the last writes.
        written = sum(path.stat().st_size for path in tmp_path.iterdir())
        assert written >= 2**20 * (len(asked) - 1)
        return torch.zeros(2**18)

    shape = torch.empty(2**18, device="meta")
    write_safetensors(tmp_path / "x.safetensors", {f"t{i}": shape for i in range(4)}, read)
    assert asked == ["t0", "t1", "t2", "t3"]


def test_a_file_larger_than_the_memory_is_read_tensor_by_tensor(tmp_path: Path) -> None:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    file, count, each = tmp_path / "x.safetensors", memory // 2**24 + 100, 2**24
    header = {
        f"t{i}": {"dtype": "BF16", "shape": [each // 2], "data_offsets": [i * each, (i + 1) * each]}
        for i in range(count)
    }
    text = json.dumps(header).encode()
    with file.open("wb") as opened:  # sparse: it takes no room on the disk
        opened.write(struct.pack("<Q", len(text)) + text)
        opened.truncate(8 + len(text) + count * each)
        opened.seek(-2, os.SEEK_END)
        opened.write(torch.tensor([1.0], dtype=torch.bfloat16).view(torch.uint8).numpy().data)
    state = read_published(file)
    assert sum(value.nbytes for value in outlines(state).values()) > memory
    assert state[f"t{count - 1}"][-2:].tolist() == [0.0, 1.0]


def test_a_file_that_shrinks_between_header_and_tensor_is_noticed(tmp_path: Path) -> None:
    save_file({"a": torch.ones(8)}, tmp_path / "x.safetensors")
    found = places(tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").write_bytes((tmp_path / "x.safetensors").read_bytes()[:-3])
    with pytest.raises(CheckpointError, match="ends too early, at "):
        found["a"].read()


def test_an_unknown_type_is_named(tmp_path: Path) -> None:
    text = json.dumps({"a": {"dtype": "C64", "shape": [1], "data_offsets": [0, 8]}}).encode()
    (tmp_path / "x.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(8))
    with pytest.raises(CheckpointError, match="unknown types C64"):
        places(tmp_path / "x.safetensors")
