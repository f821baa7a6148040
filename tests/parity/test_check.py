"""`check.py` as its users run it: on the published cases, on other sizes, and on numbers that are wrong."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
CASES = HERE / "cases"


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    """One run of the script."""
    command = [sys.executable, str(HERE / "check.py"), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def codec(tmp_path: Path) -> Path:
    """A copy of the smallest case."""
    return shutil.copytree(CASES / "trajectory_codec", tmp_path / "cases" / "codec")


def test_our_networks_give_the_published_numbers() -> None:
    done = check(CASES)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("29 tensors of 8 cases, 0 above 0.0001\n")


@pytest.mark.parametrize(("factor", "code"), [(1 + 0.5e-4, 0), (1 + 2e-4, 1), (float("nan"), 1)])
def test_an_error_above_the_bar_fails(codec: Path, factor: float, code: int) -> None:
    expected = load_file(codec / "expected.safetensors")
    save_file(expected | {"encoder_output": expected["encoder_output"] * factor}, codec / "expected.safetensors")
    done = check(codec.parent)
    assert done.returncode == code
    assert ("ABOVE THE BAR" in done.stdout) == bool(code)


def test_a_tensor_of_another_shape_or_name_fails(codec: Path) -> None:
    expected = load_file(codec / "expected.safetensors")
    wrong = {"encoder_output": expected["encoder_output"][:1].contiguous(), "latent": torch.zeros(1)}
    save_file(wrong, codec / "expected.safetensors")
    done = check(codec.parent)
    assert done.returncode == 1
    assert "not (1, 3, 5, 16, 24)" in done.stdout
    assert "not computed; there are encoder_output, decoder_output" in done.stdout


def test_another_salt_gives_other_numbers(codec: Path) -> None:
    case = json.loads((codec / "case.json").read_text())
    (codec / "case.json").write_text(json.dumps(case | {"salt": "another"}))
    assert check(codec.parent).returncode == 1


def test_a_folder_without_cases_is_refused(tmp_path: Path) -> None:
    done = check(tmp_path)
    assert done.returncode == 1
    assert "no case.json under" in done.stderr
