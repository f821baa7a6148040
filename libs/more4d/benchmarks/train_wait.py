"""The share of a training's time in which it waits for data out of the latent cache.

The real loop trains the STraG of train_step.py (width 512, 4 layers, 1,280 tokens) on a cache of random samples, written in
the layout of stage `latents`. Run it with OMP_NUM_THREADS=2 on a quiet machine.
"""

import argparse
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
from denoise_step import COLUMNS, FRAMES, ROWS
from more4d.models.architectures import ARCHITECTURES
from more4d.models.strag import STraGTransformer
from more4d.models.vae import MotionVAE
from more4d.training.cache.build import Cache, write_tables
from more4d.training.cache.dataset import LatentDataset
from more4d.training.cache.rows import Row, file_tensors, rounded
from more4d.training.cache.store import LatentStore, place
from more4d.training.flow import FlowSettings
from more4d.training.latents import cached_conditions
from more4d.training.loop import Place, train
from more4d.training.settings import TrainSettings
from more4d.training.strag import STraGObjective
from more4d.training.watch.meters import Meter
from torch import nn
from train_step import IMAGE_DIM, IMAGE_TOKENS, MOTION_DIM, MOTION_TOKENS, SHAPE, TEXT_TOKENS, make_network

GOAL = 0.03


def encoded(seed: int) -> dict[str, Row]:
    """What each encoder makes of one sample."""
    draw = functools.partial(torch.randn, generator=torch.Generator().manual_seed(seed))
    latent = (16, FRAMES, 2 * ROWS, 2 * COLUMNS)
    return {
        "motion": {"motion_latent": draw(latent), "motion_logvar": draw(latent)},
        "picture": {"image_latent": draw(latent), "depth_latent": draw(latent)},
        "text": {"text": draw(TEXT_TOKENS, int(SHAPE["text_dim"]))},
        "image": {"image_tokens": draw(IMAGE_TOKENS, IMAGE_DIM)},
        "features": {"motion_features": draw(MOTION_TOKENS, MOTION_DIM)},
    }


def write_cache(folder: Path, count: int) -> None:
    """A cache of `count` samples in one shard."""
    rows: dict[str, list[Row]] = {}
    for i in range(count):
        for name, row in encoded(i).items():
            rows.setdefault(name, []).append(rounded(row, "float16"))
    store, cache = LatentStore(folder / "store"), Cache()
    for name, made in rows.items():
        place(store.put(name, file_tensors(made), []).file, folder / f"train-00000.{name}.safetensors")
    size = {"frames": 4 * FRAMES - 3, "height": 16 * ROWS, "width": 16 * COLUMNS}
    where = {"split": "train", "shard": "train-00000", **size}
    cache.samples = [{"id": f"{i:05d}", **where, "row": i, "sha256": ""} for i in range(count)]
    write_tables(cache, folder, {name: {} for name in rows}, dtype="float16", text_tokens=TEXT_TOKENS)


def wait_share(folder: Path, steps: int) -> float:
    """The meter's share over `steps` steps of one sample, after a first one that is not counted."""
    network = make_network(STraGTransformer)
    vae = nn.Module.requires_grad_(MotionVAE(ARCHITECTURES["tiny"].motion_vae), False)
    source = LatentDataset(folder / "cache")
    # The VAE is asked for nothing: no error is decoded.
    objective = STraGObjective(network, network, vae, source, cached_conditions, FlowSettings())  # type: ignore[arg-type]
    settings = TrainSettings(
        steps=steps + 1,
        batch_size=1,
        learning_rate=1e-5,
        warmup_steps=1,
        ema_decay=0,
        log_every=1,
        checkpoint_every=steps + 1,
    )
    work = folder / "work"
    work.mkdir()
    waited, took = _listen(lambda: train(objective, settings, seed=0, work=work, place=Place(work)))
    print(f"{steps} steps of {sum(took[1:]) / steps:.2f} s")
    return sum(waited[1:]) / sum(took[1:])


def _listen(run: Callable[[], object]) -> tuple[list[float], list[float]]:
    """(seconds waited, seconds taken) of each step, as the loop tells its meter."""
    told: dict[str, list[float]] = {"waited": [], "step": []}

    def note(name: str, meant: Callable[[Meter, float], None]) -> Callable[[Meter, float], None]:
        def call(meter: Meter, seconds: float) -> None:
            told[name].append(seconds)
            meant(meter, seconds)

        return call

    with patch.multiple(Meter, waited=note("waited", Meter.waited), step=note("step", Meter.step)):
        run()
    return told["waited"], told["step"]


def main() -> None:
    """Write a cache, train on it, print the share."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--samples", type=int, default=64)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        (folder / "cache").mkdir()
        write_cache(folder / "cache", options.samples)
        share = wait_share(folder, options.steps)
    print(f"waited for data {share:.2%} of the time (goal: below {GOAL:.0%})")


if __name__ == "__main__":
    main()
