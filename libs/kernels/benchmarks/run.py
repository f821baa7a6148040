"""Check, then time, every op of more4d_kernels: `python libs/kernels/benchmarks/run.py [--device cuda] [--json FILE]`.

Needs torch and triton alone (numba for what runs on a CPU); says what each op moves against the fewest possible bytes
as a share of a copy's speed in the same run, beside the same work written in other ways.
"""

import argparse
import importlib
import json
import platform
import sys
from pathlib import Path
from typing import Any

import torch
from measure import lines, run

# A fresh machine has nothing installed: the package lies beside this folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

PARTS = ("norm", "depth", "rasterizer")


def main() -> None:
    arguments = _arguments()
    device = torch.device(arguments.device)
    results = []
    report = {"machine": machine(device), "results": results}
    print("  ".join(f"{name} {value}" for name, value in report["machine"].items()))
    for part in arguments.only:
        for case in importlib.import_module(part).cases(device):
            results.append({"part": part} | run(case, device, rounds=arguments.rounds))
            print("\n".join(lines(results[-1])), flush=True)
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(report, indent=1) + "\n")


def machine(device: torch.device) -> dict[str, Any]:
    """What the numbers were measured on."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else _processor()
    return {"device": name, "threads": torch.get_num_threads(), "torch": torch.__version__}


def _processor() -> str:
    try:
        models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    except OSError:
        models = []
    return models[0].split(":", 1)[1].strip() if models else platform.processor() or platform.machine()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
