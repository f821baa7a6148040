"""The data as the page shows it: what each stage kept and why it rejected the rest, with pictures of both.

Shape letters: T frames, H height, W width.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from more4d.data.sample import Sample
from more4d.data.shards import TrajSceneDataset
from more4d.data.tables import REJECTED, read_table
from more4d.data.video import VideoError, iter_frames
from more4d.report.model import FunnelStep, GalleryItem, Image
from more4d.report.pictures import PANEL_WIDTH, depth_panel, resize, stripe_holes, tracks_panel

TABLES = {
    "source": "source/table.parquet",
    "clips": "clips/clips.parquet",
    "captions": "captions/captions.parquet",
    "selection": "selection/selection.parquet",
    "depth": "depth/depth.parquet",
    "tracks": "tracks/tracks.parquet",
    "trajscene": "trajscene/verdicts.parquet",
}
"""Stage and table, relative to datasets; each row has `verdict` and `reason`."""
KEPT_OF_EACH_ORIGIN = 4
REJECTED_SHOWN = 10
_REASONS_SHOWN = 4

Row = dict[str, Any]
T = TypeVar("T")


def collect_funnel(root: Path) -> tuple[FunnelStep, ...]:
    """What each stage that has run kept of its rows, and the commonest kinds of reasons for the others."""
    return tuple(_step(stage, rows) for stage, rows in _tables(root).items())


def collect_gallery(root: Path) -> tuple[GalleryItem, ...]:
    """Some samples of the shards, rendered and real, and some rejected clips, as many kinds of reasons as possible."""
    tables = _tables(root)
    return (*_kept(root, tables.get("clips", [])), *_rejected(root, tables))


def reason_kind(reason: str) -> str:
    """What a reason says without its numbers: "static: 0.1 % moves" and "static: 0.3 % moves" are one kind."""
    first = reason.split(";", maxsplit=1)[0]
    return re.sub(r"[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?", "…", first.split(":")[0]).strip() or "no reason given"


def _tables(root: Path) -> dict[str, list[Row]]:
    paths = {stage: root / "datasets" / name for stage, name in TABLES.items()}
    return {stage: read_table(path).to_dict("records") for stage, path in paths.items() if path.is_file()}


def _step(stage: str, rows: list[Row]) -> FunnelStep:
    kinds = Counter(reason_kind(row["reason"]) for row in rows if row["verdict"] == REJECTED)
    common = kinds.most_common(_REASONS_SHOWN)
    others = kinds.total() - sum(count for _, count in common)
    return FunnelStep(stage, len(rows) - kinds.total(), (*common, *([("other reasons", others)] if others else [])))


def _kept(root: Path, clips: Sequence[Row]) -> list[GalleryItem]:
    folder = root / "datasets" / "trajscene"
    if not (folder / "manifest.json").is_file():
        return []
    samples = TrajSceneDataset(folder, with_views=False)
    origins = {row["clip_id"]: row["origin"] for row in clips}
    places = {clip: place for place, clip in enumerate(samples.ids)}
    items = []
    for origin in ("real", "rendered"):
        ids = [clip for clip in places if origins.get(clip) == origin]
        items += [_sample_item(samples[places[clip]]) for clip in _spread(ids, KEPT_OF_EACH_ORIGIN)]
    return items


def _spread(ids: Sequence[str], count: int) -> list[str]:
    """At most `count` ids, of different videos where possible."""
    by_video: dict[str, list[str]] = {}
    for clip in ids:
        by_video.setdefault(clip.rsplit("-", 1)[0], []).append(clip)
    return _in_turn(by_video.values(), count)


def _in_turn(groups: Iterable[Sequence[T]], count: int) -> list[T]:
    """The first of every group, then the second of every group, and so on, at most `count`."""
    rounds = [(place, order, item) for order, group in enumerate(groups) for place, item in enumerate(group)]
    return [item for _, _, item in sorted(rounds, key=lambda r: r[:2])[:count]]


def _sample_item(sample: Sample) -> GalleryItem:
    first = sample.video[0]
    panels = (
        ("first frame", first),
        ("tracks", tracks_panel(first, sample.points, sample.visibility, sample.intrinsics)),
        ("depth", depth_panel(sample.depth)),
        ("points, last frame", stripe_holes(sample.render[-1:], sample.render_mask[-1:], PANEL_WIDTH)[0]),
    )
    return GalleryItem(sample.id, sample.caption, sample.kind, True, "trajscene", "", panels)


def _rejected(root: Path, tables: dict[str, list[Row]]) -> list[GalleryItem]:
    by_kind: dict[tuple[str, str], list[tuple[str, Row]]] = {}
    for stage, rows in tables.items():
        for row in rows:
            if row["verdict"] == REJECTED:
                by_kind.setdefault((stage, reason_kind(row["reason"])), []).append((stage, row))
    chosen = _in_turn(by_kind.values(), REJECTED_SHOWN)
    clips = {row["clip_id"]: row for row in tables.get("clips", [])}
    videos = {row["videoid"]: row for row in tables.get("source", [])}
    return [_rejected_item(root, stage, row, clips, videos) for stage, row in chosen]


def _rejected_item(root: Path, stage: str, row: Row, clips: dict[str, Row], videos: dict[str, Row]) -> GalleryItem:
    clip = row | clips.get(row.get("clip_id", ""), {})
    video = videos.get(clip.get("videoid", ""), {})
    picture = _first_frame(root, clip, video)
    return GalleryItem(
        clip=clip.get("clip_id") or clip["videoid"],
        caption=clip.get("name", ""),
        origin=clip.get("origin", ""),
        kept=False,
        stage=stage,
        reason=row["reason"],
        panels=() if picture is None else (("first frame", picture),),
    )


def _first_frame(root: Path, clip: Row, video: Row) -> Image | None:
    """The clip's first frame, from the clip or, where none was cut, from its video; None where neither is here."""
    if clip.get("path"):
        path, start = root / "datasets" / "clips" / clip["path"], 0.0
    else:
        path, start = root / "datasets" / "source" / str(video.get("contentUrl", "")), clip.get("start_seconds", 0.0)
    if not path.is_file():
        return None
    try:
        frame = next((frame for time, frame in iter_frames(path) if time >= start), None)
    except VideoError:
        return None
    return None if frame is None else resize(frame[None], PANEL_WIDTH)[0]
