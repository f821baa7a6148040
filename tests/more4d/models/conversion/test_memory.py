"""How much memory loading takes, measured in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path

import torch
from more4d.models.conversion import to_published
from more4d.models.vism import ViSMTransformer
from safetensors.torch import save_file

SMALL = dict(num_attention_heads=1, ffn_dim=64, num_layers=1, text_dim=64, image_tokens=5)
LARGE = dict(num_attention_heads=8, ffn_dim=4096, num_layers=4, text_dim=64, image_tokens=5)
LOAD = """
import json, re, sys
from pathlib import Path

import torch
from more4d.models.conversion import load_published
from more4d.models.vism import ViSMTransformer


def load(file, config):
    with torch.device("meta"):
        network = ViSMTransformer(**json.loads(config))
    return load_published(network, Path(file), "wan_dit", dtype=torch.bfloat16)


def kilobytes(kind):
    return int(re.search(kind + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1])


# The first use of a library brings its own pages in: they are no part of what is measured.
load(*sys.argv[1:3])
Path("/proc/self/clear_refs").write_text("5")  # the peak starts again from here
before = kilobytes("VmRSS")
network = load(*sys.argv[3:5])
sys.stdout.write(str((kilobytes("VmHWM") - before) * 1024))
"""


def test_loading_takes_the_memory_of_the_rounded_weights_and_not_twice(tmp_path: Path) -> None:
    arguments, weights = [], 0
    for name, config in (("small", SMALL), ("large", LARGE)):
        made = ViSMTransformer(**config)
        save_file(to_published("wan_dit", made.state_dict()), tmp_path / f"{name}.safetensors")
        arguments += [str(tmp_path / f"{name}.safetensors"), json.dumps(config)]
        weights = sum(p.numel() for p in made.parameters()) * torch.bfloat16.itemsize
    command = [sys.executable, "-c", LOAD, *arguments]
    taken = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert 0.8 * weights < taken < 1.15 * weights
