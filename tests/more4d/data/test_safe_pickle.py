"""Claims about more4d.data.safe_pickle: arrays come back, nothing that a pickle names is ever run."""

import collections
import io
import os
import pickle
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from more4d.data.safe_pickle import UnsafePickleError, load_arrays

MARK = "more4d-was-here"


class _Call:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return self.function, self.arguments


def _torch_bytes(value: Any, *, legacy: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def _zip_bomb() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/0", bytes(5_000_000))
    return buffer.getvalue()


def _dumps(value: Any) -> bytes:
    return pickle.dumps({"coords": value})


def _tensor_of(*arguments: Any) -> _Call:
    return _Call(torch._utils._rebuild_tensor_v2, *arguments)


STORAGE = torch.zeros(4)._typed_storage()
HOSTILE: dict[str, bytes] = {
    "os.system": _dumps(_Call(os.system, f"touch {MARK}")),
    "subprocess": _dumps(_Call(subprocess.Popen, ["touch", MARK])),
    "eval": _dumps(_Call(eval, f"open({MARK!r}, 'w')")),
    "exec": _dumps(_Call(exec, f"open({MARK!r}, 'w')")),
    "open for writing": _dumps(_Call(open, MARK, "w")),
    "getattr": _dumps(_Call(getattr, (), "__class__")),
    "torch.load": _dumps(_Call(torch.load, MARK)),
    "code inside a tensor's storage": _dumps(
        _Call(torch.storage._load_from_bytes, _torch_bytes(_Call(os.system, f"touch {MARK}"), legacy=True))
    ),
    "code inside a torch zip": _torch_bytes({"coords": _Call(os.system, f"touch {MARK}")}, legacy=False),
    "zip bomb": _zip_bomb(),
    "array of objects": _dumps(np.array([_Call(os.system, f"touch {MARK}")], dtype=object)),
    "array of empty objects": _dumps(np.array([None, 1], dtype=object)),
    "tensor larger than its storage": _dumps(_tensor_of(STORAGE, 0, (1000, 1000), (1000, 1), False, None)),
    "tensor of terabytes out of one number": _dumps(_tensor_of(STORAGE, 0, (2**20, 2**20), (0, 0), False, None)),
    "tensor before its storage": _dumps(_tensor_of(STORAGE, -4, (4,), (1,), False, None)),
    "memo that fills the memory": b"\x80\x02}r\xff\xff\xff\x7f.",
    "endless opcodes": b"\x80\x02" + b"N0" * 20_000 + b"}.",
    "object by class": pickle.dumps(Path("x")),
    "attributes set on a function": b"\x80\x02cnumpy\nndarray\nN}X\x01\x00\x00\x00aK\x01s\x86b0}.",
    "call of numpy.ndarray": b"\x80\x02cnumpy\nndarray\n(K\x09tR.",
    "persistent id": b"\x80\x02X\x01\x00\x00\x00aQ.",
    "extension registry": b"\x80\x02\x82\x01.",
    "dotted name": b"\x80\x04\x8c\x05numpy\x8c\x0endarray.__init_\x93.",
    "no dict": pickle.dumps([1, 2]),
    "a number among arrays": pickle.dumps({"coords": 3}),
    "an ordered dict with content": pickle.dumps({"a": collections.OrderedDict(a=np.ones(2))}),
    "cut short": pickle.dumps({"coords": np.ones(1000)})[:-500],
    "nothing": b"",
    "text": b"hello there",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused_and_run_nothing(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnsafePickleError, match=r"x\.pkl"):
        load_arrays(HOSTILE[name], "x.pkl")
    assert list(tmp_path.iterdir()) == []


def test_the_marks_of_hostile_pickles_would_be_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pickle.loads(HOSTILE["os.system"])  # noqa: S301 - shows that the other test can fail
    assert (tmp_path / MARK).exists()


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_arrays_and_tensors_come_back_from_every_protocol(protocol: int) -> None:
    base = torch.arange(24, dtype=torch.float32).reshape(2, 3, 4)
    values = {
        "strided": base[:, 1:, ::2], "transposed": base.permute(2, 0, 1), "mask": base > 7, "bytes": base.to(torch.uint8),
        "numpy": base.numpy(), "fortran": np.asfortranarray(base.numpy()), "half": base.numpy().astype(np.float16),
        "big": base.numpy().astype(">i4"), "scalar": torch.tensor(3.0), "empty": torch.zeros(0, 3),
    }  # fmt: skip
    back = load_arrays(pickle.dumps(values, protocol), "x.pkl")
    for name, value in values.items():
        np.testing.assert_array_equal(back[name], np.asarray(value), err_msg=name)


@pytest.mark.parametrize("legacy", [False, True])
def test_torch_files_come_back(legacy: bool) -> None:
    data = _torch_bytes({"coords": torch.ones(3, 2)}, legacy=legacy)
    if legacy:
        with pytest.raises(UnsafePickleError):
            load_arrays(data, "x.pth")
    else:
        np.testing.assert_array_equal(load_arrays(data, "x.pth")["coords"], np.ones((3, 2)))
