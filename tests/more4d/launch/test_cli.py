"""`more4d train`: what it submits, what it refuses, how it ends."""

import json
from pathlib import Path

import pytest
import typer
import yaml
from more4d.launch import Job, Launcher, LocalLauncher, Receipt, State, Status, cli
from typer.testing import CliRunner

STAGES = """
import json, os, sys, time
from pathlib import Path
import yaml
name, _, root, _, params = sys.argv[1:]
section = yaml.safe_load(Path(params).read_text())[name]
print("trains", json.dumps(section), flush=True)
time.sleep(section.get("seconds", 0))
sys.exit(section.get("code", 0))
"""


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    """A workspace with one stage, whose module of stages tells what it was given."""
    package = tmp_path / "more4d_stand_in"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "stages.py").write_text(STAGES)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"strag": {"train": {"steps": 5}}, "seed": 0}))
    return tmp_path


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    """The command alone, running the stand-in's stages."""
    monkeypatch.setattr(cli, "STAGES", "more4d_stand_in.stages")
    app = typer.Typer()
    app.command()(cli.train)
    return app


def _train(app: typer.Typer, workspace: Path, *options: str) -> tuple[int, str]:
    result = CliRunner().invoke(app, ["strag", "--root", str(workspace), "--gpus-per-node", "0", *options])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.output


def test_training_is_followed_to_its_end_with_its_parameters_set(app: typer.Typer, workspace: Path) -> None:
    before = (workspace / "params.yaml").read_text()
    code, output = _train(app, workspace, "--set", "train.strategy=fsdp2", "--set", "train.average.decay=0.9")
    told = next(line for line in output.splitlines() if line.startswith("trains "))
    assert json.loads(told.removeprefix("trains ")) == {
        "train": {"steps": 5, "strategy": "fsdp2", "average": {"decay": 0.9}}
    }
    assert (code, "completed" in output) == (0, True)
    assert (workspace / "params.yaml").read_text() == before


@pytest.mark.parametrize(("ended", "code", "word"), [("75", 75, "stopped"), ("3", 3, "failed")])
def test_exit_code_is_the_trainings(app: typer.Typer, workspace: Path, ended: str, code: int, word: str) -> None:
    found, output = _train(app, workspace, "--set", f"code={ended}")
    assert (found, f": {word} " in output) == (code, True), output


def test_same_training_is_found_while_it_runs_and_begun_again_after(app: typer.Typer, workspace: Path) -> None:
    _train(app, workspace, "--set", "seconds=2", "--no-follow")
    code, output = _train(app, workspace, "--set", "seconds=2")
    assert (code, output.count("trains ")) == (0, 1)
    keys = {path.parent.name for path in (workspace / cli.JOBS).glob("*/receipt.json")}
    assert len(keys) == 1
    _train(app, workspace, "--set", "seconds=2")
    keys |= {path.parent.name for path in (workspace / cli.JOBS).glob("*/receipt.json")}
    assert sorted(key.rpartition("-")[2] for key in keys) == ["1", "2"]


def test_ctrl_c_has_a_local_training_save_and_leave(
    app: typer.Typer, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Launcher, receipt: Receipt, start: int = 0) -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(LocalLauncher, "follow", interrupted)
    code, output = _train(app, workspace, "--set", "seconds=60")
    assert (code, "saving and leaving" in output, ": cancelled" in output) == (1, True, True), output


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--set", "train.steps.more=1"), "'steps' is a value"),
        (("--set", "train"), "is not name=value"),
        (("--set", "=1"), "is not name=value"),
        (("--params", "none.yaml"), "no parameters at none.yaml"),
        (("--nodes", "2"), "nodes=2: the local launcher"),
        (("--time", "10"), "time_limit: only the slurm launcher"),
        (("--site", "none.yaml", "--launcher", "slurm"), "no site profile at none.yaml"),
        (("--launcher", "slurm", "--time", "soon"), "is not as 90"),
    ],
)
def test_mistakes_are_refused_and_nothing_is_submitted(
    app: typer.Typer, workspace: Path, options: tuple[str, ...], message: str
) -> None:
    try:
        code, output = _train(app, workspace, *options)
        assert code == 2
    except ValueError as error:
        output = str(error)
    # The terminal's frame around the message breaks its lines.
    assert message in " ".join(output.replace("│", " ").split())
    assert not list(workspace.glob(".cache/jobs/*/receipt.json"))


def test_stage_without_parameters_is_named(app: typer.Typer, workspace: Path) -> None:
    result = CliRunner().invoke(app, ["vism", "--root", str(workspace)])
    assert result.exit_code == 2 and "has no section 'vism'" in " ".join(result.output.replace("│", " ").split())


def test_clusters_gpus_must_be_given(app: typer.Typer, workspace: Path) -> None:
    result = CliRunner().invoke(app, ["strag", "--root", str(workspace), "--launcher", "slurm"])
    assert result.exit_code == 2 and "--gpus-per-node" in result.output


def test_job_asks_for_what_the_command_line_says(
    app: typer.Typer, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Job] = []

    def submit(self: Launcher, job: Job, key: str) -> Receipt:
        seen.append(job)
        folder = job.folder / key
        return Receipt(launcher="slurm", key=key, job_id="1", folder=folder, submitted=0, digest="")

    monkeypatch.setattr(cli.SlurmLauncher, "submit", submit)
    monkeypatch.setattr(cli.SlurmLauncher, "status", lambda self, receipt: Status(state=State.PENDING))
    options = ("--launcher", "slurm", "--nodes", "4", "--gpus-per-node", "8", "--no-follow", "--time", "2-00:00:00")
    assert CliRunner().invoke(app, ["strag", "--root", str(workspace), *options]).exit_code == 0
    (job,) = seen
    assert (job.name, job.nodes, job.gpus_per_node, job.processes, job.time_limit) == ("strag", 4, 8, 8, "2-00:00:00")
    assert job.command[:6] == ("python", "-m", "more4d_stand_in.stages", "strag", "--root", str(workspace))
