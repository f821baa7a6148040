"""How much memory loading takes, measured in a process of its own."""

import subprocess
import sys
from pathlib import Path

import torch
from more4d.models.conversion import to_published
from more4d.models.vism import ViSMTransformer
from safetensors.torch import save_file

LOAD = """
import re, sys
from pathlib import Path

import torch
from more4d.models.conversion import load_published
from more4d.models.vism import ViSMTransformer

# Not getrusage: its peak is inherited from the process that started this one.
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
with torch.device("meta"):
    network = ViSMTransformer(num_attention_heads=8, ffn_dim=4096, num_layers=2, text_dim=64, image_tokens=5)
before = peak()
load_published(network, Path(sys.argv[1]), "wan_dit", dtype=torch.bfloat16)
sys.stdout.write(str((peak() - before) * 1024))
"""


def test_loading_takes_the_memory_of_the_rounded_weights_and_not_twice(tmp_path: Path) -> None:
    made = ViSMTransformer(num_attention_heads=8, ffn_dim=4096, num_layers=2, text_dim=64, image_tokens=5)
    save_file(to_published("wan_dit", made.state_dict()), tmp_path / "x.safetensors")
    weights = sum(p.numel() for p in made.parameters()) * torch.bfloat16.itemsize
    command = [sys.executable, "-c", LOAD, str(tmp_path / "x.safetensors")]
    taken = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert 0.8 * weights < taken < 1.25 * weights
