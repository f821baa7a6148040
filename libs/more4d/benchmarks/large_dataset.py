"""A dataset of TrajScene-60K's size on one machine: what reading, checking and reporting it cost; its pixels are few.

Writes the outputs of the data stages for 200,000 candidate rows and 60,000 samples in 1,200 shards: tables, manifest,
index and markers as the stages write them, every clip and label a hard link of a few small files, every sample a shard's
bytes of its own around the same few pixels. Then measures each step in a fresh process and prints a Markdown table:
seconds, the most memory, and how much of that Python and its libraries took before. A copy timed in the same run tells
how fast the machine is just then. `--rows 400 --samples 100 --shards 5` takes half a minute.
"""

import argparse
import contextlib
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from more4d.data.cli import stats, verify
from more4d.data.layout import Folder
from more4d.data.loader import ResumableLoader
from more4d.data.reader import TrajSceneDataset
from more4d.data.sample import Sample, encode_sample
from more4d.data.sampler import BatchPlan, bucket_numbers
from more4d.data.tables import write_table
from more4d.data.tensors import write_arrays
from more4d.data.video import encode_video
from more4d.data.writer import EncodedSample, finished_shard, seal, write_shard
from more4d.presets import TINY
from more4d.report.curated.scores import LIMITED
from more4d.report.curated.tables import TABLES, column, rows_where
from more4d.stages.base import VideoSpec, fingerprint, run_stage
from more4d.stages.registry import get_stage

FRAMES, HEIGHT, WIDTH = 5, 16, 24
READ = 2_000
"""Samples that are read and decoded."""
MOST_LINKS = 50_000
"""Of one file; ext4 refuses the 65,001st."""
ENDS = {"clips": 0.5, "captions": 0.04, "selection": 0.26, "depth": 0.01, "tracks": 0.11, "trajscene": 0.08}
"""Where the windows end that give no sample."""
REASONS = {
    "source": (
        "{file}.mp4 does not exist", "https://videos.example.org/{file}.mp4?part={k} answers 404",
        "too large: {n} bytes, above source.fetch.max_bytes=2000000000", "the same bytes as {other}",
        "{file}.mp4 is no video that can be read: moov atom not found at byte {n}",
    ),
    "clips": (
        "static: nothing moves by more than {x:.4f} (below 0.01)", "the camera moves by {x:.4f} (above 0.01)",
        "the camera moves by {x:.4f} (above 0.01); too dark: brightness {y:.3f} (outside 0.08 to 0.95)",
        "no contrast: brightness varies by {x:.4f} (below 0.03)", "overlay text covers {x:.4f} (above 0.01)",
        "cut inside: a shot boundary after {k} of 49 frames", "too short: the video ends after {k} of 49 frames",
        "near-duplicate of {other}-00000: {y:.4f} of the bits differ (limit 0.1)",
    ),
    "captions": ("the caption has {k} words (below 3)", "undecided: no JSON but {words}"),
    "selection": (
        "countable no: {words}", "self_motion no: the camera moves: {words}", "self_motion no: {words}",
        "countable no: {words}; self_motion undecided: the answer took {x:.2f} s, above {k}",
    ),
    "depth": ("{k}% of the depths are not positive and finite",),
    "tracks": ("only {k}% of the points are visible (below 30%)",),
    "trajscene": (
        "{x:.2%} of the trajectories have invalid or anomalous depth (above 5.00%)",
        "log depth deviates by {y:.3f} (above 1.3)", "tracks move otherwise than the picture: by {y:.2f} (above 0.65)",
        "scaled by 1.25, renders change by another factor than the first: {y:.3f} (above 0.33)",
    ),
}  # fmt: skip
SCORES = {
    "clips": ("shot", "motion", "camera_motion", "repeated", "brightness", "contrast", "text", "duplicate"),
    "trajscene": ("anomalous_share", "depth_deviation", "scale_change", "flow_error", "unexplained_change"),
}
WORDS = (
    ("a dog", "two horses", "an old man", "a red car", "three boats", "a girl", "some birds", "a train", "a cook"),
    ("runs", "turns", "jumps", "waits", "swims", "falls", "dances", "rolls", "climbs", "comes back"),
    ("over", "behind", "below", "beside", "near", "in front of"),
    ("the bridge", "a fence", "the lake", "two trees", "the market", "a window", "the old station", "snow"),
    ("at noon", "at night", "in the rain", "again", "slowly", "in autumn light", "close up", "seen from afar"),
)


@dataclass(frozen=True)
class Size:
    """How many rows of the source, samples, and shards."""

    rows: int
    samples: int
    shards: int

    @property
    def per_shard(self) -> int:
        return -(-self.samples // self.shards)

    @property
    def val(self) -> int:
        """Samples held out: whole shards."""
        return self.per_shard * max(1, self.shards // 50)


def sentences(rng: np.random.Generator, count: int) -> list[str]:
    """Captions; most occur once or twice among 200,000."""
    parts = [rng.choice(words, count) for words in WORDS]
    numbers = rng.integers(2, 400, count)
    return [f"{' '.join(words)}, take {number}" for *words, number in zip(*parts, numbers, strict=True)]


def reasons(rng: np.random.Generator, stage: str, count: int, others: np.ndarray) -> list[str]:
    """Why items were refused, with measured values and others' names in it as the stages put them there."""
    templates = rng.choice(np.array(REASONS[stage], object), count)
    values = zip(
        templates, rng.uniform(0, 0.3, count), rng.uniform(0, 2, count), rng.integers(0, 49, count),
        rng.integers(10**5, 10**10, count), rng.choice(others, count), sentences(rng, count), strict=True,
    )  # fmt: skip
    return [t.format(x=x, y=y, k=k, n=n, other=o, file=f"clip{n}", words=w) for t, x, y, k, n, o, w in values]


def judged(rng: np.random.Generator, stage: str, table: pd.DataFrame, refused: pd.Series) -> pd.DataFrame:
    """The table with its columns verdict and reason."""
    others = table["videoid" if stage == "source" else "clip_id"].str.slice(0, -6 if stage != "source" else None)
    why = np.full(len(table), "", object)
    why[refused.to_numpy()] = reasons(rng, stage, int(refused.sum()), others.to_numpy())
    return table.assign(verdict=np.where(refused, "rejected", "accepted"), reason=why)


def source_table(rng: np.random.Generator, size: Size) -> pd.DataFrame:
    """A tenth rendered, one in a hundred a distractor, the rest out of forty tables; an eighth could not be had."""
    number = np.arange(size.rows)
    kind = rng.choice(["real", "rendered", "distractor"], size.rows, p=[0.89, 0.1, 0.01])
    own = kind != "real"
    ids = [f"{k}-{10**8 + i:09d}" if o else f"{10**9 + 37 * i}" for k, o, i in zip(kind, own, number, strict=True)]
    table = pd.DataFrame(
        {
            "videoid": ids, "contentUrl": [f"clips/{name}.mp4" for name in ids], "name": sentences(rng, size.rows),
            "duration": rng.gamma(3, 6, size.rows), "page_dir": "", "origin": kind,
            "licence": np.where(own, "Apache-2.0", rng.choice(["CC-BY-4.0", "CC0-1.0", "unknown", ""], size.rows)),
            "attribution": [f"author {i}" for i in rng.integers(0, size.rows // 8 + 1, size.rows)],
            "truth": [f"truth/{name}.safetensors" if k == "rendered" else "" for name, k in zip(ids, kind, strict=True)],
            "split": "train", "source_table": np.where(own, "rendered", [f"part-{i % 40:02d}.csv" for i in number]),
            "source_row": number, "begin": 0.0, "end": 0.0, "sha256": [rng.bytes(32).hex() for _ in ids],
            "distractor": np.where(kind == "distractor", "camera", ""),
        }
    )  # fmt: skip
    return judged(rng, "source", table, pd.Series((rng.random(size.rows) < 0.125) & ~own))


def windows_of(rng: np.random.Generator, source: pd.DataFrame, size: Size) -> pd.DataFrame:
    """One window of each video that was fetched, of every tenth two, each with the stage where it ends ("" a sample)."""
    fetched = source[source["verdict"] == "accepted"].drop(columns=["verdict", "reason"]).reset_index(drop=True)
    last = rng.choice(list(ENDS), len(fetched), p=list(ENDS.values()))
    able = np.flatnonzero(fetched["origin"] != "distractor")
    taken = np.sort(rng.permutation(able)[: size.samples])
    assert len(taken) == size.samples, f"{size.rows} rows give no {size.samples} samples: ask for fewer"
    last[fetched["origin"] == "distractor"] = "clips"
    last[taken] = ""
    fetched["split"] = np.where(fetched.index <= taken[size.val - 1], "val", "train")
    second = fetched.iloc[::10].assign(start_frame=49, end_stage="clips")
    both = pd.concat([fetched.assign(start_frame=0, end_stage=last), second]).sort_index(kind="stable")
    ids = both["videoid"] + "-" + both["start_frame"].map("{:05d}".format)
    return both.assign(clip_id=ids).reset_index(drop=True)


def clip_columns(rng: np.random.Generator, windows: pd.DataFrame) -> dict[str, Any]:
    """With hashes as random as those of different clips are, and scores on both sides of the limits."""
    about = ("videoid", "name", "origin", "distractor", "licence", "attribution", "truth", "split", "source_table",
             "source_row", "start_frame")  # fmt: skip
    paths = np.where(windows["end_stage"] == "clips", "", "clips/" + windows["clip_id"] + ".mp4")
    return {
        **{name: windows[name] for name in about}, "start_seconds": windows["start_frame"] / 8, "frames": FRAMES,
        "fps": 8.0, "path": paths, "shot_detector": "histogram", "text_detector": "rapidocr",
        "perceptual_hash": [rng.bytes(24).hex() for _ in paths],
        **{f"{name}_score": rng.gamma(2, 0.05, len(windows)) for name in SCORES["clips"]},
    }  # fmt: skip


def columns_of(rng: np.random.Generator, stage: str, windows: pd.DataFrame) -> dict[str, Any]:
    """What a stage says of each window beside its verdict."""
    count = len(windows)
    if stage == "clips":
        return clip_columns(rng, windows)
    if stage == "captions":
        return {"caption": sentences(rng, count), "captioner": "vlm", "captioner_version": "1", "model": "qwen"}
    if stage == "selection":
        named = {f"{name}_reason": sentences(rng, count) for name in ("countable", "self_motion")}
        return {"countable": "yes", "self_motion": "yes", **named, "judge": "llm", "judge_version": "1"}
    if stage == "depth":
        measured = {"median_depth_m": rng.gamma(2, 3, count), "focal_px": rng.uniform(200, 900, count)}
        return {"model": "net", "version": "1", "licence": "MIT", **measured}
    if stage == "tracks":
        measured = {"visible_share": rng.beta(8, 2, count), "moving_share": rng.beta(1, 5, count)}
        depth = {"depth_model": "net", "depth_version": "1", "depth_licence": "MIT"}
        return {"tracker": "flow", "version": "1", "licence": "Apache-2.0", **depth, **measured}
    about = {name: windows[name] for name in ("videoid", "split", "origin")}
    return about | {name: rng.gamma(2, 0.1, count) for name in SCORES["trajscene"]}


def simulate_tables(root: Path, size: Size) -> dict[str, pd.DataFrame]:
    """All stages' tables, written where the stages write them, with the settings of preset tiny."""
    rng = np.random.default_rng(0)
    source = source_table(rng, size)
    windows = windows_of(rng, source, size)
    splits = dict(zip(windows["videoid"], windows["split"], strict=True))
    tables = {"source": source.assign(split=[splits.get(name, "train") for name in source["videoid"]])}
    for stage in list(TABLES)[1:]:
        refused = column(windows, "end_stage") == stage
        columns = {"clip_id": windows["clip_id"], **columns_of(rng, stage, windows)}
        tables[stage] = judged(rng, stage, pd.DataFrame(columns), refused)
        windows = rows_where(windows, ~refused).reset_index(drop=True)
    for stage, table in tables.items():
        folder = root / "datasets" / stage
        (folder / "clips").mkdir(parents=True)
        section = get_stage(stage).section.model_validate(TINY[stage])
        write_table(folder / TABLES[stage], table, section if stage in LIMITED else None)
    return tables


def one_sample() -> Sample:
    """A few pixels that move to the right."""
    video = np.random.default_rng(0).integers(0, 255, (FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    depth, focal = np.full((HEIGHT, WIDTH), 4, np.float32), float(WIDTH)
    v, u = np.indices((HEIGHT, WIDTH)) + 0.5
    first = np.stack([(u - WIDTH / 2) / focal * 4, (v - HEIGHT / 2) / focal * 4, depth], -1)
    points = (first + np.arange(FRAMES)[:, None, None, None] * np.array([0.1, 0, 0])).astype(np.float32)
    camera = np.array([[focal, 0, WIDTH / 2], [0, focal, HEIGHT / 2], [0, 0, 1]], np.float32)
    mask = np.ones(video.shape[:3], bool)
    return Sample(
        id="one", video=video, fps=8.0, caption="", intrinsics=camera, depth=depth, points=points, visibility=mask,
        render=video, render_mask=mask, split="train", kind="real",
    )  # fmt: skip


def encoded(rows: pd.DataFrame, captions: dict[str, str]) -> Iterator[EncodedSample]:
    """A sample a row: the same pixels under another header."""
    files = encode_sample(one_sample())
    header = json.loads(files["json"])
    for row in rows.to_dict("records"):
        kind = "rendered" if row["origin"] == "rendered" else "real"
        own = {"id": row["clip_id"], "split": row["split"], "kind": kind, "caption": captions[row["clip_id"]]}
        yield EncodedSample(row["clip_id"], files | {"json": json.dumps(header | own, sort_keys=True).encode()})


def simulate_shards(root: Path, tables: dict[str, pd.DataFrame], size: Size) -> None:
    """The shards and their markers; `seal` is measured later."""
    folder = Folder(root / "datasets" / "trajscene")
    kept = tables["trajscene"].query("verdict == 'accepted'")
    captions = dict(zip(tables["captions"]["clip_id"], tables["captions"]["caption"], strict=True))
    for split, rows in kept.groupby("split"):
        samples = encoded(rows, captions)
        for number in range(-(-len(rows) // size.per_shard)):
            write_shard(folder, f"{split}-{number:06d}", islice(samples, size.per_shard), shard_bytes=2**62)


def link(file: Path, names: Iterator[Path]) -> None:
    """The file under each name too, copied anew before it has too many."""
    data = file.read_bytes()
    for number, name in enumerate(names, start=1):
        if number % MOST_LINKS == 0:
            file.unlink()
            file.write_bytes(data)
        os.link(file, name)
    file.unlink()


def simulate_files(root: Path, tables: dict[str, pd.DataFrame]) -> None:
    """A video for every fetched row and kept window, depth and tracks for every labeled one."""
    folder, sample = root / "datasets", one_sample()
    accepted = {stage: table[table["verdict"] == "accepted"] for stage, table in tables.items()}
    spare = folder / "spare"
    for stage, names in (("source", accepted["source"]["contentUrl"]), ("clips", accepted["clips"]["path"])):
        spare.write_bytes(encode_video(sample.video, sample.fps, lossless=True))
        link(spare, (folder / stage / name for name in names))
    arrays = {"points": sample.points, "visibility": sample.visibility, "depth0": sample.depth}
    for stage, held in (("depth", {"depths": sample.depth[None]}), ("tracks", arrays)):
        write_arrays(spare, held | {"intrinsics": sample.intrinsics}, {})
        link(spare, (folder / stage / f"{name}.safetensors" for name in accepted[stage]["clip_id"]))


def simulate(root: Path, size: Size) -> str:
    """Everything; what it came to."""
    tables = simulate_tables(root, size)
    simulate_shards(root, tables, size)
    simulate_files(root, tables)
    return ", ".join(f"{len(table):,} rows of {stage}" for stage, table in tables.items())


def shards_of(root: Path) -> Path:
    return root / "datasets" / "trajscene"


def seal_all(root: Path) -> Callable[[], str]:
    """Index and manifest of shards that are there; their markers and hashes are read before the clock starts."""
    folder, splits = Folder(shards_of(root)), {}
    for path in sorted(shards_of(root).glob("*.tar")):
        record = finished_shard(folder, path.stem)
        assert record is not None, f"{path} is not finished"
        splits.setdefault(path.stem.partition("-")[0], []).append(record)

    def work() -> str:
        for split, records in splits.items():
            seal(folder, split, records)
        files = [*shards_of(root).glob("*.index.parquet"), shards_of(root) / "manifest.json"]
        return f"{sum(path.stat().st_size for path in files) / 1e6:.1f} MB"

    return work


def open_all(root: Path) -> Callable[[], str]:
    """Manifest and index."""

    def work() -> str:
        dataset = TrajSceneDataset(shards_of(root))
        return f"{len(dataset):,} samples in {len(dataset.index.shards):,} shards"

    return work


def plan_epoch(root: Path) -> Callable[[], str]:
    """The order of an epoch."""
    dataset = TrajSceneDataset(shards_of(root), "train")
    return lambda: f"{len(BatchPlan(batch=8, seed=0).epoch(bucket_numbers(dataset.shapes), 0)):,} batches of 8"


def read_some(root: Path) -> Callable[[], str]:
    """Samples in the plan's order, in this process: fetched, checked, tracks and labels decoded."""
    dataset = TrajSceneDataset(shards_of(root), "train")
    loader = ResumableLoader(dataset, BatchPlan(batch=8, seed=0))

    def work() -> str:
        batches = islice(loader, min(READ, len(dataset)) // 8)
        return f"{sum(len(batch) for batch in batches):,} samples of {FRAMES}×{HEIGHT}×{WIDTH}"

    return work


def command(function: Callable[[str], None], root: Path) -> Callable[[], str]:
    """A command of `more4d data` without the start of Python; its last line."""

    def work() -> str:
        with contextlib.redirect_stdout(io.StringIO()) as said:
            function(str(shards_of(root)))
        return said.getvalue().strip().splitlines()[-1].removeprefix(f"{shards_of(root)}: ")

    return work


def hash_inputs(root: Path) -> Callable[[], str]:
    """What run_stage does before any stage: here the many small files count, in truth the bytes would."""
    inputs = [root / path for path in get_stage("data_report").inputs.values()]

    def work() -> str:
        for path in inputs:
            fingerprint(path)
        return f"{sum(1 for path in inputs for _ in path.rglob('*')):,} files"

    return work


def report(root: Path) -> Callable[[], str]:
    """Stage data_report, with the hashing of its inputs."""
    stage = get_stage("data_report")
    section, video = stage.section.model_validate(TINY["data_report"]), VideoSpec.model_validate(TINY["video"])

    def work() -> str:
        metrics = run_stage(stage, params=section, video=video, seed=0, workers=1, root=root).metrics
        page = root / "results" / "data"
        pictures = sum(path.stat().st_size for path in (page / "images").iterdir())
        sizes = [(page / name).stat().st_size / 1e6 for name in ("index.html", "rejected.csv")]
        return (
            f"page {sizes[0]:.1f} MB, pictures {pictures / 1e6:.1f} MB, rejected.csv {sizes[1]:.1f} MB, "
            f"{metrics['sheets']:.0f} sheets, {metrics['problems']:.0f} problems"
        )

    return work


STEPS: dict[str, Callable[[Path], Callable[[], str]]] = {
    "seal manifest and index": seal_all,
    "open `TrajSceneDataset`": open_all,
    "plan an epoch": plan_epoch,
    "read by `ResumableLoader`": read_some,
    "`more4d data verify`": lambda root: command(verify, root),
    "`more4d data stats`": lambda root: command(stats, root),
    "hash the inputs of `data_report`": hash_inputs,
    "stage `data_report`, hashing included": report,
}


def peak_mb() -> float:
    """The most memory that this process ever held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


def measure(name: str, root: Path) -> None:
    """Run one step and print its row."""
    work = STEPS[name](root)
    before, start = peak_mb(), time.perf_counter()
    result = work()
    print(f"| {name} | {time.perf_counter() - start:.2f} | {peak_mb():.0f} | {before:.0f} | {result} |")


def copy_rate() -> float:
    """GB/s that a copy of 67 MB reads and writes, the best of three."""
    block, taken = np.zeros(2**24, np.float32), []
    for _ in range(3):
        start = time.thread_time()
        block.copy()
        taken.append(time.thread_time() - start)
    return 2 * block.nbytes / min(taken) / 1e9


def run_all(root: Path, options: argparse.Namespace) -> None:
    """Simulate where nothing is yet, then measure: each in a process of its own."""
    again = [sys.executable, __file__, "--work", str(root), *size_arguments(options)]
    quiet = os.environ | {"TQDM_DISABLE": "1"}
    start = time.perf_counter()
    if not (root / "datasets").exists():
        subprocess.run([*again, "--step", "simulate"], check=True)
        print(f"(simulated in {time.perf_counter() - start:.0f} s)")
    print(f"(a copy of 67 MB: {copy_rate():.1f} GB/s)\n")
    print("| step | seconds | peak, MB | of it before, MB | what |\n|---|---:|---:|---:|---|", flush=True)
    for name in STEPS:
        subprocess.run([*again, "--step", name], check=True, env=quiet)


def size_arguments(options: argparse.Namespace) -> list[str]:
    """The options that say how much there is."""
    return [f"--{name}={getattr(options, name)}" for name in ("rows", "samples", "shards")]


def main() -> None:
    """Simulate and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000, help="candidates")
    parser.add_argument("--samples", type=int, default=60_000)
    parser.add_argument("--shards", type=int, default=1_200)
    parser.add_argument("--work", type=Path, help="a folder to keep; what is simulated there already is measured again")
    parser.add_argument("--step", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step == "simulate":
        print(f"({simulate(options.work, Size(options.rows, options.samples, options.shards))})", flush=True)
    elif options.step:
        measure(options.step, options.work)
    elif options.work:
        run_all(options.work, options)
    else:
        with tempfile.TemporaryDirectory() as folder:
            run_all(Path(folder), options)


if __name__ == "__main__":
    main()
