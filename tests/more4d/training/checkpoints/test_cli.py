import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from more4d.training.checkpoints import CheckpointStore
from more4d.training.checkpoints.cli import app
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from tests.more4d.training.checkpoints.groups import example, same

runner = CliRunner()


def run(*arguments: object) -> tuple[int, list[str]]:
    """Exit code and lines of a command that finds nothing wrong with its arguments."""
    result = runner.invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    return result.exit_code, result.stdout.splitlines()


def damage(folder: Path) -> None:
    file = folder / "rank-00000.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"!")


def test_list_tells_every_checkpoint_newest_first(store: CheckpointStore, tmp_path: Path) -> None:
    (tmp_path / "run" / "step-00000001" / "index.json").write_text("{}")
    code, (third, second, first) = run("list", tmp_path / "run")
    assert code == 0 and third.startswith("step-00000003  8 tensors of 1 ranks") and third.endswith("score 1  latest")
    assert second.endswith("score 0  best") and first.startswith("step-00000001  DAMAGED")


def test_verify_names_the_damaged_file_and_fails(store: CheckpointStore, tmp_path: Path) -> None:
    assert run("verify", tmp_path / "run") == (0, ["ok    step-00000003", "ok    step-00000002", "ok    step-00000001"])
    damage(tmp_path / "run" / "step-00000002")
    code, lines = run("verify", tmp_path / "run")
    assert code == 1 and lines[1] == "WRONG step-00000002" and "rank-00000.safetensors was altered" in lines[2]
    assert run("verify", tmp_path / "run", "--step", 3) == (0, ["ok    step-00000003"])
    assert run("verify", tmp_path / "run" / "step-00000001") == (0, ["ok    step-00000001"])


def test_export_writes_the_newest_the_best_or_a_chosen_one(store: CheckpointStore, tmp_path: Path) -> None:
    chosen = {3: [], 2: ["--best"], 1: ["--step", 1]}
    for step, extra in chosen.items():
        out = tmp_path / f"{step}.safetensors"
        code, lines = run("export", tmp_path / "run", "--out", out, "--weights", "ema", *extra)
        assert (code, lines) == (0, [f"{out}: ema of step {step}"])
        assert same(load_file(out), {"blocks.0.weight": example(step)["ema/blocks.0.weight"]})


def test_export_takes_parts_the_rest_and_a_dtype(store: CheckpointStore, tmp_path: Path) -> None:
    save_file({"frozen": torch.ones(2)}, tmp_path / "rest.safetensors")
    arguments = ["--weights", "model", "--part", "blocks.0.=", "--rest", f"fixed.={tmp_path / 'rest.safetensors'}"]
    code, lines = run("export", tmp_path / "run", "--out", tmp_path / "x.safetensors", *arguments, "--dtype", "float16")
    assert code == 0 and lines[1] == "left out, being no part of it: empty"
    found = load_file(tmp_path / "x.safetensors")
    assert set(found) == {"weight", "bias", "count", "fixed.frozen"} and found["fixed.frozen"].dtype == torch.float16
    assert torch.equal(found["weight"], example(3)["model/blocks.0.weight"].half()) and found["count"] == 3


def test_mistakes_are_refused_with_what_to_change(store: CheckpointStore, tmp_path: Path) -> None:
    out, folder = tmp_path / "x.safetensors", tmp_path / "run"
    mistakes = {
        "holds no checkpoint; give the folder": [tmp_path, "--out", out],
        "no checkpoint of step 9; it has 3, 2, 1": [folder, "--out", out, "--step", 9],
        "exists; remove it": [folder, "--out", folder],
        "--weights best is neither": [folder, "--out", out, "--weights", "best"],
        "--dtype int8 is none of": [folder, "--out", out, "--dtype", "int8"],
        "--part 'blocks' has no =": [folder, "--out", out, "--part", "blocks"],
        "--best chooses among all": [folder, "--out", out, "--best", "--step", 1],
        "has no best checkpoint": [tmp_path / "unscored", "--out", out, "--best"],
    }
    shutil.copytree(folder / "step-00000001", tmp_path / "unscored" / "step-00000001")
    for reason, arguments in mistakes.items():
        with pytest.raises(ValueError, match=reason):
            run("export", *arguments)
    damage(folder / "step-00000003")
    with pytest.raises(ValueError, match="was altered.*choose another --step"):
        run("export", folder, "--out", out)
    assert not out.exists()


def test_the_commands_are_known_without_torch() -> None:
    code = "import sys; from more4d.training.checkpoints import cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
