"""Stage source: one WebVid-style table of clips, rendered and real, with each clip beside it.

Suffixes: T frames, H height, W width.
"""

import codecs
import hashlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

import pandas as pd
from pydantic import Field, field_validator

from more4d.curation.layouts import SourceColumns
from more4d.curation.parts import cut_part
from more4d.curation.records import write_csv
from more4d.curation.tables import Candidate, SourceRow, name_apart, packaged_rows, read_source_table
from more4d.data.hashing import hash_file
from more4d.data.tables import REJECTED, require_accepted, verdict, write_table
from more4d.data.tensors import encode_arrays
from more4d.data.video import VideoError, VideoInfo, encode_video, probe_video
from more4d.geometry.paths import CameraName
from more4d.parallel import ordered_map
from more4d.scenes import (
    DISTRACTOR_KINDS,
    DistractorKind,
    RenderedScene,
    SceneConfig,
    render_distractor,
    render_scene,
    sample_scene,
)
from more4d.scenes.movers import FOX_FILE
from more4d.settings import Section
from more4d.sourcing.addresses import FetchError, Reach, Scheme, redact
from more4d.sourcing.fetch import fetch_all
from more4d.sourcing.limits import FetchLimits
from more4d.sourcing.sniff import require_media
from more4d.sourcing.store import link_or_copy
from more4d.stages.base import Context, Stage, VideoSpec

DOWNLOADS = Path(".cache/downloads")
"""In the workspace: every file that was ever fetched, by its address. It may be deleted at any time."""
_REJECTED_COLUMNS = ["source_table", "source_row", "videoid", "contentUrl", "name", "reason"]

# Apart from the tiny base's scenes (below 10^8) and its held-out ones (from 10^9 up).
DISTRACTOR_SEEDS = 10**8
DISTRACTORS_PER_RUN = 5000
"""Of each kind."""
TRAIN_SEEDS = 2 * 10**8
VAL_SEEDS = 6 * 10**8
SEEDS_PER_RUN = 10**5
_RUNS = 4000


class ExtraTable(Section):
    """A table of videos (CSV, TSV or Parquet) of the user's, what its columns are called, and where it may point to."""

    path: str
    """In the workspace, or an https:// or s3:// address, which is asked for anew in each run."""
    columns: SourceColumns = SourceColumns.model_validate({})
    schemes: tuple[Scheme, ...] = ("file",)
    """Where its videos may be: file, https, s3, http. A row that names another kind of address is rejected."""
    base: str = ""
    """The folder, or the https:// or s3:// prefix, of videos that are named without one; "" is the table's folder."""
    encoding: str = "utf-8"
    """Of a CSV."""
    first_rows: int | None = Field(gt=0, default=None)

    @field_validator("encoding")
    @classmethod
    def _is_known(cls, value: str) -> str:
        try:
            codecs.lookup(value)
        except LookupError as error:
            raise ValueError(f"unknown encoding {value!r}; try utf-8, utf-16 or cp1252") from error
        return value


class DistractorCounts(Section):
    """How many rendered clips of each kind that curation should reject: a check of the filters in every run."""

    camera: int = Field(ge=0, le=DISTRACTORS_PER_RUN, default=0)
    """The camera moves."""
    still: int = Field(ge=0, le=DISTRACTORS_PER_RUN, default=0)
    """Nothing moves."""
    uncountable: int = Field(ge=0, le=DISTRACTORS_PER_RUN, default=0)
    """Snow, sand, waves or smoke move, and nothing else."""
    cuts: int = Field(ge=0, le=DISTRACTORS_PER_RUN, default=0)
    """Two or three scenes in one clip, each shorter than a window."""


class SourceParams(Section):
    """How many scenes to render, and which real clips to add."""

    rendered_train: int = Field(ge=0, le=SEEDS_PER_RUN)
    rendered_val: int = Field(ge=0, le=SEEDS_PER_RUN)
    novel_views: tuple[CameraName, ...] = ()
    """Cameras from which every scene is rendered too: the truth of novel views."""
    distractors: DistractorCounts = DistractorCounts()
    fox_share: float = Field(ge=0, le=1, default=0.45)
    pair_share: float = Field(ge=0, le=1, default=0.25)
    crf: int = Field(ge=0, le=51, default=0)
    """H.264 quality of the rendered clips; 0 is lossless."""
    packaged: tuple[str, ...] | None = None
    """Names of the packaged clips to add; null adds all that were fetched."""
    tables: tuple[ExtraTable, ...] = ()
    fetch: FetchLimits = FetchLimits()
    part_crf: int = Field(ge=0, le=51, default=12)
    """H.264 quality of what is cut out where a row names a part of a video."""
    max_rejected_share: float = Field(ge=0, le=1)


@dataclass(frozen=True)
class _Job:
    seed: int
    split: str
    distractor: DistractorKind | None = None


@dataclass(frozen=True)
class _Rendered:
    """`truth` is empty for a distractor."""

    row: SourceRow
    clip: bytes
    truth: bytes = b""
    distractor: str = ""


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
        rows = list(_render_all(context, folder))
        rows += _take_real(context, folder, [row["videoid"] for row in rows])
        table = pd.DataFrame(rows)
        write_table(folder / "table.parquet", table)
        write_csv(folder / "rejected.csv", _REJECTED_COLUMNS, [row for row in rows if row["verdict"] == REJECTED])
        counts = require_accepted(table, stage=self.name, max_rejected_share=context.params.max_rejected_share)
        return {**counts, **_count_origins(rows)}


def rendered_seeds(run_seed: int, train: int, val: int) -> list[tuple[int, str]]:
    """(scene seed, split) of a run's scenes; train and val never share a seed, nor do runs whose seeds differ mod 4000."""
    offset = run_seed % _RUNS * SEEDS_PER_RUN
    return [(TRAIN_SEEDS + offset + i, "train") for i in range(train)] + [
        (VAL_SEEDS + offset + i, "val") for i in range(val)
    ]


def distractor_seeds(run_seed: int, counts: DistractorCounts) -> list[tuple[int, DistractorKind]]:
    """(scene seed, kind) of a run's distractors; none is ever the seed of a scene with truth, nor of another kind."""
    first = DISTRACTOR_SEEDS + run_seed % _RUNS * DISTRACTORS_PER_RUN * len(DISTRACTOR_KINDS)
    return [
        (first + number * DISTRACTORS_PER_RUN + i, kind)
        for number, kind in enumerate(DISTRACTOR_KINDS)
        for i in range(getattr(counts, kind))
    ]


def _render_all(context: Context[SourceParams], folder: Path) -> Iterator[dict[str, Any]]:
    params = context.params
    jobs = [_Job(*pair) for pair in rendered_seeds(context.seed, params.rendered_train, params.rendered_val)]
    jobs += [_Job(seed, "train", kind) for seed, kind in distractor_seeds(context.seed, params.distractors)]
    render = partial(_render, params, context.video, context.inputs["packaged"] / "fox" / FOX_FILE.name)
    for rendered in ordered_map(render, jobs, workers=context.workers, label="scenes"):
        (folder / rendered.row.contentUrl).write_bytes(rendered.clip)
        if rendered.truth:
            (folder / rendered.row.truth).write_bytes(rendered.truth)
        yield _as_row(rendered.row, hashlib.sha256(rendered.clip).hexdigest(), [], rendered.distractor)


def _render(params: SourceParams, video: VideoSpec, fox_file: Path, job: _Job) -> _Rendered:
    seconds = (video.frames - 1) / video.fps
    config = SceneConfig(fps=video.fps, fox_share=params.fox_share, pair_share=params.pair_share, seconds=seconds)
    if job.distractor:
        return _render_distractor(params, config, video, fox_file, job.distractor, job.seed)
    spec = sample_scene(job.seed, config)
    scene = render_scene(
        spec, frames=video.frames, height=video.height, width=video.width, views=params.novel_views, fox_file=fox_file
    )
    name = f"rendered-{job.seed:09d}"
    row = _rendered_row(
        name, scene.caption, video.frames / video.fps, job.seed,
        origin="rendered", truth=f"truth/{name}.safetensors", split=job.split,
    )  # fmt: skip
    clip = encode_video(scene.video, video.fps, lossless=params.crf == 0, crf=params.crf)
    return _Rendered(row, clip, _encode_truth(scene))


def _render_distractor(
    params: SourceParams, config: SceneConfig, video: VideoSpec, fox_file: Path, kind: DistractorKind, seed: int
) -> _Rendered:
    made = render_distractor(
        kind, seed, config, frames=video.frames, height=video.height, width=video.width, fox_file=fox_file
    )
    # Without truth: what slips through is labeled as a real clip would be.
    row = _rendered_row(
        f"distractor-{kind}-{seed:09d}", made.caption, len(made.video) / video.fps, seed,
        origin="distractor", truth="", split="train",
    )  # fmt: skip
    clip = encode_video(made.video, video.fps, lossless=params.crf == 0, crf=params.crf)
    return _Rendered(row, clip, distractor=kind)


def _rendered_row(
    name: str, caption: str, duration: float, seed: int, *, origin: str, truth: str, split: str
) -> SourceRow:
    return SourceRow(
        videoid=name, contentUrl=f"clips/{name}.mp4", name=caption, duration=duration, page_dir="rendered",
        origin=origin, licence="Apache-2.0; fox CC-BY-4.0",
        attribution="rendered by more4d.scenes; fox: PixelMannen, tomkranis, AsoboStudio and scurest",
        truth=truth, split=split, source_table="rendered", source_row=seed,
    )  # fmt: skip


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


def _take_real(context: Context[SourceParams], folder: Path, taken: list[str]) -> Iterator[dict[str, Any]]:
    """Puts each real clip that can be had into the folder; the others become rejected rows."""
    packaged = context.inputs["packaged"]
    found = packaged_rows(context.inputs["packaged_list"], packaged, context.params.packaged)
    for number, table in enumerate(context.params.tables):
        found += _read_table(context, table, context.work / "tables" / str(number))
    seen: dict[tuple[str, float, float], str] = {}
    for candidate in name_apart(found, taken):
        yield _take(candidate, folder, seen, context.params.part_crf)


def _read_table(context: Context[SourceParams], table: ExtraTable, scratch: Path) -> list[Candidate]:
    """The table's rows, with a file or a problem each: what lies elsewhere was fetched."""
    path, base = _root(context) / table.path, table.base or table.path.rpartition("/")[0]
    if "://" in table.path:
        path = _fetch_table(table, scratch, context.params.fetch)
    rows = read_source_table(
        path, table.columns,
        base=base if "://" in base else str(_root(context) / base),
        encoding=table.encoding, first_rows=table.first_rows,
    )  # fmt: skip
    return _fetch_clips(list(rows), table, _root(context) / DOWNLOADS, context.params.fetch)


def _fetch_clips(rows: list[Candidate], table: ExtraTable, store: Path, limits: FetchLimits) -> list[Candidate]:
    reach = Reach(frozenset(table.schemes), frozenset(limits.allow_hosts))
    urls = [row.url for row in rows if row.url and not row.problem]
    fetched = fetch_all(urls, store, reach=reach, limits=limits)
    settled = []
    for row in rows:
        if row.problem:
            settled.append(row)
        elif row.url:
            had = fetched[row.url]
            settled.append(replace(row, file=had.file, sha256=had.sha256, problem=had.reason))
        elif "file" in table.schemes:
            settled.append(row)
        else:
            known = ", ".join(sorted(table.schemes))
            settled.append(replace(row, problem=f"refused: file:// is not among the allowed schemes ({known})"))
    return settled


def _fetch_table(table: ExtraTable, scratch: Path, limits: FetchLimits) -> Path:
    """The table's file, under its own name. Raises ValueError where it cannot be had."""
    shutil.rmtree(scratch, ignore_errors=True)
    scheme = table.path.partition("://")[0]
    if scheme not in ("https", "s3", *table.schemes):
        raise ValueError(f"source table {redact(table.path)}: {scheme}:// is not among https, s3 and its own schemes")
    reach = Reach(frozenset({scheme}), frozenset(limits.allow_hosts))
    had = fetch_all([table.path], scratch, reach=reach, limits=limits, any_type=True)[table.path]
    if had.file is None:
        raise ValueError(f"source table {redact(table.path)} cannot be had: {had.reason}")
    name = table.path.partition("?")[0].rpartition("/")[2] or "table.csv"
    return had.file.rename(scratch / name)


def _root(context: Context[SourceParams]) -> Path:
    # A table's own path is the user's: relative to the workspace, which holds .cache.
    return context.inputs["packaged"].parents[1]


def _take(
    candidate: Candidate, folder: Path, seen: dict[tuple[str, float, float], str], part_crf: int
) -> dict[str, Any]:
    row, file = candidate.row, candidate.file
    if candidate.problem or file is None:
        return _as_row(row, "", [candidate.problem])
    try:
        info = _probe(candidate, file)
    except (VideoError, FetchError) as error:
        return _as_row(row, "", [str(error)])
    digest = candidate.sha256 or hash_file(file)
    key = (digest, row.begin, row.end)
    if key in seen:
        return _as_row(row, digest, [f"the same bytes as {seen[key]}"])
    seen[key] = row.videoid
    return _keep(candidate, file, folder, digest, part_crf) | {"duration": row.duration or round(info.duration, 3)}


def _probe(candidate: Candidate, file: Path) -> VideoInfo:
    """What the file claims. Raises VideoError, FetchError naming the file as the table does."""
    try:
        if not file.exists():
            raise VideoError(f"{file.name} does not exist")
        if not file.is_file():
            raise VideoError(f"{file.name} is not a regular file")
        require_media(file)
        return probe_video(file)
    except VideoError as error:
        known_as = candidate.row.contentUrl.rpartition("/")[2]
        raise VideoError(str(error).replace(file.name, known_as) if candidate.url else str(error)) from error
    except OSError as error:
        raise VideoError(f"{file.name[:60]} cannot be read: {error.strerror}") from error


def _keep(candidate: Candidate, file: Path, folder: Path, digest: str, part_crf: int) -> dict[str, Any]:
    """The row of a clip that was put into the folder: whole, or the part that the row names."""
    row = candidate.row
    suffix = PurePosixPath(urlsplit(candidate.url).path).suffix if candidate.url else file.suffix
    kept = f"clips/{row.videoid}{suffix.lower() if re.fullmatch('[.][A-Za-z0-9]{1,5}', suffix) else ''}"
    if row.end:
        kept = f"clips/{row.videoid}.mp4"
        try:
            cut_part(file, folder / kept, row.begin, row.end, part_crf)
        except VideoError as error:
            (folder / kept).unlink(missing_ok=True)
            return _as_row(row, digest, [str(error)])
        digest = hash_file(folder / kept)
    elif candidate.url:
        link_or_copy(file, folder / kept)
    else:
        shutil.copyfile(file, folder / kept)
    return _as_row(row, digest, []) | {"contentUrl": kept}


def _as_row(row: SourceRow, digest: str, reasons: list[str], distractor: str = "") -> dict[str, Any]:
    return asdict(row) | {"sha256": digest, "distractor": distractor} | verdict(reasons)


def _count_origins(rows: list[dict[str, Any]]) -> dict[str, float]:
    accepted = [row for row in rows if row["verdict"] == "accepted"]
    return {
        "rendered_train": sum(row["origin"] == "rendered" and row["split"] == "train" for row in accepted),
        "rendered_val": sum(row["origin"] == "rendered" and row["split"] == "val" for row in accepted),
        "distractors": sum(row["origin"] == "distractor" for row in accepted),
        "real": sum(row["origin"] == "real" for row in accepted),
    }


STAGE = SourceStage()
