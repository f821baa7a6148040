"""Samples a second out of the latent cache, against the published layout's pickles and videos.

Writes `--samples` samples of 49 frames of 384x512, the published size, as `<id>.mp4, <id>.txt, <id>_dt3d_pred.pkl,
<id>_dt3d_render.mp4, <id>_mask_render.mp4, <id>_mask_render_binary.npy`, and a latent cache of as many, written by the
code of stage `latents` in the shapes of the wan-14b networks at 49x368x512, captions of 512 tokens (random numbers: none
of the formats compresses). Reading the published side is unpickling the tracks and decoding the clip, what its training
does before any network runs; reading ours is LatentDataset, for a training without decoded error (all that a Wan VAE
allows) and with it. Both come from the page cache. Prints rates, ratios and a copy of 64 MB timed in the same run.
"""

import argparse
import pickle
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from more4d.data.video import read_video, write_video
from more4d.models.architectures import ARCHITECTURES
from more4d.scenes import RenderedScene, render_scene, sample_scene
from more4d.training.cache.build import Cache, write_tables
from more4d.training.cache.dataset import LatentDataset
from more4d.training.cache.rows import Row, file_tensors, rounded
from more4d.training.cache.store import LatentStore, place
from torch import Tensor

FRAMES, HEIGHT, WIDTH = 49, 384, 512
KINDS = (
    ("latents", False, False),
    ("latents and log-variance, for draws from the posterior", False, True),
    ("latents and true motion, for a decoded error", True, False),
)
"""What is read, whether with the true motion, whether with the log-variance."""


def published(scene: RenderedScene, folder: Path, name: str) -> None:
    """The six files of a sample; the clip stands for its render too."""
    still = np.repeat(scene.video[:1] * 0, FRAMES, 0)
    for ending, video in (("", scene.video), ("_dt3d_render", scene.video), ("_mask_render", still)):
        write_video(folder / f"{name}{ending}.mp4", video, 8.0, crf=23)
    (folder / f"{name}.txt").write_text(scene.caption)
    np.save(folder / f"{name}_mask_render_binary.npy", scene.visibility)
    tracks = {
        "coords": torch.from_numpy(scene.points.reshape(FRAMES, -1, 3).copy()),
        "colors": torch.from_numpy(scene.video[0].reshape(-1, 3).copy()),
        "vis": torch.from_numpy(scene.visibility.reshape(FRAMES, -1).copy()),
    }
    (folder / f"{name}_dt3d_pred.pkl").write_bytes(pickle.dumps(tracks))


def encoded(seed: int) -> dict[str, Row]:
    """What each encoder makes of one sample with the wan-14b networks, its caption as long as can be."""
    architecture = ARCHITECTURES["wan-14b"]
    size, encoder = architecture.generation, architecture.motion_encoder
    latent = (16, (size.frames + 3) // 4, size.height // 8, size.width // 8)
    video = (size.frames, size.height, size.width)
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return {
        "motion": {"motion_latent": draw(*latent), "motion_logvar": draw(*latent)},
        "picture": {"image_latent": draw(*latent), "depth_latent": draw(*latent)},
        "text": {"text": draw(architecture.text.max_tokens, architecture.text.dim)},
        "image": {"image_tokens": draw(architecture.image_encoder.tokens, architecture.image_encoder.dim)},
        "features": {"motion_features": draw(encoder.grid[0] * encoder.grid[1], encoder.dim)},
        "truth": {"motion": draw(3, *video), "visible": draw(*video) > 0, "unit": draw(3, *video[1:])},
    }


def write_cache(folder: Path, count: int) -> None:
    """A cache of `count` samples in one shard, as the stage latents writes it."""
    rows: dict[str, list[Row]] = {}
    for i in range(count):
        for name, row in encoded(i).items():
            rows.setdefault(name, []).append(rounded(row, "float16"))
    store, cache = LatentStore(folder / "store"), Cache()
    for name, made in rows.items():
        place(store.put(name, file_tensors(made), []).file, folder / f"train-00000.{name}.safetensors")
    where = {"split": "train", "shard": "train-00000", "frames": FRAMES, "height": HEIGHT, "width": WIDTH}
    cache.samples = [{"id": f"{i:05d}", **where, "row": i, "sha256": ""} for i in range(count)]
    tokens = ARCHITECTURES["wan-14b"].text.max_tokens
    write_tables(cache, folder, {name: {} for name in rows}, dtype="float16", text_tokens=tokens)


def rate(read: Callable[[int], object], samples: int) -> float:
    """Samples a second of this thread's CPU time, the best of three passes."""
    taken = []
    for _ in range(3):
        start = time.thread_time()
        for i in range(samples):
            read(i)
        taken.append(time.thread_time() - start)
    return samples / min(taken)


def read_published(folder: Path, name: str) -> object:
    """Tracks and frames of one sample."""
    tracks = pickle.loads((folder / f"{name}_dt3d_pred.pkl").read_bytes())  # noqa: S301 - written above
    return tracks, read_video(folder / f"{name}.mp4")


def main() -> None:
    """Write both, read both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=6)
    options = parser.parse_args()
    torch.set_num_threads(1)
    count = options.samples
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        for i in range(count):
            published(render_scene(sample_scene(i), frames=FRAMES, height=HEIGHT, width=WIDTH), folder, f"{i:05d}")
        (folder / "cache").mkdir()
        write_cache(folder / "cache", count)
        block = np.zeros(2**24, np.float32)
        copy = rate(lambda _: block.copy(), 20)
        print(f"a copy of {block.nbytes / 1e6:.0f} MB: {copy * 2 * block.nbytes / 1e9:.1f} GB/s")
        base = rate(lambda i: read_published(folder, f"{i:05d}"), count)
        print(f"pickle + mp4: {base:.2f} samples/s a core")
        for what, decoded, posterior in KINDS:
            cache = LatentDataset(folder / "cache", decoded=decoded, posterior=posterior)
            found = rate(lambda i, cache=cache: cache.batch(torch.tensor([i])), count)
            print(f"{what}: {found:.1f} samples/s a core, {found / base:.1f} times as many")


if __name__ == "__main__":
    main()
