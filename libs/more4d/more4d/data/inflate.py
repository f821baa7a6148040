"""Deflated bytes of a known length: what claims to be short cannot fill the memory."""

import zlib


def inflate(data: bytes, size: int) -> bytes:
    """The `size` bytes that were deflated. Raises ValueError where there are more or fewer, or the data are damaged."""
    unpacker = zlib.decompressobj()
    try:
        found = unpacker.decompress(data, size + 1)
    except zlib.error as error:
        raise ValueError(f"damaged: {error}") from error
    if len(found) > size:
        raise ValueError(f"more than the {size} bytes that its header wants")
    if len(found) < size or not unpacker.eof:
        raise ValueError(f"cut short: {len(found)} bytes where its header wants {size}")
    return found
