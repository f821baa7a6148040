"""Stage trajscene: tracked clips that pass the quality criteria, with splat renders and masks, as shards.

Suffixes: T frames, H height, W width.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from pydantic import Field

from more4d.data.sample import Sample, SampleView, encode_sample
from more4d.data.shards import EncodedSample, write_encoded
from more4d.data.tables import ACCEPTED, DISTRACTOR_PASSED, read_accepted, require_accepted, verdict, write_table
from more4d.data.tensors import read_arrays
from more4d.geometry.paths import CameraName, camera_path, scene_centre
from more4d.inference.render import render_path
from more4d.labeling.clips import Clip
from more4d.labeling.quality import QualityThresholds, judge_tracks
from more4d.labeling.tracks import TrackLabel
from more4d.parallel import ordered_map
from more4d.settings import Section
from more4d.stages.base import Context, Stage


class TrajsceneParams(Section):
    """What a sample must be worth, from where it is rendered, and how large a shard is."""

    views: tuple[CameraName, ...]
    """Cameras from which the points are rendered besides the clip's own; their truth is kept where it was rendered."""
    quality: QualityThresholds
    shard_bytes: int = Field(gt=0)
    max_rejected_share: float = Field(ge=0, le=1)
    keep_refused: bool = False
    """Keep what the criteria refuse, its measures recorded all the same: the ablation on unfiltered data."""


@dataclass(frozen=True)
class _Job:
    """A tracked clip with its rows of the tables before."""

    clip: Clip
    row: dict[str, Any]
    caption: dict[str, Any]
    selection: dict[str, Any]
    fps: float


@dataclass(frozen=True)
class _Judged:
    row: dict[str, Any]
    sample: EncodedSample | None


class TrajsceneStage(Stage[TrajsceneParams]):
    """The dataset: shards of train and val samples, a manifest, and every sample's verdict."""

    name = "trajscene"
    section = TrajsceneParams
    inputs = {
        "source": "datasets/source",
        "clips": "datasets/clips",
        "captions": "datasets/captions",
        "selection": "datasets/selection",
        "tracks": "datasets/tracks",
    }
    outputs = {"trajscene": "datasets/trajscene"}

    def run(self, context: Context[TrajsceneParams]) -> dict[str, float]:
        folder, params = context.outputs["trajscene"], context.params
        make = partial(_make, params, context.inputs["tracks"])
        judged = ordered_map(make, _jobs(context), workers=context.workers, label="samples")
        rows: list[dict[str, Any]] = []
        samples, size = {"train": 0, "val": 0}, 0
        for split, group in groupby(judged, key=lambda item: item.row["split"]):
            manifest = write_encoded(_kept(group, rows), folder, split=split, shard_bytes=params.shard_bytes)
            samples[split] = manifest["splits"][split]["samples"]
            size += manifest["splits"][split]["bytes"]
        table = pd.DataFrame(rows)
        write_table(folder / "verdicts.parquet", table, params)
        counts = require_accepted(table, stage=self.name, max_rejected_share=params.max_rejected_share)
        measures = {f"median_{key}": float(np.nanmedian([row[key] for row in rows])) for key in _MEASURES}
        return {**counts, **samples, "megabytes": round(size / 1e6, 3), **measures}


_MEASURES = ("anomalous_share", "depth_deviation", "scale_change", "flow_error", "unexplained_change")


def _jobs(context: Context[TrajsceneParams]) -> list[_Job]:
    """Every tracked clip, train before val, otherwise in the clips' order."""
    inputs = context.inputs
    tracked = set(read_accepted(inputs["tracks"] / "tracks.parquet")["clip_id"])
    captions = _by_clip(inputs["captions"] / "captions.parquet")
    selection = _by_clip(inputs["selection"] / "selection.parquet")
    rows = [
        row for row in read_accepted(inputs["clips"] / "clips.parquet").to_dict("records") if row["clip_id"] in tracked
    ]
    return [
        _Job(
            Clip.of_row(row, inputs["clips"], inputs["source"]),
            row,
            captions[row["clip_id"]],
            selection[row["clip_id"]],
            context.video.fps,
        )
        for row in sorted(rows, key=lambda row: row["split"])
    ]


def _by_clip(path: Path) -> dict[str, dict[str, Any]]:
    return {row["clip_id"]: row for row in read_accepted(path).to_dict("records")}


def _kept(group: Iterator[_Judged], rows: list[dict[str, Any]]) -> Iterator[EncodedSample]:
    """The accepted samples of the group; every row is put into `rows`."""
    for item in group:
        rows.append(item.row)
        if item.sample is not None:
            yield item.sample


def _make(params: TrajsceneParams, tracks_folder: Path, job: _Job) -> _Judged:
    """A clip's verdict and, where that is good, its sample's bytes."""
    arrays, made_by = read_arrays(tracks_folder / f"{job.clip.clip_id}.safetensors")
    tracks = TrackLabel(arrays["points"], arrays["visibility"].astype(bool), arrays["depth0"], arrays["intrinsics"])
    video = job.clip.frames()
    quality = judge_tracks(tracks, video, params.quality)
    row = {
        "clip_id": job.clip.clip_id,
        "videoid": job.row["videoid"],
        "split": job.row["split"],
        "origin": job.clip.origin,
        **{key: getattr(quality, key) for key in _MEASURES},
        **verdict([] if params.keep_refused else list(quality.reasons) or _slipped(job.clip)),
    }
    if row["verdict"] != ACCEPTED:
        return _Judged(row, None)
    own = render_path(tracks.points, video[0], tracks.intrinsics, _at_rest(len(video)))
    sample = _sample(params, job, tracks, video, own, _provenance(job, made_by, row))
    return _Judged(row, EncodedSample(sample.id, encode_sample(sample, job.clip.path.read_bytes())))


def _slipped(clip: Clip) -> list[str]:
    """What was rendered to be refused is nothing to train on, whatever it looks like."""
    return [DISTRACTOR_PASSED] if clip.origin == "distractor" else []


def _sample(
    params: TrajsceneParams,
    job: _Job,
    tracks: TrackLabel,
    video: NDArray[np.uint8],
    own: tuple[NDArray[np.uint8], NDArray[np.bool_]],
    provenance: dict[str, Any],
) -> Sample:
    return Sample(
        id=job.clip.clip_id,
        video=video,
        fps=job.fps,
        caption=job.caption["caption"],
        intrinsics=tracks.intrinsics,
        depth=tracks.depth0,
        points=tracks.points,
        visibility=tracks.visibility,
        render=own[0],
        render_mask=own[1],
        split=job.row["split"],
        kind=job.row["origin"],
        views=_render_views(params, job.clip, tracks, video[0]),
        provenance=provenance,
    )


def _render_views(
    params: TrajsceneParams, clip: Clip, tracks: TrackLabel, image: NDArray[np.uint8]
) -> dict[str, SampleView]:
    """The points from each camera, beside the truth where the scene was rendered from there as well."""
    truth = clip.truth()[0] if clip.truth_path is not None else {}
    centre = scene_centre(torch.from_numpy(tracks.depth0))
    views = {}
    for name in params.views:
        poses = truth.get(f"view_{name}_camera_to_world")
        if poses is None:
            poses = camera_path(name, len(tracks.points), centre=centre).numpy().astype(np.float32)
        render, covered = render_path(tracks.points, image, tracks.intrinsics, poses)
        views[name] = SampleView(truth.get(f"view_{name}_video"), poses, render, covered)
    return views


def _at_rest(frames: int) -> NDArray[np.float32]:
    return np.repeat(np.eye(4, dtype=np.float32)[None], frames, 0)


def _provenance(job: _Job, made_by: dict[str, Any], row: dict[str, Any]) -> dict[str, Any]:
    """From the source row to each model that labeled the clip."""
    source = ("videoid", "source_table", "source_row", "licence", "attribution", "start_frame", "start_seconds")
    scene: dict[str, Any] = job.clip.truth()[1] if job.clip.truth_path is not None else {}
    return {
        "source": {key: _plain(job.row[key]) for key in source},
        "caption": {key: job.caption[key] for key in ("captioner", "captioner_version")},
        "selection": {key: job.selection[key] for key in ("judge", "judge_version")},
        "labels": {key: value for key, value in made_by.items() if key != "clip_id"},
        "quality": {key: row[key] for key in _MEASURES},
        "scene": {key: scene[key] for key in ("seed", "kind", "direction") if key in scene},
    }


def _plain(value: Any) -> str | int | float:  # noqa: ANN401 - a table's cell
    return value.item() if isinstance(value, np.generic) else value


STAGE = TrajsceneStage()
