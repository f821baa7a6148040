"""Writes that are either wholly there or not there at all: a temporary sibling, fsync, rename."""

import json
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def atomic_file(final: Path, *, shared: bool = False) -> Iterator[Path]:
    """A temporary sibling to write to; it becomes `final` when the block ends well, else it vanishes.

    `shared` files may be written by several threads or processes at once: each has a sibling of its own.
    """
    temporary = _sibling(final, f".{os.getpid()}-{threading.get_ident()}" if shared else "")
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
        sync(temporary)
        temporary.replace(final)
    finally:
        temporary.unlink(missing_ok=True)
    sync(final.parent)


@contextmanager
def atomic_directory(final: Path) -> Iterator[Path]:
    """An empty temporary sibling to fill; it replaces the folder `final` when the block ends well.

    A kill between the two renames leaves the old folder beside as `.<name>.old` and the new one complete as
    `.<name>.partial`; `final` itself is never seen half-filled.
    """
    temporary = _sibling(final)
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        _sync_tree(temporary)
        _replace_directory(temporary, final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync(final.parent)


def atomic_write_bytes(path: Path, data: bytes, *, shared: bool = False) -> None:
    """Put `data` at `path`: a reader sees the old bytes or the new ones, never a part. `shared` as of `atomic_file`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(path, shared=shared) as temporary:
        temporary.write_bytes(data)


def atomic_write_json(path: Path, value: Any) -> None:  # noqa: ANN401 - whatever json can write
    """Put `value` at `path` as JSON with sorted keys: the same value gives the same bytes."""
    atomic_write_bytes(path, (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())


def sync(path: Path) -> None:
    """Force a file's bytes, or a folder's entries, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sibling(final: Path, writer: str = "") -> Path:
    return final.with_name(f".{final.name}{writer}.partial")


def _sync_tree(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        sync(path)
    sync(folder)


def _replace_directory(new: Path, final: Path) -> None:
    old = final.with_name(f".{final.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if final.exists():
        final.rename(old)
    new.rename(final)
    shutil.rmtree(old, ignore_errors=True)
