"""Arrays by name in safetensors files, with facts about them; the same content gives the same bytes."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

_FACTS = "facts"


def encode_arrays(arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> bytes:
    """A safetensors file's bytes; bool arrays become uint8."""
    stored = {
        name: np.ascontiguousarray(array.astype(np.uint8) if array.dtype == bool else array)
        for name, array in sorted(arrays.items())
    }
    # One key: safetensors writes several in an order that changes from run to run.
    return save(stored, {_FACTS: json.dumps(dict(facts), sort_keys=True, allow_nan=False)})


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]], facts: Mapping[str, Any]) -> None:
    """Write encode_arrays' bytes."""
    path.write_bytes(encode_arrays(arrays, facts))


def read_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """(arrays by name, facts). Raises ValueError naming the file where it is missing or damaged."""
    try:
        with safe_open(path, framework="numpy") as file:
            facts = (file.metadata() or {}).get(_FACTS, "{}")
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(facts)  # noqa: SIM118
    except (SafetensorError, FileNotFoundError) as error:
        raise ValueError(f"{path} cannot be read as safetensors: {error}") from error
