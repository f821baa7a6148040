"""A folder with checkpoints, a store of one process, and a disk that is really full."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from more4d.training.checkpoints import CheckpointSettings, CheckpointStore

from tests.more4d.training.checkpoints.groups import cut, example


@pytest.fixture
def store(tmp_path: Path) -> CheckpointStore:
    """Steps 1 to 3, of which each holds `example(step)`; all stay."""
    store = CheckpointStore(tmp_path / "run", CheckpointSettings(keep_last=3))
    for step in (1, 2, 3):
        store.save(step, cut(example(step), 1)[0], {"history": [step]}, score=float(abs(step - 2)))
    return store


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte; only root may make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(folder)], capture_output=True)
    if made.returncode:
        pytest.skip(f"no file system of our own here: {made.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)
