"""Opening 60,000 samples in 1,200 shards: seconds and memory, in a process of its own; the metadata is real, no tar is."""

import argparse
import hashlib
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from more4d.data.index import Entry
from more4d.data.layout import Folder
from more4d.data.sampler import BatchPlan, bucket_numbers
from more4d.data.writer import ShardRecord, seal

SHAPES = ((49, 336, 596), (49, 384, 512), (49, 368, 512))


def simulate(folder: Path, samples: int, shards: int) -> None:
    """The manifest and index of `samples` in `shards`, as seal writes them."""
    rng = np.random.default_rng(0)
    records, per_shard = [], samples // shards
    for number in range(shards):
        sizes = rng.integers(10_000_000, 22_000_000, per_shard)
        offsets = np.cumsum([0, *sizes])
        entries = tuple(
            Entry(f"{number:06d}-{i:05d}", int(offsets[i]), int(sizes[i]), digest(number, i), SHAPES[rng.integers(3)])
            for i in range(per_shard)
        )
        records.append(ShardRecord(f"train-{number:06d}", int(offsets[-1]), digest(number, -1), entries))
    seal(Folder(folder), "train", records)


def digest(number: int, i: int) -> str:
    """A hash that compresses as badly as real ones do."""
    return hashlib.sha256(f"{number} {i}".encode()).hexdigest()


def measure(folder: str) -> None:
    """Open, then plan an epoch, and print what each took."""
    from more4d.data.reader import TrajSceneDataset

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    dataset = TrajSceneDataset(folder)
    opened = time.perf_counter()
    batches = BatchPlan(batch=8, seed=0).epoch(bucket_numbers(dataset.shapes), 0)
    planned = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"open {len(dataset)} samples in {len(dataset.index.shards)} shards: {opened - start:.3f} s")
    print(f"plan an epoch of {len(batches)} batches: {planned - opened:.3f} s")
    print(f"peak memory {peak / 1e3:.0f} MB, {before / 1e3:.0f} MB of it Python with its libraries")


def main() -> None:
    """Simulate, then measure in a fresh process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=60_000)
    parser.add_argument("--shards", type=int, default=1_200)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure)
        return
    with tempfile.TemporaryDirectory() as folder:
        simulate(Path(folder), options.samples, options.shards)
        print(f"manifest and index: {sum(p.stat().st_size for p in Path(folder).iterdir()) / 1e6:.1f} MB", flush=True)
        subprocess.run([sys.executable, __file__, "--measure", folder], check=True)


if __name__ == "__main__":
    main()
