"""A job's folder: its receipt, one submission at a time, and what it left behind."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from more4d.launch.job import Receipt, State, Status


@contextmanager
def one_submission(folder: Path) -> Iterator[int]:
    """Holds off every other process that would submit into `folder`; gives the lock's descriptor.

    A child that inherits the descriptor holds the lock on when this process dies.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield file.fileno()


def write_receipt(receipt: Receipt) -> Receipt:
    """Put the receipt into the job's folder: wholly or not at all."""
    write_whole(receipt.folder / "receipt.json", receipt.model_dump_json(indent=1) + "\n")
    return receipt


def read_receipt(folder: Path) -> Receipt | None:
    """The receipt of the job in `folder`, or None when nothing was submitted there."""
    file = folder / "receipt.json"
    return Receipt.model_validate_json(file.read_text()) if file.is_file() else None


def find_receipt(folder: Path, reference: str) -> Receipt | None:
    """The receipt below `folder` with this key or job number; the last one submitted when several have it."""
    found = [r for file in folder.glob("*/receipt.json") if (r := read_receipt(file.parent)) is not None]
    found = [receipt for receipt in found if reference in (receipt.key, receipt.job_id)]
    return max(found, key=lambda receipt: receipt.submitted, default=None)


def require_same(receipt: Receipt, digest: str) -> Receipt:
    """The receipt, when it is of the job with this digest. Raises ValueError."""
    if receipt.digest and receipt.digest != digest:
        raise ValueError(f"key {receipt.key!r} was given to another job ({receipt.folder}); choose a new key")
    return receipt


def write_whole(file: Path, text: str, mode: int = 0o644) -> None:
    """Write a file so that a reader sees all of it or none, after a loss of power too."""
    partial = file.with_name(f".{file.name}.{os.getpid()}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(descriptor)
    partial.replace(file)


def left_behind(folder: Path) -> Status | None:
    """How the job ended by what lies in its folder, or None while nothing says so."""
    exit_file = folder / "exit"
    if is_cancelled(folder):
        return Status(state=State.CANCELLED)
    return Status.of_exit(int(exit_file.read_text())) if exit_file.is_file() else None


def mark_cancelled(folder: Path) -> None:
    """Say that the job is to end for good: its own script will not requeue it."""
    (folder / "cancelled").touch()


def is_cancelled(folder: Path) -> bool:
    """Whether `mark_cancelled` was called."""
    return (folder / "cancelled").exists()
