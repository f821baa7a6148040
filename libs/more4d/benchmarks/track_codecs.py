"""How small and how fast our tracks get: codecs on the same integers, of a rendered scene, exact, flow-tracked, noisy.

Prints a Markdown table: MB for one sample's tracks, seconds of CPU time to compress and to restore, on one core. Codecs
that are not installed (`pip install blosc2`) are left out and named. Then what a whole sample takes, and how many are
decoded a second a core: tracks and labels alone, the clip too, everything. A copy timed in the same run tells how fast
the machine is just then.
"""

import argparse
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
from more4d.data.planes import pack_planes, unfold, unpack_planes
from more4d.data.sample import Sample, decode_sample, encode_sample
from more4d.data.tracks_codec import encode_tracks
from more4d.labeling.flow_tracker import FlowTrackerParams, lift, track_pixels
from more4d.scenes import RenderedScene, render_scene, sample_scene
from more4d.scenes.movers import FOX_FILE
from numpy.typing import NDArray
from pcodec import ChunkConfig, standalone  # pyright: ignore[reportAttributeAccessIssue] - made in Rust

FRAMES, HEIGHT, WIDTH = 49, 336, 596


@dataclass(frozen=True)
class Codec:
    """A way there and back for int16 arrays."""

    name: str
    compress: Callable[[NDArray[np.int16]], Any]
    restore: Callable[[Any, int], Any]


def codecs() -> list[Codec]:
    """All candidates that are installed."""
    zstd = pa.Codec("zstd", compression_level=5)
    found = [
        Codec("byte planes + zstd 5 (ours)", pack_planes, lambda c, n: unpack_planes(c, n // 2)),
        Codec(
            "pcodec",
            lambda a: standalone.simple_compress(a, ChunkConfig()),
            lambda c, _: standalone.simple_decompress(c),
        ),
        Codec("zstd 5", lambda a: zstd.compress(a.tobytes()), lambda c, n: zstd.decompress(c, n)),
        Codec("deflate 6", lambda a: zlib.compress(a.tobytes(), 6), lambda c, _: zlib.decompress(c)),
    ]
    if find_spec("blosc2") is None:
        print("(blosc2 is not installed)")
        return found
    import blosc2  # pyright: ignore[reportMissingImports] - compared with, never needed

    def shuffled(array: NDArray[np.int16], *, bits: bool) -> bytes:
        kind = blosc2.Filter.BITSHUFFLE if bits else blosc2.Filter.SHUFFLE
        options = {"codec": blosc2.Codec.ZSTD, "clevel": 5, "filters": [kind], "typesize": 2, "nthreads": 1}
        return blosc2.compress2(array, cparams=options)

    blosc2.set_nthreads(1)
    found.append(Codec("bitshuffle + zstd 5", lambda a: shuffled(a, bits=True), lambda c, _: blosc2.decompress2(c)))
    found.append(Codec("byteshuffle + zstd 5", lambda a: shuffled(a, bits=False), lambda c, _: blosc2.decompress2(c)))
    return found


def seconds(work: Callable[[], Any]) -> tuple[Any, float]:
    """(what it returns, the shortest CPU time of three runs)."""
    taken, result = [], None
    for _ in range(3):
        start = time.thread_time()
        result = work()
        taken.append(time.thread_time() - start)
    return result, min(taken)


def noisy(points: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Points with drift that neighbours share, half a pixel a frame, and jitter that they do not, a tenth."""
    rng = np.random.default_rng(seed)
    drift = np.stack([cv2.GaussianBlur(f, (0, 0), 3) for f in rng.normal(0, 1, points.shape).astype(np.float32)])
    pixel = points[..., 2:] / WIDTH
    moved = points + (5 * drift.cumsum(0) + 0.1 * rng.normal(0, 1, points.shape)) * pixel
    return np.concatenate([points[:1], moved[1:]]).astype(np.float32)


def steps_of(points: NDArray[np.float32], scene: RenderedScene) -> NDArray[np.int16]:
    """What the codec is given: steps of u, v and log depth, as differences from the frame before."""
    tracks = encode_tracks(points, scene.depths[0], scene.intrinsics)
    return unfold(unpack_planes(tracks.files["steps"], points.size))


def table(kind: str, points: NDArray[np.float32], scene: RenderedScene) -> None:
    """A row a codec."""
    steps = steps_of(points, scene)
    for codec in codecs():
        packed, there = seconds(lambda codec=codec: codec.compress(steps))
        _, back = seconds(lambda codec=codec, packed=packed: codec.restore(packed, steps.nbytes))
        print(f"| {kind} | {codec.name} | {len(packed) / 1e6:.2f} | {there:.3f} | {back:.3f} |")


def everything(files: dict[str, bytes]) -> None:
    """Decode a sample, videos and all."""
    sample = decode_sample(files)
    _ = sample.video, sample.render, sample.render_mask


def whole(kind: str, points: NDArray[np.float32], scene: RenderedScene) -> None:
    """A sample with its video, a render (the video stands for it) and masks: bytes, and samples a second a core."""
    mask = scene.visibility
    sample = Sample(
        id="a", video=scene.video, fps=8.0, caption=scene.caption, intrinsics=scene.intrinsics, depth=scene.depths[0],
        points=points, visibility=mask, render=scene.video, render_mask=mask, split="train", kind="rendered",
    )  # fmt: skip
    files = encode_sample(sample)
    spent = (
        seconds(lambda: decode_sample(files))[1],
        seconds(lambda: decode_sample(files).video)[1],
        seconds(lambda: everything(files))[1],
    )
    rates = ", ".join(
        f"{1 / s:.1f} {what}" for s, what in zip(spent, ("tracks and labels", "+ clip", "all"), strict=True)
    )
    print(f"{kind}: {sum(map(len, files.values())) / 1e6:.2f} MB a sample; samples/s a core: {rates}")


def flow_tracks(scene: RenderedScene) -> NDArray[np.float32]:
    """The flow tracker's points over the scene's true depth."""
    thresholds = {"max_inconsistency": 1.0, "max_inconsistency_share": 0.2, "max_colour_change": 60.0}
    params = FlowTrackerParams.model_validate({**thresholds, "still_pixels": 1.0})
    return lift(track_pixels(scene.video, params), scene.depths, scene.intrinsics, params.still_pixels)


def main() -> None:
    """Render one scene and print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the scene and of the noise")
    parser.add_argument("--fox", type=Path, default=FOX_FILE)
    options = parser.parse_args()
    scene = render_scene(sample_scene(options.seed), frames=FRAMES, height=HEIGHT, width=WIDTH, fox_file=options.fox)
    kinds = {"exact": scene.points, "flow": flow_tracks(scene), "noisy": noisy(scene.points, options.seed)}
    block = np.zeros(2**24, np.float32)
    print(f"(a copy of {block.nbytes / 1e6:.0f} MB: {2 * block.nbytes / seconds(block.copy)[1] / 1e9:.1f} GB/s)\n")
    print("| tracks | codec | MB | compress, s | restore, s |\n|---|---|---|---|---|")
    for kind, points in kinds.items():
        table(kind, points, scene)
    for kind, points in kinds.items():
        whole(kind, points, scene)


if __name__ == "__main__":
    main()
