"""Rendered scenes per second on one core, beside a matrix product and a copy timed in the same run.

Run it with OMP_NUM_THREADS=1, so that the matrix product uses one core too. Seconds of CPU time count, which
other programs on the machine disturb less than seconds on the wall; both are printed.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from more4d.scenes import render_scene, sample_scene
from more4d.scenes.movers import FOX_FILE

SIZES = ((64, 96), (128, 192))
FRAMES = 13


def seconds(work: Callable[[], object], repeats: int) -> tuple[float, float]:
    """The shortest CPU time and wall time of `repeats` runs in this thread."""
    cpu, wall = [], []
    for _ in range(repeats):
        start = time.thread_time(), time.perf_counter()
        work()
        cpu.append(time.thread_time() - start[0])
        wall.append(time.perf_counter() - start[1])
    return min(cpu), min(wall)


def calibrate(repeats: int) -> str:
    """How fast this machine multiplies and copies just now."""
    matrix = np.random.default_rng(0).random((768, 768), dtype=np.float32)
    block = np.zeros(2**24, dtype=np.float32)
    product, _ = seconds(lambda: matrix @ matrix, repeats)
    copy, _ = seconds(block.copy, repeats)
    return f"{2 * 768**3 / product / 1e9:.0f} GFLOP/s product, {2 * block.nbytes / copy / 1e9:.1f} GB/s copy"


def main() -> None:
    """Time the renderer at both sizes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=40, help="scenes per run")
    parser.add_argument("--repeats", type=int, default=3, help="runs, of which the fastest counts")
    parser.add_argument("--seed", type=int, default=0, help="first scene's seed")
    parser.add_argument("--fox", type=Path, default=FOX_FILE)
    options = parser.parse_args()
    seeds = range(options.seed, options.seed + options.scenes)

    for height, width in SIZES:

        def render(height: int = height, width: int = width) -> None:
            for seed in seeds:
                render_scene(sample_scene(seed), frames=FRAMES, height=height, width=width, fox_file=options.fox)

        cpu, wall = (options.scenes / spent for spent in seconds(render, options.repeats))
        rates = f"{cpu:.1f} scenes per CPU second, {wall:.1f} per second"
        print(f"{height}x{width}x{FRAMES}: {rates}  ({calibrate(10 * options.repeats)})")


if __name__ == "__main__":
    main()
