"""What files are told apart by."""

import hashlib
from pathlib import Path


def hash_file(file: Path) -> str:
    """SHA-256 of a file of any size, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
