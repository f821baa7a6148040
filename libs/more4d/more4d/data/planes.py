"""16-bit differences as compressed byte planes: small numbers of either sign first, so that high bytes are mostly 0.

What fits one byte after folding the sign into the lowest bit (0, -1, 1, -2, ... as 0, 1, 2, 3, ...) leaves the second
plane empty, and zstd restores empty planes at the speed of memory.
"""

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

_LEVEL = 5


def pack_planes(values: NDArray[np.int16]) -> bytes:
    """The bytes of all low and then all high halves of the folded values, by zstd; the same values, the same bytes."""
    values = np.ascontiguousarray(values).ravel()
    folded = ((values << 1) ^ (values >> 15)).astype("<u2", copy=False)
    planes = np.ascontiguousarray(folded.view(np.uint8).reshape(-1, 2).T)
    return pa.Codec("zstd", compression_level=_LEVEL).compress(planes, asbytes=True)


def unpack_planes(data: bytes, count: int) -> NDArray[np.uint8]:
    """The low and the high bytes [2, count] of values still folded; `unfold` says what they mean.

    Allocates what `count` says, whatever the bytes claim. Raises ValueError where they hold something else.
    """
    try:
        found: Any = pa.Codec("zstd").decompress(data, 2 * count)
    except OSError as error:
        raise ValueError(f"{error} ({count} numbers are wanted)") from error
    return np.frombuffer(found, np.uint8).reshape(2, count)


def unfold(planes: NDArray[np.uint8]) -> NDArray[np.int16]:
    """The values [N] that pack_planes was given, of the planes [2, N]."""
    folded = planes[0] | planes[1].astype(np.uint16) << 8
    return ((folded >> 1) ^ -(folded & 1)).view(np.int16)
