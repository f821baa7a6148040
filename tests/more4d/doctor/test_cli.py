import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from more4d import cli
from more4d.models.architectures import Architecture
from more4d.models.bundle import NETWORKS, Models

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def small_presets(architecture: Architecture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Presets that take no time to predict, and a disk with room."""
    presets = {n: architecture.model_copy(update={"name": n}) for n in ("tiny", "wan-1.3b", "wan-14b")}
    monkeypatch.setattr("more4d.models.architectures.ARCHITECTURES", presets)
    monkeypatch.chdir(ROOT)
    usage = shutil.disk_usage(ROOT)._replace(free=10**13)
    monkeypatch.setattr("more4d.doctor.machine.shutil.disk_usage", lambda _: usage)


def _doctor(*arguments: object) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main(["doctor", *map(str, arguments)])
    return int(stop.value.code or 0)


def test_a_machine_that_has_all_of_the_tiny_preset_is_told_so(
    checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _doctor("--checkpoint", checkpoint) == 0
    captured = capsys.readouterr()
    assert captured.err == "" and "MISSING" not in captured.out
    for word in ("python", "packages", "video", "gpu", "memory", "weights", "trajectories", "views"):
        assert word in captured.out


def test_missing_weights_are_the_first_thing_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _doctor("--checkpoint", tmp_path / "none") == 1
    captured = capsys.readouterr()
    (todo,) = captured.err.splitlines()
    assert todo.startswith("more4d: first thing to do: give --checkpoint a whole checkpoint folder")
    assert "git checkout" not in todo
    assert "MISSING  weights" in captured.out


def test_the_base_that_is_not_checked_out_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert _doctor() == 1
    assert "run `git checkout models/tiny-base` or `make tiny-base`" in capsys.readouterr().err


def test_a_large_preset_wants_what_its_checkpoint_is_assembled_from_and_no_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def weights(*arguments: str) -> tuple[dict[str, Any], list[str]]:
        assert _doctor("--preset", "wan-14b", "--store", tmp_path, "--json", *arguments) == 1
        found = json.loads(capsys.readouterr().out)
        return found, [c["todo"] for c in found["checks"] if c["name"] == "weights"]

    wanted = {
        "moge4d-strag", "moge4d-motion-vae", "moge4d-vism-lora", "wan-fun-inp-14b", "wan-vae", "umt5-xxl",
        "umt5-xxl-tokenizer", "clip-vit-h",
    }  # fmt: skip
    found, todo = weights()
    assert found["first_thing_to_do"] == todo[0]
    assert set(todo) == {f"run `more4d weights fetch {name}`" for name in wanted}
    _, todo = weights("--commercial-safe")
    assert [line.split(" (")[0] for line in todo if line.startswith("refused")] == ["refused: moge4d-strag"]
    assert "run `more4d weights fetch wan-vae --commercial-safe`" in todo


def test_an_assembled_checkpoint_takes_the_place_of_the_published_files(
    models: Models, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "assembled"
    large = models.config.model_copy(update={"name": "wan-14b"})
    dataclasses.replace(models, config=large).save(folder)
    arguments = "--checkpoint", folder, "--store", tmp_path / "none"
    assert _doctor("--preset", "wan-14b", *arguments) == 0
    told = capsys.readouterr().out
    assert all(f"{name}.safetensors: " in told for name in NETWORKS) and "MISSING" not in told
    assert _doctor("--preset", "wan-1.3b", *arguments) == 1
    assert "is of preset wan-14b, not wan-1.3b" in capsys.readouterr().err
    shutil.copy(folder / "vism.safetensors", folder / "strag.safetensors")
    assert _doctor("--preset", "wan-14b", *arguments) == 1
    assert "strag.safetensors: missing " in capsys.readouterr().err


def test_a_folder_that_is_no_checkpoint_of_a_large_preset_says_what_makes_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _doctor("--preset", "wan-14b", "--checkpoint", tmp_path / "none") == 1
    (todo,) = capsys.readouterr().err.splitlines()
    assert "that `more4d weights assemble --preset wan-14b --out FOLDER` made" in todo


def test_a_size_without_a_released_strag_says_to_train_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _doctor("--preset", "wan-1.3b", "--store", tmp_path) == 1
    assert (
        "no 4D-STraG of size wan-1.3b is released: fetch wan-fun-control-1.3b and train one" in capsys.readouterr().err
    )


def test_predictions_and_the_machine_are_in_the_json(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _doctor("--checkpoint", checkpoint, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found["predictions"]) == {"tiny", "wan-1.3b", "wan-14b"}
    assert [p["step"] for p in found["predictions"]["tiny"]] == ["trajectories", "views"]
    assert found["machine"]["ram"] > 0 and found["flops_per_second"] > 0
    assert all(p["seconds"] > 0 and p["flops"] > 0 for p in found["predictions"]["wan-14b"])


def test_an_unknown_preset_is_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert _doctor("--preset", "huge") == 2
    assert "--preset" in capsys.readouterr().err


def test_a_gpu_that_is_not_here_can_be_planned_for(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _doctor("--checkpoint", checkpoint, "--json", "--gpu-memory", 24) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["machine"]["memory"] == 24 * 10**9 and found["flops_per_second"] is None
    assert all(
        p["seconds"] is None and list(p["peak_bytes"]) == ["none", "model", "group", "sequential"]
        for p in found["predictions"]["wan-14b"]
    )
    assert _doctor("--checkpoint", checkpoint, "--gpu-memory", 24) == 0
    assert "a GPU of 24 GB:" in capsys.readouterr().out
    assert _doctor("--gpu-memory", 0) == 2
