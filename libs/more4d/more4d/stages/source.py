"""Stage source: one WebVid-style table of clips, rendered and real, with each clip beside it.

Suffixes: T frames, H height, W width.
"""

import hashlib
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import Field

from more4d.curation.tables import SourceColumns, SourceRow, packaged_rows, read_source_table
from more4d.data.tables import require_accepted, verdict, write_table
from more4d.data.tensors import encode_arrays
from more4d.data.video import VideoError, encode_video, probe_video
from more4d.geometry.paths import CameraName
from more4d.parallel import ordered_map
from more4d.scenes import RenderedScene, SceneConfig, render_scene, sample_scene
from more4d.scenes.movers import FOX_FILE
from more4d.settings import Section
from more4d.stages.base import Context, Stage, VideoSpec

log = logging.getLogger(__name__)

# Apart from the tiny base's scenes (below 10^8) and its held-out ones (from 10^9 up).
TRAIN_SEEDS = 2 * 10**8
VAL_SEEDS = 6 * 10**8
SEEDS_PER_RUN = 10**5
_RUNS = 4000


class ExtraTable(Section):
    """A WebVid-style table (CSV or Parquet) of the user's, and what its columns are called."""

    path: str
    columns: SourceColumns = SourceColumns()


class SourceParams(Section):
    """How many scenes to render, and which real clips to add."""

    rendered_train: int = Field(ge=0, le=SEEDS_PER_RUN)
    rendered_val: int = Field(ge=0, le=SEEDS_PER_RUN)
    novel_views: tuple[CameraName, ...] = ()
    """Cameras from which every scene is rendered too: the truth of novel views."""
    fox_share: float = Field(ge=0, le=1, default=0.45)
    pair_share: float = Field(ge=0, le=1, default=0.25)
    crf: int = Field(ge=0, le=51, default=0)
    """H.264 quality of the rendered clips; 0 is lossless."""
    packaged: tuple[str, ...] | None = None
    """Names of the packaged clips to add; null adds all that were fetched."""
    tables: tuple[ExtraTable, ...] = ()
    max_rejected_share: float = Field(ge=0, le=1)


@dataclass(frozen=True)
class _Job:
    seed: int
    split: str


@dataclass(frozen=True)
class _Rendered:
    row: SourceRow
    clip: bytes
    truth: bytes


class SourceStage(Stage[SourceParams]):
    """Rendered scenes with exact truth, real clips from packages, and the user's tables, as one table."""

    name = "source"
    section = SourceParams
    inputs = {"packaged": ".cache/packaged", "packaged_list": "datasets/packaged.toml"}
    outputs = {"source": "datasets/source"}

    def run(self, context: Context[SourceParams]) -> dict[str, float]:
        folder = context.outputs["source"]
        (folder / "clips").mkdir()
        (folder / "truth").mkdir()
        rows = [*_render_all(context, folder), *_take_real(context, folder)]
        table = pd.DataFrame(rows)
        write_table(folder / "table.parquet", table)
        counts = require_accepted(table, stage=self.name, max_rejected_share=context.params.max_rejected_share)
        return {**counts, **_count_origins(rows)}


def rendered_seeds(run_seed: int, train: int, val: int) -> list[tuple[int, str]]:
    """(scene seed, split) of a run's scenes; train and val never share a seed, nor do runs whose seeds differ mod 4000."""
    offset = run_seed % _RUNS * SEEDS_PER_RUN
    return [(TRAIN_SEEDS + offset + i, "train") for i in range(train)] + [
        (VAL_SEEDS + offset + i, "val") for i in range(val)
    ]


def _render_all(context: Context[SourceParams], folder: Path) -> Iterator[dict[str, Any]]:
    params = context.params
    jobs = [_Job(*pair) for pair in rendered_seeds(context.seed, params.rendered_train, params.rendered_val)]
    render = partial(_render, params, context.video, context.inputs["packaged"] / "fox" / FOX_FILE.name)
    for rendered in ordered_map(render, jobs, workers=context.workers, label="scenes"):
        (folder / rendered.row.contentUrl).write_bytes(rendered.clip)
        (folder / rendered.row.truth).write_bytes(rendered.truth)
        yield _as_row(rendered.row, rendered.clip, [])


def _render(params: SourceParams, video: VideoSpec, fox_file: Path, job: _Job) -> _Rendered:
    seconds = (video.frames - 1) / video.fps
    config = SceneConfig(fps=video.fps, fox_share=params.fox_share, pair_share=params.pair_share, seconds=seconds)
    spec = sample_scene(job.seed, config)
    scene = render_scene(
        spec, frames=video.frames, height=video.height, width=video.width, views=params.novel_views, fox_file=fox_file
    )
    name = f"rendered-{job.seed:09d}"
    row = SourceRow(
        videoid=name, contentUrl=f"clips/{name}.mp4", name=scene.caption, duration=video.frames / video.fps,
        page_dir="rendered", origin="rendered", licence="Apache-2.0; fox CC-BY-4.0",
        attribution="rendered by more4d.scenes; fox: PixelMannen, tomkranis, AsoboStudio and scurest",
        truth=f"truth/{name}.safetensors", split=job.split, source_table="rendered", source_row=job.seed,
    )  # fmt: skip
    clip = encode_video(scene.video, video.fps, lossless=params.crf == 0, crf=params.crf)
    return _Rendered(row, clip, _encode_truth(scene))


def _encode_truth(scene: RenderedScene) -> bytes:
    arrays = {
        "depths": scene.depths,
        "intrinsics": scene.intrinsics,
        "points": scene.points,
        "visibility": scene.visibility,
        "moving_object": scene.moving_object,
    }
    for name, view in scene.views.items():
        arrays[f"view_{name}_video"] = view.video
        arrays[f"view_{name}_camera_to_world"] = view.camera_to_world
    facts = {"caption": scene.caption, "kind": scene.kind, "direction": scene.direction, "seed": scene.seed}
    return encode_arrays(arrays, {**facts, "views": sorted(scene.views)})


def _take_real(context: Context[SourceParams], folder: Path) -> Iterator[dict[str, Any]]:
    """Copies each real clip that can be had; the others become rejected rows."""
    packaged = context.inputs["packaged"]
    found = packaged_rows(context.inputs["packaged_list"], packaged, context.params.packaged)
    for table in context.params.tables:
        # A table's own path is the user's: relative to the workspace, which holds .cache.
        found += read_source_table(packaged.parents[1] / table.path, table.columns)
    seen: dict[str, str] = {}
    for row, file in found:
        yield _take(row, file, folder, seen)


def _take(row: SourceRow, file: Path | None, folder: Path, seen: dict[str, str]) -> dict[str, Any]:
    if file is None:
        return _as_row(row, b"", [f"{row.contentUrl} is not a local file; only local files can be read"])
    try:
        info = probe_video(file)
    except VideoError as error:
        return _as_row(row, b"", [str(error)])
    clip = file.read_bytes()
    digest = hashlib.sha256(clip).hexdigest()
    if digest in seen:
        return _as_row(row, clip, [f"the same bytes as {seen[digest]}"])
    seen[digest] = row.videoid
    kept = f"clips/{row.videoid}{file.suffix.lower()}"
    (folder / kept).write_bytes(clip)
    changes = {"contentUrl": kept, "duration": row.duration or round(info.duration, 3)}
    return _as_row(row, clip, []) | changes


def _as_row(row: SourceRow, clip: bytes, reasons: list[str]) -> dict[str, Any]:
    return asdict(row) | {"sha256": hashlib.sha256(clip).hexdigest() if clip else ""} | verdict(reasons)


def _count_origins(rows: list[dict[str, Any]]) -> dict[str, float]:
    accepted = [row for row in rows if row["verdict"] == "accepted"]
    return {
        "rendered_train": sum(row["origin"] == "rendered" and row["split"] == "train" for row in accepted),
        "rendered_val": sum(row["origin"] == "rendered" and row["split"] == "val" for row in accepted),
        "real": sum(row["origin"] == "real" for row in accepted),
    }


STAGE = SourceStage()
