"""Claims about more4d.data.atomic."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from more4d.data.atomic import atomic_directory, atomic_write_bytes, atomic_write_json


def test_written_json_is_read_back_and_nothing_else_is_left(tmp_path: Path) -> None:
    atomic_write_json(tmp_path / "deep" / "a.json", {"b": 1, "a": [2]})
    assert json.loads((tmp_path / "deep" / "a.json").read_text()) == {"a": [2], "b": 1}
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.json"]


def test_a_failed_directory_leaves_the_old_one(tmp_path: Path) -> None:
    final = tmp_path / "out"
    with atomic_directory(final) as folder:
        (folder / "x").write_text("old")
    with pytest.raises(RuntimeError), atomic_directory(final) as folder:
        (folder / "x").write_text("new")
        raise RuntimeError
    assert (final / "x").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_new_directory_replaces_all_of_the_old_one(tmp_path: Path) -> None:
    for name in ("first", "second"):
        with atomic_directory(tmp_path / "out") as folder:
            (folder / name).write_text(name)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["second"]


def test_a_kill_in_mid_write_leaves_nothing_half_visible(tmp_path: Path) -> None:
    program = (
        "import sys, time, pathlib\n"
        "from more4d.data.atomic import atomic_directory, atomic_file\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "with atomic_directory(root / 'folder') as folder, atomic_file(root / 'file') as file:\n"
        "    (folder / 'part').write_bytes(b'1' * 1000); file.write_bytes(b'2' * 1000)\n"
        "    (root / 'started').touch(); time.sleep(60)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", program, str(tmp_path)])
    while not (tmp_path / "started").exists():
        assert writer.poll() is None
        time.sleep(0.02)
    os.kill(writer.pid, signal.SIGKILL)
    writer.wait()
    assert not (tmp_path / "folder").exists()
    assert not (tmp_path / "file").exists()
    with atomic_directory(tmp_path / "folder") as folder:
        assert not list(folder.iterdir())
    atomic_write_bytes(tmp_path / "file", b"3")
    assert (tmp_path / "file").read_bytes() == b"3"
