"""The 1.3B network from shards of random weights: loaded and run on the CPU in little more memory than its weights."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

KEYS = Path(__file__).parents[3] / "parity" / "keys" / "strag_1.3b.json"
SHARDS = 8
RUN = """
import json, re, sys, time
from pathlib import Path

import torch
from more4d.models.architectures import WAN_1_3B
from more4d.models.bundle import build_strag
from more4d.models.conversion import load_published
from more4d.models.motion_encoder import MaskedAutoencoder
from torch import nn


def memory(kind):
    return int(re.search(kind + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024


with torch.device("meta"):
    parts = {"strag": build_strag(WAN_1_3B), "motion_encoder": MaskedAutoencoder(WAN_1_3B.motion_encoder)}
before, started = memory("VmRSS"), time.perf_counter()
network = load_published(nn.ModuleDict(parts), Path(sys.argv[1]), "strag").eval()
loaded, seconds = memory("VmHWM") - before, time.perf_counter() - started
video, text, image = (torch.randn(s).bfloat16() for s in ((1, 64, 3, 16, 24), (1, 512, 4096), (1, 257, 1280)))
with torch.no_grad():
    motion = network["motion_encoder"].trunk(torch.zeros(1, 3, 1, 224, 224).bfloat16())
    out = network["strag"](video, torch.tensor([500.0]), text, image, motion)
result = {"loaded": loaded, "seconds": seconds, "run": memory("VmHWM") - before, "finite": bool(out.isfinite().all())}
sys.stdout.write(json.dumps(result))
"""


def write_random_shards(folder: Path) -> int:
    """Shards of random bf16 weights in the published layout of STraG at 1.3B; their bytes."""
    shapes = json.loads(KEYS.read_text())["keys"]
    weight_map: dict[str, str] = {}
    for shard in range(SHARDS):
        names = list(shapes)[shard::SHARDS]
        tensors: dict[str, Tensor] = {n: torch.empty(shapes[n], dtype=torch.bfloat16).normal_(std=0.02) for n in names}
        file = f"diffusion_pytorch_model-{shard + 1:05}-of-{SHARDS:05}.safetensors"
        save_file(tensors, folder / file)
        weight_map |= dict.fromkeys(names, file)
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return sum(torch.Size(shape).numel() for shape in shapes.values()) * torch.bfloat16.itemsize


@pytest.mark.slow
def test_the_1_3b_network_loads_and_runs_within_1_15_of_its_weights(
    tmp_path: Path, record_testsuite_property: Callable[[str, object], None]
) -> None:
    weights = write_random_shards(tmp_path)
    command = [sys.executable, "-c", RUN, str(tmp_path)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    for name, value in (found | {"weights": weights}).items():
        record_testsuite_property(name, value)
    assert found["finite"]
    assert found["loaded"] < 1.05 * weights
    assert found["run"] < 1.15 * weights
