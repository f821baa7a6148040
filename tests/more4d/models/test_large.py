"""The 1.3B network with random weights on the CPU: four gigabytes of memory and of disk."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[3] / "libs" / "more4d" / "benchmarks" / "load_large.py"


@pytest.mark.slow
def test_the_1_3b_network_loads_and_runs_in_little_more_than_its_weights() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT)], check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert found["parameters"] > 1.7e9
    assert found["peak_after_forward_bytes"] < 1.15 * found["weights_bytes"]
