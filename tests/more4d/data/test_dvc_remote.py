"""Claims about shards pushed to a real S3 server as a DVC remote, as a workspace does it."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import fsspec
import numpy as np
import pytest
from more4d.data.reader import TrajSceneDataset
from more4d.data.sample import Sample, encode_sample
from more4d.data.verify import verify_shards
from more4d.data.writer import EncodedSample, write_encoded, write_shards

from .s3_server import S3Server

SHARDS = "datasets/trajscene"


class Workspace:
    """A git repository with DVC in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.shards = root / SHARDS

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command of git or dvc in it, whatever comes of it."""
        program = ["git"] if command[0] == "git" else [sys.executable, "-m", "dvc"]
        # Few tries: the tests take the server away.
        settings = {"AWS_MAX_ATTEMPTS": "1", "DVC_NO_ANALYTICS": "1", "GIT_CONFIG_NOSYSTEM": "1"}
        return subprocess.run(
            [*program, *command[1:]], cwd=self.root, capture_output=True, text=True, env={**os.environ, **settings}
        )

    def do(self, *command: str) -> None:
        """A command that must go well."""
        done = self.run(*command)
        assert done.returncode == 0, done.stdout + done.stderr

    def clone(self, root: Path) -> "Workspace":
        """Another one of the same history, without its data."""
        self.do("git", "clone", "-q", str(self.root), str(root))
        return Workspace(root)


@pytest.fixture
def workspace(server: S3Server, tmp_path: Path) -> Workspace:
    """A workspace whose remote is the server; it holds no shards yet."""
    made = Workspace(tmp_path / "workspace")
    made.shards.mkdir(parents=True)
    made.do("git", "init", "-q")
    made.do("git", "config", "user.email", "test@localhost")
    made.do("git", "config", "user.name", "test")
    made.do("dvc", "init", "-q")
    made.do("dvc", "remote", "add", "-d", "store", "s3://shards/dvc")
    made.do("dvc", "remote", "modify", "store", "endpointurl", server.endpoint)
    return made


def _track(workspace: Workspace) -> None:
    workspace.do("dvc", "add", "-q", SHARDS)
    workspace.do("git", "add", ".")
    workspace.do("git", "commit", "-qm", "shards")


def _objects() -> dict[str, bytes]:
    """Everything in the remote by its path."""
    store = fsspec.filesystem("s3")
    store.invalidate_cache()
    return {path: store.cat_file(path) for path in store.find("shards/dvc")}


def _broken(objects: dict[str, bytes]) -> list[str]:
    """Those whose bytes are not what their names, which are hashes, say."""
    names = {path: "".join(path.split("/")[-2:]).removesuffix(".dir") for path in objects}
    return [
        path for path, data in objects.items() if hashlib.md5(data, usedforsecurity=False).hexdigest() != names[path]
    ]


def test_shards_pushed_by_one_workspace_are_pulled_and_read_by_another(
    workspace: Workspace, make_sample: Callable[..., Sample], tmp_path: Path
) -> None:
    samples = (make_sample(f"s-{number}", number) for number in range(4))
    write_shards(samples, workspace.shards, split="train", shard_bytes=300_000)
    _track(workspace)
    workspace.do("dvc", "push", "-q")
    other = workspace.clone(tmp_path / "other")
    other.do("dvc", "pull", "-q")
    assert verify_shards(str(other.shards)) == []
    dataset = TrajSceneDataset(other.shards)
    assert [dataset.read_files(i) for i in range(4)] == [encode_sample(make_sample(f"s-{i}", i)) for i in range(4)]


def test_a_server_killed_in_mid_push_holds_nothing_by_half_and_everything_after_the_next_push(
    server: S3Server, workspace: Workspace, tmp_path: Path
) -> None:
    samples = (EncodedSample(f"s-{n}", {"bin": np.random.default_rng(n).bytes(3_000_000)}) for n in range(24))
    write_encoded(samples, workspace.shards, split="train", shard_bytes=1)
    _track(workspace)
    with server.killed_after(10_000_000):
        push = workspace.run("dvc", "push", "-q", "-j", "1")
    assert push.returncode != 0, "the server was killed too late to be missed"
    server.start()
    begun = _objects()
    assert 0 < len(begun) < 50 and _broken(begun) == []
    workspace.do("dvc", "push", "-q")
    assert _broken(_objects()) == [] and len(_objects()) == 51
    other = workspace.clone(tmp_path / "other")
    other.do("dvc", "pull", "-q")
    assert verify_shards(str(other.shards)) == []
