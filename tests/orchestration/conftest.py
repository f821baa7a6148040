"""A miniature DVC pipeline of three stages in a folder of its own, and the same asset graph over it."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dvc.repo import Repo
from more4d_orchestration.assets import build_assets
from more4d_orchestration.launcher import LocalLauncher
from more4d_orchestration.manifest import load_pipeline

NUMBERS = """
import json, pathlib, yaml
params = yaml.safe_load(open("params.yaml"))["numbers"]
folder = pathlib.Path("data/numbers")
folder.mkdir(parents=True, exist_ok=True)
(folder / "values.txt").write_text("".join(f"{i}\\n" for i in range(params["count"])))
pathlib.Path("metrics").mkdir(exist_ok=True)
pathlib.Path("metrics/numbers.json").write_text(json.dumps({"count": params["count"]}))
"""

SQUARES = """
import os, pathlib, subprocess, sys, time, yaml
params = yaml.safe_load(open("params.yaml"))["squares"]
if params["hang"]:
    child = subprocess.Popen(["sleep", "300"])
    pathlib.Path("hanging").write_text(f"{os.getpid()} {child.pid}")
    time.sleep(300)
if params["fail"]:
    sys.exit("the squares went wrong")
values = [int(line) ** params["power"] for line in open("data/numbers/values.txt")]
pathlib.Path("data/squares").mkdir(parents=True, exist_ok=True)
pathlib.Path("data/squares/values.txt").write_text("\\n".join(map(str, values)))
pathlib.Path("plots").mkdir(exist_ok=True)
pathlib.Path("plots/squares.csv").write_text("step,loss\\n" + "".join(f"{i},{1 / (i + 1)}\\n" for i in range(20)))
"""

TOTAL = """
import json, pathlib
values = [int(line) for line in open("data/squares/values.txt") if line.strip()]
pathlib.Path("results").mkdir(exist_ok=True)
pathlib.Path("results/total.json").write_text(json.dumps({"total": sum(values)}))
"""

PIPELINE = """
stages:
  numbers:
    cmd: python code/numbers.py
    desc: "The first numbers: small ones."
    deps: [code/numbers.py]
    params: [numbers]
    outs: [data/numbers: {persist: true}]
    metrics: [metrics/numbers.json: {persist: true}]
    meta: {dagster: {group: data, kinds: [python], owners: ["team:counting"], checks: [not_empty, finite_metrics]}}
  squares:
    cmd: python code/squares.py
    deps: [code/squares.py, data/numbers]
    params: [squares]
    outs: [data/squares: {persist: true}]
    plots: [plots/squares.csv: {persist: true, x: step, y: loss}]
    meta: {dagster: {group: training, pool: compute, checks: [not_empty, {learned: {share: 0.2}}]}}
  total:
    cmd: python code/total.py
    deps: [code/total.py, data/squares]
    outs: [results/total.json: {persist: true}]
"""

PARAMS = {"numbers": {"count": 5}, "squares": {"power": 2, "fail": False, "hang": False}}


class Miniature:
    """A workspace with the three stages, and what a user does in one."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def dvc(self, *arguments: str) -> str:
        """What `dvc ...` writes; fails when it does."""
        command = [sys.executable, "-m", "dvc", *arguments]
        done = subprocess.run(command, cwd=self.root, capture_output=True, text=True, env=environment())
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def set(self, stage: str, **values: object) -> None:
        """Change parameters of one stage."""
        params = yaml.safe_load((self.root / "params.yaml").read_text())
        params[stage] |= values
        (self.root / "params.yaml").write_text(yaml.safe_dump(params))

    def lock(self) -> dict[str, Any]:
        """Stages of dvc.lock."""
        path = self.root / "dvc.lock"
        return yaml.safe_load(path.read_text())["stages"] if path.exists() else {}

    def md5(self, stage: str, path: str) -> str:
        """Hash of one out in dvc.lock."""
        return next(out["md5"] for out in self.lock()[stage]["outs"] if out["path"] == path)

    def versions(self) -> dict[str, str]:
        """Stage -> code version."""
        return {name: node.recipe.version for name, node in load_pipeline(self.root).stages.items()}

    def materialize(
        self, instance: dg.DagsterInstance, selection: list[str] | None = None
    ) -> dg.ExecuteInProcessResult:
        """Materialize in this process, as the UI's button does in another."""
        assets = build_assets(load_pipeline(self.root))
        launcher = {"launcher": LocalLauncher(grace_seconds=2)}
        return dg.materialize(assets, instance=instance, resources=launcher, selection=selection, raise_on_error=False)


def environment() -> dict[str, str]:
    """This process's environment with its interpreter first on PATH."""
    import os

    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}


@pytest.fixture(autouse=True)
def _private_dvc(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """DVC keeps its hash database under the test's folder and sends nothing."""
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path_factory.getbasetemp() / "dvc-site"))
    monkeypatch.setenv("DVC_NO_ANALYTICS", "1")


@pytest.fixture
def miniature(tmp_path: Path) -> Miniature:
    """A fresh miniature workspace; nothing was run."""
    root = tmp_path / "workspace"
    (root / "code").mkdir(parents=True)
    for name, text in (("numbers", NUMBERS), ("squares", SQUARES), ("total", TOTAL)):
        (root / "code" / f"{name}.py").write_text(text)
    (root / "dvc.yaml").write_text(PIPELINE)
    (root / "params.yaml").write_text(yaml.safe_dump(PARAMS))
    Repo.init(str(root), no_scm=True).close()
    return Miniature(root)


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """A Dagster instance that lives as long as the test."""
    with dg.DagsterInstance.local_temp(str(tmp_path), {"telemetry": {"enabled": False}}) as instance:
        yield instance
