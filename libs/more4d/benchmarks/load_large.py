"""Memory and time of loading a large STraG checkpoint and of one forward, with random weights in the published layout.

The checkpoint is written in shards to a temporary folder; a process of its own then loads it, runs one forward on the
CPU and reads its own peak. `--preset wan-14b` needs 2 x 33 GB of disk and memory. Prints one JSON line.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from more4d.models.architectures import ARCHITECTURES, Architecture
from more4d.models.bundle import build_strag
from more4d.models.conversion import load_published, rename
from more4d.models.motion_encoder import MaskedAutoencoder
from safetensors.torch import save_file
from torch import Tensor, nn

SHARD_BYTES = 1_000_000_000
INDEX = "diffusion_pytorch_model.safetensors.index.json"
FRAMES, ROWS, COLUMNS = 3, 8, 12
DTYPE = torch.bfloat16


def outline(architecture: Architecture) -> nn.ModuleDict:
    """STraG and its motion encoder without weights, as the layout `strag` wants them."""
    with torch.device("meta"):
        parts = {"strag": build_strag(architecture), "motion_encoder": MaskedAutoencoder(architecture.motion_encoder)}
    return nn.ModuleDict(parts)


def write_checkpoint(architecture: Architecture, folder: Path) -> int:
    """Write random weights in shards under the published names; returns how many bytes they are."""
    state = outline(architecture).state_dict()
    names = rename("strag", state, back=True)
    owner: dict[str, str] = {}
    total = 0
    for number, shard in enumerate(_shards({names[key]: value for key, value in state.items()})):
        file = f"diffusion_pytorch_model-{number:05d}.safetensors"
        save_file(shard, folder / file)
        owner |= dict.fromkeys(shard, file)
        total += sum(value.nbytes for value in shard.values())
    (folder / INDEX).write_text(json.dumps({"metadata": {"total_size": total}, "weight_map": owner}))
    return total


def _shards(outlines: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(0)
    shard: dict[str, Tensor] = {}
    for name, value in outlines.items():
        shard[name] = torch.empty(value.shape, dtype=DTYPE).normal_(std=0.02, generator=generator)
        if sum(value.nbytes for value in shard.values()) > SHARD_BYTES:
            yield shard
            shard = {}
    yield shard


def peak_bytes() -> int:
    """The most memory that this process ever had resident."""
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


@torch.no_grad()
def measure(architecture: Architecture, folder: Path) -> dict[str, float]:
    """Load and run once; peaks are counted from after the imports."""
    networks, before, started = outline(architecture), peak_bytes(), time.monotonic()
    load_published(networks, folder / INDEX, "strag")
    networks.eval()
    loaded, loading = peak_bytes() - before, time.monotonic() - started
    encoder, strag = architecture.motion_encoder, networks["strag"]
    features = torch.randn(1, encoder.grid[0] * encoder.grid[1], encoder.dim, dtype=DTYPE)
    started = time.monotonic()
    output = strag(
        torch.randn(1, 64, FRAMES, 2 * ROWS, 2 * COLUMNS, dtype=DTYPE),
        torch.tensor([500.0]),
        torch.randn(1, architecture.text.max_tokens, architecture.text.dim, dtype=DTYPE),
        torch.randn(1, architecture.image_encoder.tokens, architecture.image_encoder.dim, dtype=DTYPE),
        features,
    )
    assert bool(output.isfinite().all())
    parameters = sum(value.numel() for value in networks.parameters())
    return {
        "parameters": parameters,
        "weights_bytes": parameters * DTYPE.itemsize,
        "peak_loaded_bytes": loaded,
        "peak_after_forward_bytes": peak_bytes() - before,
        "load_seconds": round(loading, 1),
        "forward_seconds": round(time.monotonic() - started, 1),
        "tokens": FRAMES * ROWS * COLUMNS,
    }


def main() -> None:
    """Write, then measure in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", choices=sorted(ARCHITECTURES), default="wan-1.3b")
    parser.add_argument("--measure", type=Path, help="only measure the checkpoint in this folder")
    options = parser.parse_args()
    architecture = ARCHITECTURES[options.preset]
    if options.measure:
        found = measure(architecture, options.measure)
        ratio = found["peak_after_forward_bytes"] / found["weights_bytes"]
        print(json.dumps({"preset": options.preset, **found, "peak_per_weights": round(ratio, 3)}))
        return
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(architecture, Path(folder))
        command = [sys.executable, __file__, "--preset", options.preset, "--measure", folder]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
