"""Tensors and arrays out of foreign pickles, and nothing else.

No function that a pickle names is ever called: the few names that arrays and tensors are pickled with stand for
functions of this module, which check what they are given; every other name is refused. The opcodes are looked
through first, because some cost memory without naming anything.
"""

import io
import pickle
import pickletools
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

_ZIP = b"PK\x03\x04"
_MAX_OPCODES = 10_000
_FORBIDDEN = frozenset(
    {"PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4", "INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "NEXT_BUFFER"}
)


class UnsafePickleError(ValueError):
    """A pickle that asks for more than arrays and tensors, or is damaged; the message says what it asked for."""


def load_arrays(data: bytes, name: str) -> dict[str, NDArray[Any]]:
    """The dict of numeric arrays and tensors that a pickle or a torch zip file `name` holds, as NumPy arrays.

    Raises UnsafePickleError on anything else: code, objects, Python numbers among the values, damage.
    """
    try:
        value = _load_zip(data) if data[:4] == _ZIP else _load_pickle(data)
    except UnsafePickleError as error:
        raise UnsafePickleError(f"{name}: {error}") from error
    except _DAMAGE as error:
        raise UnsafePickleError(f"{name} is damaged or no pickle of arrays: {type(error).__name__}: {error}") from error
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise UnsafePickleError(f"{name} holds a {type(value).__name__}, not arrays by name")
    return {key: _as_array(item, f"{name}: {key}") for key, item in value.items()}


_DAMAGE = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError, RuntimeError,
    MemoryError, OverflowError, UnicodeDecodeError, zipfile.BadZipFile,
)  # fmt: skip


def _as_array(value: Any, what: str) -> NDArray[Any]:
    if isinstance(value, _Array) and value.values is not None:
        return value.values
    if isinstance(value, torch.Tensor):
        return value.detach().to(torch.float32 if value.dtype == torch.bfloat16 else value.dtype).numpy()
    raise UnsafePickleError(f"{what} is a {type(value).__name__}, not an array")


def _load_zip(data: bytes) -> Any:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        # torch stores, it does not compress: whatever unpacks to more than it takes is a bomb.
        if sum(member.file_size for member in archive.infolist()) > len(data):
            raise UnsafePickleError("the torch file unpacks to more than its size")
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _load_pickle(data: bytes) -> Any:
    for count, (opcode, argument, _) in enumerate(pickletools.genops(data)):
        if count > _MAX_OPCODES:
            raise UnsafePickleError(f"more than {_MAX_OPCODES} opcodes are no pickle of a few arrays")
        if opcode.name in _FORBIDDEN:
            raise UnsafePickleError(f"opcode {opcode.name} makes objects, which arrays do not need")
        if opcode.name in ("LONG_BINPUT", "PUT") and int(argument or 0) > _MAX_OPCODES:
            raise UnsafePickleError(f"memo {argument} would fill the memory")
    return _Unpickler(io.BytesIO(data)).load()


class _StandIn:
    """A function of this module under a foreign name; it has no attribute that a pickle could set."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]) -> None:
        object.__setattr__(self, "_function", function)

    def __call__(self, *arguments: Any) -> Any:
        return self._function(*arguments)

    def __setattr__(self, name: str, value: Any) -> None:
        raise UnsafePickleError(f"the pickle sets {name} of a function")

    def __setstate__(self, state: Any) -> None:
        raise UnsafePickleError("the pickle sets a function's state")


class _Array:
    """What `numpy._reconstruct` makes: empty until BUILD hands over version, shape, dtype, order and bytes."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values: NDArray[Any] | None = None

    def __setstate__(self, state: Any) -> None:
        _, shape, dtype, fortran, raw = state
        self.values = _array(raw, dtype, shape, "F" if fortran else "C")


class _Dtype:
    """What `numpy.dtype` makes: a number's type; BUILD adds the byte order."""

    __slots__ = ("dtype",)

    def __init__(self, code: Any) -> None:
        if not isinstance(code, str) or not _is_number(code):
            raise UnsafePickleError(f"dtype {code!r} is no number's")
        self.dtype = np.dtype(code)

    def __setstate__(self, state: Any) -> None:
        order = state[1]
        if order not in ("<", ">", "|", "="):
            raise UnsafePickleError(f"dtype with byte order {order!r}")
        self.dtype = self.dtype.newbyteorder(order)


def _is_number(code: str) -> bool:
    kind, width = code[:1], code[1:]
    return kind in "biuf" and width in ("1", "2", "4", "8")


def _array(raw: Any, dtype: Any, shape: Any, order: Any) -> NDArray[Any]:
    if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes | bytearray) or order not in ("C", "F"):
        raise UnsafePickleError("an array of something other than numbers")
    return np.frombuffer(bytes(raw), dtype.dtype).reshape(_sizes(shape), order=order)


def _from_buffer(raw: Any, dtype: Any, shape: Any, order: Any) -> _Array:
    made = _Array()
    made.values = _array(raw, dtype, shape, order)
    return made


def _reconstruct(kind: Any, shape: Any, code: Any) -> _Array:
    if kind is not _NDARRAY:
        raise UnsafePickleError("a subclass of an array")
    return _Array()


def _storage(data: Any) -> Any:
    if not isinstance(data, bytes):
        raise UnsafePickleError("a tensor's storage is not bytes")
    # torch's own function of this name would load with code execution allowed.
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_rest: Any) -> torch.Tensor:
    if not isinstance(storage, torch.storage.TypedStorage):
        raise UnsafePickleError(f"a tensor over a {type(storage).__name__}")
    size, stride = _sizes(size), _sizes(stride)
    held = storage._untyped_storage.nbytes() // storage.dtype.itemsize
    reach = int(offset) + sum((n - 1) * step for n, step in zip(size, stride, strict=True)) + 1
    # Numbers that overlap could make terabytes of one, and torch enlarges a storage that is too small.
    if offset < 0 or (0 not in size and reach > held) or int(np.prod(size, dtype=object)) > held:
        raise UnsafePickleError(f"a tensor of {list(size)} over a storage of {held}")
    return torch.empty(0, dtype=storage.dtype).set_(storage._untyped_storage, int(offset), size, stride)


def _sizes(shape: Any) -> tuple[int, ...]:
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise UnsafePickleError(f"a shape {shape!r}")
    return shape


def _hooks(*arguments: Any) -> dict[str, Any]:
    if arguments:
        raise UnsafePickleError("an OrderedDict with content")
    return {}


def _latin1(text: Any, encoding: Any) -> bytes:
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise UnsafePickleError("an encoding other than latin1")
    return text.encode("latin-1")


def _no_call(*_arguments: Any) -> Any:
    raise UnsafePickleError("the pickle calls numpy.ndarray")


_NDARRAY = _StandIn(_no_call)
_RECONSTRUCT, _FROM_BUFFER = _StandIn(_reconstruct), _StandIn(_from_buffer)
_NAMES = {
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy", "dtype"): _StandIn(lambda code, *_: _Dtype(code)),
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,
    ("numpy.core.numeric", "_frombuffer"): _FROM_BUFFER,
    ("numpy._core.numeric", "_frombuffer"): _FROM_BUFFER,
    ("torch._utils", "_rebuild_tensor_v2"): _StandIn(_tensor),
    ("torch.storage", "_load_from_bytes"): _StandIn(_storage),
    ("collections", "OrderedDict"): _StandIn(_hooks),
    ("_codecs", "encode"): _StandIn(_latin1),
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _NAMES:
            raise UnsafePickleError(f"it asks for {module}.{name}; only arrays and tensors are loaded")
        return _NAMES[module, name]
