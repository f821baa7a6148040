"""`check.py` as its users run it: on the published cases, on other sizes, and on numbers that are wrong."""

import json
import math
import shutil
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
from more4d.models.conversion import to_ours, to_published
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


def test_a_case_of_another_size_from_diffusers_own_class_passes(tmp_path: Path) -> None:
    """Independent of our networks: the expected output is WanTransformer3DModel's, its weights filled by the same rule."""
    shape = {"patch_size": (1, 2, 2), "in_channels": 36, "out_channels": 16, "text_dim": 24, "freq_dim": 32}
    sizes = {"num_attention_heads": 3, "attention_head_dim": 16, "ffn_dim": 80, "num_layers": 2}
    wan = WanTransformer3DModel(**shape, **sizes, image_dim=20, added_kv_proj_dim=48).eval()
    state = to_published("wan_dit", wan.state_dict())
    case = {
        "kind": "vism_transformer", "salt": "another", "state_prefix": "net",
        "config": {"patch_size": [1, 2, 2], "text_len": 512, "in_dim": 36, "dim": 48, "ffn_dim": 80, "freq_dim": 32,
                   "text_dim": 24, "out_dim": 16, "num_heads": 3, "num_layers": 2, "cross_attn_norm": True, "eps": 1e-6},
        "state_dict": {key: list(value.shape) for key, value in state.items()},
        "inputs": {"vx": [1, 16, 2, 4, 10], "vy": [1, 20, 2, 4, 10], "t": [123.0], "vcontext": [[7, 24]],
                   "vclip": [1, 257, 20]},
    }  # fmt: skip
    wan.load_state_dict(
        to_ours("wan_dit", {k: filled(f"net/{k}", v, weight=True) for k, v in case["state_dict"].items()})
    )
    given = {name: filled(f"input/{name}", case["inputs"][name]) for name in ("vx", "vy", "vclip")}
    text = torch.cat([filled("input/vcontext0", [7, 24]), torch.zeros(505, 24)])[None]
    with torch.no_grad():
        output = wan(torch.cat([given["vx"], given["vy"]], 1), torch.tensor([123.0]), text, given["vclip"]).sample
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / "case.json").write_text(json.dumps(case))
    save_file({"output": output}, tmp_path / "case" / "expected.safetensors")
    done = check(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def filled(name: str, shape: list[int], *, weight: bool = False) -> torch.Tensor:
    """The README's rule, written again."""
    values = (
        np.random.RandomState(zlib.crc32(f"another/{name}".encode())).standard_normal(math.prod(shape)).astype("f4")
    )
    if weight:
        ones = name.endswith(("weight", "gamma"))
        values = (
            values / np.sqrt(np.float32(math.prod(shape[1:]))) if len(shape) > 1 else ones + np.float32(0.1) * values
        )
    return torch.from_numpy(values.astype("f4").reshape(shape))


def test_a_case_that_cannot_be_run_is_a_row_of_its_own(codec: Path) -> None:
    broken = shutil.copytree(codec, codec.parent / "broken")
    case = json.loads((broken / "case.json").read_text())
    del case["inputs"]["traj"]
    (broken / "case.json").write_text(json.dumps(case))
    done = check(codec.parent)
    assert done.returncode == 1
    assert "ValueError: a case of kind trajectory_codec needs the input traj" in done.stdout
    assert "3 tensors of 2 cases, 1 above" in done.stdout
