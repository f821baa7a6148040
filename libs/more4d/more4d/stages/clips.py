"""Stage clips: windows of the wanted length and size out of every video, each kept or rejected with its scores."""

from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import Field

from more4d.curation.duplicates import DuplicateFinder, perceptual_hash
from more4d.curation.filters import FilterThresholds, Finding, judge_window
from more4d.curation.overlay_text import TextDetectorName, text_detector
from more4d.curation.probe import ProbeLimits, probe
from more4d.curation.shots import DetectorName, shot_detector
from more4d.curation.windows import Window, WindowShape, iter_windows
from more4d.data.tables import read_accepted, require_accepted, verdict, write_table
from more4d.data.video import VideoError, encode_video
from more4d.parallel import ordered_map
from more4d.settings import Section
from more4d.stages.base import Context, Stage, VideoSpec


class ClipsParams(Section):
    """How videos are cut and which windows are kept."""

    shots: DetectorName = "histogram"
    cut_threshold: float = Field(gt=0, le=1)
    """Of the shot detector's score, 0..1: 0.3 suits the histograms, 0.5 TransNetV2."""
    max_windows_per_clip: int = Field(gt=0)
    min_source_fps: float = Field(gt=0)
    """A slower video cannot be resampled without repeating frames."""
    probe: ProbeLimits = ProbeLimits()
    filters: FilterThresholds
    overlay_text: TextDetectorName = "rapidocr"
    max_duplicate_distance: float = Field(ge=0, lt=1, default=0.1)
    """Near-duplicates below: the share of perceptual-hash bits in which clips of two videos differ."""
    crf: int = Field(ge=0, le=51)
    """H.264 quality of the clips; 0 is lossless."""
    max_rejected_share: float = Field(ge=0, le=1)


TRANSNET_WEIGHTS = "models/transnetv2.pth"
"""In the folder of packaged data."""


@dataclass(frozen=True)
class _Tools:
    """Where a worker finds the videos and the shot detector's weights."""

    source: Path
    weights: Path


@dataclass(frozen=True)
class _Made:
    row: dict[str, Any]
    clip: bytes


class ClipsStage(Stage[ClipsParams]):
    """Clips of one shot, one length and one size, in which something moves and the camera does not."""

    name = "clips"
    section = ClipsParams
    inputs = {"source": "datasets/source", "packaged": ".cache/packaged"}
    outputs = {"clips": "datasets/clips"}

    def run(self, context: Context[ClipsParams]) -> dict[str, float]:
        folder = context.outputs["clips"]
        (folder / "clips").mkdir()
        source = context.inputs["source"]
        videos = read_accepted(source / "table.parquet").to_dict("records")
        tools = _Tools(source, context.inputs["packaged"] / TRANSNET_WEIGHTS)
        # Asked here once, so that missing weights stop the stage before any video is decoded.
        shot_detector(context.params.shots, tools.weights)
        cut = partial(_cut_video, context.params, context.video, tools)
        rows = []
        for made in ordered_map(cut, videos, workers=context.workers, label="videos"):
            for item in made:
                if item.clip:
                    (folder / item.row["path"]).write_bytes(item.clip)
                rows.append(item.row)
        _reject_duplicates(rows, folder, context.params.max_duplicate_distance)
        table = pd.DataFrame(rows)
        write_table(folder / "clips.parquet", table, context.params)
        counts = require_accepted(table, stage=self.name, max_rejected_share=context.params.max_rejected_share)
        return {**counts, "videos": len(videos), **_count_reasons(rows)}


def _cut_video(params: ClipsParams, video: VideoSpec, tools: _Tools, source: dict[str, Any]) -> list[_Made]:
    """The rows and clips of one video; a video that cannot be read gives one rejected row."""
    path = tools.source / source["contentUrl"]
    shape = WindowShape(video.frames, video.height, video.width, video.fps)
    detector = shot_detector(params.shots, tools.weights)
    made: list[_Made] = []
    try:
        probe(path, params.probe, min_fps=params.min_source_fps)
        windows = iter_windows(path, shape, detector=detector, cut_threshold=params.cut_threshold)
        for window in islice(windows, params.max_windows_per_clip):
            made.append(_judge(params, video, source, window))  # noqa: PERF401 - what came before an error is kept
    except VideoError as error:
        made.append(_Made(_row(params, source, video, None, []) | verdict([str(error)]), b""))
    return made


def _judge(params: ClipsParams, video: VideoSpec, source: dict[str, Any], window: Window) -> _Made:
    if len(window.frames) < video.frames:
        return _Made(_row(params, source, video, window, []) | verdict([_too_short(window, video)]), b"")
    findings = judge_window(window, params.filters, text_detector(params.overlay_text))
    row = _row(params, source, video, window, findings) | verdict([f.reason for f in findings if f.reason])
    if row["reason"]:
        return _Made(row, b"")
    clip = encode_video(window.frames, video.fps, lossless=params.crf == 0, crf=params.crf)
    return _Made(row | {"path": f"clips/{row['clip_id']}.mp4"}, clip)


def _reject_duplicates(rows: list[dict[str, Any]], folder: Path, max_distance: float) -> None:
    """Of clips that look alike the first by id is kept; the others lose their file and get their verdict."""
    finder = DuplicateFinder(max_distance)
    for row in sorted((row for row in rows if row["path"]), key=lambda row: row["clip_id"]):
        nearest, is_duplicate = finder.add(row["clip_id"], row["videoid"], row["perceptual_hash"])
        row["duplicate_score"] = nearest.distance if nearest else float("nan")
        if nearest and is_duplicate:
            (folder / row["path"]).unlink()
            row |= {"path": ""} | verdict(
                [
                    f"near-duplicate of {nearest.clip_id}: {nearest.distance:.4f} of the bits differ (limit {max_distance})"
                ]
            )


def _too_short(window: Window, video: VideoSpec) -> str:
    ends = {"cut": "cut inside: a shot boundary", "end": "too short: the video ends", "length": ""}[window.ended_by]
    return f"{ends} after {len(window.frames)} of {video.frames} frames"


_SCORES = ("shot", "motion", "camera_motion", "repeated", "brightness", "contrast", "text", "duplicate")


def _row(
    params: ClipsParams, source: dict[str, Any], video: VideoSpec, window: Window | None, findings: list[Finding]
) -> dict[str, Any]:
    """A window's row; scores that were not measured are NaN."""
    start = window.start if window else 0
    kept = (
        "videoid", "name", "origin", "distractor", "licence", "attribution", "truth", "split", "source_table", "source_row",
    )  # fmt: skip
    scores = {f"{name}_score": float("nan") for name in _SCORES}
    scores |= {f"{finding.name}_score": finding.score for finding in findings}
    return {
        "clip_id": f"{source['videoid']}-{start:05d}",
        **{key: source[key] for key in kept},
        "start_frame": start,
        "start_seconds": start / video.fps,
        "frames": len(window.frames) if window else 0,
        "fps": video.fps,
        "path": "",
        "shot_detector": params.shots,
        "text_detector": params.overlay_text,
        "perceptual_hash": perceptual_hash(window.frames) if findings and window else "",
        **scores,
        "shot_score": window.shot_score if window else float("nan"),
    }


def _count_reasons(rows: list[dict[str, Any]]) -> dict[str, float]:
    """How many windows each kind of reason rejected (one may have several)."""
    kinds = {
        "rejected_cut": "cut inside", "rejected_short": "too short", "rejected_static": "static",
        "rejected_camera": "the camera moves", "rejected_dark_or_bright": "brightness", "rejected_text": "overlay text",
        "rejected_duplicate": "near-duplicate", "rejected_absurd": "absurd",
    }  # fmt: skip
    return {key: sum(words in row["reason"] for row in rows) for key, words in kinds.items()}


STAGE = ClipsStage()
